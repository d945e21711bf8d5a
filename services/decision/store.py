"""The decision service's tables and all of its SQL.

A batch of cases costs the same number of statements as one: sets go in through `unnest`, and what they depend on (the
newest version of each subject, its open case) is read by key, so the cost follows the batch and the open work, never
the history. What waits is found through partial indexes over open cases alone. Whoever changes a case holds its row's
lock, so the outbox's ids follow the changes; sets are locked in sorted order, so that two writers cannot deadlock.

`cases.opened` is the event's value as it came: the item, the trace and the rest are read from it when somebody asks.
Of an appeal's case, `appealed_case` is the one whose decision it is about, and `not_by` who made that decision and is
not to hear the appeal. `withdrawals` holds those whose case has not come yet, and so next to nothing: asking it costs a
batch no statement of its own. Cases that have ended are counted in `tallies`, by rows that are added with each change
and folded now and then: a counter that is updated would make every writer wait for every other. Decisions are only ever
added: a trigger sees to it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import asyncpg
import msgspec
import sqlalchemy as sa

from services.decision.domain import (
    CLAIMED,
    NOTICE,
    WAITING,
    Case,
    Decision,
    Latest,
    NewCase,
    Refused,
    Standing,
)
from shared.contracts.envelope import Encoded
from shared.contracts.events import Appeal, CaseOpened
from shared.postgres import inbox, outbox
from shared.postgres.database import Connection, Database
from shared.runtime.errors import Poison, Transient

Urgency: TypeAlias = tuple[int, datetime, str]

METADATA: Final = sa.MetaData()

CASES: Final = sa.Table(
    "cases",
    METADATA,
    sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("subject", sa.Text(collation="C"), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("correlation_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("superseded_by", sa.UUID(as_uuid=False)),
    sa.Column("lease_token", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    sa.Column("reviewer", sa.Text, nullable=False, server_default=""),
    sa.Column("team", sa.Text, nullable=False, server_default=""),
    sa.Column("claim_key", sa.UUID(as_uuid=False)),
    sa.Column("claim_body", sa.Text),
    sa.Column("opened", sa.LargeBinary, nullable=False),
    sa.Column("appealed_case", sa.UUID(as_uuid=False)),
    sa.Column("not_by", sa.Text),
    sa.CheckConstraint(
        "state IN ('waiting', 'claimed', 'decided', 'superseded', 'withdrawn', 'closed')", name="cases_state"
    ),
    sa.Index("cases_waiting", "queue", "priority", "due_at", "case_id", postgresql_where=sa.text("state = 'waiting'")),
    sa.Index("cases_claimed", "queue", "priority", "due_at", "case_id", postgresql_where=sa.text("state = 'claimed'")),
    sa.Index("cases_leases", "lease_until", postgresql_where=sa.text("state = 'claimed'")),
    sa.Index("cases_claim_keys", "claim_key", unique=True, postgresql_where=sa.text("claim_key IS NOT NULL")),
    sa.Index("cases_appeals", "appealed_case", postgresql_where=sa.text("appealed_case IS NOT NULL")),
)
DECISIONS: Final = sa.Table(
    "decisions",
    METADATA,
    sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("decision_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("policy_set", sa.Text, nullable=False),
    sa.Column("automated", sa.Boolean, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("lease_token", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
)
SUBJECTS: Final = sa.Table(
    "subjects",
    METADATA,
    sa.Column("subject", sa.Text(collation="C"), primary_key=True),
    sa.Column("case_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("item_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("version", sa.BigInteger),
)
WITHDRAWALS: Final = sa.Table("withdrawals", METADATA, sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True))
QUEUES: Final = sa.Table("queues", METADATA, sa.Column("queue", sa.Text, primary_key=True))
TALLIES: Final = sa.Table(
    "tallies",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("n", sa.BigInteger, nullable=False),
)
inbox.inbox_table(METADATA)
outbox.outbox_table(METADATA)

# The hot statements find their rows by key. A plan that was made while a table was small must not read it whole later.
SESSION: Final = {"enable_seqscan": "off"}

_FOLD_ABOVE: Final = 200
_encode_text = msgspec.json.Encoder().encode
_decode_opened = msgspec.json.Decoder(CaseOpened).decode
_decode_reasons = msgspec.json.Decoder(list[str]).decode

_CASE: Final = (
    "case_id::text, subject, event_id::text, correlation_id::text, opened, state, lease_token, lease_until, reviewer,"
    " team, claim_key::text, claim_body, superseded_by::text"
)
_DECISION: Final = (
    "decision_id::text, case_id::text, n, action, reasons, policy_set, automated, reviewer, team, lease_token, note,"
    " decided_at"
)

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
_NEW_DECISION: Final = (
    "decision_id",
    "case_id",
    "n",
    "action",
    "reasons",
    "policy_set",
    "automated",
    "reviewer",
    "team",
    "lease_token",
    "note",
    "decided_at",
)

_NEW_SUBJECT: Final = ("subject", "case_id", "item_id", "version")

_SET_LATEST: Final = """
UPDATE subjects SET case_id = new.case_id, item_id = new.item_id, version = new.version
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::bigint[]) AS new (subject, case_id, item_id, version)
WHERE subjects.subject = new.subject"""

_MOMENT: Final = """
SELECT clock_timestamp(), ARRAY(SELECT case_id::text FROM withdrawals WHERE case_id = ANY ($1::uuid[])),
       ARRAY(SELECT case_id::text FROM cases WHERE case_id = ANY ($2::uuid[]))"""

_STANDINGS: Final = """
SELECT contested.case_id::text,
       coalesce((SELECT max(n) FROM decisions WHERE decisions.case_id = contested.case_id), 0),
       EXISTS (SELECT FROM cases WHERE appealed_case = contested.case_id AND state IN ('waiting', 'claimed'))
