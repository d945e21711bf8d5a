"""The consumer loop: take a batch, decode, handle, commit; nothing is committed before its effects are durable.

Delivery is at least once, so handlers are idempotent, and each call to one is all or nothing. Failures are told apart:
`Transient` is tried again in place, bounded and with jitter, so that order holds; a record that cannot be decoded or
handled is found by halving the batch and dead-lettered whole, with those of its key that follow it (see
`shared.kafka.parking`), and the rest goes on; `Fatal`, or too large a share of rejected records, stops the service with
its offsets where they were.

While a batch is handled and much more is known to wait, the next one is fetched and decoded, since a handler mostly
waits for its database: in small portions, so that the handler goes on as soon as its database has answered.

When partitions are taken away, the batch under way gets a bounded time to finish and commit; after it, the batch is
abandoned uncommitted, and whoever owns the partitions now handles it again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
)

from shared.kafka.dead_letters import DeadLetters, RawRecord
from shared.kafka.parking import REPLAY, ParkedKeys, Parking, Returned, unmarked
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.errors import Fatal, Poison, TooNew, Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, wait

__all__ = ["BatchConsumer", "Breaker", "Handler", "RawRecord", "Received"]

log = logging.getLogger(__name__)

M = TypeVar("M")

_POLL_MS = 200
_ONE_MS = 50
_READ_AT_ONCE = 100
_READ_FIRST = 10  # how large records are is not known yet
_BATCH_BYTES = 8 * 2**20  # of values; past that a batch is full, however few its records are
_BACKLOG = 0.25  # of a full batch: with less waiting, the next one had better grow
_SILENT_SECONDS = 5.0  # a consumer that has nothing to do asks several times a second
_STOP_SECONDS = 5.0  # a client that waits for others to rejoin its group can take much longer to close
_ATTEMPTS_ALONE = 3  # an unexpected error may be a passing one; after this many for one record it is poison


class Received(NamedTuple, Generic[M]):
    """A record and what it decoded to."""

    record: RawRecord
    message: M


Handler: TypeAlias = Callable[[Sequence[Received[M]]], Awaitable[None]]


class Breaker:
    """Trips when nearly all of the last records were rejected: then it is the service or the topic that is wrong."""

    def __init__(self, *, window: int = 2000, share: float = 0.9) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        self._window = window
        self._share = share
        self._handled = 0
        self._rejected = 0

    def note(self, handled: int, rejected: int) -> None:
        """Count a batch; raises Fatal when the share of rejected ones is too large."""
        if not handled:
            return
        self._recent.append((handled, rejected))
        self._handled += handled
        self._rejected += rejected
        while self._recent and self._handled - self._recent[0][0] >= self._window:
            old_handled, old_rejected = self._recent.popleft()
            self._handled -= old_handled
            self._rejected -= old_rejected
        if self._handled >= self._window and self._rejected >= self._share * self._handled:
            raise Fatal(
                f"{self._rejected} of the last {self._handled} records were rejected: look at the dead-letter topic"
                " for the reason, mend it, and start the service again"
            )


class _Refused(NamedTuple):
    """A record that does not decode, and why."""

    record: RawRecord
    poison: Poison


class _Batch(NamedTuple, Generic[M]):
    """What was fetched, and read already.

    It is `full` when there was no room for more. `emptied` says since when there is nothing more in the other
    partitions, None when that is not known; `moves` counts how often partitions had been taken away when its first
    record came; `failure` is what ended it, to be raised when it is handled.
    """

    fetched: dict[TopicPartition, list[RawRecord]]
    parts: list[list[Received[M]] | _Refused]
    full: bool
    emptied: dict[TopicPartition, int] | None
    moves: int
    failure: Exception | None

    @property
    def size(self) -> int:
        return sum(map(len, self.fetched.values()))


class _Reader(Generic[M]):
    """Reads a batch in its order: runs of messages that may be handled together, and what does not decode.

    A copy that was put back is a run of its own, and a record that is too new ends one: what comes behind either
    depends on what becomes of it.
    """

    def __init__(self, decode: Callable[[RawRecord], M], group: str) -> None:
        self._decode = decode
        self._group = group
        self._run: list[Received[M]] = []
        self.parts: list[list[Received[M]] | _Refused] = [self._run]
        self.fetched: dict[TopicPartition, list[RawRecord]] = {}
        self.size = 0
        self.bytes = 0

    def take(self, portion: dict[TopicPartition, list[RawRecord]]) -> None:
        """Read what was fetched next."""
        for tp, lane in portion.items():
            self.fetched.setdefault(tp, []).extend(lane)
            self.size += len(lane)
            for record in lane:
                self.bytes += len(record.value or b"")
                self._read(record)

    def _read(self, met: RawRecord) -> None:
        record = unmarked(met, self._group) if met.headers and met.headers[-1][0] == REPLAY else met
        alone = record is not met and isinstance(record, Returned)
        try:
            received = Received(record, self._decode(record))
        except Poison as poison:
            self.parts.append(_Refused(record, poison))
            alone = alone or isinstance(poison, TooNew)
        else:
            if alone:
                self.parts.append([received])
            else:
                self._run.append(received)
        if alone:
            self._run = []
            self.parts.append(self._run)


class _Unreadable(Exception):  # noqa: N818 - what the record is
    """The client itself cannot read a record (a header's name that is not UTF-8), and does not say which."""


class BatchConsumer(Generic[M]):
    """One group's consumer of some topics.

    `decode` turns a record into a message or raises Poison. `handle` makes a batch's effects durable, all or nothing,
    before it returns; it may raise Transient, Poison (for a batch of one) or Fatal, and may meet a record again. What
    follows a record that cannot be handled waits with it when there are `parked` keys, else goes on. After a batch that
    was not full, `linger_seconds` let the next one grow, where its cost matters more than its age.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        decode: Callable[[RawRecord], M],
        handle: Handler[M],
        deadletters: DeadLetters,
        parked: ParkedKeys | None = None,
        readiness: Readiness,
        clock: Clock,
        instance: str = "0",
        batch_records: int = 2000,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        drain_seconds: float = 10.0,
        linger_seconds: float = 0.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._topics = topics
        self._decode = decode
        self._handle = handle
        self._deadletters = deadletters
        self._parking = Parking(deadletters, parked, clock)
        self._readiness = readiness
        self._condition = f"consumer {group}"
        self._clock = clock
        self._instance = instance
        self._batch_records = batch_records
        self._backoff = backoff
        self._drain_seconds = drain_seconds
        self._linger_seconds = linger_seconds
        self._breaker = Breaker()
        self._one_by_one = False
        self._ahead: asyncio.Task[_Batch[M]] | None = None
        self._moves = 0
        self._moving = False
        self._assignments = 0
        self._busy = asyncio.Lock()
        self._abandon = asyncio.Event()
        self._lag = _Lag(group, clock)
        self._seconds = metrics.CONSUME_SECONDS.labels(group)

    def handled_until(self) -> dict[TopicPartition, int]:
        """For each partition held: everything written to it before this moment is handled, in ms since the epoch.

        Nothing while that is not known of all of them: the others alone would pass for the whole.
        """
        return self._lag.known()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, joining again as often as needed; raises Fatal if going on breaks a promise."""
        condition, attempt = self._condition, 0
        self._readiness.set(condition, "not connected to Kafka yet")
        while not stop.is_set():
            consumer = self._client()
            try:
                await consumer.start()
                self._readiness.set(condition, "waiting for its partitions")
                consumer.subscribe(list(self._topics), listener=_Rebalance(self))
                while not stop.is_set():
                    await self._step(consumer, stop)
                    attempt = 0
            except _Unreadable as error:
                log.error("a record cannot be read by the client; looking for it", extra={"error": str(error)})
                self._one_by_one = True
            except (KafkaError, OSError) as error:
                attempt += 1
                self._readiness.set(condition, f"Kafka at {self._bootstrap}: {error!r}")
                log.warning(
                    "consuming is interrupted; joining again", extra={"group": self._group, "error": repr(error)}
                )
                await wait(stop, self._backoff.delay(attempt))
            finally:
                await self._forget_ahead()
                await _stop(consumer)
        self._readiness.set(condition, "stopped")
        self._lag.close()
        self._parking.close()

    def _client(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group,
            group_instance_id=f"{self._group}-{self._instance}",
            client_id=f"{self._group}-{self._instance}",
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
        batch = await self._next(consumer, stop)
        if batch is None:
            return
        size, more = batch.size, False
        async with self._busy:
            if batch.moves != self._moves:
                return  # with its partitions assigned anew, the client begins again at what was committed
            self._abandon.clear()
            if batch.emptied is not None:
                self._lag.empty(consumer, batch.emptied)
            if self._parking.stale and not await self._until_done(partial(self._learn_parked, consumer), stop):
                return
            if not batch.fetched:
                self._lag.idle(consumer)
                return
            more = self._has_more(consumer, batch)
            if more and batch.failure is None and not self._one_by_one:
                self._ahead = asyncio.ensure_future(self._take(consumer, stop))
            self._lag.working(batch.fetched)
            started = self._clock.monotonic()
            if not await self._process(batch.parts, size, stop):
                return
            self._seconds.observe(self._clock.monotonic() - started)
            await self._commit(consumer, batch.fetched)
            for tp, lane in batch.fetched.items():
                metrics.CONSUMED.labels(self._group, tp.topic).inc(len(lane))
            self._lag.done(consumer, batch.fetched)
        if batch.failure is not None:
            raise batch.failure
        if self._linger_seconds and not more:
            await wait(stop, self._linger_seconds)

    async def _next(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> _Batch[M] | None:
        """The batch that was read ahead, or a new one; None when told to stop before it is there: while its group
        rebalances, the client waits for the other members, however long that takes."""
        taking = self._ahead = self._ahead or asyncio.ensure_future(self._take(consumer, stop))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not taking.done():
            return None
        self._ahead = None
        return taking.result()

    async def _take(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> _Batch[M]:
        """Fetch a batch and read it, a portion at a time: between two, the batch that is handled meanwhile goes on."""
        polled, held = {tp: consumer.last_poll_timestamp(tp) for tp in consumer.assignment()}, self._assignments
        self._lag.asked(polled)
        if self._one_by_one:
            return await self._take_one_each(consumer, stop)
        reader, emptied, failure = _Reader(self._decode, self._group), None, None
        portion = await _fetch(consumer, _POLL_MS, min(self._batch_records, _READ_FIRST))
        moves = self._moves  # fetching waits while partitions move, so what it gave is held now
        while portion:
            if self._moves != moves:  # they moved since, and what came before them begins again at what was committed
                reader, moves = _Reader(self._decode, self._group), self._moves
            reader.take(portion)
            if (room := self._room(reader)) <= 0:
                break
            await asyncio.sleep(0)
            try:
                portion = await _fetch(consumer, 0, min(room, _READ_AT_ONCE))
            except (KafkaError, _Unreadable) as error:  # of one partition, perhaps; what the others gave is good
                failure = error
                break
        if not portion and held == self._assignments and not self._moving:
            emptied = {tp: ms for tp, ms in polled.items() if ms is not None and tp not in reader.fetched}
        return _Batch(reader.fetched, reader.parts, self._room(reader) <= 0, emptied, moves, failure)

    def _room(self, reader: _Reader[M]) -> int:
        """How many more records a batch may take, if they are as large as those that it has."""
        if reader.size >= self._batch_records or reader.bytes >= _BATCH_BYTES:
            return 0
        by_bytes = (_BATCH_BYTES - reader.bytes) * reader.size // max(1, reader.bytes)
        return max(1, min(self._batch_records - reader.size, by_bytes))

    def _has_more(self, consumer: AIOKafkaConsumer, batch: _Batch[M]) -> bool:
        """Whether a good part of another batch is known to wait where this one came from."""
        if batch.full:
            return True
        ends = {tp: consumer.highwater(tp) for tp in batch.fetched.keys() & consumer.assignment()}
        waiting = [end - batch.fetched[tp][-1].offset - 1 for tp, end in ends.items() if end is not None]
        return bool(sum(waiting) >= _BACKLOG * self._batch_records)

    async def _take_one_each(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> _Batch[M]:
        """One record of each partition, until the one that the client cannot read is found and set aside."""
        reader, moves = _Reader(self._decode, self._group), self._moves
        for tp in sorted(consumer.assignment()):
            try:
                portion = await consumer.getmany(tp, timeout_ms=_ONE_MS, max_records=1)
            except ValueError as error:
                held = self._moves
                offset, reason = await consumer.position(tp), f"the client cannot read it: {error!r}"
                letter = partial(self._deadletters.send_unread, tp, offset, reason)
                if not await self._until_done(letter, stop) or self._moves != held:
                    break
                metrics.DEADLETTERED.labels(self._group, tp.topic).inc()
                about = {"topic": tp.topic, "partition": tp.partition, "offset": offset, "reason": reason}
                log.error("dead-lettered", extra=about)
                consumer.seek(tp, offset + 1)
                self._one_by_one = False
            else:
                if portion and self._moves != moves:
                    reader, moves = _Reader(self._decode, self._group), self._moves
                reader.take(portion)
        if not reader.size:
            await wait(stop, _ONE_MS / 1000)  # it may not have its partitions yet
        return _Batch(reader.fetched, reader.parts, False, None, moves, None)

    async def _learn_parked(self, consumer: AIOKafkaConsumer) -> None:
        try:
            await self._parking.learn(consumer.assignment())
        except Transient as error:
            self._readiness.set(self._condition, str(error))
            raise
        self._readiness.set(self._condition, None)

    async def _process(self, parts: Sequence[list[Received[M]] | _Refused], size: int, stop: asyncio.Event) -> bool:
        """Make the effects of all records durable; False when told to stop or the partitions are gone before that."""
        self._parking.begin()
        for part in parts:
            if isinstance(part, _Refused):
                self._parking.refuse(*part)
            elif not await self._attempt(part, stop):
                return False
        if not await self._until_done(self._parking.settle, stop):
            return False
        self._breaker.note(size - self._parking.waiting, self._parking.failures)
        return True

    async def _attempt(self, run: Sequence[Received[M]], stop: asyncio.Event) -> bool:
        messages = run
        if self._parking.any or (run and isinstance(run[0].record, Returned)):
            messages = [one for one in run if self._parking.admits(one.record)]
        tries = 0
        while messages:
            try:
                if not await self._until_done(lambda: self._handle(messages), stop):
                    return False
            except Fatal:
                raise
            except Exception as error:
                if len(messages) > 1:
                    half = len(messages) // 2
                    return await self._attempt(messages[:half], stop) and await self._attempt(messages[half:], stop)
                tries += 1
                if isinstance(error, Poison) or tries >= _ATTEMPTS_ALONE:
                    reason = error.reason if isinstance(error, Poison) else f"handling failed: {error!r}"
                    if not isinstance(error, Poison):
                        log.exception("a record cannot be handled", extra={"offset": messages[0].record.offset})
                    self._parking.failed(messages[0].record, reason)
                    return True
                await wait(stop, self._backoff.delay(tries))
            else:
                self._parking.handled(messages[0].record)
                return True
        return True

    async def _until_done(self, act: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """`act`, again while it fails transiently; False when told to stop or abandon; Fatal past the bound."""
        attempt, started = 0, self._clock.monotonic()
        while True:
            try:
                await act()
            except Transient as error:
                attempt += 1
                metrics.RETRIES.labels(self._group).inc()
                log.warning("trying again", extra={"group": self._group, "attempt": attempt, "error": str(error)})
                if self._clock.monotonic() - started > self._backoff.bound:
                    raise Fatal(f"still failing after {self._backoff.bound:g} s: {error}") from error
                await wait(stop, self._backoff.delay(attempt))
                if stop.is_set() or self._abandon.is_set():
                    return False
            else:
                return True

    async def _commit(self, consumer: AIOKafkaConsumer, fetched: dict[TopicPartition, list[RawRecord]]) -> None:
        try:
            await consumer.commit({tp: lane[-1].offset + 1 for tp, lane in fetched.items()})
        except (CommitFailedError, IllegalStateError, RebalanceInProgressError) as error:
            log.info("the partitions moved before the commit; their new owner meets the batch again: %r", error)
        except KafkaError as error:
            log.warning("offsets not committed; the next commit covers them", extra={"error": repr(error)})

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """These are held from now on; nothing of them is handled before it is known what is parked in them."""
        self._moving = False
        self._assignments += 1
        self._lag.assigned(partitions)
        self._parking.assigned()

    async def _forget_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)  # its failure is of no more use

    async def drain(self) -> None:
        """Let the batch under way finish, for a bounded time; after it, have it abandoned uncommitted."""
        self._moves += 1
        self._moving = True
        self._assignments += 1
        try:
            async with asyncio.timeout(self._drain_seconds):
                async with self._busy:
                    return
        except TimeoutError:
            log.warning("the batch under way did not finish before its partitions moved; abandoned")
            self._abandon.set()


async def _fetch(consumer: AIOKafkaConsumer, wait_ms: int, most: int) -> dict[TopicPartition, list[RawRecord]]:
    """Up to `most` records of what is there, or of what comes within `wait_ms`."""
    try:
        fetched: dict[TopicPartition, list[RawRecord]] = await consumer.getmany(timeout_ms=wait_ms, max_records=most)
    except ValueError as error:  # what other partitions gave by then is lost with it: begin again, one at a time
        raise _Unreadable(repr(error)) from error
    return fetched


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types for it
    def __init__(self, consumer: BatchConsumer[M]) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if revoked:
            await self._consumer.drain()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.assigned(assigned)


class _Lag:
    """The age of the oldest record not yet handled, by topic; worked out when read, so that a stuck loop shows.

    Nothing is known of a partition that was not asked for: after a few seconds its silence counts as age.
    """

    def __init__(self, group: str, clock: Clock) -> None:
        self.handled_until: dict[TopicPartition, int] = {}
        self._asked: dict[TopicPartition, int] = {}
        self._group = group
        self._clock = clock
        self._oldest: dict[TopicPartition, int | None] = {}
        self._gauges: set[str] = set()

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """These are held from now on, and no others."""
        now = int(self._clock.now().timestamp() * 1000)
        self._asked = {tp: self._asked.get(tp, now) for tp in partitions}
        self._oldest.update(dict.fromkeys(self._oldest.keys() - set(partitions)))
        for tp in partitions:
            self._watch(tp)

    def known(self) -> dict[TopicPartition, int]:
        """`handled_until` of every partition held; nothing while one is missing."""
        held = self._asked.keys()
        return {tp: self.handled_until[tp] for tp in held} if held <= self.handled_until.keys() else {}

    def asked(self, polled: dict[TopicPartition, int | None]) -> None:
        """When each was asked for last, in ms since the epoch; None when it was not yet."""
        self._asked.update((tp, ms) for tp, ms in polled.items() if ms is not None)

    def working(self, fetched: dict[TopicPartition, list[RawRecord]]) -> None:
        for tp, lane in fetched.items():
            self._watch(tp)
            self._oldest[tp] = lane[0].timestamp

    def done(self, consumer: AIOKafkaConsumer, fetched: dict[TopicPartition, list[RawRecord]]) -> None:
        for tp, lane in fetched.items():
            held = tp in consumer.assignment()
            highwater = consumer.highwater(tp) if held else None
            behind = highwater is not None and highwater > lane[-1].offset + 1
            self._oldest[tp] = lane[-1].timestamp if behind else None
            if held:
                polled = None if behind else consumer.last_poll_timestamp(tp)
                self.handled_until[tp] = lane[-1].timestamp if polled is None else polled

    def empty(self, consumer: AIOKafkaConsumer, polled: dict[TopicPartition, int]) -> None:
        """These were polled at these times, and everything that came has been handed out since."""
        assigned = consumer.assignment()
        for tp in self.handled_until.keys() - assigned:
            del self.handled_until[tp]
        self.handled_until.update((tp, ms) for tp, ms in polled.items() if tp in assigned)

    def idle(self, consumer: AIOKafkaConsumer) -> None:
        assigned = consumer.assignment()
        for tp in self._oldest.keys() - assigned:
            self._oldest[tp] = None
        for tp in assigned:
            self._watch(tp)

    def close(self) -> None:
        for topic in self._gauges:
            metrics.CONSUMER_LAG.remove(self._group, topic)

    def _watch(self, tp: TopicPartition) -> None:
        self._oldest.setdefault(tp, None)
        if tp.topic not in self._gauges:
            self._gauges.add(tp.topic)
            metrics.CONSUMER_LAG.labels(self._group, tp.topic).set_function(lambda: self._seconds(tp.topic))

    def _seconds(self, topic: str) -> float:
        now = self._clock.now().timestamp()
        ages = [now - ms / 1000 for tp, ms in self._oldest.items() if tp.topic == topic and ms is not None]
        silences = [now - ms / 1000 for tp, ms in self._asked.items() if tp.topic == topic]
        return max([0.0, *ages, *(silence for silence in silences if silence > _SILENT_SECONDS)])


_closing: set[asyncio.Future[None]] = set()


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Close the client; past the bound it closes by itself, without anybody waiting for it."""
    stopping = asyncio.ensure_future(consumer.stop())
    _closing.add(stopping)
    stopping.add_done_callback(_closed)
    await asyncio.wait([stopping], timeout=_STOP_SECONDS)


def _closed(stopping: "asyncio.Future[None]") -> None:
    _closing.discard(stopping)
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.warning("the consumer did not close cleanly", extra={"error": repr(error)})
