"""Retries with exponential backoff; a wait ends early when the service stops."""

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
    """Exponential backoff: delays from `first` to `longest` seconds."""

    first: float = 0.1
    longest: float = 5.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the `attempt`-th failure (from 1): half of it fixed, half of it random."""
        ceiling = min(self.longest, self.first * 2.0 ** min(attempt - 1, 16))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Sleep for `seconds`, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def until_done(
    condition: str, act: Callable[[], Awaitable[T]], *, stop: asyncio.Event, readiness: Readiness
) -> T | None:
    """Call `act` until it succeeds, and return its result; None when `stop` is set before that.

    Retries Transient errors only, and reports them as the readiness of `condition`.
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