FROM unnest($1::uuid[]) AS contested (case_id)"""

_END: Final = """
UPDATE cases SET state = CASE WHEN ended.by IS NULL THEN 'withdrawn' ELSE 'superseded' END, superseded_by = ended.by,
                 claim_key = NULL, claim_body = NULL
FROM unnest($1::uuid[], $2::uuid[]) AS ended (case_id, by) WHERE cases.case_id = ended.case_id"""

_LOCK_CASE: Final = f"""
WITH locked AS MATERIALIZED (SELECT * FROM cases WHERE case_id = $1 FOR UPDATE)
SELECT {_CASE}, clock_timestamp() FROM locked"""  # noqa: S608 - constants

# The most urgent of the wanted queues: a few of each, by the index; the first of them that nobody else is taking, and
# that this reviewer may have.
_NEXT: Final = f"""
WITH heads AS MATERIALIZED (
    SELECT head.* FROM unnest($1::text[]) AS wanted (queue) CROSS JOIN LATERAL (
        SELECT case_id, priority, due_at FROM cases WHERE state = 'waiting' AND cases.queue = wanted.queue
        ORDER BY priority, due_at, case_id LIMIT $2
    ) AS head ORDER BY priority, due_at, case_id LIMIT $2
), locked AS MATERIALIZED (
    SELECT cases.* FROM heads JOIN cases USING (case_id)
    WHERE cases.state = 'waiting' AND cases.not_by IS DISTINCT FROM $3
    ORDER BY heads.priority, heads.due_at, heads.case_id LIMIT 1 FOR UPDATE OF cases SKIP LOCKED
)
SELECT {_CASE}, clock_timestamp(), (SELECT count(*) FROM heads)
FROM (SELECT 1) AS one LEFT JOIN locked ON true"""  # noqa: S608 - constants

_EXPIRED: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT * FROM cases WHERE state = 'claimed' AND lease_until <= clock_timestamp()
    ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
)
SELECT {_CASE}, clock_timestamp() FROM locked"""  # noqa: S608 - constants

