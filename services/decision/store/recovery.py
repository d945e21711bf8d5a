"""The recovery of a restored database: events of the own topic, positions of the relay, and the state of the gate."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

import msgspec
from aiokafka import TopicPartition

from services.decision.domain.cases import Case
from services.decision.domain.recovery import CaseEvent, PublishedEvent, RecoveredCase, RecoveryState, TopicContent
from services.decision.store.gate import read_state
from services.decision.store.transactions import LOCKED_CASE, Transaction, locked_case
from shared.contracts import events
from shared.contracts.envelope import Headers
from shared.kafka.producer import Appended
from shared.kafka.stored_positions import StoredPosition
from shared.postgres.database import Connection, Database
from shared.postgres.positions import PositionTable, save

_LOCK: Final = 720_914
_SKIPPED_IDS: Final = 10_000_000  # far more than a relay that was stopped can still hold
_PAGE: Final = 5000  # rows of the outbox

_CASES: Final = f"""
WITH locked AS MATERIALIZED (SELECT * FROM cases WHERE case_id = ANY ($1::uuid[]) ORDER BY case_id FOR UPDATE)
SELECT {LOCKED_CASE}, coalesce((SELECT max(n) FROM decisions WHERE decisions.case_id = locked.case_id), 0) AS n
FROM locked"""  # noqa: S608 - constants

_SAVE: Final = """
UPDATE cases SET state = new.state, lease_token = new.lease_token, lease_until = new.lease_until,
                 reviewer = new.reviewer, team = new.team, claim_key = new.claim_key, claim_body = new.claim_body,
                 claim_client = new.claim_client, superseded_by = new.superseded_by
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::uuid[], $8::text[],
            $9::text[], $10::uuid[])
    AS new (case_id, state, lease_token, lease_until, reviewer, team, claim_key, claim_body, claim_client,
            superseded_by)
