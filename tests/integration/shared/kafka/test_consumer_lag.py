"""The lag in seconds is 0 when all records are handled, and grows while the consumer is stuck (promise 9)."""

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import REGISTRY

from shared.kafka import lag as consumer_lag
from shared.kafka.consumer import Received
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from tests.support.consumer_group import ConsumerGroup, until

CLOCK = SystemClock()


def lag(group: ConsumerGroup) -> float:
    """The gauge's value; -1 without a value."""
    labels = {"group": f"g-{group.region}", "topic": group.topic}
    seconds = REGISTRY.get_sample_value("piepowder_consumer_lag_seconds", labels)
    return -1.0 if seconds is None else seconds


async def grows_with_the_clock(group: ConsumerGroup, posted: float) -> bool:
    """True if the lag grows with the clock, for a record posted at or soon after `posted` (seconds since the epoch)."""
    began, first, noted = CLOCK.now().timestamp(), lag(group), CLOCK.now().timestamp()
    await asyncio.sleep(1.2)
    again, grown, ended = CLOCK.now().timestamp(), lag(group) - first, CLOCK.now().timestamp()
    return 0 < first <= noted + 0.05 - posted and again - noted - 0.01 <= grown <= ended - began + 0.01


async def test_the_lag_grows_while_a_handler_is_stuck_and_is_0_after_the_backlog(group: ConsumerGroup) -> None:
    stuck, release = asyncio.Event(), asyncio.Event()

    async def handle(batch: Sequence[Received[str]]) -> None:
        stuck.set()
        await release.wait()

    posted = CLOCK.now().timestamp()
    await group.post("a", "b")
    group.start(handle)
    await stuck.wait()
    grows = await grows_with_the_clock(group, posted)
    release.set()
    assert grows
    await until(lambda: lag(group) == 0.0)


async def test_the_lag_grows_while_a_handler_keeps_failing(group: ConsumerGroup) -> None:
    failing = asyncio.Event()
    away = [True]

    async def handle(batch: Sequence[Received[str]]) -> None:
        failing.set()
        if away:
            raise Transient("away")

    posted = CLOCK.now().timestamp()
    await group.post("a")
    group.start(handle)
    await failing.wait()
    assert await grows_with_the_clock(group, posted)
    away.clear()
    await until(lambda: lag(group) == 0.0)


async def test_the_lag_grows_while_the_client_returns_no_records(
    group: ConsumerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[str] = []
    moving, moved = asyncio.Event(), asyncio.Event()
    getmany = AIOKafkaConsumer.getmany

    async def slowly(client: AIOKafkaConsumer, *partitions: object, **options: object) -> object:
        if handled and not moved.is_set():  # as during a rebalance with a member that does not respond
            moving.set()
            await moved.wait()
        return await getmany(client, *partitions, **options)

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.extend(received.message for received in batch)

    monkeypatch.setattr(consumer_lag, "_MAX_POLL_GAP_SECONDS", 0.5)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", slowly)
    await group.post("a")
    group.start(handle)
    await moving.wait()
    asked = CLOCK.now().timestamp()
    await group.post("b")
    await until(lambda: lag(group) > 1.0)
    assert lag(group) - (CLOCK.now().timestamp() - asked) < 1.0
    moved.set()
    await until(lambda: handled == ["a", "b"] and lag(group) == 0.0)


async def test_empty_partitions_add_no_lag_while_others_fill_every_batch(
    group: ConsumerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_lag, "_MAX_POLL_GAP_SECONDS", 1.0)
    posted: list[float] = []
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.extend(received.message for received in batch)

    group.start(handle, batch_records=1)
    await group.post("first", key="k")
    await until(lambda: len(handled) == 1 and lag(group) == 0.0)
    began = CLOCK.now().timestamp()
    while CLOCK.now().timestamp() < began + 4.0:
        posted += [CLOCK.now().timestamp()] * 5
        await group.post(*["more"] * 5, key="k")
        while len(posted) >= len(handled) + 2:  # some records always wait, so every batch is full
            waiting = posted[len(handled) - 1 :]
            assert lag(group) < CLOCK.now().timestamp() - waiting[0] + 1.5
            await asyncio.sleep(0.001)