_SAVE: Final = """
UPDATE cases SET state = new.state, lease_token = new.lease_token, lease_until = new.lease_until,
                 reviewer = new.reviewer, team = new.team, claim_key = new.claim_key, claim_body = new.claim_body
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::uuid[], $8::text[])
    AS new (case_id, state, lease_token, lease_until, reviewer, team, claim_key, claim_body)
WHERE cases.case_id = new.case_id"""

_FOLD: Final = """
WITH folded AS (DELETE FROM tallies RETURNING name, n)
INSERT INTO tallies (name, n) SELECT name, sum(n) FROM folded GROUP BY name"""


class Known(NamedTuple):
    """What a batch meets: the newest version of each subject, its case locked while open; the time; of the cases that
    it opens, those whose withdrawal came before (`early`); of those that it withdraws, those that are `stored`; how
    those stand that are appealed about, locked."""

    latest: dict[str, Latest]
    now: datetime
    early: frozenset[str]
    stored: frozenset[str]
    standings: dict[str, Standing]


class Work:
    """One transaction: what is read is locked, what is written is seen by others when it ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def first_time(self, event_ids: Sequence[str]) -> set[str]:
        """Those of the events that were not taken in before, entered now."""
        return await inbox.first_time(self._connection, event_ids)

    async def known(
        self, subjects: Collection[str], *, opened: Sequence[str], withdrawn: Sequence[str], appealed: Collection[str]
    ) -> Known:
        """What is known of these subjects, of cases that are `opened` now, of those that are `withdrawn` now, and of
        those that are `appealed` about."""
        rows = await self._connection.fetch(
            "SELECT subject, case_id::text, item_id::text, version FROM subjects WHERE subject = ANY ($1)"
            " ORDER BY subject FOR UPDATE",
            sorted(subjects),
        )
        moment = await self._connection.fetchrow(_MOMENT, opened, withdrawn)
        assert moment is not None  # noqa: S101 - a SELECT without FROM
        still_open = await self._connection.fetch(
            "SELECT case_id::text, correlation_id::text FROM cases"
            " WHERE case_id = ANY ($1::uuid[]) AND state IN ('waiting', 'claimed') ORDER BY case_id FOR UPDATE",
            [row[1] for row in rows],
        )
        correlation = {row[0]: row[1] for row in still_open}
        latest = {row[0]: Latest(row[1], row[2], row[3], correlation.get(row[1])) for row in rows}
        standings = await self._standings(sorted(appealed)) if appealed else {}
        return Known(latest, moment[0], frozenset(moment[1]), frozenset(moment[2]), standings)

    async def _standings(self, cases: Sequence[str]) -> dict[str, Standing]:
        await self._connection.execute(
            "SELECT FROM cases WHERE case_id = ANY ($1::uuid[]) ORDER BY case_id FOR UPDATE", cases
        )
        rows = await self._connection.fetch(_STANDINGS, cases)
        return {row[0]: Standing(row[1], row[2]) for row in rows}

    async def add_cases(self, cases: Sequence[NewCase]) -> None:
        """Store new cases; raises Poison when one of them is stored already, opened by another event."""
        rows = [
            (
                a.opened.case_id,
                a.subject,
                case.state,
                a.opened.queue,
                a.opened.priority,
                a.due_at,
                a.event_id,
                a.correlation_id,
                case.superseded_by,
                a.raw,
                *_hearing(a.opened.appeal),
            )
            for case in cases
            for a in (case.arrival,)
        ]
        try:
            await self._connection.copy_records_to_table("cases", records=rows, columns=_NEW_CASE)
        except asyncpg.UniqueViolationError as error:
            raise Poison(f"a case is opened once, and this one was, by another event: {error.detail}") from error

    async def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Append decisions."""
        if decisions:
            rows = [
                (
                    d.decision_id,
                    d.case_id,
                    d.n,
                    d.action,
                    _encode_text(d.reasons).decode(),
                    d.policy_set,
                    d.automated,
                    d.reviewer,
                    d.team,
                    d.lease_token,
                    d.note,
                    d.decided_at,
                )
                for d in decisions
            ]
            await self._connection.copy_records_to_table("decisions", records=rows, columns=_NEW_DECISION)

    async def set_latest(self, latest: Mapping[str, Latest], known: Collection[str]) -> None:
        """The newest version of these subjects, from now on; `known` are those that were found and locked.

        Raises Transient when another writer has met a subject for the first time meanwhile.
        """
        rows = [(subject, new.case_id, new.item_id, new.version) for subject, new in sorted(latest.items())]
        added = [row for row in rows if row[0] not in known]
        changed = [row for row in rows if row[0] in known]
        if added:
            try:
                await self._connection.copy_records_to_table("subjects", records=added, columns=_NEW_SUBJECT)
            except asyncpg.UniqueViolationError as error:
                raise Transient(f"a subject was met by two writers at once: {error.detail}") from error
        if changed:
            await self._connection.execute(_SET_LATEST, *map(list, zip(*changed, strict=True)))

    async def end(self, superseded: Mapping[str, str], withdrawn: Sequence[str]) -> None:
        """End these open cases, which `known` has locked: superseded, each by an item, or withdrawn."""
        ended: dict[str, str | None] = {**superseded, **dict.fromkeys(withdrawn)}
        if ended:
            await self._connection.execute(_END, list(ended), list(ended.values()))

    async def keep_withdrawals(self, early: Collection[str], met: Collection[str]) -> None:
        """Keep the withdrawals of cases that have not come yet, until they have."""
        if early:
            await self._connection.execute(
                "INSERT INTO withdrawals SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING", sorted(early)
            )
        if met:
            await self._connection.execute("DELETE FROM withdrawals WHERE case_id = ANY ($1::uuid[])", sorted(met))

    async def publish(self, events: Sequence[tuple[str, Encoded]]) -> None:
        """Have these (topic, event) pairs published, in their order, once the transaction has committed."""
        await outbox.write(self._connection, events)

    async def tally(self, counts: Mapping[str, int]) -> None:
        """Add to the totals."""
        if counts:
            await self._connection.execute(
                "INSERT INTO tallies (name, n) SELECT * FROM unnest($1::text[], $2::bigint[])",
                list(counts),
                list(counts.values()),
            )

    async def fold_tallies(self) -> None:
        """Bring the totals back to one row a name when they have become many."""
        if await self._connection.fetchval("SELECT count(*) FROM tallies") > _FOLD_ABOVE:
            await self._connection.execute(_FOLD)

    async def add_queues(self, queues: Collection[str]) -> None:
        """Know these queues."""
        if queues:
            await self._connection.execute(
                "INSERT INTO queues SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", sorted(queues)
            )

    async def case(self, case_id: str) -> tuple[Case, datetime] | None:
        """A case, locked, and the time after that; None when there is none."""
        row = await self._connection.fetchrow(_LOCK_CASE, case_id)
        return None if row is None else (_case(row), row[13])

    async def next_case(self, queues: Sequence[str], reviewer: str) -> tuple[Case, datetime] | None:
        """The most urgent waiting case of these queues that nobody else is taking and that `reviewer` may have, locked,
        and the time after that."""
        looked_at = 16
        while True:
            [row] = await self._connection.fetch(_NEXT, queues, looked_at, reviewer)
            if row[0] is not None:
                return _case(row), row[13]
            if row[14] < looked_at:
                return None
            looked_at *= 16

    async def claimed_under(self, key: str) -> tuple[Case, datetime] | None:
        """The case that is held by the claim with this key, locked, and the time after that."""
        case_id = await self._connection.fetchval("SELECT case_id::text FROM cases WHERE claim_key = $1", key)
        return None if case_id is None else await self.case(case_id)

    async def expired(self, limit: int) -> list[tuple[Case, datetime]]:
        """Up to `limit` claimed cases whose lease has run out, locked, and the time."""
        return [(_case(row), row[13]) for row in await self._connection.fetch(_EXPIRED, limit)]

    async def first_decision(self, case_id: str) -> Decision | None:
        """What ended a case."""
        return await self._decision(f"SELECT {_DECISION} FROM decisions WHERE case_id = $1 AND n = 1", case_id)  # noqa: S608 - constants

    async def current_decision(self, case_id: str) -> Decision | None:
        """What is so for a case."""
        return await self._decision(
            f"SELECT {_DECISION} FROM decisions WHERE case_id = $1 ORDER BY n DESC LIMIT 1",  # noqa: S608 - constants
            case_id,
        )

    async def _decision(self, query: str, case_id: str) -> Decision | None:
        row = await self._connection.fetchrow(query, case_id)
        return None if row is None else _decision(row)

    async def save(self, cases: Sequence[Case]) -> None:
        """Write the state and lease of cases that are locked; raises Refused when a claim's key is taken."""
        try:
            await self._connection.execute(
                _SAVE,
                [case.case_id for case in cases],
                [case.state for case in cases],
                [case.lease_token for case in cases],
                [case.lease_until for case in cases],
                [case.reviewer for case in cases],
                [case.team for case in cases],
                [case.claim_key for case in cases],
                [case.claim_body for case in cases],
            )
        except asyncpg.UniqueViolationError as error:
            raise Refused("in-flight", "A claim with the same Idempotency-Key was made just now.") from error


