"""The consumer loop: fetch a batch, decode it, handle it, commit it.

Positions move only after all effects are durable, so delivery is at least once. Handlers are therefore idempotent, and
each call to a handler is all or nothing. Without a database, the positions are the group's committed offsets. A handler
with a database stores the positions in the transaction of its effects (`shared.kafka.positions`); the committed offsets
are then only information. The loop distinguishes three kinds of failure:

- `Transient`: the loop tries the same records again in place, with jitter, for as long as the condition lasts, so their
  order is kept. The service is not ready meanwhile.
- `Poison`, or an unexpected error that repeats: the loop halves the batch until it finds the record, and dead-letters
  it whole, together with the later records of its key (`shared.kafka.parking`). All other records continue.
- `Fatal`: the service stops and commits nothing.

If too large a share of a topic's records is rejected, or too many keys are parked, the member stops only the partitions
concerned, and continues with all others (`shared.kafka.storms`).

A partition with missing records stops, and all others continue. When partitions are revoked, the current batch gets a
bounded time to finish and commit. After that time the loop abandons it without a commit, and the new owner of the
partitions handles it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)
from aiokafka.structs import OffsetAndMetadata

from shared.kafka.batch_reader import BatchReader, FetchedBatch, UndecodableRecord, UnreadableRecordError
from shared.kafka.client_protocol import committed_offsets, topic_ids
from shared.kafka.closing import close
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.lag import ConsumerLag
from shared.kafka.parking import ParkedKeysFull, ParkedKeyStore, Parking, ReplayedRecord
from shared.kafka.positions import Positions
from shared.kafka.records import RawRecord, Received
from shared.kafka.stop_store import StopStore
from shared.kafka.stopped import StopCause, StoppedPartitions
from shared.kafka.stored_positions import NO_MOVES, BatchProgress, Moves, PositionChangedError, PositionStore
from shared.kafka.storms import StormGuard
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.errors import Fatal, Poison, Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, wait
from shared.runtime.user_errors import cause

__all__ = ["BatchConsumer", "FetchLimits", "Handler", "RawRecord", "Received", "TransactionalHandler"]

log = logging.getLogger(__name__)

M = TypeVar("M")

Handler: TypeAlias = Callable[[Sequence[Received[M]]], Awaitable[None]]


@dataclass(frozen=True)
class TransactionalHandler(Generic[M]):
    """A handler that stores each batch's moves in `positions`, in the transaction of its effects."""

    handle: Callable[[Sequence[Received[M]], Moves], Awaitable[None]]
    positions: PositionStore


class FetchLimits(NamedTuple):
    """A broker responds to a request for records when it has `min_bytes` of them, at the latest after `wait_ms`.

    With one byte, a record never waits for the end of `wait_ms`: only the requests of an idle consumer do.
    """

    wait_ms: int = 300
    min_bytes: int = 1


