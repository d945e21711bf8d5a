"""Promise 4: the audit's log has every event exactly once, whatever the positions of repeated events in a batch."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count, product
from typing import Final, NamedTuple

import pytest
from aiokafka import ConsumerRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.audit.domain import AppendResult, LoggedDeadLetter, LoggedEvent, LogHead
from services.audit.handlers import AppendRecords
from services.audit.store import Store
from shared.contracts import ids
from shared.contracts.envelope import Attributes, RecordId
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.written_letters import digest
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.errors import Transient

TIME: Final = "2026-05-01T09:30:00.000Z"
RECORD: Final[RawRecord] = ConsumerRecord("topic", 0, 0, 0, 0, None, None, None, 0, 0, ())
TYPES: Final = ("piepowder.item.submitted.v1", "piepowder.case.opened.v1")
LONGEST: Final = 5
AUDITED: Final = "piepowder_audit_events_total"
REPEATS: Final = "piepowder_audit_repeats_total"

_runs = count()


class Batch(NamedTuple):
    """Numbers of events and of dead letters, in the order of their arrival."""

    events: list[int]
    letters: list[int]


class Contents(NamedTuple):
    """The log after some position: numbers of events and of dead letters, and the size of the log at each letter."""

    events: list[int]
    letters: list[tuple[int, int]]


class Audit:
    """A log with entries of earlier examples, and the entries that are expected from now on."""

    def __init__(self, database: Database, before: LogHead, types: dict[str, int]) -> None:
        self._database = database
        self._before = before
        self._types = Counter(types)
        self._run = next(_runs)
        self._expected = Contents([], [])
        self.store = Store(database, "eu")

    @classmethod
    async def of(cls, database: Database) -> "Audit":
        totals = await Store(database, "eu").totals()
        return cls(database, totals.head, totals.by_type)

    def restart(self) -> None:
        """Continue as a new process."""
        self.store = Store(self._database, "eu")

    def expect(self, batch: Batch) -> AppendResult:
        """Expect a batch in the log; return the expected result of its append."""
        fresh = [n for n in dict.fromkeys(batch.events) if n not in self._expected.events]
        self._expected.events.extend(fresh)
        size = self._before.size + len(self._expected.events)
        known = {n for n, _ in self._expected.letters}
        self._expected.letters.extend((n, size) for n in dict.fromkeys(batch.letters) if n not in known)
        head = LogHead(size, self._before.deadletters + len(self._expected.letters))
        by_topic = Counter(self.entry(n).source.topic for n in fresh)
        return AppendResult(head, dict(by_topic), len(batch.events) - len(fresh))

    def entry(self, n: int) -> LoggedEvent:
        first = ids.derive(str(self._run), str(n))
        attributes = Attributes(first, TYPES[n % 2], "test", TIME, f"shop:product:{n}", "eu", first)
        return LoggedEvent(attributes, b"%d" % n, [], RecordId(f"topic-{n % 3}", 0, n))

    def letter(self, n: int) -> LoggedDeadLetter:
        return LoggedDeadLetter(
            RecordId(f"run-{self._run}", n, n), "group", "reason", None, TIME, None, f"shop:product:{n}"
        )

    async def append(self, batch: Batch) -> AppendResult:
        return await self.store.append([self.entry(n) for n in batch.events], [self.letter(n) for n in batch.letters])

    async def handle(self, batch: Batch) -> None:
        """Append a batch as the consumer does, events before dead letters."""
        messages: list[LoggedEvent | LoggedDeadLetter] = [
            *map(self.entry, batch.events),
            *map(self.letter, batch.letters),
        ]
        await AppendRecords(self.store, "eu").handle([Received(RECORD, message) for message in messages])

    async def check(self) -> None:
        """Compare the log, its head and its counts with the expected entries."""
        size, letters = self._before
        async with self._database.held() as connection:
            events = await connection.fetch("SELECT seq, data FROM log WHERE seq > $1 ORDER BY seq", size)
            dead = await connection.fetch("SELECT n, seq, partition FROM deadletters WHERE n > $1 ORDER BY n", letters)
        assert [int(bytes(row["data"])) for row in events] == self._expected.events
        assert [row["seq"] for row in events] == list(range(size + 1, size + 1 + len(events)))
        assert [(row["partition"], row["seq"]) for row in dead] == self._expected.letters
        assert [row["n"] for row in dead] == list(range(letters + 1, letters + 1 + len(dead)))
        totals = await self.store.totals()
        assert totals.head == LogHead(size + len(events), letters + len(dead))
        assert totals.by_type == self._types + Counter(TYPES[n % 2] for n in self._expected.events)
        assert totals.conflicts == {}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await migrations.upgrade(database_url, "audit")
    database = await Database.connect(database_url, connections=2)
    yield database
    await database.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_each_new_event_of_a_batch_is_logged_whichever_other_events_are_repeats(
    database: Database, restarted: bool
) -> None:
    for length in range(1, LONGEST + 1):
        for known in product([False, True], repeat=length):
            audit = await Audit.of(database)
            earlier = [n for n, repeated in enumerate(known) if repeated]
            following = [length, length + 1, length + 2]
            for batch in (Batch(earlier, []), Batch(list(range(length)), []), Batch(following, [])):
                audit.expect(batch)
                await audit.handle(batch)
                if restarted:
                    audit.restart()
            await audit.check()


async def test_each_new_dead_letter_of_a_batch_is_logged_whichever_other_ones_are_repeats(database: Database) -> None:
    for length in range(1, LONGEST + 1):
        for known in product([False, True], repeat=length):
            audit = await Audit.of(database)
            earlier = [n for n, repeated in enumerate(known) if repeated]
            for batch in (Batch([0], earlier), Batch([0, 1], list(range(length)))):
                audit.expect(batch)
                await audit.handle(batch)
            await audit.check()


numbers = st.lists(st.integers(0, 11), max_size=12)
batches = st.lists(st.tuples(st.builds(Batch, numbers, st.lists(st.integers(0, 4), max_size=5)), st.booleans()))


@given(batches)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_after_any_batches_the_log_has_each_event_once_in_the_order_of_first_arrival(
    database: Database, steps: Sequence[tuple[Batch, bool]]
) -> None:
    audit = await Audit.of(database)
    for batch, restarted in steps:
        if restarted:
            audit.restart()
        expected = audit.expect(batch)
        assert await audit.append(batch) == expected
    await audit.check()


async def test_a_batch_with_a_failed_transaction_is_logged_completely_after_a_second_attempt(
    database: Database,
) -> None:
    for repeats in ([], [0], [1], [2], [0, 2]):
        audit = await Audit.of(database)
        before, batch = Batch(repeats, []), Batch([0, 1, 2], [0, 1])
        audit.expect(before)
        await audit.append(before)
        async with database.held() as connection:  # a transaction writes the head last
            await connection.execute("ALTER TABLE head ADD CONSTRAINT fails CHECK (false) NOT VALID")
        with pytest.raises(Transient, match="violates check constraint"):
            await audit.append(batch)
        await audit.check()
        async with database.held() as connection:
            await connection.execute("ALTER TABLE head DROP CONSTRAINT fails")
        expected = audit.expect(batch)
        assert await audit.append(batch) == expected
        await audit.check()


async def test_dead_letters_of_a_topic_that_was_created_again_are_logged_and_repeats_are_not(
    database: Database,
) -> None:
    group = f"group-{next(_runs)}"

    def letter(offset: int, value: bytes, *more: tuple[str, bytes]) -> RawRecord:
        about = {"group": group, "topic": "t", "partition": "0", "offset": "7", "reason": "why", "time": TIME}
        headers = [("ce_id", b"x"), *((f"dl_{name}", text.encode()) for name, text in about.items()), *more]
        found: RawRecord = replace(
            RECORD, topic="piepowder.deadletters.eu", offset=offset, key=b"k", value=value, headers=headers
        )
        return found

    append = AppendRecords(Store(database, "eu"), "eu")
    first, again = letter(0, b"one"), letter(1, b"one", ("dl_met", b"9"))
    recreated, recreated_again = letter(2, b"two"), letter(3, b"two")
    for batch in ([first], [again], [recreated, recreated_again], [first, recreated]):
        await append.handle([Received(record, append.decode(record)) for record in batch])
    query = "SELECT n, content FROM deadletters WHERE consumer_group = $1 ORDER BY n"
    async with database.held() as connection:
        rows = await connection.fetch(query, group)
        assert [row["content"] for row in rows] == [
            digest(b"k", value, [("ce_id", b"x")]) for value in (b"one", b"two")
        ]


async def test_a_dead_letter_of_an_older_release_equals_any_at_its_position(database: Database) -> None:
    store, group = Store(database, "eu"), f"group-{next(_runs)}"
    letter = LoggedDeadLetter(RecordId("t", 0, 0), group, "reason", None, TIME, None, None)
    before = await store.head()
    await store.append([], [letter])
    await store.append([], [letter._replace(content=b"x"), letter._replace(content=b"y")])
    assert (await store.head()).deadletters == before.deadletters + 1


async def test_the_audit_counts_each_new_event_and_each_repeat(database: Database) -> None:
    def counted() -> tuple[float, float]:
        events = (REGISTRY.get_sample_value(AUDITED, {"region": "eu", "topic": f"topic-{n}"}) for n in range(3))
        return sum(n or 0 for n in events), REGISTRY.get_sample_value(REPEATS, {"region": "eu"}) or 0

    audit = await Audit.of(database)
    events, repeats = counted()
    for batch in (Batch([0, 1], []), Batch([0, 2, 1, 3, 3], []), Batch([4], [])):
        await audit.handle(batch)
    assert counted() == (events + 5, repeats + 3)
    assert REGISTRY.get_sample_value("piepowder_audit_log_size", {"region": "eu"}) == 5
