"""Garbage is collected while the process is idle, at the latest after a minute, and its memory is bounded."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.runtime import garbage
from shared.runtime.clock import ManualClock

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Node:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def no_other_collections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = gc.get_threshold()
    monkeypatch.setattr(garbage, "_LOOK_SECONDS", 0.01)
    garbage.stop_automatic_collections()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def garbage_of(count: int) -> "weakref.ref[Node]":
    """Make so many objects that only cycles keep alive; returns a weak reference to the first one."""
    first = weakref.ref(Node())
    for _ in range(count - 1):
        Node()
    return first


async def collected_within(seconds: float, clock: ManualClock, reference: "weakref.ref[Node]") -> bool:
    stop = asyncio.Event()
    collecting = asyncio.create_task(garbage.collect_when_idle(stop, clock))
    try:
        async with asyncio.timeout(seconds):
            while reference() is not None:  # noqa: ASYNC110 - a weak reference reports nothing
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    finally:
        stop.set()
        await collecting
    return True


async def test_an_idle_process_collects_its_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_cpu_seconds", lambda: 0.0)
    assert await collected_within(10.0, ManualClock(NOON), garbage_of(5_000))


async def test_a_busy_process_collects_its_garbage_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter(range(10**9))
    monkeypatch.setattr(garbage, "_cpu_seconds", lambda: float(next(busy)))
    clock, reference = ManualClock(NOON), garbage_of(5_000)
    assert not await collected_within(0.3, clock, reference)

    async def later() -> None:
        await asyncio.sleep(0.1)
        clock.advance(timedelta(seconds=61))

    advancing = asyncio.create_task(later())
    assert await collected_within(10.0, clock, reference)
    await advancing


def test_the_number_of_uncollected_objects_is_bounded_without_a_collection_of_the_loop() -> None:
    reference = garbage_of(garbage._YOUNG + 1_000)
    assert reference() is None
    assert gc.get_threshold()[1:] == (garbage._NEVER, garbage._NEVER)
