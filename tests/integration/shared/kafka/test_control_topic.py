"""After a deletion on the control topic the last version stays in force, and a new process reports what is missing."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from services.router.control import ControlState
from services.router.policies import compile_policy_set
from shared.contracts import ids
from shared.contracts.envelope import Event, encode
from shared.contracts.events import OperatingModelPublished, PolicySetPublished
from shared.kafka import control as control_reader
from shared.kafka import topic_admin
from shared.kafka.control import ControlReader
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.topic_admin import TopicSpec
from shared.runtime import metrics
from shared.runtime.readiness import Readiness
from tests.support.consumer_group import send_unreadable
from tests.support.router_samples import on_control, operating_model, policies

_numbers = itertools.count(1)


@pytest.fixture
async def topic(kafka: str, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"piepowder.control.d{os.getpid()}-{next(_numbers)}"
    await topic_admin.ensure(kafka, [TopicSpec(name, 1, 1, {"cleanup.policy": "compact"})])
    monkeypatch.setattr(control_reader, "CONTROL", name)
    return name


@asynccontextmanager
async def reading(
    kafka: str, *, fails: Callable[[Event[Any]], bool] = lambda _: False
) -> AsyncIterator[tuple[ControlState, Readiness]]:
    control, stop, readiness = ControlState(["eu"], compile_policy_set), asyncio.Event(), Readiness("test")

    def apply(event: Event[Any]) -> None:
        if fails(event):
            raise OverflowError("cannot convert float infinity to integer")
        control.apply(event)

    reader = ControlReader(
        bootstrap=kafka,
        client_id="test",
        apply=apply,
        caught_up=control.caught_up,
        readiness=readiness,
        deleted=control.delete,
    )
    following = asyncio.create_task(reader.run(stop))
    try:
        yield control, readiness
    finally:
        stop.set()
        await following


async def publish(producer: AIOKafkaProducer, topic: str, data: OperatingModelPublished | PolicySetPublished) -> None:
    named = on_control(data).attributes
    event_id = ids.event_id(named.id, named.type)
    attributes = msgspec.structs.replace(named, id=event_id, correlation_id=event_id)
    encoded = encode(attributes, data)
    await producer.send_and_wait(topic, encoded.value, key=attributes.subject.encode(), headers=list(encoded.headers))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail("the condition was not met within a minute")


async def test_a_deleted_model_stays_in_force_until_a_new_one_is_published(kafka: str, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        put = partial(publish, producer, topic)
        await put(policies())
        async with reading(kafka) as (late, readiness):
            await until(lambda: "no operating model in force" in readiness.conditions["control"])
            await put(operating_model(number=7))
            await until(lambda: readiness.ready)
            await producer.send_and_wait(topic, None, key=b"operating-model")
            await until(lambda: late.deleted == {"operating-model"})
            assert readiness.ready
            assert late.rules.operating_model.published.number == 7
            await put(operating_model(number=1))  # by a router that found no model
            await until(lambda: late.rules.operating_model.published.number == 1)
            assert late.deleted == set()


async def test_a_process_that_finds_only_a_deletion_reports_it_and_is_not_ready(kafka: str, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait(topic, None, key=b"operating-model")  # as after compaction
    async with reading(kafka) as (_, readiness):
        await until(lambda: f"operating-model: deleted from {topic}" in readiness.conditions["control"])
        assert "control publish`" in readiness.conditions["control"]
        assert not readiness.ready


async def test_nothing_comes_into_force_before_the_topic_was_read_to_its_end(kafka: str, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for number in range(1, 251):
            await publish(producer, topic, operating_model(number=number))
    read, seen, stop = list[int](), list[int](), asyncio.Event()
    reader = ControlReader(
        bootstrap=kafka,
        client_id="test",
        apply=lambda event: read.append(event.data.number),
        caught_up=lambda: seen.append(len(read)),
        readiness=Readiness("test"),
    )
    following = asyncio.create_task(reader.run(stop))
    await until(lambda: bool(seen))
    stop.set()
    await following
    assert {*seen} == {250}
    assert read == list(range(1, 251))


async def test_a_storm_on_the_control_topic_is_counted_and_neither_stops_the_reader_nor_blocks_the_service(
    kafka: str, topic: str
) -> None:
    refused = metrics.CONTROL_REFUSED.labels("other")._value
    before, longest = refused.get(), 0.0
    producer = KafkaProducer(kafka, client_id="storm")
    await producer.send([Record(topic, b"garbage-%d" % n, b"no event", []) for n in range(13_000)])
    await producer.send([Record(topic, b"deleted-%d" % n, None, []) for n in range(100)])
    await producer.stop()
    await send_unreadable(kafka, topic, 3)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as client:
        await publish(client, topic, policies())
        async with reading(kafka) as (late, readiness):
            while "no operating model" not in readiness.conditions["control"]:
                began = asyncio.get_running_loop().time()
                await asyncio.sleep(0)
                longest = max(longest, asyncio.get_running_loop().time() - began)
            assert longest < 2.0, "the event loop was blocked for seconds"
            assert "deleted-0, deleted-1" in readiness.conditions["control"]
            assert len(readiness.conditions["control"]) < 1000
            assert refused.get() - before == 13_100
            await publish(client, topic, operating_model(number=7))
            await until(lambda: readiness.ready)
            assert late.rules.operating_model.published.number == 7


async def test_a_record_that_causes_an_error_is_counted_and_the_next_one_is_applied(kafka: str, topic: str) -> None:
    def first_model(event: Event[Any]) -> bool:
        return isinstance(event.data, OperatingModelPublished) and event.data.number == 1

    rejected = metrics.CONTROL_REFUSED.labels("operating-model")
    before = rejected._value.get()
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for data in (policies(), operating_model(number=1), operating_model(number=2)):
            await publish(producer, topic, data)
    async with reading(kafka, fails=first_model) as (control, readiness):
        await until(lambda: readiness.ready)
        assert control.rules.operating_model.published.number == 2
    assert rejected._value.get() == before + 1
