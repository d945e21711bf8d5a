"""The lag in seconds is true: 0 when all is handled, as old as what waits while its consumer is stuck (promise 9)."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import REGISTRY

from shared.kafka import lag as consumer_lag
from shared.kafka.consumer import Received
from shared.kafka.producer import KafkaProducer
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from tests.integration.shared.kafka.test_consumer import Group, until

CLOCK = SystemClock()


@pytest.fixture
async def group(kafka: str, region: str) -> AsyncIterator[Group]:
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    group = Group(kafka, region, producer)
    yield group
    await group.stop()
    await producer.stop()


def lag(group: Group) -> float:
    """What a scrape says; -1 while there is nothing to be said."""
    labels = {"group": f"g-{group.region}", "topic": group.topic}
    seconds = REGISTRY.get_sample_value("piepowder_consumer_lag_seconds", labels)
    return -1.0 if seconds is None else seconds


async def grows_with_the_clock(group: Group, posted: float) -> bool:
    """Whether the lag is of a record `posted` then (seconds since the epoch), or a little later, and grows second by
    second."""
    began, first, noted = CLOCK.now().timestamp(), lag(group), CLOCK.now().timestamp()
    await asyncio.sleep(1.2)
    again, grown, ended = CLOCK.now().timestamp(), lag(group) - first, CLOCK.now().timestamp()
    return 0 < first <= noted + 0.05 - posted and again - noted - 0.01 <= grown <= ended - began + 0.01


async def test_it_grows_with_the_clock_while_a_handler_is_stuck_and_is_gone_with_the_backlog(group: Group) -> None:
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


async def test_it_grows_with_the_clock_while_a_handler_fails_without_end(group: Group) -> None:
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


async def test_it_grows_while_the_client_gives_nothing_though_nobody_knows_what_waits(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[str] = []
    moving, moved = asyncio.Event(), asyncio.Event()
    getmany = AIOKafkaConsumer.getmany

    async def slowly(client: AIOKafkaConsumer, *partitions: object, **options: object) -> object:
        if handled and not moved.is_set():  # as while its group waits for a member that does not answer
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


async def test_partitions_that_are_empty_add_nothing_while_others_fill_every_batch(
    group: Group, monkeypatch: pytest.MonkeyPatch
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
        while len(posted) >= len(handled) + 2:  # some always wait, so no batch is less than full
            waiting = posted[len(handled) - 1 :]
            assert lag(group) < CLOCK.now().timestamp() - waiting[0] + 1.5
            await asyncio.sleep(0.001)
