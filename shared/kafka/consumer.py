"""The consumer loop: take a batch, decode, handle, commit; nothing is committed before its effects are durable.

Delivery is at least once, so handlers are idempotent, and each call to one is all or nothing. Failures are told apart:
`Transient` is tried again in place, bounded and with jitter, so that order holds; a record that cannot be decoded or
handled is found by halving the batch, dead-lettered whole, and the rest goes on; `Fatal`, or too large a share of
rejected records, stops the service with its offsets where they were.

When partitions are taken away, the batch under way gets a bounded time to finish and commit; after it, the batch is
abandoned uncommitted, and whoever owns the partitions now handles it again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
)

from shared import metrics
from shared.clock import Clock
from shared.errors import Fatal, Poison, Transient
from shared.kafka.deadletters import DeadLetters
from shared.readiness import Readiness
from shared.retry import Backoff, wait

log = logging.getLogger(__name__)

RawRecord: TypeAlias = ConsumerRecord[bytes | None, bytes | None]
M = TypeVar("M")

_POLL_MS = 200
_ONE_MS = 50
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


class _Unreadable(Exception):  # noqa: N818 - what the record is
    """The client itself cannot read a record (a header's name that is not UTF-8), and does not say which."""


class BatchConsumer(Generic[M]):
    """One group's consumer of some topics.

    `decode` turns a record into a message or raises Poison. `handle` makes a batch's effects durable, all or nothing,
    before it returns; it may raise Transient, Poison (for a batch of one) or Fatal, and may meet a record again. After
    a batch that was not full, `linger_seconds` let the next one grow, where its cost matters more than its age.
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
        self._readiness = readiness
        self._clock = clock
        self._instance = instance
        self._batch_records = batch_records
        self._backoff = backoff
        self._drain_seconds = drain_seconds
        self._linger_seconds = linger_seconds
        self._breaker = Breaker()
        self._one_by_one = False
        self._busy = asyncio.Lock()
        self._abandon = asyncio.Event()
        self._lag = _Lag(group, clock)
        self._seconds = metrics.CONSUME_SECONDS.labels(group)

    def handled_until(self) -> dict[TopicPartition, int]:
        """For each partition held: everything written to it before this moment is handled, in ms since the epoch."""
        return dict(self._lag.handled_until)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, joining again as often as needed; raises Fatal if going on breaks a promise."""
        condition, attempt = f"consumer {self._group}", 0
        self._readiness.set(condition, "not connected to Kafka yet")
        while not stop.is_set():
            consumer = self._client()
            try:
                await consumer.start()
                self._readiness.set(condition, "waiting for its partitions")
                listener = _Rebalance(self, lambda: self._readiness.set(condition, None))
                consumer.subscribe(list(self._topics), listener=listener)
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
                await _stop(consumer)
        self._readiness.set(condition, "stopped")
        self._lag.close()

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
        polled = {tp: consumer.last_poll_timestamp(tp) for tp in consumer.assignment()}
        fetched = await self._fetch(consumer, stop)
        if not stop.is_set() and sum(map(len, fetched.values())) < self._batch_records:
            self._lag.empty(consumer, {tp: ms for tp, ms in polled.items() if ms is not None and tp not in fetched})
        if not fetched:
            self._lag.idle(consumer)
            return
        async with self._busy:
            self._abandon.clear()
            records = [record for lane in fetched.values() for record in lane]
            self._lag.working(fetched)
            started = self._clock.monotonic()
            if not await self._process(records, stop):
                return
            self._seconds.observe(self._clock.monotonic() - started)
            await self._commit(consumer, fetched)
            for tp, lane in fetched.items():
                metrics.CONSUMED.labels(self._group, tp.topic).inc(len(lane))
            self._lag.done(consumer, fetched)
        if self._linger_seconds and len(records) < self._batch_records:
            await wait(stop, self._linger_seconds)

    async def _fetch(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> dict[TopicPartition, list[RawRecord]]:
        if self._one_by_one:
            return await self._fetch_one_each(consumer, stop)
        # while its group rebalances, the client waits for the other members, however long that takes: a stop does not
        fetching = asyncio.ensure_future(consumer.getmany(timeout_ms=_POLL_MS, max_records=self._batch_records))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await fetching if fetching.done() else {}
        except ValueError as error:  # what other partitions gave by then is lost with it: begin again, one at a time
            raise _Unreadable(repr(error)) from error
        finally:
            fetching.cancel()
            stopping.cancel()

    async def _fetch_one_each(
        self, consumer: AIOKafkaConsumer, stop: asyncio.Event
    ) -> dict[TopicPartition, list[RawRecord]]:
        """One record of each partition, until the one that the client cannot read is found and set aside."""
        fetched: dict[TopicPartition, list[RawRecord]] = {}
        for tp in sorted(consumer.assignment()):
            try:
                fetched |= await consumer.getmany(tp, timeout_ms=_ONE_MS, max_records=1)
            except ValueError as error:
                offset, reason = await consumer.position(tp), f"the client cannot read it: {error!r}"
                letter = partial(self._deadletters.send_unread, tp, offset, reason)
                if not await self._until_done(letter, stop):
                    break
                metrics.DEADLETTERED.labels(self._group, tp.topic).inc()
                about = {"topic": tp.topic, "partition": tp.partition, "offset": offset, "reason": reason}
                log.error("dead-lettered", extra=about)
                consumer.seek(tp, offset + 1)
                self._one_by_one = False
        if not fetched:
            await wait(stop, _ONE_MS / 1000)  # it may not have its partitions yet
        return fetched

    async def _process(self, records: list[RawRecord], stop: asyncio.Event) -> bool:
        """Make the effects of all records durable; False when told to stop or the partitions are gone before that."""
        messages: list[Received[M]] = []
        rejected: list[tuple[RawRecord, str]] = []
        for record in records:
            try:
                messages.append(Received(record, self._decode(record)))
            except Poison as poison:
                rejected.append((record, poison.reason))
        if messages and not await self._attempt(messages, rejected, stop):
            return False
        if rejected and not await self._until_done(lambda: self._deadletters.send(rejected), stop):
            return False
        for record, reason in rejected:
            metrics.DEADLETTERED.labels(self._group, record.topic).inc()
            log.error(
                "dead-lettered",
                extra={
                    "topic": record.topic,
                    "partition": record.partition,
                    "offset": record.offset,
                    "event_id": (dict(record.headers).get("ce_id") or b"").decode(errors="replace"),
                    "reason": reason,
                },
            )
        self._breaker.note(len(records), len(rejected))
        return True

    async def _attempt(
        self, messages: Sequence[Received[M]], rejected: list[tuple[RawRecord, str]], stop: asyncio.Event
    ) -> bool:
        tries = 0
        while True:
            try:
                return await self._until_done(lambda: self._handle(messages), stop)
            except Fatal:
                raise
            except Exception as error:
                if len(messages) > 1:
                    half = len(messages) // 2
                    return await self._attempt(messages[:half], rejected, stop) and await self._attempt(
                        messages[half:], rejected, stop
                    )
                tries += 1
                if isinstance(error, Poison) or tries >= _ATTEMPTS_ALONE:
                    reason = error.reason if isinstance(error, Poison) else f"handling failed: {error!r}"
                    if not isinstance(error, Poison):
                        log.exception("a record cannot be handled", extra={"offset": messages[0].record.offset})
                    rejected.append((messages[0].record, reason))
                    return True
            await wait(stop, self._backoff.delay(tries))

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

    async def drain(self) -> None:
        """Let the batch under way finish, for a bounded time; after it, have it abandoned uncommitted."""
        try:
            async with asyncio.timeout(self._drain_seconds):
                async with self._busy:
                    return
        except TimeoutError:
            log.warning("the batch under way did not finish before its partitions moved; abandoned")
            self._abandon.set()


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types for it
    def __init__(self, consumer: BatchConsumer[M], assigned: Callable[[], None]) -> None:
        self._consumer = consumer
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if revoked:
            await self._consumer.drain()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:  # noqa: ARG002 - its name
        self._assigned()


class _Lag:
    """The age of the oldest record not yet handled, by topic; worked out when read, so that a stuck loop shows."""

    def __init__(self, group: str, clock: Clock) -> None:
        self.handled_until: dict[TopicPartition, int] = {}
        self._group = group
        self._clock = clock
        self._oldest: dict[TopicPartition, int | None] = {}
        self._gauges: set[str] = set()

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
        oldest = [ms for tp, ms in self._oldest.items() if tp.topic == topic and ms is not None]
        return max(0.0, self._clock.now().timestamp() - min(oldest) / 1000) if oldest else 0.0


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
