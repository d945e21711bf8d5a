"""The consumer loop: fetch a batch, decode it, handle it, commit it.

Offsets are committed only after all effects are durable, so delivery is at least once. Handlers are therefore
idempotent, and each call to a handler is all or nothing. The loop distinguishes three kinds of failure:

- `Transient`: the loop tries the same records again in place, with jitter and a time limit, so their order is kept.
- `Poison`, or an unexpected error that repeats: the loop halves the batch until it finds the record, and dead-letters
  it whole, together with the later records of its key (`shared.kafka.parking`). All other records continue.
- `Fatal`: the service stops and commits nothing.

If too large a share of a topic's records is rejected, or too many keys are parked, the member stops only the partitions
concerned, and continues with all others (`shared.kafka.storms`).

When partitions are revoked, the current batch gets a bounded time to finish and commit. After that time the loop
abandons it without a commit, and the new owner of the partitions handles it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, RebalanceInProgressError

from shared.kafka.batch_reader import BatchReader, FetchedBatch, UndecodableRecord, UnreadableRecordError
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.lag import ConsumerLag
from shared.kafka.parking import ParkedKeysFull, ParkedKeyStore, Parking, ReplayedRecord
from shared.kafka.records import RawRecord, Received
from shared.kafka.stop_store import StopStore
from shared.kafka.stopped import StopCause, StoppedPartitions
from shared.kafka.storms import StormGuard
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.errors import Fatal, Poison, Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, wait

__all__ = ["BatchConsumer", "Handler", "RawRecord", "Received"]

log = logging.getLogger(__name__)

M = TypeVar("M")

Handler: TypeAlias = Callable[[Sequence[Received[M]]], Awaitable[None]]

_STOP_SECONDS: Final = 5.0  # to close a client; during a rebalance it can take much longer
_ATTEMPTS_ALONE: Final = 3  # an unexpected error may be temporary; a single record that fails this often is poison
_PATIENT_RECORDS: Final = 20  # of a batch; after so many failures, each further record is tried and logged once


@dataclass(kw_only=True, eq=False)
class BatchConsumer(Generic[M]):
    """A consumer of some topics, in one consumer group.

    `decode` turns a record into a message, or raises Poison. `handle` makes a batch's effects durable, all or nothing,
    before it returns. It may raise Transient, Fatal, or Poison (the loop then halves the batch until one record is
    left), and may receive a record again.
    With `parked`, the later records of a key wait behind a record that cannot be handled; without it they are handled.
    With `stops`, a topic that was stopped because of rejected records stays stopped after a restart.
    Without a large backlog, the loop waits `linger_seconds` after a batch, so that the next batch grows: use it where
    the cost of a batch matters more than its age.
    """

    bootstrap: str
    group: str
    topics: Sequence[str]
    decode: Callable[[RawRecord], M]
    handle: Handler[M]
    dead_letters: DeadLetterWriter
    parked: ParkedKeyStore | None = None
    stops: StopStore | None = None
    readiness: Readiness
    clock: Clock
    instance: str = "0"
    batch_records: int = 2000
    backoff: Backoff = Backoff()  # noqa: RUF009 - immutable
    drain_seconds: float = 10.0
    linger_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._parking = Parking(self.dead_letters, self.parked, self.clock)
        self._condition = f"consumer {self.group}"
        self._stopped = StoppedPartitions(self.group, self.readiness)
        self._storms = StormGuard(self.stops, self._stopped, self.clock)
        self._rewinds: dict[TopicPartition, int] = {}
        self._busy = asyncio.Lock()
        self._abandon = asyncio.Event()
        self._lag = ConsumerLag(self.group, self.clock)
        self._reader = BatchReader(
            self.decode,
            group=self.group,
            batch_records=self.batch_records,
            lag=self._lag,
            dead_letter_unreadable=self._dead_letter_unreadable,
        )
        self._seconds = metrics.CONSUME_SECONDS.labels(self.group)

    def handled_until(self) -> dict[TopicPartition, int]:
        """The time, in ms since the epoch, up to which each assigned partition is handled.

        Empty while any partition's time is unknown, so that no caller mistakes a part for the whole assignment.
        """
        return self._lag.handled_until()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, and join the group again after each failure; raises Fatal."""
        condition, attempt = self._condition, 0
        self.readiness.set(condition, "not connected to Kafka yet")
        while not stop.is_set():
            consumer = self._client()
            try:
                await consumer.start()
                self.readiness.set(condition, "waiting for its partitions")
                consumer.subscribe(list(self.topics), listener=_RebalanceListener(self))
                while not stop.is_set():
                    await self._step(consumer, stop)
                    attempt = 0
            except UnreadableRecordError as error:
                log.error("the Kafka client cannot read a record; searching for it", extra={"error": str(error)})
                self._reader.one_by_one = True
            except (KafkaError, OSError) as error:
                attempt += 1
                self.readiness.set(condition, f"Kafka at {self.bootstrap}: {error!r}")
                log.warning("consumer interrupted; joining again", extra={"group": self.group, "error": repr(error)})
                await wait(stop, self.backoff.delay(attempt))
            finally:
                await self._storms.close()
                await self._reader.discard()
                await _stop(consumer)
        self.readiness.set(condition, "stopped")
        self._lag.close()
        self._parking.close()
        self._stopped.assigned()

    def _client(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=self.group,
            group_instance_id=f"{self.group}-{self.instance}",
            client_id=f"{self.group}-{self.instance}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=15_000,
            heartbeat_interval_ms=3_000,
            rebalance_timeout_ms=60_000,
            max_poll_interval_ms=900_000,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            fetch_max_wait_ms=100,
            metadata_max_age_ms=30_000,
            isolation_level="read_committed",
        )

    async def _step(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        batch = await self._reader.next(consumer, stop)
        if batch is None:
            return
        backlog = False
        async with self._busy:
            if batch.revocations != self._reader.revocations:
                return  # the client reads these records again
            self._abandon.clear()
            load = partial(self._load, consumer)
            if self._parking.is_outdated and not await self._retry_transient(load, stop):
                return
            await self._storms.check(consumer)
            self._resume_with_room(consumer)
            batch = self._withhold(consumer, batch)
            if batch.caught_up is not None:
                self._lag.caught_up(consumer, batch.caught_up)
            if not batch.records:
                self._lag.idle(consumer)
                self._storms.count({}, (), ())
                await self._retry_transient(partial(self._storms.save, consumer), stop)
                if batch.failure is not None:  # the records of this batch were withheld
                    raise batch.failure
                return
            backlog = self._reader.backlog_is_large(consumer, batch)
            if backlog and batch.failure is None:
                self._reader.read_ahead(consumer, stop)
            self._lag.batch_started(batch.records)
            started = self.clock.monotonic()
            handled = await self._process_or_stop(consumer, batch, stop)
            if handled is None:
                return
            self._seconds.observe(self.clock.monotonic() - started)
            await self._commit(consumer, {tp: records[-1].offset + 1 for tp, records in handled.records.items()})
            for tp, records in handled.records.items():
                metrics.CONSUMED.labels(self.group, tp.topic).inc(len(records))
            self._lag.batch_committed(consumer, handled.records)
            self._storms.count(handled.records, self._parking.rejected, self._parking.passed_over)
            await self._retry_transient(partial(self._storms.save, consumer), stop)
        if batch.failure is not None:
            raise batch.failure
        if self.linger_seconds and not backlog:
            await wait(stop, self.linger_seconds)

    async def _load(self, consumer: AIOKafkaConsumer) -> None:
        try:
            await self._storms.load(consumer)
            await self._parking.load(consumer.assignment())
        except Transient as error:
            self.readiness.set(self._condition, str(error))
            raise
        self.readiness.set(self._condition, None)

    def _withhold(self, consumer: AIOKafkaConsumer, batch: FetchedBatch[M]) -> FetchedBatch[M]:
        """The batch without the records of stopped and rewound partitions; the client reads these records again."""
        rewinds, self._rewinds = self._rewinds, {}
        for tp, records in batch.records.items():
            if tp in self._stopped:
                rewinds.setdefault(tp, records[0].offset)
        for tp in rewinds.keys() & consumer.assignment():
            consumer.seek(tp, rewinds[tp])
        if rewinds:
            self._lag.rewound({tp: batch.records.get(tp, []) for tp in rewinds})
        caught_up = batch.caught_up
        if caught_up is not None and self._stopped:
            caught_up = {tp: ms for tp, ms in caught_up.items() if tp not in self._stopped}
        return batch._replace(caught_up=caught_up).before(dict.fromkeys(rewinds, 0))

    def _resume_with_room(self, consumer: AIOKafkaConsumer) -> None:
        """Read partitions again that were stopped because too many keys were parked, when some are free again."""
        if self._stopped and not self._parking.is_full and (full := self._stopped.of(StopCause.PARKED_KEYS)):
            self._stopped.resume(consumer, full, StopCause.PARKED_KEYS)

    async def _process_or_stop(
        self, consumer: AIOKafkaConsumer, batch: FetchedBatch[M], stop: asyncio.Event
    ) -> FetchedBatch[M] | None:
        """Process a batch; returns the processed part of it, None when it is abandoned.

        A partition whose next record would need one more parked key than allowed is stopped at this record. The other
        records are processed again, which is harmless.
        """
        while True:
            try:
                return batch if await self._process(batch, stop) else None
            except ParkedKeysFull as full:
                self._stopped.stop(consumer, [full.tp], StopCause.PARKED_KEYS, str(full))
                self._rewinds[full.tp] = full.offset
                batch = batch.before({full.tp: full.offset})
                self._parking.forget()
                if not await self._retry_transient(partial(self._load, consumer), stop):
                    return None

    async def _process(self, batch: FetchedBatch[M], stop: asyncio.Event) -> bool:
        """Make the effects of all records durable; False when the batch is abandoned before that."""
        self._parking.start_batch()
        for part in batch.parts:
            if isinstance(part, UndecodableRecord):
                self._parking.reject_undecodable(*part)
            elif not await self._handle_run(self._without_ranges(part), stop):
                return False
        return await self._retry_transient(self._parking.flush, stop)

    def _without_ranges(self, run: Sequence[Received[M]]) -> Sequence[Received[M]]:
        """The records to handle; records in an operator's range are dead-lettered instead."""
        if not self._storms.has_ranges:
            return run
        handled = []
        for received in run:
            reason = self._storms.reason_to_reject(received.record)
            if reason is None:
                handled.append(received)
            elif self._parking.admits(received.record):
                self._parking.reject(received.record, reason)
        return handled

    async def _handle_run(self, run: Sequence[Received[M]], stop: asyncio.Event) -> bool:
        admitted = run
        if self._parking.has_parked_keys or (run and isinstance(run[0].record, ReplayedRecord)):
            admitted = [received for received in run if self._parking.admits(received.record)]
        attempts = 0
        while admitted:
            try:
                if not await self._retry_transient(lambda: self.handle(admitted), stop):
                    return False
            except Fatal:
                raise
            except Exception as error:
                if len(admitted) > 1:
                    half = len(admitted) // 2
                    first, second = admitted[:half], admitted[half:]
                    return await self._handle_run(first, stop) and await self._handle_run(second, stop)
                record = admitted[0].record
                attempts += 1
                if isinstance(error, Poison):
                    self._parking.reject(record, error.reason)
                    return True
                is_storm = len(self._parking.rejected) >= _PATIENT_RECORDS
                if attempts >= _ATTEMPTS_ALONE or is_storm:
                    if not is_storm:  # a traceback of each record would cost more than its handling
                        log.exception("a record cannot be handled", extra={"offset": record.offset})
                    self._parking.reject(record, f"handling failed: {error!r}")
                    return True
                await wait(stop, self.backoff.delay(attempts))
            else:
                self._parking.confirm_handled(admitted[0].record)  # a replayed record is always a run of its own
                return True
        return True

    async def _retry_transient(self, act: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """Run `act` until it succeeds; False when `stop` or the rebalance ends the attempts; Fatal after the limit."""
        attempt, started = 0, self.clock.monotonic()
        while True:
            try:
                await act()
            except Transient as error:
                attempt += 1
                metrics.RETRIES.labels(self.group).inc()
                log.warning("trying again", extra={"group": self.group, "attempt": attempt, "error": str(error)})
                if self.clock.monotonic() - started > self.backoff.bound:
                    raise Fatal(f"still failing after {self.backoff.bound:g} s: {error}") from error
                await wait(stop, self.backoff.delay(attempt))
                if stop.is_set() or self._abandon.is_set():
                    return False
            else:
                return True

    async def _dead_letter_unreadable(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int, reason: str, stop: asyncio.Event
    ) -> bool:
        written = False

        async def send() -> None:
            nonlocal written
            written = await self.dead_letters.send_unreadable(tp, offset, reason)

        if not await self._retry_transient(send, stop):
            return False
        if written:
            metrics.DEADLETTERED.labels(self.group, tp.topic).inc()
            self._storms.count_unreadable(tp, offset)
            place = {"topic": tp.topic, "partition": tp.partition, "offset": offset}
            log.error("dead-lettered", extra=place | {"reason": reason})
        await self._commit(consumer, {tp: offset + 1})
        return True

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        if not offsets:
            return
        try:
            await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError, RebalanceInProgressError) as error:
            log.info("partitions moved before the commit; their new owner receives the batch again: %r", error)
        except KafkaError as error:
            log.warning("offsets not committed; the next commit includes them", extra={"error": repr(error)})

    def partitions_assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Replace the assignment. The loop loads the parked keys of its partitions before it handles their records."""
        self._reader.partitions_assigned()
        self._stopped.assigned()
        self._storms.assigned()
        self._rewinds = {}
        self._lag.assigned(set(partitions))
        self._parking.partitions_assigned()

    async def drain(self) -> None:
        """Let the current batch finish before its partitions move; after a bounded time, abandon it uncommitted."""
        self._reader.partitions_revoked()
        try:
            async with asyncio.timeout(self.drain_seconds):
                async with self._busy:
                    return
        except TimeoutError:
            log.warning("the current batch did not finish before its partitions moved; abandoned")
            self._abandon.set()


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types for it
    def __init__(self, consumer: BatchConsumer[M]) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if revoked:
            await self._consumer.drain()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.partitions_assigned(assigned)


_closing: set[asyncio.Future[None]] = set()


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Close the client; after a bounded time, continue while it closes in the background."""
    stopping = asyncio.ensure_future(consumer.stop())
    _closing.add(stopping)
    stopping.add_done_callback(_closed)
    await asyncio.wait([stopping], timeout=_STOP_SECONDS)


def _closed(stopping: "asyncio.Future[None]") -> None:
    _closing.discard(stopping)
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.warning("the consumer did not close cleanly", extra={"error": repr(error)})