WHERE cases.case_id = new.case_id"""

_KEEP: Final = """
INSERT INTO events_without_case (event_id, case_id, at, event_type, data)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::bytea[])
ON CONFLICT DO NOTHING"""

_WAITING: Final = """
SELECT event_id::text, at, event_type, data FROM events_without_case WHERE case_id = ANY ($1::uuid[]) ORDER BY n"""

_MARK: Final = """
INSERT INTO positions (consumer_group, topic, partition, expected, position)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) ON CONFLICT DO NOTHING"""

_DELETE_MARKS: Final = "DELETE FROM positions WHERE consumer_group = $1 AND topic = $2 AND partition = $3"

_OUTBOX: Final = "SELECT shard, id, headers FROM outbox WHERE (shard, id) > ($1, $2) ORDER BY shard, id LIMIT $3"

_DELETE_SENT: Final = """
DELETE FROM outbox AS o USING unnest($1::smallint[], $2::bigint[]) AS sent (shard, id)
WHERE o.shard = sent.shard AND o.id = sent.id"""

# The rows of a lost database must not share their ids with new ones: a relay that was stopped in a send deletes by id.
_SKIP_OUTBOX_IDS: Final = f"SELECT setval('outbox_id_seq', last_value + {_SKIPPED_IDS}) FROM outbox_id_seq"  # noqa: S608 - a constant

_COMPLETE: Final = """
UPDATE recovery SET incarnation = $1, is_incomplete = false, read_for = $2, opened_for = NULL, ends = $3::jsonb"""

_FIELDS: Final = (
    "case_id", "state", "lease_token", "lease_until", "reviewer", "team", "claim_key", "claim_body", "claim_client",
    "superseded_by",
)  # fmt: skip

_decode_headers = msgspec.msgpack.Decoder(Headers).decode
_encode_json = msgspec.json.Encoder().encode
_decode_ends = msgspec.json.Decoder(dict[int, int]).decode

_NAMES: Final = {kind: name for name, kind in events.TYPES.items()}
_DECODERS: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in events.TYPES.items()}


async def waiting_events(connection: Connection, cases: Collection[str]) -> dict[str, list[PublishedEvent]]:
    """The published events that wait for these cases, by case, oldest first."""
    found: defaultdict[str, list[PublishedEvent]] = defaultdict(list)
    for row in await connection.fetch(_WAITING, sorted(cases)):
        data = cast("CaseEvent", _DECODERS[row["event_type"]](row["data"]))
        event = PublishedEvent(row["event_id"], row["at"], data)
        found[event.case_id].append(event)
    return dict(found)


class RecoveryTransaction(Transaction):
    """The statements of a recovery."""

    async def apply(self, published: Sequence[PublishedEvent]) -> int:
        """Apply events to the stored cases, and store those of other cases; returns the number of unknown events."""
        by_case: defaultdict[str, list[PublishedEvent]] = defaultdict(list)
        for event in published:
            by_case[event.case_id].append(event)
        rows = await self._connection.fetch(_CASES, sorted(by_case))
        cases = [RecoveredCase(locked_case(row)[0], row["n"], [], []) for row in rows]
        unknown, changed = 0, []
        for recovered in cases:
            applied = sum([recovered.apply(event) for event in by_case.pop(recovered.case.case_id)])
            unknown += applied
            if applied:
                changed.append(recovered)
        await self._save([each.case for each in changed])
        await self.add_decisions([decision for each in changed for decision in each.decisions])
        await self.tally(Counter(name for each in changed for name in each.counts))
        return unknown + await self._keep([event for of_case in by_case.values() for event in of_case])

    async def apply_waiting(self, waiting: Mapping[str, Sequence[PublishedEvent]]) -> None:
        """Apply events that waited for these cases, which are stored now."""
        await self.apply([event for of_case in waiting.values() for event in of_case])
        await self._connection.execute(
            "DELETE FROM events_without_case WHERE case_id = ANY ($1::uuid[])", sorted(waiting)
        )

    async def delete_sent(self, rows: Sequence[tuple[int, int]]) -> None:
        """Delete rows of the outbox that are in the topic."""
        if rows:
            await self._connection.execute(_DELETE_SENT, [shard for shard, _ in rows], [row_id for _, row_id in rows])

    async def mark(self, group: str, appended: Sequence[Appended]) -> None:
        """Move the relay's positions to the offsets after these records."""
        if appended:
            await self._connection.execute(_MARK, group, *map(list, zip(*appended, strict=True)))

    async def _save(self, cases: Sequence[Case]) -> None:
        if cases:
            columns = [[getattr(case, name) for case in cases] for name in _FIELDS]
            await self._connection.execute(_SAVE, *columns)

    async def _keep(self, published: Sequence[PublishedEvent]) -> int:
        if not published:
            return 0
        status = await self._connection.execute(
            _KEEP,
            [event.event_id for event in published],
            [event.case_id for event in published],
            [event.at for event in published],
            [_NAMES[type(event.data)] for event in published],
            [_encode_json(event.data) for event in published],
        )
        return int(status.rpartition(" ")[2])


class _NotIncompleteError(Exception):
    """Events or an incarnation are missing in a database that is marked as complete; mark it and apply again."""


