"""A dead letter is written once, whatever the clocks of the processes say."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from shared.contracts import topics
from shared.kafka import written_letters
from shared.kafka.dead_letters import DeadLetterWriter, NewDeadLetter
from shared.kafka.producer import KafkaProducer
from shared.runtime.clock import ManualClock, SystemClock

RECORD: Any = ConsumerRecord("t", 0, 7, 0, 0, b"k", b"v", None, 0, 0, ())


def writer(kafka: str, region: str, producer: KafkaProducer, ahead: timedelta) -> DeadLetterWriter:
    """The writer of a new process, with a clock that is ahead of the others."""
    clock = ManualClock(SystemClock().now() + ahead)
    letters = topics.deadletters(region)
    return DeadLetterWriter(producer, topic=letters, group="g", clock=clock, bootstrap=kafka)


def letters(count: int, ahead: timedelta) -> list[NewDeadLetter]:
    """The dead letters of records with a time that is ahead."""
    at = int((SystemClock().now() + ahead).timestamp() * 1000)
    return [NewDeadLetter(replace(RECORD, offset=n, timestamp=at), "why", n, None) for n in range(count)]


@pytest.mark.parametrize("record_ahead", [timedelta(minutes=30), timedelta(days=2), timedelta(0), timedelta(days=-1)])
@pytest.mark.parametrize("clock_ahead", [timedelta(minutes=11), timedelta(hours=3), timedelta(hours=-3)])
async def test_no_dead_letter_is_written_twice_by_processes_whose_clocks_differ(
    kafka: str, region: str, *, record_ahead: timedelta, clock_ahead: timedelta
) -> None:
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    try:
        rejected = letters(20, record_ahead)
        first = await writer(kafka, region, producer, timedelta(0)).send(rejected[:10])
        assert first == rejected[:10]
        assert await writer(kafka, region, producer, clock_ahead).send(rejected) == rejected[10:]
        assert await writer(kafka, region, producer, -clock_ahead).send(rejected) == []
    finally:
        await producer.stop()


async def test_the_time_limits_what_is_read_beyond_the_last_records(
    kafka: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_letters, "_LEAST", 1)
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    try:
        [old] = letters(1, timedelta(0))
        others = [replace(RECORD, key=b"k", value=b"%d" % n, offset=100 + n) for n in range(3)]
        await writer(kafka, region, producer, timedelta(0)).send([old])
        await writer(kafka, region, producer, timedelta(0)).send(
            [NewDeadLetter(r, "why", r.offset, None) for r in others]
        )
        [later] = letters(1, timedelta(minutes=59))
        assert await writer(kafka, region, producer, timedelta(minutes=59)).send([later]) == []
        [much_later] = letters(1, timedelta(hours=3))
        assert await writer(kafka, region, producer, timedelta(hours=3)).send([much_later]) == [much_later]
    finally:
        await producer.stop()
