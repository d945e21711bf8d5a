"""Collection of garbage when it costs least: while the process is idle, at the latest after a minute.

Python starts a collection after a number of new objects, so most collections run under load. Reference counting frees
nearly all objects at once. Only cycles remain, mostly exceptions with their tracebacks. Their memory is bounded: young
objects are still collected after `_YOUNG` new ones, which takes a few milliseconds.
"""

import asyncio
import gc
import os
from typing import Final

from shared.runtime.clock import Clock, SystemClock
from shared.runtime.retry import wait

_YOUNG: Final = 200_000  # new objects, without those that have been freed
_NEVER: Final = 2**31 - 1
_LOOK_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 60.0
_FEW: Final = 2_000  # new objects, for which a collection is not worth its cost
_IDLE_SHARE: Final = 0.1  # of a core


def stop_automatic_collections() -> None:
    """Collect everything once, exempt the objects that remain, and start no more full collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)


async def collect_when_idle(stop: asyncio.Event, clock: Clock = SystemClock()) -> None:  # noqa: B008 - it has no state
    """Collect all garbage while the process is idle, or once a minute, until `stop` is set."""
    collected, worked = clock.monotonic(), _cpu_seconds()
    while not stop.is_set():
        await wait(stop, _LOOK_SECONDS)
        now, before, worked = clock.monotonic(), worked, _cpu_seconds()
        is_idle = worked - before < _IDLE_SHARE * _LOOK_SECONDS and gc.get_count()[0] >= _FEW
        if is_idle or now - collected >= _LONGEST_SECONDS:
            gc.collect()
            collected = now


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
