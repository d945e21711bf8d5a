"""A gate that holds back some calls of the load during an operator's action."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_PATIENCE: Final = 30.0
_LATE_SECONDS: Final = 1.0  # in which a call that its client gave up may still have an effect


class Gate:
    """Calls pass while it is open; whoever closes it waits for the calls that are passing."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._passing = 0

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait until the gate is open, and pass."""
        while not self._open.is_set():
            await self._open.wait()
        self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Close the gate; raises TimeoutError if a call does not end."""
        self._open.clear()
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._passing:  # noqa: ASYNC110 - many calls, one waiter
                    await asyncio.sleep(0.1)
            await asyncio.sleep(_LATE_SECONDS)
            yield
        finally:
            self._open.set()