class RecoveryStore:
    """The state of the recovery in the database; every method raises Transient."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = PositionTable(database)

    @asynccontextmanager
    async def exclusively(self) -> AsyncIterator[bool]:
        """Hold the lock of recoveries until the session ends; False if another process holds it."""
        async with self._database.session() as connection:
            yield bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK))

    async def state(self) -> RecoveryState:
        """The state of the database."""
        async with self._database.held() as connection:
            return await read_state(connection)

    async def positions(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, StoredPosition]:
        """The stored positions of a group in these partitions, of those that have one."""
        return await self._positions.read(group, partitions)

    async def save_positions(self, group: str, positions: Mapping[TopicPartition, StoredPosition]) -> None:
        """Store what is known about these partitions, and the position itself only where none is stored."""
        await self._positions.save(group, positions)

    async def replace_positions(self, group: str, positions: Mapping[TopicPartition, StoredPosition]) -> None:
        """Store these positions, also where a higher one is stored."""
        async with self._database.transaction() as connection:
            await connection.executemany(_DELETE_MARKS, [(group, *tp) for tp in positions])
            await save(connection, group, positions)

    async def outbox_ids(self) -> dict[str, tuple[int, int]]:
        """The rows of the outbox, by event id."""
        found: dict[str, tuple[int, int]] = {}
        last = (-1, -1)
        async with self._database.held() as connection:
            while rows := await connection.fetch(_OUTBOX, *last, _PAGE):
                for shard, row_id, headers in rows:
                    found[dict(_decode_headers(headers))["ce_id"].decode()] = (shard, row_id)
                last = (rows[-1]["shard"], rows[-1]["id"])
        return found

    async def apply(self, group: str, read: Appended, content: TopicContent) -> int:
        """Apply the content of records of the own topic, delete the rows of the outbox that are in it, and move the
        relay's position to the offset after the records, all or nothing.

        Returns the number of events that the database did not contain. If there are some, or a later incarnation, the
        gate is closed first.
        """
        try:
            return await self._apply(group, read, content)
        except _NotIncompleteError:
            await self.set_incomplete()
            return await self._apply(group, read, content)

    async def _apply(self, group: str, read: Appended, content: TopicContent) -> int:
        async with self._database.transaction() as connection:
            transaction = RecoveryTransaction(connection)
            unknown = await transaction.apply(content.events)
            if unknown or content.incarnation:
                state = await read_state(connection)
                is_later = content.incarnation > state.incarnation
                if (unknown or is_later) and state.read_for is not None:
                    raise _NotIncompleteError
                if is_later:  # with the position: a repeated recovery does not read these records again
                    statement = "UPDATE recovery SET incarnation = $1, is_incomplete = true"
                    await connection.execute(statement, content.incarnation)
            await transaction.delete_sent(content.sent)
            await transaction.mark(group, [read])
        return unknown

    async def set_incomplete(self) -> None:
        """Close the gate until a new incarnation has begun.

        Every transaction that depends on the gate holds a lock on the table (`read_state`). This call waits until they
        have ended, so none of them changes a case afterwards. It does not wait for a program that only reads the table:
        pg_dump holds its lock until the dump ends.
        """
        async with self._database.transaction() as connection:
            await connection.execute("LOCK TABLE recovery IN EXCLUSIVE MODE")
            await connection.execute("UPDATE recovery SET is_incomplete = true, read_for = NULL, opened_for = NULL")

    async def complete(self, incarnation: int, identity: str) -> None:
        """Store that the own topic is read and that nothing was missing: claims can open at once."""
        async with self._database.transaction() as connection:
            await connection.execute(_COMPLETE, incarnation, identity, "{}")

    async def begin(
        self, incarnation: int, ends: Mapping[int, int], identity: str, group: str, appended: Sequence[Appended]
    ) -> None:
        """Store that the own topic is read, and that a new incarnation is in force.

        Claims open when `cases` is read to `ends`, offsets by partition. `appended` are the records that began the
        incarnation, where Kafka has told their offsets: the relay's positions move to the offsets after them. The ids
        of the outbox jump over those of the lost database.
        """
        async with self._database.transaction() as connection:
            await RecoveryTransaction(connection).mark(group, appended)
            await connection.execute(_SKIP_OUTBOX_IDS)
            await connection.execute(_COMPLETE, incarnation, identity, _encode_json(ends).decode())

    async def ends(self) -> dict[int, int]:
        """The offsets to which `cases` must be read before claims open, by partition."""
        async with self._database.held() as connection:
            return _decode_ends(await connection.fetchval("SELECT ends FROM recovery"))

    async def open(self, identity: str) -> None:
        """Open claims, decisions and the relay of the database with this identity."""
        async with self._database.transaction() as connection:
            await connection.execute("UPDATE recovery SET opened_for = $1 WHERE read_for = $1", identity)
