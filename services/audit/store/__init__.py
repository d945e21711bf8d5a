"""The audit's tables and all of its SQL: the log, its head, the counts, the dead letters and their discards.

Each event is appended once, and the sequence has no gap, because there is one writer at a time. In one transaction, the
writer locks the head's row, leaves out events that are in the log already, copies the others behind the last entry and
moves the head. An event with a known id and other values is a conflict: it is appended too, under a key of its own. A
database sequence would give out numbers before the commit, and lose the numbers of a rollback. The cost of a batch does
not grow with the log: for each event, one insert in two B-trees with narrow keys, and one lookup if the last batches
had repeats; totals are counters.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, TypeAlias

import asyncpg
import msgspec

from services.audit.domain import (
    AppendResult,
    Conflict,
    LoggedDeadLetter,
    LoggedDiscard,
    LoggedEvent,
    LogHead,
    conflict,
)
from services.audit.store.reads import LogReads
from services.audit.store.tables import DEADLETTERS, LOG
from shared.contracts.envelope import Attributes, RecordId
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.postgres import positions
from shared.postgres.database import Connection, Database
from shared.postgres.positions import PositionTable

_pack = msgspec.msgpack.Encoder().encode

_LOG_COLUMNS: Final = tuple(column.name for column in LOG.columns if column.name != "conflicts_with")
_LETTER_COLUMNS: Final = tuple(column.name for column in DEADLETTERS.columns)

_FIRST: Final = """
SELECT event_id::text, type, source, time, subject, region, correlation_id::text, causation_id::text, sha256(data)
FROM log WHERE event_id = ANY($1::uuid[])"""

_DISCARD: Final = """
INSERT INTO discards (topic, "partition", "offset", consumer_group, content, by, why, time)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[])
ON CONFLICT DO NOTHING RETURNING 1"""

_NOWHERE: Final = RecordId("", 0, 0)  # the position of a stored event, which is not compared

_Row: TypeAlias = tuple[LoggedEvent, Conflict | None]


class Store(LogReads):
    """The region's log in PostgreSQL; every call raises Transient while PostgreSQL does not respond."""

    def __init__(self, database: Database, region: str) -> None:
        super().__init__(database, region)
        self.positions = PositionTable(database)
        self._expects_repeats = False

    async def append(
        self,
        logged: Sequence[LoggedEvent],
        letters: Sequence[LoggedDeadLetter],
        moves: Moves = NO_MOVES,
        discards: Sequence[LoggedDiscard] = (),
    ) -> AppendResult:
        """Append the events, dead letters and discards that are not in the log yet, in their order; all or nothing.

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
            discarded = await self._append_discards(connection, discards) if discards else 0
            await self._advance(connection, size, count, Counter(e.attributes.type for e, _ in fresh))
        by_topic = Counter(e.source.topic for e, _ in fresh)
        conflicts = Counter(found.reason for _, found in fresh if found is not None)
        return AppendResult(LogHead(size, count), dict(by_topic), len(logged) - len(fresh), dict(conflicts), discarded)

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
    async def _append_discards(connection: Connection, discards: Sequence[LoggedDiscard]) -> int:
        rows = [(*x.source, x.group, x.content, x.by, x.why, x.time) for x in discards]
        return len(await connection.fetch(_DISCARD, *zip(*rows, strict=True)))

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
