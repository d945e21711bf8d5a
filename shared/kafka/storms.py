"""Protection of a consumer group against a storm of records that it rejects.

When nearly all of the last records of a topic were rejected, the circuit breaker stops the member's partitions of this
topic; all other topics continue. The rejected records are dead-lettered and committed before the stop, so a restart
does not meet them again. The stop is stored (`shared.kafka.stop_store`), so a restart or a rebalance does not
dead-letter the next part of the storm either. Only an operator ends it: a probe could not see whether the records
after the stop are wrong without dead-lettering them.

While a partition is stopped, its entry is read again every few seconds, beside the loop. So the group continues, or
dead-letters a range, soon after the operator's command.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.kafka.breaker import CircuitBreaker
from shared.kafka.records import RawRecord, RecordsByPartition
from shared.kafka.stop_store import DeadLetterRange, Stop, StopEntry, StopStore
from shared.kafka.stopped import StopCause, StoppedPartitions
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient

log = logging.getLogger(__name__)

_CHECK_SECONDS: Final = 3.0
_ADVICE: Final = (
    "Read the reasons (`piepowder replay`), then continue with `piepowder stopped resume`, or dead-letter the records"
    " with `piepowder stopped dead-letter`: docs/runbooks/record-storm.md"
)


class StormGuard:
    """The circuit breaker of one group's member, with its durable stops and the operator's ranges.

    Call `load` after each assignment, before its records are handled, and `check` before each batch. After the commit
    of a batch, call `count`, then `save` until it succeeds. Without a store, a stop lasts until the next assignment.
    """

    def __init__(self, store: StopStore | None, stopped: StoppedPartitions, clock: Clock) -> None:
        self._store = store
        self._stopped = stopped
        self._clock = clock
        self._breaker = CircuitBreaker()
        self._ranges: dict[TopicPartition, DeadLetterRange] = {}
        self._tripped: dict[str, str] = {}
        self._unsaved: dict[TopicPartition, StopEntry | None] = {}
        self._next: dict[TopicPartition, int] = {}
        self._unreadable: Counter[str] = Counter()
        self._reading: asyncio.Task[dict[TopicPartition, StopEntry]] | None = None
        self._checked = 0.0

    @property
    def has_ranges(self) -> bool:
        return bool(self._ranges)

    def assigned(self) -> None:
        """Forget the state of the partitions: the assignment was replaced, or all are placed again; `load` follows."""
        self._ranges, self._tripped, self._unsaved, self._next = {}, {}, {}, {}
        self._cancel()

    async def load(self, consumer: AIOKafkaConsumer) -> None:
        """Read and apply the entries of the assigned partitions; raises Transient."""
        if self._store is not None:
            self._apply(consumer, await self._store.read())

    async def check(self, consumer: AIOKafkaConsumer) -> None:
        """Apply what an operator decided about stopped partitions; returns at once."""
        if self._store is None or not self._stopped.of(StopCause.REJECTED):
            return
        if self._reading is None:
            if self._clock.monotonic() - self._checked >= _CHECK_SECONDS:
                self._reading = asyncio.ensure_future(self._store.read())
        elif self._reading.done():
            reading, self._reading, self._checked = self._reading, None, self._clock.monotonic()
            try:
                self._apply(consumer, reading.result())
            except Transient as error:
                log.warning("the stopped partitions are not checked", extra={"error": str(error)})

    def reason_to_reject(self, record: RawRecord) -> str | None:
        """The reason of an operator's range that has the record; None if the group has to handle it."""
        found = self._range_of(record)
        return None if found is None or found.only_failing else found.reason

    def count_unreadable(self, tp: TopicPartition, offset: int) -> None:
        """Count a record that the Kafka client cannot read, and that was dead-lettered."""
        self._next[tp] = offset + 1
        found = self._ranges.get(tp)
        if found is None or not found.has(offset):
            self._unreadable[tp.topic] += 1

    def count(
        self, batch: RecordsByPartition, rejected: Collection[RawRecord], passed_over: Collection[RawRecord]
    ) -> None:
        """Count a committed batch. Records in an operator's range do not count."""
        records, failed = Counter(self._unreadable), Counter(self._unreadable)
        self._unreadable.clear()
        for tp, found in batch.items():
            self._next[tp] = found[-1].offset + 1
            records[tp.topic] += sum(self._range_of(each) is None for each in found) if self._ranges else len(found)
        records.subtract(Counter(each.topic for each in passed_over if self._range_of(each) is None))
        failed.update(each.topic for each in rejected if self._range_of(each) is None)
        self._tripped |= self._breaker.count(records, failed)
        for tp, wanted in list(self._ranges.items()):
            if self._next.get(tp, 0) > wanted.last:
                del self._ranges[tp]
                self._unsaved[tp] = None

    async def save(self, consumer: AIOKafkaConsumer) -> None:
        """Stop the topics whose records were rejected, and store the changed entries; raises Transient."""
        for topic, reason in self._tripped.items():
            partitions = {tp for tp in consumer.assignment() if tp.topic == topic}
            self._stopped.stop(consumer, partitions, StopCause.REJECTED, f"{reason} {_ADVICE}")
            at = to_text(self._clock.now())
            for tp in partitions:
                self._ranges.pop(tp, None)
                self._unsaved[tp] = Stop(reason, at)
        self._tripped = {}
        if self._unsaved and self._store is not None:
            await self._store.write(self._unsaved)
            self._cancel()  # it may have read the entries before this change
            self._checked = self._clock.monotonic()
        self._unsaved = {}

    async def close(self) -> None:
        """Stop reading the entries."""
        reading = self._cancel()
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    def _cancel(self) -> "asyncio.Task[dict[TopicPartition, StopEntry]] | None":
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
        return reading

    def _apply(self, consumer: AIOKafkaConsumer, entries: dict[TopicPartition, StopEntry]) -> None:
        mine = {tp: entry for tp, entry in entries.items() if tp in consumer.assignment()}
        ranges = {tp: entry for tp, entry in mine.items() if isinstance(entry, DeadLetterRange)}
        for tp, found in ranges.items():
            if self._ranges.get(tp) != found:
                place = {"topic": tp.topic, "partition": tp.partition, "first": found.first, "last": found.last}
                log.warning("an operator dead-letters a range", extra=place)
        self._ranges = ranges
        for tp, entry in mine.items():
            if isinstance(entry, Stop):
                self._stopped.stop(consumer, [tp], StopCause.REJECTED, f"{entry.reason} {_ADVICE}")
        continued = self._stopped.of(StopCause.REJECTED) - {tp for tp, entry in mine.items() if isinstance(entry, Stop)}
        self._stopped.resume(consumer, continued, StopCause.REJECTED)

    def _range_of(self, record: RawRecord) -> DeadLetterRange | None:
        found = self._ranges.get(TopicPartition(record.topic, record.partition))
        return found if found is not None and found.has(record.offset) else None
