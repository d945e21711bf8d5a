"""The reads of the REST API: timelines, events, dead letters, totals."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.audit.domain import DEADLETTER, LogHead, LogPosition, LogTotals, TimelineEntry
from services.audit.store.tables import COUNTS, DEADLETTERS, DISCARDS, HASH_SEED, HEAD, LOG
from services.audit.views import DeadLetterView, DiscardView, EntryView
from shared.postgres.database import Database

_unpack = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]]).decode
_encode = msgspec.json.Encoder().encode


class LogReads:
    """Reads of a region's log; every call raises Transient while PostgreSQL does not respond."""

    def __init__(self, database: Database, region: str) -> None:
        self._database = database
        self.region = region

    async def head(self) -> LogHead:
        """The current head."""
        async with self._database.query() as connection:
            size, count = (await connection.execute(sa.select(HEAD.c.size, HEAD.c.deadletters))).one()
        return LogHead(size, count)

    async def timeline_entries(
        self, subject: str, *, after: LogPosition, upto: LogHead, limit: int
    ) -> list[TimelineEntry]:
        """Up to `limit` entries of a subject, in the order of the log: after position `after`, up to and including
        `upto`."""
        events = (
            sa.select(LOG.c.seq, LOG.c.event_id, LOG.c.causation_id, LOG.c.time, sa.func.octet_length(LOG.c.data))
            .where(_of(LOG, subject), LOG.c.seq > after.seq, LOG.c.seq <= upto.size)
            .order_by(LOG.c.seq)
            .limit(limit)
        )
        letters = (
            sa.select(DEADLETTERS.c.seq, DEADLETTERS.c.n, DEADLETTERS.c.event_id, DEADLETTERS.c.time)
            .where(
                _of(DEADLETTERS, subject),
                sa.tuple_(DEADLETTERS.c.seq, DEADLETTERS.c.n) > sa.tuple_(*map(sa.literal, after)),
                DEADLETTERS.c.n <= upto.deadletters,
            )
            .order_by(DEADLETTERS.c.seq, DEADLETTERS.c.n)
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
            rows = (await connection.execute(sa.select(LOG).where(LOG.c.seq == _any(events)))).all()
            several = await self._conflicting(connection, [row.event_id for row in rows])
            for row in rows:
                found[row.seq, 0] = _event_view(row, several)
            for row in await connection.execute(sa.select(DEADLETTERS).where(DEADLETTERS.c.n == _any(letters))):
                found[row.seq, row.n] = self._dead_letter_view(row)
        return [found[entry.position] for entry in entries]

    async def event(self, event_id: str) -> EntryView | None:
        """The event with this id, None if there is none."""
        async with self._database.query() as connection:
            row = (await connection.execute(sa.select(LOG).where(LOG.c.event_id == event_id))).one_or_none()
            several = await self._conflicting(connection, [event_id])
        return None if row is None else _event_view(row, several)

    async def conflict_sizes(self, *, before: int, limit: int) -> list[TimelineEntry]:
        """The sizes of up to `limit` conflicts with a sequence number below `before`, newest first."""
        query = (
            sa.select(LOG.c.seq, sa.func.octet_length(LOG.c.data))
            .where(LOG.c.conflicts_with.is_not(None), LOG.c.seq < before)
            .order_by(LOG.c.seq.desc())
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
            sa.select(LOG.c.seq, sa.func.octet_length(LOG.c.data))
            .where(LOG.c.seq > after)
            .order_by(LOG.c.seq)
            .limit(limit)
        )
        async with self._database.query() as connection:
            return [
                TimelineEntry(LogPosition(seq, 0), None, None, "", size)
                for seq, size in await connection.execute(query)
            ]

    async def dead_letters(self, *, before: int, limit: int) -> list[DeadLetterView]:
        """Up to `limit` dead letters with a number below `before`, newest first."""
        discard = sa.select(DISCARDS.c.by, DISCARDS.c.why, DISCARDS.c.time.label("discarded_at"))
        closing = discard.where(_closes(DISCARDS, DEADLETTERS)).limit(1).lateral("closing")
        query = (
            sa.select(DEADLETTERS, closing)
            .select_from(DEADLETTERS.outerjoin(closing, sa.true()))
            .where(DEADLETTERS.c.n < before)
            .order_by(DEADLETTERS.c.n.desc())
            .limit(limit)
        )
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
                discarded=None if row.discarded_at is None else DiscardView(row.by, row.why, row.discarded_at),
            )
            for row in rows
        ]

    async def totals(self) -> LogTotals:
        """The sizes of the log at one moment."""
        conflicts = (
            sa.select(LOG.c.type, sa.func.count().label("conflicts"))
            .where(LOG.c.conflicts_with.is_not(None))
            .group_by(LOG.c.type)
            .subquery()
        )
        query = (
            sa.select(HEAD, COUNTS, conflicts.c.conflicts)
            .select_from(
                HEAD.outerjoin(COUNTS, sa.true()).outerjoin(conflicts, conflicts.c.type == COUNTS.c.type),
            )
            .order_by(COUNTS.c.type)
        )
        async with self._database.query() as connection:
            rows = (await connection.execute(query)).all()
        return LogTotals(
            LogHead(rows[0].size, rows[0].deadletters),
            {row.type: row.events for row in rows if row.type is not None},
            {row.type: row.conflicts for row in rows if row.conflicts},
        )

    @staticmethod
    async def _conflicting(connection: AsyncConnection, event_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a conflict."""
        wanted = sa.any_(sa.literal(list(event_ids), sa.ARRAY(sa.UUID(as_uuid=False))))
        return set(
            (await connection.execute(sa.select(LOG.c.conflicts_with).where(LOG.c.conflicts_with == wanted))).scalars()
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


def _of(table: sa.Table, subject: str) -> sa.ColumnElement[bool]:
    """The condition for a subject: the narrow index of hashes finds the rows, the text excludes collisions."""
    hashed = sa.func.hashtextextended(table.c.subject, HASH_SEED) == sa.func.hashtextextended(subject, HASH_SEED)
    return sa.and_(hashed, table.c.subject == subject)


def _closes(discards: sa.Table, letters: sa.Table) -> sa.ColumnElement[bool]:
    """The condition for the discard of a dead letter. A dead letter of an older release has no hash of its content."""
    place = (discards.c[name] == letters.c[name] for name in ("topic", "partition", "offset", "consumer_group"))
    return sa.and_(*place, sa.or_(letters.c.content.is_(None), discards.c.content == letters.c.content))


def _any(numbers: list[int]) -> sa.ColumnElement[Any]:
    return sa.any_(sa.literal(numbers, sa.ARRAY(sa.BigInteger)))


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
