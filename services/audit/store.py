"""The audit's tables: the log, its head, the counts and the dead letters.

Each event is appended once, and the sequence has no gap, because there is one writer at a time. In one transaction, the
writer locks the head's row, leaves out events that are in the log already, copies the others behind the last entry and
moves the head. An event with a known id and other values is a conflict: it is appended too, under a key of its own. A
database sequence would give out numbers before the commit, and lose the numbers of a rollback. The cost of a batch does
not grow with the log: for each event, one insert in two B-trees with narrow keys, and one lookup if the last batches
had repeats; totals are counters.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.audit.domain import (
    DEADLETTER,
    AppendResult,
    Conflict,
    LoggedDeadLetter,
    LoggedEvent,
    LogHead,
    LogPosition,
    LogTotals,
    TimelineEntry,
    conflict,
)
from services.audit.views import DeadLetterView, EntryView
from shared.contracts.envelope import Attributes, RecordId
from shared.kafka.positions import NO_MOVES, Moves
from shared.postgres import positions
from shared.postgres.database import Connection, Database
from shared.postgres.positions import PositionTable

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]]).decode
_encode = msgspec.json.Encoder().encode

metadata = sa.MetaData()

_SEED: Final[sa.ColumnElement[int]] = sa.literal_column("0")

log = sa.Table(
    "log",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False, unique=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("causation_id", sa.UUID(as_uuid=False)),
    sa.Column("traceparent", sa.Text),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("extensions", sa.LargeBinary),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("conflicts_with", sa.UUID(as_uuid=False)),
)
sa.Index("log_conflicts", log.c.conflicts_with, postgresql_where=log.c.conflicts_with.is_not(None))
sa.Index("log_by_subject", sa.func.hashtextextended(log.c.subject, _SEED), log.c.seq)

head = sa.Table(
    "head",
    metadata,
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("deadletters", sa.BigInteger, nullable=False),
)

counts = sa.Table(
    "counts",
    metadata,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False),
)

deadletters = sa.Table(
    "deadletters",
    metadata,
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("consumer_group", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("event_id", sa.UUID(as_uuid=False)),
    sa.Column("subject", sa.Text),
    sa.Column("content", sa.LargeBinary),
    sa.UniqueConstraint("topic", "partition", "offset", "consumer_group", "content", name="deadletters_identity"),
)
positions.position_tables(metadata)
sa.Index("deadletters_by_subject", sa.func.hashtextextended(deadletters.c.subject, _SEED), deadletters.c.seq)

_LOG_COLUMNS: Final = tuple(column.name for column in log.columns if column.name != "conflicts_with")
_LETTER_COLUMNS: Final = tuple(column.name for column in deadletters.columns)


_FIRST: Final = """
SELECT event_id::text, type, source, time, subject, region, correlation_id::text, causation_id::text, sha256(data)
FROM log WHERE event_id = ANY($1::uuid[])"""

_NOWHERE: Final = RecordId("", 0, 0)  # the position of a stored event, which is not compared

_Row: TypeAlias = tuple[LoggedEvent, Conflict | None]


class Store:
    """The region's log in PostgreSQL; every call raises Transient while PostgreSQL does not respond."""

    def __init__(self, database: Database, region: str) -> None:
        self._database = database
        self.region = region
        self.positions = PositionTable(database)
        self._expects_repeats = False

    async def append(
        self, logged: Sequence[LoggedEvent], letters: Sequence[LoggedDeadLetter], moves: Moves = NO_MOVES
    ) -> AppendResult:
        """Append the events and dead letters that are not in the log yet, in their order; all or nothing.

        `moves` are stored with them; raises PositionChangedError.
        """
        async with self._database.transaction() as connection:
            await positions.advance(connection, moves)
            # No sequential scans: a plan made while the log was small would read the whole log at every append.
            row = await connection.fetchrow(
                "SELECT size, deadletters, set_config('enable_seqscan', 'off', true) FROM head FOR UPDATE"
            )
            assert row is not None  # noqa: S101 - the first migration inserts it
            size, count = row[0], row[1]
            fresh = await self._append_events(connection, logged, size)
            size += len(fresh)
            count += await self._append_letters(connection, letters, size, count)
            await self._advance(connection, size, count, Counter(e.attributes.type for e, _ in fresh))
        by_topic = Counter(e.source.topic for e, _ in fresh)
        conflicts = Counter(found.reason for _, found in fresh if found is not None)
        return AppendResult(LogHead(size, count), dict(by_topic), len(logged) - len(fresh), dict(conflicts))

    async def head(self) -> LogHead:
        """The current head."""
        async with self._database.query() as connection:
            size, count = (await connection.execute(sa.select(head.c.size, head.c.deadletters))).one()
        return LogHead(size, count)

    async def timeline_entries(
        self, subject: str, *, after: LogPosition, upto: LogHead, limit: int
    ) -> list[TimelineEntry]:
        """Up to `limit` entries of a subject, in the order of the log: after position `after`, up to and including
        `upto`."""
        events = (
            sa.select(log.c.seq, log.c.event_id, log.c.causation_id, log.c.time, sa.func.octet_length(log.c.data))
            .where(_of(log, subject), log.c.seq > after.seq, log.c.seq <= upto.size)
            .order_by(log.c.seq)
            .limit(limit)
        )
        letters = (
            sa.select(deadletters.c.seq, deadletters.c.n, deadletters.c.event_id, deadletters.c.time)
            .where(
                _of(deadletters, subject),
                sa.tuple_(deadletters.c.seq, deadletters.c.n) > sa.tuple_(*map(sa.literal, after)),
                deadletters.c.n <= upto.deadletters,
            )
            .order_by(deadletters.c.seq, deadletters.c.n)
            .limit(limit)
        )
        async with self._database.query() as connection:
            found = [TimelineEntry(LogPosition(row[0], 0), *row[1:]) for row in await connection.execute(events)]
            found += [
                TimelineEntry(LogPosition(row[0], row[1]), None, row[2], row[3], 0)
                for row in await connection.execute(letters)
            ]
        return sorted(found)[:limit]

    async def views(self, entries: Sequence[TimelineEntry]) -> list[EntryView]:
        """The complete entries, in the same order."""
        events = [entry.position.seq for entry in entries if entry.position.letter == 0]
        letters = [entry.position.letter for entry in entries if entry.position.letter != 0]
        found: dict[tuple[int, int], EntryView] = {}
        async with self._database.query() as connection:
            rows = (await connection.execute(sa.select(log).where(log.c.seq == _any(events)))).all()
            several = await self._conflicting(connection, [row.event_id for row in rows])
            for row in rows:
                found[row.seq, 0] = _event_view(row, several)
            for row in await connection.execute(sa.select(deadletters).where(deadletters.c.n == _any(letters))):
                found[row.seq, row.n] = self._dead_letter_view(row)
        return [found[entry.position] for entry in entries]

    async def event(self, event_id: str) -> EntryView | None:
        """The event with this id, None if there is none."""
        async with self._database.query() as connection:
            row = (await connection.execute(sa.select(log).where(log.c.event_id == event_id))).one_or_none()
            several = await self._conflicting(connection, [event_id])
        return None if row is None else _event_view(row, several)

    async def conflict_sizes(self, *, before: int, limit: int) -> list[TimelineEntry]:
        """The sizes of up to `limit` conflicts with a sequence number below `before`, newest first."""
        query = (
            sa.select(log.c.seq, sa.func.octet_length(log.c.data))
            .where(log.c.conflicts_with.is_not(None), log.c.seq < before)
            .order_by(log.c.seq.desc())
            .limit(limit)
        )
        async with self._database.query() as connection:
            return [
                TimelineEntry(LogPosition(seq, 0), None, None, "", size)
                for seq, size in await connection.execute(query)
            ]

    async def event_sizes(self, *, after: int, limit: int) -> list[TimelineEntry]:
        """The sizes of the next `limit` events after sequence number `after`."""
        query = (
            sa.select(log.c.seq, sa.func.octet_length(log.c.data))
            .where(log.c.seq > after)
            .order_by(log.c.seq)
            .limit(limit)
        )
        async with self._database.query() as connection:
            return [
                TimelineEntry(LogPosition(seq, 0), None, None, "", size)
                for seq, size in await connection.execute(query)
            ]

    async def dead_letters(self, *, before: int, limit: int) -> list[DeadLetterView]:
        """Up to `limit` dead letters with a number below `before`, newest first."""
        query = sa.select(deadletters).where(deadletters.c.n < before).order_by(deadletters.c.n.desc()).limit(limit)
        async with self._database.query() as connection:
            rows = (await connection.execute(query)).all()
        return [
            DeadLetterView(
                n=row.n,
                topic=row.topic,
                partition=row.partition,
                offset=row.offset,
                group=row.consumer_group,
                reason=row.reason,
                key=row.key,
                time=row.time,
                event_id=row.event_id,
                subject=row.subject,
            )
            for row in rows
        ]

    async def totals(self) -> LogTotals:
        """The sizes of the log at one moment."""
        conflicts = (
            sa.select(log.c.type, sa.func.count().label("conflicts"))
            .where(log.c.conflicts_with.is_not(None))
            .group_by(log.c.type)
            .subquery()
        )
        query = (
            sa.select(head, counts, conflicts.c.conflicts)
            .select_from(
                head.outerjoin(counts, sa.true()).outerjoin(conflicts, conflicts.c.type == counts.c.type),
            )
            .order_by(counts.c.type)
        )
        async with self._database.query() as connection:
            rows = (await connection.execute(query)).all()
        return LogTotals(
            LogHead(rows[0].size, rows[0].deadletters),
            {row.type: row.events for row in rows if row.type is not None},
            {row.type: row.conflicts for row in rows if row.conflicts},
        )

    async def _append_events(self, connection: Connection, logged: Sequence[LoggedEvent], size: int) -> list[_Row]:
        """Append the new events and the conflicts. Repeats are rare, so the events are first inserted without a
        look-up.

        After a unique violation, this batch and the next ones look up known ids first, until a batch has no repeats.
        """
        if logged and not self._expects_repeats:
            try:
                async with connection.transaction():
                    return await _copy(connection, _new_rows(logged, {}), size)
            except asyncpg.UniqueViolationError:
                self._expects_repeats = True
        known = await _first_events(connection, logged) if logged else {}
        self._expects_repeats = bool(known)
        fresh = _new_rows(logged, known)
        if conflicts := [found.id for _, found in fresh if found is not None]:
            query = "SELECT event_id::text FROM log WHERE event_id = ANY($1::uuid[])"
            repeated = {row[0] for row in await connection.fetch(query, conflicts)}
            fresh = [row for row in fresh if row[1] is None or row[1].id not in repeated]
        return await _copy(connection, fresh, size)

    @staticmethod
    async def _conflicting(connection: AsyncConnection, event_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a conflict."""
        wanted = sa.any_(sa.literal(list(event_ids), sa.ARRAY(sa.UUID(as_uuid=False))))
        return set(
            (await connection.execute(sa.select(log.c.conflicts_with).where(log.c.conflicts_with == wanted))).scalars()
        )

    @staticmethod
    async def _append_letters(connection: Connection, letters: Sequence[LoggedDeadLetter], seq: int, count: int) -> int:
        if not letters:
            return 0
        given = {(*letter.source, letter.group) for letter in letters}
        rows = await connection.fetch(
            'SELECT topic, "partition", "offset", consumer_group, content FROM deadletters JOIN'
            " unnest($1::text[], $2::int[], $3::bigint[], $4::text[])"
            ' AS given (topic, "partition", "offset", consumer_group)'
            ' USING (topic, "partition", "offset", consumer_group)',
            *zip(*given, strict=True),
        )
        known = {tuple(row) for row in rows}
        fresh: list[LoggedDeadLetter] = []
        for letter in letters:
            place = (*letter.source, letter.group)
            if (*place, letter.content) not in known and (*place, None) not in known:  # None: of an older release
                known.add((*place, letter.content))
                fresh.append(letter)
        await connection.copy_records_to_table(
            "deadletters",
            records=[
                (n, seq, *x.source, x.group, x.reason, x.key, x.time, x.event_id, x.subject, x.content)
                for n, x in enumerate(fresh, count + 1)
            ],
            columns=_LETTER_COLUMNS,
        )
        return len(fresh)

    @staticmethod
    async def _advance(connection: Connection, size: int, count: int, types: Counter[str]) -> None:
        await connection.execute(
            "WITH advanced AS (UPDATE head SET size = $1, deadletters = $2)"
            " INSERT INTO counts (type, events) SELECT * FROM unnest($3::text[], $4::bigint[])"
            " ON CONFLICT (type) DO UPDATE SET events = counts.events + excluded.events",
            size,
            count,
            list(types),
            list(types.values()),
        )

    def _dead_letter_view(self, row: sa.Row[tuple[object, ...]]) -> EntryView:
        return EntryView(
            seq=None,
            id=None,
            type=DEADLETTER,
            time=row.time,
            source=row.consumer_group,
            subject=row.subject,
            region=self.region,
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
            correlation_id=None,
            causation_id=row.event_id,
            data=msgspec.Raw(_encode({"reason": row.reason, "group": row.consumer_group, "key": row.key})),
        )


def _new_rows(logged: Sequence[LoggedEvent], known: dict[str, LoggedEvent]) -> list[_Row]:
    """The events to append, in their order; `known` are the first events of ids in the log."""
    rows: list[_Row] = []
    conflicts: set[str] = set()
    for event in logged:
        first = known.get(event.attributes.id)
        if first is None:
            known[event.attributes.id] = event
            rows.append((event, None))
        elif (found := conflict(first, event)) is not None and found.id not in conflicts:
            conflicts.add(found.id)
            rows.append((event, found))
    return rows


async def _first_events(connection: Connection, logged: Sequence[LoggedEvent]) -> dict[str, LoggedEvent]:
    """The events in the log with the ids of these events. Reads the data only of those whose data differs."""
    digests = {(e.attributes.id, sha256(e.data).digest()): e.data for e in logged}
    rows = await connection.fetch(_FIRST, list({e.attributes.id for e in logged}))
    other = [row[0] for row in rows if (row[0], row[8]) not in digests]
    query = "SELECT event_id::text, data FROM log WHERE event_id = ANY($1::uuid[])"
    data = {row[0]: row[1] for row in await connection.fetch(query, other)} if other else {}
    return {
        row[0]: LoggedEvent(
            Attributes(*tuple(row)[:8]), data[row[0]] if row[0] in data else digests[row[0], row[8]], [], _NOWHERE
        )
        for row in rows
    }


async def _copy(connection: Connection, fresh: list[_Row], size: int) -> list[_Row]:
    if any(found is not None for _, found in fresh):
        records = [
            (seq, found.id, *_row(seq, e)[2:], e.attributes.id) if found is not None else (*_row(seq, e), None)
            for seq, (e, found) in enumerate(fresh, size + 1)
        ]
        await connection.copy_records_to_table("log", records=records, columns=(*_LOG_COLUMNS, "conflicts_with"))
    elif fresh:
        plain = (_row(seq, e) for seq, (e, _) in enumerate(fresh, size + 1))
        await connection.copy_records_to_table("log", records=plain, columns=_LOG_COLUMNS)
    return fresh


def _of(table: sa.Table, subject: str) -> sa.ColumnElement[bool]:
    """The condition for a subject: the narrow index of hashes finds the rows, the text excludes collisions."""
    hashed = sa.func.hashtextextended(table.c.subject, _SEED) == sa.func.hashtextextended(subject, _SEED)
    return sa.and_(hashed, table.c.subject == subject)


def _any(numbers: list[int]) -> sa.ColumnElement[Any]:
    return sa.any_(sa.literal(numbers, sa.ARRAY(sa.BigInteger)))


def _row(seq: int, e: LoggedEvent) -> tuple[object, ...]:
    a = e.attributes
    return (
        seq,
        a.id,
        a.type,
        a.source,
        a.time,
        a.subject,
        a.region,
        a.correlation_id,
        a.causation_id,
        a.traceparent,
        *e.source,
        _pack(e.extensions) if e.extensions else None,
        e.data,
    )


def _event_view(row: sa.Row[tuple[object, ...]], several: Collection[str]) -> EntryView:
    return EntryView(
        seq=row.seq,
        id=row.conflicts_with or row.event_id,
        type=row.type,
        time=row.time,
        source=row.source,
        subject=row.subject,
        region=row.region,
        topic=row.topic,
        partition=row.partition,
        offset=row.offset,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        traceparent=row.traceparent,
        extensions=_texts(_unpack(row.extensions)) if row.extensions else {},
        conflict=row.conflicts_with is not None or row.event_id in several,
        data=msgspec.Raw(row.data),
    )


def _texts(headers: list[tuple[str, bytes | None]]) -> dict[str, str | None]:
    return {name: None if value is None else value.decode(errors="replace") for name, value in headers}