class QueueState(msgspec.Struct, frozen=True):
    """What is open in a queue. `oldest_due_at` is the earliest due time, None when nothing is open."""

    queue: str
    waiting: int
    claimed: int
    overdue: int
    oldest_due_at: datetime | None


class Store:
    """A region's cases, decisions and queues."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def work(self) -> AsyncIterator[Work]:
        """One transaction; raises Transient when it cannot be known to have committed."""
        async with self._database.transaction() as connection:
            yield Work(connection)

    async def queue_names(self) -> list[str]:
        """Every queue that a case was ever in."""
        async with self._database.query() as connection:
            return list((await connection.scalars(sa.select(QUEUES.c.queue).order_by(QUEUES.c.queue))).all())

    async def queues(self) -> list[QueueState]:
        """What is open, by queue: read from the partial indexes over open cases."""
        counted = sa.union_all(*(_count_open(state) for state in (WAITING, CLAIMED))).subquery()
        query = (
            sa.select(
                QUEUES.c.queue,
                *(
                    sa.cast(sa.func.coalesce(sa.func.sum(counted.c[name]), 0), sa.BigInteger)
                    for name in ("waiting", "claimed", "overdue")
                ),
                sa.func.min(counted.c.oldest_due_at),
            )
            .join_from(QUEUES, counted, QUEUES.c.queue == counted.c.queue, isouter=True)
            .group_by(QUEUES.c.queue)
        )
        async with self._database.query() as connection:
            return [QueueState(*row) for row in await connection.execute(query.order_by(QUEUES.c.queue))]

    async def totals(self) -> Counter[str]:
        """The tallies: `decided`, `superseded`, `withdrawn`, `closed`, and `policy/<action>`, `people/<action>`,
        `appeals/<action>`."""
        query = sa.select(TALLIES.c.name, sa.cast(sa.func.sum(TALLIES.c.n), sa.BigInteger)).group_by(TALLIES.c.name)
        async with self._database.query() as connection:
            return Counter({row[0]: row[1] for row in await connection.execute(query)})

    async def page(self, queue: str, states: Collection[str], after: Urgency | None, limit: int) -> list[Case]:
        """Open cases of a queue in these states, most urgent first, from behind `after`."""
        urgency = (CASES.c.priority, CASES.c.due_at, CASES.c.case_id)
        parts = []
        for state in sorted(states):
            part = sa.select(CASES).where(CASES.c.queue == queue, _in_state(state))
            if after is not None:
                part = part.where(sa.tuple_(*urgency) > sa.tuple_(*map(sa.literal, after, (c.type for c in urgency))))
            parts.append(part.order_by(*urgency).limit(limit).subquery().select())
        union = sa.union_all(*parts).subquery()
        query = union.select().order_by(union.c.priority, union.c.due_at, union.c.case_id).limit(limit)
        async with self._database.query() as connection:
            return [_case_of(row) for row in await connection.execute(query)]

    async def case(self, case_id: str) -> tuple[Case, list[Decision]] | None:
        """A case and its decisions, oldest first; None when there is none."""
        async with self._database.query() as connection:
            row = (await connection.execute(CASES.select().where(CASES.c.case_id == case_id))).first()
            if row is None:
                return None
            decisions = DECISIONS.select().where(DECISIONS.c.case_id == case_id).order_by(DECISIONS.c.n)
            return _case_of(row), [Decision(**found._mapping) for found in await connection.execute(decisions)]

    async def concerned(self, case: Case) -> list[tuple[Case, list[Decision]]]:
        """What a notice or an appeal is about, nearest first, each with its decisions: the case that is appealed about,
        the newest version of a subject that was reported. What is not stored here is left out."""
        found = []
        reported = case.opened.case_type == NOTICE
        if case.opened.appeal is not None:
            contested = case.opened.appeal.decision
            reported = contested.case_type == NOTICE
            found.append(await self.case(contested.case_id))
        if reported:
            newest = sa.select(SUBJECTS.c.case_id).where(SUBJECTS.c.subject == case.subject)
            async with self._database.query() as connection:
                case_id = await connection.scalar(newest)
            found.append(None if case_id is None else await self.case(case_id))
        return [one for one in found if one is not None]


def _hearing(appeal: Appeal | None) -> tuple[str | None, str | None]:
    """The case that an appeal is about, and who is not to hear it."""
    return (None, None) if appeal is None else (appeal.decision.case_id, appeal.decision.reviewer or None)


def _in_state(state: str) -> "sa.ColumnElement[bool]":
    return CASES.c.state == sa.literal_column(f"'{state}'")  # literal, so that the partial index fits


def _count_open(state: str) -> "sa.Select[Any]":
    count = sa.func.count()
    return (
        sa.select(
            CASES.c.queue,
            (count if state == WAITING else sa.literal(0)).label("waiting"),
            (count if state == CLAIMED else sa.literal(0)).label("claimed"),
            count.filter(CASES.c.due_at < sa.func.now()).label("overdue"),
            sa.func.min(CASES.c.due_at).label("oldest_due_at"),
        )
        .where(_in_state(state))
        .group_by(CASES.c.queue)
    )


def _case(row: asyncpg.Record) -> Case:
    return Case(
        case_id=row[0],
        subject=row[1],
        event_id=row[2],
        correlation_id=row[3],
        opened=_decode_opened(row[4]),
        state=row[5],
        lease_token=row[6],
        lease_until=row[7],
        reviewer=row[8],
        team=row[9],
        claim_key=row[10],
        claim_body=row[11],
        superseded_by=row[12],
    )


def _case_of(row: "sa.Row[Any]") -> Case:
    return Case(
        case_id=row.case_id,
        subject=row.subject,
        event_id=row.event_id,
        correlation_id=row.correlation_id,
        opened=_decode_opened(row.opened),
        state=row.state,
        lease_token=row.lease_token,
        lease_until=row.lease_until,
        reviewer=row.reviewer,
        team=row.team,
        claim_key=row.claim_key,
        claim_body=row.claim_body,
        superseded_by=row.superseded_by,
    )


def _decision(row: asyncpg.Record) -> Decision:
    return Decision(
        decision_id=row[0],
        case_id=row[1],
        n=row[2],
        action=row[3],
        reasons=_decode_reasons(row[4]),
        policy_set=row[5],
        automated=row[6],
        reviewer=row[7],
        team=row[8],
        lease_token=row[9],
        note=row[10],
        decided_at=row[11],
    )
