"""A database connection that only knows the state of the recovery."""

import asyncio
from typing import Any

from services.decision.domain.recovery import RecoveryState


class _Connection:
    def __init__(self, found: RecoveryState, delay: asyncio.Event | None) -> None:
        self._found = found
        self._delay = delay

    async def fetchrow(self, _: str) -> tuple[Any, ...]:
        if self._delay is not None:
            await self._delay.wait()
        return tuple(self._found)


def connection(found: RecoveryState, delay: asyncio.Event | None = None) -> Any:
    """A connection whose database has this state; it answers after `delay`."""
    return _Connection(found, delay)