_RETRY_SECONDS: Final = 1.0  # to read the positions again
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
    `fetch` states how long the broker keeps a request for records that it does not have yet.
    Without a large backlog, the loop waits `linger_seconds` after a batch, so that the next batch grows: use it where
    the cost of a batch matters more than its age.
    """

    bootstrap: str
    group: str
    topics: Sequence[str]
    decode: Callable[[RawRecord], M]
    handle: Handler[M] | TransactionalHandler[M]
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
    fetch: FetchLimits = FetchLimits()  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        self._parking = Parking(self.dead_letters, self.parked, self.clock)
        self._condition = f"consumer {self.group}"
        self.readiness.set(self._condition, "not connected to Kafka yet")  # before the first task runs
        self._stopped = StoppedPartitions(self.group, self.readiness, self._is_placed)
        self._storms = StormGuard(self.stops, self._stopped, self.clock)
        self._rewinds: dict[TopicPartition, int] = {}
        self._busy = asyncio.Lock()
        self._abandon = asyncio.Event()
        self._lag = ConsumerLag(self.group, self.clock)
        handle = self.handle
        self._store = handle.positions if isinstance(handle, TransactionalHandler) else None
        self._apply = handle.handle if isinstance(handle, TransactionalHandler) else _without_moves(handle)
        self._positions = Positions(
            group=self.group,
            topics=self.topics,
            store=self._store,
            readiness=self.readiness,
            clock=self.clock,
            topic_ids=self._topic_ids,
            committed=self._committed,
            stopped=self._stopped,
        )
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
        return self._lag.handled_until() if self._positions.are_current else {}

    def stopped(self) -> set[TopicPartition]:
        """The partitions of this member that are stopped because of their records, not because records are missing."""
        return self._stopped.all

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, and join the group again after each failure; raises Fatal."""
        condition, attempt = self._condition, 0
        self.readiness.set(condition, "not connected to Kafka yet")
        while not stop.is_set():
            consumer = self._client()
            try:
                await consumer.start()
                self.readiness.set(condition, "waiting for its partitions")
                consumer.subscribe(list(self.topics), listener=_RebalanceListener(self, consumer))
                while not stop.is_set():
                    await self._step(consumer, stop)
                    attempt = 0
            except UnreadableRecordError as error:
                log.error("the Kafka client cannot read a record; searching for it", extra={"error": str(error)})
                self._reader.one_by_one = True
            except (KafkaError, OSError) as error:
                attempt += 1
                self.readiness.set(condition, f"Kafka at {self.bootstrap}: {cause(error)}")
                log.warning("consumer interrupted; joining again", extra={"group": self.group, "error": repr(error)})
                await wait(stop, self.backoff.delay(attempt))
            finally:
                self._positions.forget()
                await self._storms.close()
                await self._reader.discard()
                await close(consumer)
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
            auto_offset_reset="none",
            enable_auto_commit=False,
            session_timeout_ms=15_000,
            heartbeat_interval_ms=3_000,
            rebalance_timeout_ms=60_000,
            max_poll_interval_ms=900_000,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            fetch_max_wait_ms=self.fetch.wait_ms,
            fetch_min_bytes=self.fetch.min_bytes,
            metadata_max_age_ms=30_000,
            isolation_level="read_committed",
        )

    def _is_placed(self, tp: TopicPartition) -> bool:
        return self._positions.is_placed(tp)

    async def _topic_ids(self, consumer: AIOKafkaConsumer, names: Collection[str]) -> Mapping[str, str]:
        return await topic_ids(consumer, names)

    async def _committed(
        self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        return await committed_offsets(consumer, partitions)

    async def _step(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        batch = await self._next(consumer, stop) if await self._place(consumer, stop) else None
        if batch is None:
            return
        backlog = False
        async with self._busy:
            if batch.revocations != self._reader.revocations:
                return  # the client reads these records again
            self._abandon.clear()
            if not await self._derive_stops(consumer, stop):
                return
            batch = self._withhold(consumer, batch)
            if batch.caught_up is not None:
                self._lag.caught_up(consumer, batch.caught_up)
            if not batch.following:
                self._lag.idle(consumer)
                if batch.failure is not None:  # the records of this batch were withheld
                    self._on_failure(consumer, batch.failure)
                return
            progress = self._positions.batch(batch.records, batch.following)
            if progress is None:
                await self._start_again(consumer, "a partition is not placed")
                return
            backlog = self._reader.backlog_is_large(consumer, batch)
            if backlog and batch.failure is None:
                self._reader.read_ahead(consumer, stop)
            self._lag.batch_started(batch.records)
            started = self.clock.monotonic()
            handled = await self._process_or_stop(consumer, batch, progress, stop)
            if handled is None:
                return
            self._seconds.observe(self.clock.monotonic() - started)
            self._positions.moved(handled.following)
            await self._commit(consumer, handled.following)
            for tp, records in handled.records.items():
                metrics.CONSUMED.labels(self.group, tp.topic).inc(len(records))
            self._lag.batch_committed(consumer, handled.records)
            self._storms.count(handled.records, self._parking.rejected, self._parking.passed_over)
            await self._retry_transient(partial(self._storms.save, consumer), stop)
        if batch.failure is not None:
            self._on_failure(consumer, batch.failure)
        if self.linger_seconds and not backlog:
            await wait(stop, self.linger_seconds)

    async def _place(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> bool:
        """Start the assigned partitions at their positions, and check the positions from time to time."""
        positions = self._positions
        if positions.are_placed and not positions.check_is_due():
            return True
        reading = asyncio.ensure_future(self._read_positions(consumer))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return False
            await reading
        except (KafkaError, Transient) as error:
            log.warning("the positions cannot be read, trying again: %r", error, extra={"group": self.group})
            if not positions.are_placed:
                positions.report_failure(error)
                await wait(stop, _RETRY_SECONDS)
                return False
        finally:
            reading.cancel()
            stopping.cancel()
        return True

    async def _read_positions(self, consumer: AIOKafkaConsumer) -> None:
        if self._positions.check_is_due() and await self._positions.check(consumer):
            log.warning("the stored positions or the topics have changed", extra={"group": self.group})
            await self._drop_read_records()
        if not self._positions.are_placed:
            await self._positions.place(consumer)

    async def _next(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> FetchedBatch[M] | None:
        try:
            return await self._reader.next(consumer, stop)
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            self._on_failure(consumer, error)
            return None

    def _on_failure(self, consumer: AIOKafkaConsumer, failure: Exception) -> None:
        if not isinstance(failure, OffsetOutOfRangeError | NoOffsetForPartitionError):
            raise failure
        about = failure.args[0]
        self._positions.out_of_range(consumer, {about} if isinstance(about, TopicPartition) else set(about))

    async def _start_again(self, consumer: AIOKafkaConsumer, reason: object) -> None:
        """Drop everything that was read, and read the positions again: another member or an operator moved them, or
        the database was restored."""
        log.warning("the positions are read again: %s", reason, extra={"group": self.group})
        self._positions.displace(consumer)
        await self._drop_read_records()

    async def _drop_read_records(self) -> None:
        """Read everything about the partitions again, as after an assignment."""
        self._forget_partitions()
        await self._reader.restart()

    def _forget_partitions(self) -> None:
        """Forget what depends on the positions: stops, rewinds and parked keys; the loop derives them again."""
        self._stopped.assigned()
        self._storms.assigned()
        self._rewinds = {}
        self._parking.partitions_assigned()

    async def _derive_stops(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> bool:
        """Stop and resume partitions, after an assignment, an operator's command, or a replay; False when `stop` or the
        rebalance ends the attempts."""
        if self._parking.is_outdated and not await self._retry_transient(partial(self._load, consumer), stop):
            return False
        await self._storms.check(consumer)
        self._resume_with_room(consumer)
        return True

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
        self, consumer: AIOKafkaConsumer, batch: FetchedBatch[M], progress: BatchProgress, stop: asyncio.Event
    ) -> FetchedBatch[M] | None:
        """Process a batch; returns the processed part of it, None when it is abandoned.

        A partition whose next record would need one more parked key than allowed is stopped at this record. The other
        records are processed again, which is harmless: the positions do not move again.
        """
        while True:
            try:
                return batch if await self._process(batch, progress, stop) else None
            except ParkedKeysFull as full:
                self._stopped.stop(consumer, [full.tp], StopCause.PARKED_KEYS, str(full))
                self._rewinds[full.tp] = full.offset
                batch = batch.before({full.tp: full.offset})
                progress = progress.of_part(batch.records, batch.following)
                self._parking.forget()
                if not await self._retry_transient(partial(self._load, consumer), stop):
                    return None
            except PositionChangedError as error:
                await self._start_again(consumer, error)
                return None

    async def _process(self, batch: FetchedBatch[M], progress: BatchProgress, stop: asyncio.Event) -> bool:
        """Make the effects of all records durable; False when the batch is abandoned before that.

        Raises PositionChangedError and ParkedKeysFull.
        """
        self._parking.start_batch()
        for part in batch.parts:
            if isinstance(part, UndecodableRecord):
                self._parking.reject_undecodable(*part)
            elif not await self._handle_run(self._without_ranges(part), progress, stop):
                return False
        if not await self._retry_transient(self._parking.flush, stop):
            return False
        return await self._advance(progress.rest(), stop)

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

    async def _advance(self, moves: Moves, stop: asyncio.Event) -> bool:
        """Store moves beside those of the handler's transactions: past dead letters and repeats."""
        store = self._store
        if store is None or not moves.moves:
            return True
        return await self._retry_transient(lambda: store.advance(moves), stop)

    async def _handle_run(self, run: Sequence[Received[M]], progress: BatchProgress, stop: asyncio.Event) -> bool:
        admitted = run
        is_copy = bool(run) and isinstance(run[0].record, ReplayedRecord)  # a copy is always a run of its own
        if is_copy or not self._parking.admits_all(run):
            admitted = [received for received in run if self._parking.admits(received.record)]
        attempts = 0
        while admitted:
            records, moves = self._stored_with(admitted, progress)
            try:
                if not await self._retry_transient(partial(self._apply, admitted, moves), stop):
                    return False
            except (Fatal, PositionChangedError):
                raise
            except Exception as error:
                if len(admitted) > 1:
                    half = len(admitted) // 2
                    first, second = admitted[:half], admitted[half:]
                    return await self._handle_run(first, progress, stop) and await self._handle_run(
                        second, progress, stop
                    )
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
                progress.done(records, moves)
                self._parking.confirm_handled(admitted[0].record)  # a replayed record is always a run of its own
                return True
        return True

    def _stored_with(
        self, admitted: Sequence[Received[M]], progress: BatchProgress
    ) -> tuple[Sequence[RawRecord], Moves]:
        """The records that the positions pass in the transaction of their effects, and the moves.

        The position passes a replayed record only after its receipt is written.
        """
        if self._store is None or isinstance(admitted[0].record, ReplayedRecord):
            return [], NO_MOVES
        records = [received.record for received in admitted]
        return records, progress.after(records, prune=self._positions.next_prunes())

    async def _retry_transient(self, act: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """Run `act` until it succeeds; False when `stop` or the rebalance ends the attempts."""
        attempt = 0
        while True:
            try:
                await act()
            except Transient as error:
                attempt += 1
                metrics.RETRIES.labels(self.group).inc()
                log.warning("trying again", extra={"group": self.group, "attempt": attempt, "error": str(error)})
                if attempt > 1:  # a deadlock ends with the second attempt
                    self.readiness.set(self._condition, str(error))
                await wait(stop, self.backoff.delay(attempt))
                if stop.is_set() or self._abandon.is_set():
                    return False
            else:
                if attempt:
                    self.readiness.set(self._condition, None)
                return True

    async def _dead_letter_unreadable(self, tp: TopicPartition, offset: int, reason: str, stop: asyncio.Event) -> bool:
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
        return True

    async def _commit(self, consumer: AIOKafkaConsumer, following: Mapping[TopicPartition, int]) -> None:
        if not following:
            return
        try:
            await consumer.commit(self._positions.to_commit(following))
        except (CommitFailedError, IllegalStateError, RebalanceInProgressError) as error:
            log.info("partitions moved before the commit; their new owner receives the batch again: %r", error)
        except KafkaError as error:
            log.warning("offsets not committed; the next commit includes them", extra={"error": repr(error)})

    def partitions_assigned(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        """Replace the assignment. The loop reads the positions and the parked keys of its partitions before it handles
        their records."""
        self._positions.assigned(consumer, partitions)
        self._reader.partitions_assigned()
        self._forget_partitions()
        self._lag.assigned(set(partitions))

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
    def __init__(self, consumer: BatchConsumer[M], client: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._client = client

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if revoked:
            await self._consumer.drain()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.partitions_assigned(self._client, assigned)


def _without_moves(handle: Handler[M]) -> Callable[[Sequence[Received[M]], Moves], Awaitable[None]]:
    return lambda batch, _: handle(batch)
