"""Reads batches for the consumer loop: fetches records in small portions, decodes them, and reads one batch ahead.

A handler mostly waits for its database. If the backlog is large, the reader fetches and decodes the next batch in that
time. Between two portions of at most a hundred records, the reader yields to the event loop, so that the handler
continues as soon as its database has responded. At most one batch is read ahead.

Partitions can be revoked at any time. Then the client starts again at the committed offsets, so records that were read
before the revocation must not be handled: the reader starts an incomplete batch again, and the loop drops a complete
batch.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.kafka.lag import ConsumerLag
from shared.kafka.parking import REPLAY_HEADER, ReplayedRecord, parse_replayed
from shared.kafka.records import RawRecord, Received, RecordsByPartition
from shared.runtime.errors import Poison, TooNew
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

M = TypeVar("M")

_POLL_MS: Final = 200
_SINGLE_POLL_MS: Final = 50
_PORTION_RECORDS: Final = 100
_FIRST_PORTION_RECORDS: Final = 10  # the size of the records is not known yet
_BATCH_BYTES: Final = 8 * 2**20  # of values; a batch with more is full, even with few records
_UNREADABLE_AT_ONCE: Final = 200  # of one partition, before the loop may stop the partition
_BACKLOG: Final = 0.25  # share of a full batch that must wait before the next batch is read ahead


class UndecodableRecord(NamedTuple):
    """A record that cannot be decoded, with the reason."""

    record: RawRecord
    poison: Poison


Part: TypeAlias = list[Received[M]] | UndecodableRecord


class FetchedBatch(NamedTuple, Generic[M]):
    """Fetched records, and the same records decoded.

    `parts`: in order, undecodable records and runs of messages that may be handled together.
    `full`: the batch has no room for more records.
    `caught_up`: the poll time of each partition without further records; None if this is unknown.
    `following`: the offset of the next record of each partition after this batch.
    `revocations`: the reader's count of revocations when the first record was fetched.
    `failure`: the error that ended the batch early; the loop raises it after it has handled the batch.
    """

    records: RecordsByPartition
    parts: "list[Part[M]]"
    full: bool
    caught_up: dict[TopicPartition, int] | None
    following: dict[TopicPartition, int]
    revocations: int
    failure: Exception | None

    @property
    def size(self) -> int:
        return sum(map(len, self.records.values()))

    def before(self, ends: Mapping[TopicPartition, int]) -> "FetchedBatch[M]":
        """The batch without the records of these partitions from these offsets on; an offset of 0 removes all."""
        if not ends:
            return self

        def stays(record: RawRecord) -> bool:
            end = ends.get(TopicPartition(record.topic, record.partition))
            return end is None or bool(record.offset < end)

        records = {tp: [r for r in found if stays(r)] if tp in ends else found for tp, found in self.records.items()}
        parts: list[Part[M]] = []
        for part in self.parts:
            if not isinstance(part, UndecodableRecord):
                parts.append([received for received in part if stays(received.record)])
            elif stays(part.record):
                parts.append(part)
        following = {tp: ends.get(tp, offset) for tp, offset in self.following.items() if ends.get(tp, offset) > 0}
        return self._replace(
            records={tp: found for tp, found in records.items() if found}, parts=parts, following=following
        )


class UnreadableRecordError(Exception):
    """The Kafka client cannot parse a record (a header name that is not UTF-8), and does not report which one."""


@dataclass(eq=False)
class BatchReader(Generic[M]):
    """Reads the batches of one member of a consumer group.

    `dead_letter_unreadable` dead-letters a record that the Kafka client cannot parse; it returns False when
    the loop is stopped first.
    """

    decode: Callable[[RawRecord], M]
    group: str
    batch_records: int
    lag: ConsumerLag
    dead_letter_unreadable: Callable[[TopicPartition, int, str, asyncio.Event], Awaitable[bool]]
    one_by_one: bool = False
    revocations: int = 0

    def __post_init__(self) -> None:
        self._ahead: asyncio.Task[FetchedBatch[M]] | None = None
        self._rebalancing = False
        self._assignment_changes = 0

    def partitions_revoked(self) -> None:
        """Mark the records that are already read as outdated."""
        self.revocations += 1
        self._rebalancing = True
        self._assignment_changes += 1

    def partitions_assigned(self) -> None:
        """Note the end of a rebalance."""
        self._rebalancing = False
        self._assignment_changes += 1

    async def restart(self) -> None:
        """Drop the records that are already read, because the consumer starts at other positions."""
        self.revocations += 1
        self._assignment_changes += 1
        await self.discard()

    async def next(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> FetchedBatch[M] | None:
        """The batch that was read ahead, or a new one; None when `stop` is set first.

        Reading can wait without a limit: during a rebalance, the client waits for all other members of the group.
        """
        reading = self._ahead = self._ahead or asyncio.ensure_future(self.read(consumer, stop))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not reading.done():
            return None
        self._ahead = None
        return reading.result()

    def read_ahead(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Start to read the next batch in the background."""
        if not self.one_by_one:
            self._ahead = asyncio.ensure_future(self.read(consumer, stop))

    async def discard(self) -> None:
        """Drop the batch that was read ahead, or the error of reading it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    def backlog_is_large(self, consumer: AIOKafkaConsumer, batch: FetchedBatch[M]) -> bool:
        """True if at least a quarter of a full batch is known to wait in the partitions of this batch."""
        if batch.full:
            return True
        ends = {tp: consumer.highwater(tp) for tp in batch.records.keys() & consumer.assignment()}
        waiting = [end - batch.records[tp][-1].offset - 1 for tp, end in ends.items() if end is not None]
        return bool(sum(waiting) >= _BACKLOG * self.batch_records)

    async def read(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> FetchedBatch[M]:
        """Fetch and decode a batch in portions."""
        polled_at = {tp: consumer.last_poll_timestamp(tp) for tp in consumer.assignment()}
        assignment_changes = self._assignment_changes
        self.lag.polled(polled_at)
        if self.one_by_one:
            return await self._read_one_by_one(consumer, stop)
        decoded, caught_up, failure = _DecodedBatch(self.decode, self.group), None, None
        portion = await _fetch(consumer, _POLL_MS, min(self.batch_records, _FIRST_PORTION_RECORDS))
        revocations = self.revocations  # the client fetches nothing during a rebalance, so this portion is current
        while portion:
            if self.revocations != revocations:
                decoded, revocations = _DecodedBatch(self.decode, self.group), self.revocations
            decoded.add(portion)
            if (room := self._room(decoded)) <= 0:
                break
            await asyncio.sleep(0)
            try:
                portion = await _fetch(consumer, 0, min(room, _PORTION_RECORDS))
            except (KafkaError, UnreadableRecordError) as error:  # the earlier portions are still valid
                failure = error
                break
        if not portion and assignment_changes == self._assignment_changes and not self._rebalancing:
            caught_up = {tp: ms for tp, ms in polled_at.items() if ms is not None and tp not in decoded.records}
        if isinstance(failure, UnreadableRecordError):
            # the client has passed records of other partitions, which it did not return
            following = {tp: of[-1].offset + 1 for tp, of in decoded.records.items()}
        else:
            following = await _following(consumer, decoded.records)
        is_full = self._room(decoded) <= 0
        return FetchedBatch(decoded.records, decoded.parts, is_full, caught_up, following, revocations, failure)

    async def _read_one_by_one(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> FetchedBatch[M]:
        """Read one record of each partition, to find the one that the Kafka client cannot parse, and skip it."""
        decoded, revocations = _DecodedBatch(self.decode, self.group), self.revocations
        skipped: dict[TopicPartition, int] = {}
        for tp in sorted(consumer.assignment() - consumer.paused()):
            portion = await self._read_or_skip(consumer, tp, skipped, stop)
            attempts = 1
            while portion is None and attempts <= _UNREADABLE_AT_ONCE:
                attempts += 1
                portion = await self._read_or_skip(consumer, tp, skipped, stop)
            if portion and self.revocations != revocations:
                decoded, revocations = _DecodedBatch(self.decode, self.group), self.revocations
                skipped = {}
            decoded.add(portion or {})
        if not decoded.size:
            await wait(stop, _SINGLE_POLL_MS / 1000)  # there may be no assignment yet
        following = skipped | await _following(consumer, decoded.records)
        return FetchedBatch(decoded.records, decoded.parts, False, None, following, revocations, None)

    async def _read_or_skip(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, skipped: dict[TopicPartition, int], stop: asyncio.Event
    ) -> RecordsByPartition | None:
        """At most one record of a partition; None if the next one cannot be parsed, and was skipped: `skipped` then has
        the offset of the record after it.

        A record is not skipped if the loop is stopped, or its partition is revoked, before it is dead-lettered.
        """
        try:
            portion: RecordsByPartition = await consumer.getmany(tp, timeout_ms=_SINGLE_POLL_MS, max_records=1)
        except ValueError as error:
            current = self.revocations
            offset = await consumer.position(tp)
            reason = f"the Kafka client cannot read it: {error!r}"
            if not await self.dead_letter_unreadable(tp, offset, reason, stop) or self.revocations != current:
                return {}
            consumer.seek(tp, offset + 1)
            skipped[tp] = offset + 1
            self.one_by_one = False
            return None
        return portion

    def _room(self, decoded: "_DecodedBatch[M]") -> int:
        """The number of further records, of the same average size, that the batch has room for."""
        if decoded.size >= self.batch_records or decoded.bytes >= _BATCH_BYTES:
            return 0
        by_bytes = (_BATCH_BYTES - decoded.bytes) * decoded.size // max(1, decoded.bytes)
        return max(1, min(self.batch_records - decoded.size, by_bytes))


class _DecodedBatch(Generic[M]):
    """Decodes records in order and divides them into parts.

    A replayed record is a run of its own, and a record that is too new ends a run, because its result decides about the
    records that follow.
    """

    def __init__(self, decode: Callable[[RawRecord], M], group: str) -> None:
        self._decode = decode
        self._group = group
        self._run: list[Received[M]] = []
        self.parts: list[Part[M]] = [self._run]
        self.records: RecordsByPartition = {}
        self.size = 0
        self.bytes = 0

    def add(self, portion: RecordsByPartition) -> None:
        for tp, records in portion.items():
            self.records.setdefault(tp, []).extend(records)
            self.size += len(records)
            for record in records:
                self.bytes += len(record.value or b"")
                self._add(record)

    def _add(self, fetched: RawRecord) -> None:
        has_mark = fetched.headers and fetched.headers[-1][0] == REPLAY_HEADER
        record = parse_replayed(fetched, self._group) if has_mark else fetched
        ends_run = record is not fetched and isinstance(record, ReplayedRecord)
        try:
            received = Received(record, self._decode(record))
        except Poison as poison:
            self.parts.append(UndecodableRecord(record, poison))
            ends_run = ends_run or isinstance(poison, TooNew)
        except Exception as error:  # a defect; the record would stop the service at each start
            log.exception("a record cannot be decoded", extra={"topic": record.topic, "offset": record.offset})
            self.parts.append(UndecodableRecord(record, Poison(f"decoding failed: {error!r:.300}")))
        else:
            if ends_run:
                self.parts.append([received])
            else:
                self._run.append(received)
        if ends_run:
            self._run = []
            self.parts.append(self._run)


async def _following(consumer: AIOKafkaConsumer, records: RecordsByPartition) -> dict[TopicPartition, int]:
    """The client's position in each partition of a batch: it may skip offsets that no record has."""
    assigned = consumer.assignment()
    return {
        tp: max(of[-1].offset + 1, await consumer.position(tp)) if tp in assigned else of[-1].offset + 1
        for tp, of in records.items()
    }


async def _fetch(consumer: AIOKafkaConsumer, wait_ms: int, limit: int) -> RecordsByPartition:
    """Up to `limit` records; waits at most `wait_ms` for the first one."""
    try:
        fetched: RecordsByPartition = await consumer.getmany(timeout_ms=wait_ms, max_records=limit)
    except ValueError as error:  # the client drops records of other partitions too; the loop joins again
        raise UnreadableRecordError(repr(error)) from error
    return fetched
