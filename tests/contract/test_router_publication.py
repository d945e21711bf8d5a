"""A publication comes into force through the control topic: the same tests in memory and on real Kafka."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TypeAlias

import pytest

from services.router.control import ControlState
from services.router.domain.publication import PolicySetContent
from services.router.handlers import publication
from services.router.handlers.publication import ConflictingPublication, PublishControl
from services.router.policies import compile_policy_set
from shared.contracts.envelope import GLOBAL, decode
from shared.kafka import control as control_reader
from shared.kafka import topic_admin
from shared.kafka.control import ControlReader
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.topic_admin import TopicSpec
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Poison
from shared.runtime.readiness import Readiness
from shared.runtime.retry import until_done
from tests.support.router_samples import Progress, region, rule

Start: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[ControlState, PublishControl]]]
_numbers = itertools.count(1)


class MemoryTopic:
    """A compacted topic and its readers in memory; each record is applied in a later turn of the event loop."""

    def __init__(self) -> None:
        self.records: dict[bytes | None, Record] = {}
        self.readers: list[ControlState] = []

    async def send(self, records: Sequence[Record]) -> None:
        for r in records:
            self.records[r.key] = r
            for reader in self.readers:
                asyncio.get_running_loop().call_later(0.01, apply, reader, r)


def apply(control: ControlState, r: Record) -> None:
    with suppress(Poison):
        control.apply(decode(r.headers, r.key, r.value, region=GLOBAL))


@pytest.fixture(params=["memory", "kafka"])
async def start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a router's control state; all control states of a test share its topic."""
    if request.param == "memory":
        topic = MemoryTopic()

        @asynccontextmanager
        async def in_memory() -> AsyncIterator[tuple[ControlState, PublishControl]]:
            control = ControlState(["eu"], compile_policy_set)
            topic.readers.append(control)
            for r in topic.records.values():
                apply(control, r)
            control.caught_up()
            yield control, PublishControl(control, topic, SystemClock(), Progress())

        return in_memory

    kafka: str = request.getfixturevalue("kafka")
    name = f"piepowder.control.t{os.getpid()}-{next(_numbers)}"
    await topic_admin.ensure(kafka, [TopicSpec(name, 1, 1, {"cleanup.policy": "compact"})])
    monkeypatch.setattr(control_reader, "CONTROL", name)
    monkeypatch.setattr(publication, "CONTROL", name)

    @asynccontextmanager
    async def on_kafka() -> AsyncIterator[tuple[ControlState, PublishControl]]:
        control, stop, readiness = ControlState(["eu"], compile_policy_set), asyncio.Event(), Readiness("test")
        read = asyncio.Event()

        def caught_up() -> str | None:
            read.set()
            return control.caught_up()

        reader = ControlReader(
            bootstrap=kafka,
            client_id="test",
            apply=control.apply,
            caught_up=caught_up,
            readiness=readiness,
            deleted=control.delete,
        )
        producer = KafkaProducer(kafka, client_id="test")
        following = asyncio.create_task(reader.run(stop))
        try:
            await until_done("producer", producer.start, stop=stop, readiness=readiness)
            await asyncio.wait_for(read.wait(), 20)
            yield control, PublishControl(control, producer, SystemClock(), Progress())
        finally:
            stop.set()
            await asyncio.gather(following, producer.stop())

    return on_kafka


async def test_a_publication_is_in_force_here_when_publish_returns(start: Start) -> None:
    async with start() as (control, publisher):
        model, policy_set = await publisher.publish([region()], content("a"), by="test")
        assert model is not None
        assert policy_set is not None
        assert (control.rules.operating_model.id, control.rules.policy_set.id) == (model.id, policy_set.id)
        assert control.rules.operating_model.published.published_by == "test"


async def test_another_router_has_the_same_rules_in_force_and_continues_their_numbers(start: Start) -> None:
    async with start() as (control, publisher):
        await publisher.publish([region()], content("a"), by="test")
        await publisher.publish(None, content("b"), by="test")
        async with start() as (other, other_publisher):
            assert other.rules.policy_set.id == control.rules.policy_set.id
            same, newer = await other_publisher.publish([region()], content("c"), by="other")
            assert same is not None
            assert newer is not None
            assert (same.changed, newer.number) == (False, 3)
            async with asyncio.timeout(60):
                await control.wait_for(lambda: control.rules.policy_set.id == newer.id)


async def test_of_two_routers_that_publish_at_the_same_time_one_is_first_for_all_processes(start: Start) -> None:
    async with start() as (control, publisher), start() as (other, other_publisher):
        await publisher.publish([region()], content("a"), by="test")
        async with asyncio.timeout(60):
            await other.wait_for(lambda: other.snapshot == control.snapshot)
        results = await asyncio.gather(
            publisher.publish(None, content("b"), by="test"),
            other_publisher.publish(None, content("c"), by="other"),
            return_exceptions=True,
        )
        [first] = [policy_set for _, policy_set in (result for result in results if isinstance(result, tuple))]
        assert [type(result) for result in results if not isinstance(result, tuple)] == [ConflictingPublication]
        assert first is not None
        assert control.rules.policy_set.id == other.rules.policy_set.id == first.id
        overtaken = await publisher.repair([])
        assert [part.id for part in overtaken] == [first.id]
        await publisher.repair(overtaken)
        async with asyncio.timeout(60):
            await other.wait_for(lambda: other.overtaken == [])
        async with start() as (late, _):
            assert late.rules.policy_set.id == first.id


def content(name: str) -> PolicySetContent:
    return PolicySetContent({}, [rule(name)], "approve")
