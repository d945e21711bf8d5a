"""The audit's tables: the log, its head, and the dead letters.

An event is appended once, and the sequence has no gap, because there is one writer at a time: it locks the head's row,
leaves out what is there already, copies the rest behind the last entry, and moves the head, in one transaction. A
database sequence would hand out numbers before they commit and lose those that roll back. What a batch costs does not
grow with the log: a look-up and an insert in two B-trees of narrow keys an event, and nothing is counted by reading.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec
import sqlalchemy as sa

from services.audit.domain import DEADLETTER, Appended, DeadLetter, Entry, Head, Place, Shown, Step
from shared.postgres.database import Connection, Database

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
)
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
    sa.UniqueConstraint("topic", "partition", "offset", "consumer_group"),
)
sa.Index("deadletters_by_subject", sa.func.hashtextextended(deadletters.c.subject, _SEED), deadletters.c.seq)

_LOG_COLUMNS: Final = tuple(column.name for column in log.columns)
_LETTER_COLUMNS: Final = tuple(column.name for column in deadletters.columns)


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as a reader gets it; `n` counts them."""

    n: int
    topic: str
    partition: int
    offset: int
    group: str
    reason: str
    key: str | None
    time: str
    event_id: str | None
    subject: str | None


class Log:
    """The region's log in PostgreSQL; every call raises Transient when the database is away."""

    def __init__(self, database: Database, region: str) -> None:
        self._database = database
        self.region = region
        self._met_repeats = False

    async def append(self, entries: Sequence[Entry], letters: Sequence[DeadLetter]) -> Appended:
        """Append the events and dead letters that are not there yet, in their order; all or nothing."""
        async with self._database.transaction() as connection:
            # A plan made while the log was small would read all of it for ever after, hence no sequential scans here.
            row = await connection.fetchrow(
                "SELECT size, deadletters, set_config('enable_seqscan', 'off', true) FROM head FOR UPDATE"
            )
            assert row is not None, "the head is a row of the first migration"  # noqa: S101 - a fact of the schema
            size, count = row[0], row[1]
            fresh = await self._append_events(connection, entries, size)
            size += len(fresh)
            count += await self._append_letters(connection, letters, size, count)
            await self._advance(connection, size, count, Counter(e.attributes.type for e in fresh))
        by_topic = Counter(e.source.topic for e in fresh)
        return Appended(Head(size, count), dict(by_topic), len(entries) - len(fresh))

    async def head(self) -> Head:
        """How much there is now."""
        async with self._database.query() as connection:
            size, count = (await connection.execute(sa.select(head.c.size, head.c.deadletters))).one()
        return Head(size, count)

    async def steps(self, subject: str, *, after: Place, upto: Head, limit: int) -> list[Step]:
        """A subject's steps behind place `after` and within `upto`, oldest place first, `limit` at most."""
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
            found = [Step(Place(row[0], 0), *row[1:]) for row in await connection.execute(events)]
            found += [Step(Place(row[0], row[1]), None, row[2], row[3], 0) for row in await connection.execute(letters)]
        return sorted(found)[:limit]

    async def shown(self, steps: Sequence[Step]) -> list[Shown]:
        """The entries of these steps, in their order."""
        events = [step.place.seq for step in steps if step.place.letter == 0]
        letters = [step.place.letter for step in steps if step.place.letter != 0]
        found: dict[tuple[int, int], Shown] = {}
        async with self._database.query() as connection:
            for row in await connection.execute(sa.select(log).where(log.c.seq == _any(events))):
                found[row.seq, 0] = _shown(row)
            for row in await connection.execute(sa.select(deadletters).where(deadletters.c.n == _any(letters))):
                found[row.seq, row.n] = self._shown_letter(row)
        return [found[step.place] for step in steps]

    async def event(self, event_id: str) -> Shown | None:
        """The event of an id."""
        async with self._database.query() as connection:
            row = (await connection.execute(sa.select(log).where(log.c.event_id == event_id))).one_or_none()
        return None if row is None else _shown(row)

    async def weights(self, *, after: int, limit: int) -> list[Step]:
        """The next `limit` steps of the whole log behind `after`."""
        wanted = (
            sa.select(log.c.seq, sa.func.octet_length(log.c.data))
            .where(log.c.seq > after)
            .order_by(log.c.seq)
            .limit(limit)
        )
        async with self._database.query() as connection:
            return [Step(Place(seq, 0), None, None, "", weight) for seq, weight in await connection.execute(wanted)]

    async def letters(self, *, before: int, limit: int) -> list[Letter]:
        """The `limit` dead letters numbered below `before`, newest first."""
        wanted = sa.select(deadletters).where(deadletters.c.n < before).order_by(deadletters.c.n.desc()).limit(limit)
        async with self._database.query() as connection:
            rows = (await connection.execute(wanted)).all()
        return [
            Letter(
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

    async def totals(self) -> tuple[Head, dict[str, int]]:
        """How much there is, and how many events of each type, at one moment."""
        wanted = sa.select(head, counts).select_from(head.outerjoin(counts, sa.true())).order_by(counts.c.type)
        async with self._database.query() as connection:
            rows = (await connection.execute(wanted)).all()
        return Head(rows[0].size, rows[0].deadletters), {row.type: row.events for row in rows if row.type is not None}

    async def _append_events(self, connection: Connection, entries: Sequence[Entry], size: int) -> list[Entry]:
        """Repeats are rare, so the unique index is asked only after it has objected, and until a batch has none."""
        unique: dict[str, Entry] = {}
        for one in entries:  # of two with one id the first counts, in its place
            unique.setdefault(one.attributes.id, one)
        if unique and not self._met_repeats:
            try:
                async with connection.transaction():
                    return await _copy(connection, unique, size)
            except asyncpg.UniqueViolationError:
                self._met_repeats = True
        if unique:
            query = "SELECT event_id::text FROM log WHERE event_id = ANY($1::uuid[])"
            known = await connection.fetch(query, list(unique))
            self._met_repeats = bool(known)
            for row in known:
                del unique[row[0]]
        return await _copy(connection, unique, size)

    @staticmethod
    async def _append_letters(connection: Connection, letters: Sequence[DeadLetter], seq: int, count: int) -> int:
        unique: dict[tuple[str | int, ...], DeadLetter] = {}
        for letter in letters:
            unique.setdefault((*letter.source, letter.group), letter)
        if not unique:
            return 0
        topics, partitions, offsets, groups = zip(*unique, strict=True)
        rows = await connection.fetch(
            'SELECT topic, "partition", "offset", consumer_group FROM deadletters JOIN'
            " unnest($1::text[], $2::int[], $3::bigint[], $4::text[])"
            ' AS met (topic, "partition", "offset", consumer_group)'
            ' USING (topic, "partition", "offset", consumer_group)',
            topics,
            partitions,
            offsets,
            groups,
        )
        for row in rows:
            del unique[tuple(row)]
        fresh = list(unique.values())
        await connection.copy_records_to_table(
            "deadletters",
            records=[
                (n, seq, *x.source, x.group, x.reason, x.key, x.time, x.event_id, x.subject)
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

    def _shown_letter(self, row: sa.Row[tuple[object, ...]]) -> Shown:
        return Shown(
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


async def _copy(connection: Connection, unique: dict[str, Entry], size: int) -> list[Entry]:
    fresh = list(unique.values())
    if fresh:
        records = (_row(seq, e) for seq, e in enumerate(fresh, size + 1))
        await connection.copy_records_to_table("log", records=records, columns=_LOG_COLUMNS)
    return fresh


def _of(table: sa.Table, subject: str) -> sa.ColumnElement[bool]:
    """The hash finds the rows, its index being narrow; the text decides."""
    hashed = sa.func.hashtextextended(table.c.subject, _SEED) == sa.func.hashtextextended(subject, _SEED)
    return sa.and_(hashed, table.c.subject == subject)


def _any(numbers: list[int]) -> sa.ColumnElement[Any]:
    return sa.any_(sa.literal(numbers, sa.ARRAY(sa.BigInteger)))


def _row(seq: int, e: Entry) -> tuple[object, ...]:
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


def _shown(row: sa.Row[tuple[object, ...]]) -> Shown:
    return Shown(
        seq=row.seq,
        id=row.event_id,
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
        data=msgspec.Raw(row.data),
    )


def _texts(headers: list[tuple[str, bytes | None]]) -> dict[str, str | None]:
    return {name: None if value is None else value.decode(errors="replace") for name, value in headers}
