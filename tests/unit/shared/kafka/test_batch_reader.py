"""The batch reader reads in portions, and loses or skips no record when partitions move between two portions."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from shared.kafka.batch_reader import _BATCH_BYTES, FetchedBatch, UnreadableRecordError
from shared.kafka.consumer import BatchConsumer, Received
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.producer import Producer, Record
from shared.kafka.records import RecordsByPartition
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness

PARTITION = TopicPartition("t", 0)


class ScriptedClient:
    """A Kafka client that returns the given portions; before one of them, partitions are revoked or a poll fails."""

    def __init__(
        self,
        portions: Sequence[RecordsByPartition],
        *,
        revoked_before: int | None = None,
        fails_before: int | None = None,
        failure: Exception = TopicAuthorizationFailedError("t"),  # noqa: B008 - immutable
        unreadable: int = 0,
    ) -> None:
        self._portions = portions
        self._revoked_before = revoked_before
        self._fails_before = fails_before
        self._failure = failure
        self._unreadable = unreadable
        self.seeks: list[tuple[TopicPartition, int]] = []
        self.limits: list[int] = []
        self.member: BatchConsumer[int] | None = None
        self.partitions = {PARTITION}

    def assignment(self) -> set[TopicPartition]:
        return self.partitions

    def paused(self) -> set[TopicPartition]:
        return set()

    def pause(self, *_: TopicPartition) -> None: ...

    def last_poll_timestamp(self, _: TopicPartition) -> int:
        return 5

    async def position(self, _: TopicPartition) -> int:
        return 7

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.seeks.append((tp, offset))

    async def getmany(self, *_: TopicPartition, max_records: int, **__: int) -> RecordsByPartition:
        if self._unreadable > 0:
            self._unreadable -= 1
            raise ValueError("no UTF-8")
        if len(self.limits) == self._revoked_before and self.member is not None:
            await self.member.drain()
        if len(self.limits) == self._fails_before:
            raise self._failure
        self.limits.append(max_records)
        return self._portions[len(self.limits) - 1] if len(self.limits) <= len(self._portions) else {}


class LetterCounter:
    """A producer of dead letters; with `revoke`, partitions are revoked during the send."""

    def __init__(self, client: ScriptedClient, *, revoke: bool) -> None:
        self._client = client
        self._revoke = revoke
        self.sent = 0

    async def send(self, records: Sequence[Record]) -> None:
        self.sent += len(records)
        if self._revoke and self._client.member is not None:
            await self._client.member.drain()


def portion(*offsets: int, size: int = 1) -> RecordsByPartition:
    return {PARTITION: [SimpleNamespace(offset=n, value=b"x" * size, headers=()) for n in offsets]}


async def handle(_: Sequence[Received[int]]) -> None:
    raise AssertionError("no test of this module handles a batch")


async def read(
    client: ScriptedClient,
    *,
    one_by_one: bool = False,
    producer: Producer | None = None,
    stop: asyncio.Event | None = None,
) -> Any:
    clock = SystemClock()
    letters = producer or LetterCounter(client, revoke=False)
    client.member = BatchConsumer(
        bootstrap="nowhere",
        group="g",
        topics=["t"],
        decode=lambda record: record.offset,
        handle=handle,
        dead_letters=DeadLetterWriter(letters, topic="d", group="g", clock=clock),
        readiness=Readiness("test"),
        clock=clock,
        batch_records=250,
    )
    client.member._reader.one_by_one = one_by_one
    batch: Any = await client.member._reader.read(client, stop or asyncio.Event())
    decoded = [[received.message for received in part] for part in batch.parts]
    assert decoded == [[record.offset for record in batch.records.get(PARTITION, [])]]
    return batch


def offsets(batch: Any) -> list[int]:
    return [record.offset for record in batch.records[PARTITION]]


def revocations(client: ScriptedClient) -> int:
    assert client.member is not None
    return client.member._reader.revocations


async def test_a_batch_has_all_waiting_records() -> None:
    client = ScriptedClient([portion(*range(10)), portion(*range(10, 110)), portion(*range(110, 130))])
    batch = await read(client)
    assert offsets(batch) == list(range(130))
    assert client.limits == [10, 100, 100, 100]
    assert batch.caught_up == {}


async def test_a_batch_is_full_at_the_record_limit() -> None:
    client = ScriptedClient([portion(*range(*r)) for r in ((0, 10), (10, 110), (110, 210), (210, 250), (250, 251))])
    batch = await read(client)
    assert offsets(batch) == list(range(250))
    assert client.limits == [10, 100, 100, 40]
    assert batch.caught_up is None, "more records may wait"


async def test_a_batch_is_full_at_the_byte_limit() -> None:
    large = _BATCH_BYTES // 13
    client = ScriptedClient([portion(*some, size=large) for some in (range(10), (10, 11, 12), (13,), (14,))])
    batch = await read(client)
    assert client.limits == [10, 3, 1], "a poll requests only as many records of the same size as fit"
    assert len(batch.records[PARTITION]) == 14
    client = ScriptedClient([portion(0, size=_BATCH_BYTES), portion(1)])
    batch = await read(client)
    assert (client.limits, len(batch.records[PARTITION]), batch.caught_up) == ([10], 1, None)


async def test_a_batch_has_only_the_records_after_a_revocation() -> None:
    client = ScriptedClient([portion(7, 8), portion(3, 4), portion(5)], revoked_before=1)
    batch = await read(client)
    assert offsets(batch) == [3, 4, 5]
    assert batch.revocations == revocations(client) == 1, "the loop handles a batch with equal numbers"
    assert batch.caught_up is None, "the polls were of the old assignment"


async def test_records_from_before_a_revocation_are_not_handled() -> None:
    client = ScriptedClient([portion(7, 8)], revoked_before=1)
    batch = await read(client)
    assert (batch.revocations, revocations(client)) == (0, 1), "the loop drops a batch with different numbers"


async def test_without_records_all_partitions_are_caught_up() -> None:
    batch = await read(ScriptedClient([]))
    assert (batch.records, batch.caught_up) == ({}, {PARTITION: 5})


async def test_handled_until_is_empty_while_it_is_unknown_for_one_partition() -> None:
    client, other = ScriptedClient([]), TopicPartition("t", 1)
    await read(client)
    member = client.member
    assert member is not None
    assert member.handled_until() == {}
    member.partitions_assigned(client, {PARTITION, other})
    assert member.handled_until() == {}, "the positions are not read yet"
    member._positions._unplaced.clear()
    member._lag._handled_until[PARTITION] = 5
    assert member.handled_until() == {}
    member._lag._handled_until[other] = 7
    assert member.handled_until() == {PARTITION: 5, other: 7}
    member.partitions_assigned(client, {other})
    member._positions._unplaced.clear()
    assert member.handled_until() == {other: 7}


async def test_caught_up_is_unknown_after_a_revocation_during_the_first_poll() -> None:
    client = ScriptedClient([portion(3)], revoked_before=0)
    batch = await read(client)
    assert (batch.revocations, revocations(client)) == (1, 1), "the records are of the new assignment"
    assert batch.caught_up is None
    assert client.member is not None
    client.member.partitions_assigned(client, {PARTITION})
    client.limits.clear()
    batch = await client.member._reader.read(client, asyncio.Event())
    assert batch.caught_up is None, "the client revokes them again"


async def test_caught_up_is_unknown_after_a_complete_rebalance_during_the_first_poll() -> None:
    class Rebalanced(ScriptedClient):
        async def getmany(self, *partitions: TopicPartition, max_records: int, **more: int) -> RecordsByPartition:
            found = await super().getmany(*partitions, max_records=max_records, **more)
            if self.member is not None:
                self.member.partitions_assigned(self, {PARTITION})
            return found

    assert (await read(Rebalanced([], revoked_before=0))).caught_up is None


async def test_the_records_of_other_partitions_are_handled_before_the_failure_of_one_partition_is_raised() -> None:
    client = ScriptedClient([portion(3, 4)], fails_before=1)
    batch = await read(client)
    assert offsets(batch) == [3, 4]
    assert isinstance(batch.failure, TopicAuthorizationFailedError)
    with pytest.raises(TopicAuthorizationFailedError):
        await read(ScriptedClient([portion(3)], fails_before=0))


async def test_a_batch_ends_at_its_last_record_when_the_client_cannot_read_a_later_one() -> None:
    """The client has passed records of other partitions, which it did not return: they are read again."""
    batch = await read(ScriptedClient([portion(3, 4)]))
    assert batch.following == {PARTITION: 7}, "the client's position"
    batch = await read(ScriptedClient([portion(3, 4)], fails_before=1, failure=ValueError("no UTF-8")))
    assert isinstance(batch.failure, UnreadableRecordError)
    assert (offsets(batch), batch.following) == ([3, 4], {PARTITION: 5})


def test_a_batch_without_the_records_of_a_partition_says_nothing_about_its_position() -> None:
    other = TopicPartition("t", 1)
    records: RecordsByPartition = {
        tp: [SimpleNamespace(topic=tp.topic, partition=tp.partition, offset=offset) for offset in (3, 4)]
        for tp in (PARTITION, other)
    }
    batch: FetchedBatch[int] = FetchedBatch(records, [], False, None, {PARTITION: 5, other: 5}, 0, None)
    withheld = batch.before({PARTITION: 0})
    assert (list(withheld.records), withheld.following) == ([other], {other: 5})
    stopped = batch.before({PARTITION: 4})
    assert ([record.offset for record in stopped.records[PARTITION]], stopped.following[PARTITION]) == ([3], 4)


async def test_one_by_one_a_batch_has_only_the_records_after_a_revocation() -> None:
    client = ScriptedClient([portion(3)], revoked_before=0)
    batch = await read(client, one_by_one=True)
    assert (batch.revocations, revocations(client), batch.caught_up) == (1, 1, None)
    client = ScriptedClient([], revoked_before=0)
    batch = await read(client, one_by_one=True)
    assert (batch.revocations, revocations(client), batch.records) == (0, 1, {})


async def test_an_unreadable_record_is_not_skipped_when_its_partition_was_revoked_meanwhile() -> None:
    for revoke in (False, True):
        client = ScriptedClient([], unreadable=1)
        producer = LetterCounter(client, revoke=revoke)
        await read(client, one_by_one=True, producer=producer)
        assert producer.sent == 1
        assert client.seeks == ([] if revoke else [(PARTITION, 8)])


class NoProducer:
    """A producer that sends nothing and stops the loop."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    async def send(self, _: Sequence[Record]) -> None:
        self._stop.set()
        raise Transient("Kafka does not answer")


