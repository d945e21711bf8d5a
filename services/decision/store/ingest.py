"""The transaction that stores a batch of received cases and withdrawals."""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Final

import asyncpg
import msgspec

from services.decision.domain.ingest import (
    BatchChanges,
    CaseMessage,
    NewCase,
    NewestVersion,
    ReceivedCase,
    ReceivedWithdrawal,
    RequestTimes,
    Snapshot,
)
from services.decision.store.appeals import appeal_columns, lock_appealed_cases
from services.decision.store.recovery import RecoveryTransaction, waiting_events
from services.decision.store.transactions import Transaction
from shared.kafka.stored_positions import Moves
from shared.postgres import positions
from shared.postgres.rows import insert
from shared.runtime.errors import Transient

_NEW_CASE: Final = (
    "case_id",
    "subject",
    "state",
    "queue",
    "priority",
    "due_at",
    "event_id",
    "correlation_id",
    "superseded_by",
    "opened",
    "appealed_case",
    "not_by",
)
_NEW_SUBJECT: Final = ("subject", "case_id", "item_id", "version", "client", "requested_at", "request_times")

_SET_NEWEST: Final = """
UPDATE subjects SET case_id = new.case_id, item_id = new.item_id, version = new.version, client = new.client,
                    requested_at = new.requested_at, request_times = new.request_times
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::timestamptz[], $7::text[])
    AS new (subject, case_id, item_id, version, client, requested_at, request_times)
WHERE subjects.subject = new.subject"""

_TIME_AND_CASES: Final = """
SELECT clock_timestamp(), ARRAY(SELECT case_id::text FROM withdrawals WHERE case_id = ANY ($1::uuid[])),
       ARRAY(SELECT ARRAY[case_id::text, event_id::text] FROM cases WHERE case_id = ANY ($2::uuid[]))"""

_END: Final = """
UPDATE cases SET state = CASE WHEN ended.by IS NULL THEN 'withdrawn' ELSE 'superseded' END, superseded_by = ended.by,
                 claim_key = NULL, claim_body = NULL
FROM unnest($1::uuid[], $2::uuid[]) AS ended (case_id, by) WHERE cases.case_id = ended.case_id"""


_encode_times: Final = msgspec.json.Encoder().encode
_decode_times: Final = msgspec.json.Decoder(dict[str, RequestTimes]).decode


def _times_of(newest: NewestVersion) -> str | None:
    return _encode_times(newest.times).decode() if newest.times else None


class IngestTransaction(Transaction):
    """The statements of an ingest; their number does not depend on the size of the batch.

    `incarnation`: the number of restores. `has_waiting`: after one, published events wait for their cases.
    """

    incarnation = 0
    has_waiting = False

    async def advance(self, moves: Moves) -> None:
        """Store the moves of the positions, before any other statement; raises PositionChangedError."""
        await positions.advance(self._connection, moves)

    async def snapshot(self, batch: Sequence[CaseMessage]) -> Snapshot:
        """The stored state that the batch depends on: of its subjects, of the cases that it opens or withdraws, and of
        the cases that its appeals are about."""
        cases = [message.opened for message in batch if isinstance(message, ReceivedCase)]
        withdrawn = [message.case_id for message in batch if isinstance(message, ReceivedWithdrawal)]
        appealed_cases = {case.appeal.decision.case_id for case in cases if case.appeal is not None}
        rows = await self._connection.fetch(
            "SELECT subject, case_id::text, item_id::text, version, client, requested_at, request_times FROM subjects"
            " WHERE subject = ANY ($1) ORDER BY subject FOR UPDATE",
            sorted({message.subject for message in batch}),
        )
        opened = [case.case_id for case in cases]
        moment = await self._connection.fetchrow(_TIME_AND_CASES, opened, [*opened, *withdrawn])
        assert moment is not None  # noqa: S101 - a SELECT without FROM
        still_open = await self._connection.fetch(
            "SELECT case_id::text, correlation_id::text FROM cases"
            " WHERE case_id = ANY ($1::uuid[]) AND state IN ('waiting', 'claimed') ORDER BY case_id FOR UPDATE",
            [row[1] for row in rows],
        )
        correlation = {row[0]: row[1] for row in still_open}
        return Snapshot(
            now=moment[0],
            newest={
                row[0]: NewestVersion(
                    row[1], row[2], row[3], correlation.get(row[1]), row[4], row[5], _decode_times(row[6] or "{}")
                )
                for row in rows
            },
            stored=dict(moment[2]),
            withdrawn_early=frozenset(moment[1]),
            appealed_cases=await lock_appealed_cases(self._connection, sorted(appealed_cases))
            if appealed_cases
            else {},
            published=await waiting_events(self._connection, opened) if self.has_waiting else {},
        )

    async def apply(self, changes: BatchChanges, snapshot: Snapshot) -> None:
        """Store the changes of a batch whose snapshot this transaction has locked.

        Raises Transient when another writer has added one of the cases or subjects meanwhile.
        """
        await self._add_cases(changes.cases)
        await self.add_decisions(changes.decisions)
        await self._set_newest(changes.newest, snapshot.newest)
        await self._end_cases(changes.superseded, changes.withdrawn)
        await self._keep_withdrawals(changes.early, changes.applied)
        if snapshot.published:
            await RecoveryTransaction(self._connection).apply_waiting(snapshot.published)

    async def _add_cases(self, cases: Sequence[NewCase]) -> None:
        rows = [
            (
                received.opened.case_id,
                received.subject,
                case.state,
                received.opened.queue,
                received.opened.priority,
                received.due_at,
                received.event_id,
                received.correlation_id,
                case.superseded_by,
                received.raw,
                *appeal_columns(received.opened.appeal),
            )
            for case in cases
            for received in (case.received,)
        ]
        rows.sort(key=itemgetter(0))
        try:
            await insert(self._connection, "cases", _NEW_CASE, rows)
        except asyncpg.UniqueViolationError as error:
            raise Transient(f"another writer has added this case just now: {error.detail}.") from error

    async def _set_newest(self, newest: Mapping[str, NewestVersion], stored_subjects: Collection[str]) -> None:
        rows = [
            (subject, new.case_id, new.item_id, new.version, new.client, new.requested_at, _times_of(new))
            for subject, new in sorted(newest.items())
        ]
        added = [row for row in rows if row[0] not in stored_subjects]
        changed = [row for row in rows if row[0] in stored_subjects]
        try:
            await insert(self._connection, "subjects", _NEW_SUBJECT, added)
        except asyncpg.UniqueViolationError as error:
            raise Transient(f"another writer has added this subject just now: {error.detail}.") from error
        if changed:
            await self._connection.execute(_SET_NEWEST, *map(list, zip(*changed, strict=True)))

    async def _end_cases(self, superseded: Mapping[str, str], withdrawn: Sequence[str]) -> None:
        ended: dict[str, str | None] = {**superseded, **dict.fromkeys(withdrawn)}
        if ended:
            await self._connection.execute(_END, list(ended), list(ended.values()))

    async def _keep_withdrawals(self, early: Collection[str], applied: Collection[str]) -> None:
        if early:
            await self._connection.execute(
                "INSERT INTO withdrawals SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING", sorted(early)
            )
        if applied:
            await self._connection.execute("DELETE FROM withdrawals WHERE case_id = ANY ($1::uuid[])", sorted(applied))

    async def add_queues(self, queues: Collection[str]) -> None:
        """Add these queues to the known queues."""
        if queues:
            await self._connection.execute(
                "INSERT INTO queues SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", sorted(queues)
            )
