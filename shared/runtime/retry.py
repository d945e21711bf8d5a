"""Trying again: how long to wait, and how to stop waiting when the service stops."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness

log = logging.getLogger(__name__)
T = TypeVar("T")


class Backoff(NamedTuple):
    """How transient failures are tried again: exponential from `first` to `longest` seconds, for `bound` in all."""

    first: float = 0.1
    longest: float = 5.0
    bound: float = 600.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait before attempt `attempt` (from 1), with full jitter over the upper half."""
        ceiling = min(self.longest, self.first * 2.0 ** min(attempt - 1, 16))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not longer than until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def until_done(
    condition: str, act: Callable[[], Awaitable[T]], *, stop: asyncio.Event, readiness: Readiness
) -> T | None:
    """What `act` returns, tried again while it is Transient; None when told to stop before that.

    Meanwhile `condition` tells in the service's readiness what is lacking.
    """
    attempt, backoff = 0, Backoff()
    readiness.set(condition, "not connected yet")
    while not stop.is_set():
        try:
            result = await act()
        except Transient as error:
            attempt += 1
            readiness.set(condition, str(error))
            log.warning("%s: %s; trying again", condition, error)
            await wait(stop, backoff.delay(attempt))
        else:
            readiness.set(condition, None)
            return result
    return None