async def test_an_unreadable_record_is_not_skipped_when_the_loop_stops_before_it_is_dead_lettered() -> None:
    client, stop = ScriptedClient([], unreadable=1), asyncio.Event()
    batch = await read(client, one_by_one=True, producer=NoProducer(stop), stop=stop)
    assert (client.seeks, batch.following) == ([], {})


async def test_one_by_one_a_record_that_was_skipped_before_a_revocation_is_read_again() -> None:
    first = TopicPartition("s", 0)
    client = ScriptedClient([portion(3)], revoked_before=0, unreadable=1)
    client.partitions = {first, PARTITION}
    batch = await read(client, one_by_one=True)
    assert client.seeks == [(first, 8)]
    assert (batch.revocations, batch.following) == (1, {PARTITION: 7})


async def test_a_series_of_unreadable_records_is_skipped_in_one_pass_of_limited_length() -> None:
    client = ScriptedClient([], unreadable=1000)
    producer = LetterCounter(client, revoke=False)
    batch = await read(client, one_by_one=True, producer=producer)
    assert producer.sent == len(client.seeks) == 201
    assert batch.following == {PARTITION: 8}


async def test_caught_up_is_unknown_during_a_rebalance() -> None:
    client = ScriptedClient([])
    await read(client)
    member = client.member
    assert member is not None
    await member.drain()
    assert (await member._reader.read(client, asyncio.Event())).caught_up is None
    member.partitions_assigned(client, {PARTITION})
    assert (await member._reader.read(client, asyncio.Event())).caught_up == {PARTITION: 5}
