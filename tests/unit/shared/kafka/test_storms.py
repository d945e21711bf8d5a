"""A storm stops one topic, its stop lasts until an operator's command, and a range has exactly the named records."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from shared.kafka.breaker import CircuitBreaker
from shared.kafka.records import RawRecord
from shared.kafka.stop_store import DeadLetterRange, Stop, StopEntry
from shared.kafka.stopped import StopCause, StoppedPartitions
from shared.kafka.storms import StormGuard
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness

FIRST, OTHER = TopicPartition("t", 0), TopicPartition("other", 0)
WINDOW = 4
AT = "2026-05-01T09:30:00.000Z"


class _Client:
    """A Kafka client with one assigned partition of two topics."""

    def assignment(self) -> set[TopicPartition]:
        return {FIRST, OTHER}

    def pause(self, *_: TopicPartition) -> None: ...

    def resume(self, *_: TopicPartition) -> None: ...


class _Store:
    """Entries; a read answers when `answer` is set, with the entries of its start."""

    def __init__(self, entries: dict[TopicPartition, StopEntry]) -> None:
        self.entries = entries
        self.answer = asyncio.Event()
        self.answer.set()
        self.is_down = False

    async def read(self) -> dict[TopicPartition, StopEntry]:
        found = dict(self.entries)
        await self.answer.wait()
        if self.is_down:
            raise Transient("Kafka does not answer")
        return found

    async def write(self, changed: Mapping[TopicPartition, StopEntry | None]) -> None:
        for tp, entry in changed.items():
            self.entries.pop(tp, None)
            if entry is not None:
                self.entries[tp] = entry


def _store(entries: dict[TopicPartition, StopEntry]) -> Any:
    return _Store(entries)


class Member:
    """A member with a breaker of a small window."""

    def __init__(self, **entries: StopEntry) -> None:
        self.clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.stopped = StoppedPartitions("g", Readiness("test"), lambda _: True)
        self.store = _store({TopicPartition(topic, 0): entry for topic, entry in entries.items()})
        self.guard = StormGuard(self.store, self.stopped, self.clock)
        self.guard._breaker = CircuitBreaker(window=WINDOW)
        self.client: Any = _Client()

    async def commit(self, *offsets: int, tp: TopicPartition = FIRST, rejected: Collection[int] = ()) -> None:
        """Commit a batch of these records, of which some were rejected."""
        records = {n: raw(tp, n) for n in offsets}
        self.guard.count({tp: list(records.values())}, [records[n] for n in rejected], [])
        await self.guard.save(self.client)

    async def check(self) -> None:
        """Read the entries beside the loop, and apply them."""
        self.clock.advance(timedelta(seconds=5))
        for _ in range(3):
            await self.guard.check(self.client)
            await asyncio.sleep(0)

    @property
    def rejected(self) -> set[TopicPartition]:
        return self.stopped.of(StopCause.REJECTED)


def raw(tp: TopicPartition, offset: int) -> RawRecord:
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, None, None, 0, 0, ())


def dead_letter(first: int, last: int, *, only_failing: bool = False) -> DeadLetterRange:
    return DeadLetterRange(first, last, "an operator's reason", AT, only_failing)


async def loaded(**entries: StopEntry) -> Member:
    member = Member(**entries)
    await member.guard.load(member.client)
    return member


async def test_a_storm_stops_its_own_topic_and_no_other() -> None:
    member = await loaded()
    await member.commit(*range(WINDOW), rejected=range(WINDOW))
    assert member.rejected == member.store.entries.keys() == {FIRST}


async def test_a_range_ends_with_its_last_record() -> None:
    member = await loaded(t=dead_letter(0, 2))
    await member.commit(0, 1, rejected=[0, 1])
    assert member.guard.reason_to_reject(raw(FIRST, 2)) == "an operator's reason"
    assert member.store.entries.keys() == {FIRST}
    await member.commit(2, rejected=[2])
    assert member.guard.reason_to_reject(raw(FIRST, 3)) is None
    assert not member.guard.has_ranges
    assert member.store.entries == {}


async def test_records_of_a_range_do_not_open_the_breaker() -> None:
    member = await loaded(t=dead_letter(0, 100))
    await member.commit(*range(2 * WINDOW), rejected=range(2 * WINDOW))
    for offset in range(2 * WINDOW, 4 * WINDOW):
        member.guard.count_unreadable(FIRST, offset)
    await member.commit(4 * WINDOW, rejected=[4 * WINDOW])
    await member.commit(*range(101, 101 + WINDOW))
    assert member.rejected == set()
    member = await loaded(t=dead_letter(0, WINDOW - 1))
    await member.commit(*range(2 * WINDOW), rejected=range(WINDOW))
    assert member.rejected == set(), "all records after the range were handled"


async def test_records_that_wait_behind_a_parked_key_do_not_hide_a_storm() -> None:
    member = await loaded()
    records = [raw(FIRST, n) for n in range(3 * WINDOW)]
    member.guard.count({FIRST: records}, records[:WINDOW], records[WINDOW:])
    await member.guard.save(member.client)
    assert member.rejected == {FIRST}


async def test_a_range_of_failing_records_rejects_no_record_itself() -> None:
    member = await loaded(t=dead_letter(0, 9, only_failing=True))
    assert member.guard.has_ranges
    assert member.guard.reason_to_reject(raw(FIRST, 5)) is None


async def test_a_stop_replaces_the_range_of_its_partition() -> None:
    member = await loaded(t=dead_letter(90, 91))
    await member.commit(*range(WINDOW), rejected=range(WINDOW))
    assert not member.guard.has_ranges
    await member.commit(92)
    assert isinstance(member.store.entries[FIRST], Stop)


async def test_entries_that_were_read_before_a_stop_do_not_end_it() -> None:
    member = await loaded(other=Stop("a storm", AT))
    member.store.answer.clear()
    await member.check()
    await member.commit(*range(WINDOW), rejected=range(WINDOW))
    member.store.answer.set()
    await member.check()
    assert member.rejected == {FIRST, OTHER}
    del member.store.entries[FIRST]
    await member.check()
    assert member.rejected == {OTHER}
    await member.guard.close()


async def test_a_stop_stays_while_the_entries_cannot_be_read() -> None:
    member = await loaded(t=Stop("a storm", AT))
    member.store.is_down, member.store.entries = True, {}
    await member.check()
    assert member.rejected == {FIRST}
    member.store.is_down = False
    await member.check()
    assert member.rejected == set()
    await member.guard.close()
