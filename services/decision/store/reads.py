"""The reads of the REST API: queues, cases, totals."""

from collections import Counter, defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa

from services.decision.domain.cases import CLAIMED, DECIDED, NOTICE, WAITING, Case, Decision
from services.decision.store.tables import CASES, DECISIONS, QUEUES, SUBJECTS, TALLIES
from services.decision.store.transactions import case_from
from shared.postgres.database import Database
from shared.postgres.positions import PositionTable
from shared.runtime.clock import Clock, SystemClock

_NAMES_SECONDS: Final = 1.0

Urgency: TypeAlias = tuple[int, datetime, str]
"""The place of a case in its queue: priority, due time, case id."""


class QueueState(msgspec.Struct, frozen=True):
    """The open cases of a queue. `oldest_due_at` is the earliest due time, None when no case is open."""

    queue: str
    waiting: int
    claimed: int
    overdue: int
    oldest_due_at: datetime | None


class ConsumerPosition(msgspec.Struct, frozen=True):
    """The stored position in a partition: the offset of the next record of the topic with this id. `missing` describes
    missing records that have stopped the partition."""

    topic: str
    partition: int
    position: int
    topic_id: str
    missing: str | None


class CaseWithDecisions(NamedTuple):
    """A case and its decisions, oldest first."""

    case: Case
    decisions: list[Decision]


class CaseReads:
    """Reads of one region's cases; none of them locks a row."""

    def __init__(self, database: Database, clock: Clock = SystemClock()) -> None:  # noqa: B008 - it has no state
        self._database = database
        self._clock = clock
        self._queue_names: list[str] = []
        self._names_until = 0.0

    async def queue_names(self, wanted: Collection[str] = ()) -> list[str]:
        """Every queue that has ever had a case, as of the last second; as of now if one of `wanted` is not known."""
        if self._clock.monotonic() >= self._names_until or not self._queue_names or set(wanted) - {*self._queue_names}:
            async with self._database.query() as connection:
                found = await connection.scalars(sa.select(QUEUES.c.queue).order_by(QUEUES.c.queue))
                self._queue_names = list(found.all())
            self._names_until = self._clock.monotonic() + _NAMES_SECONDS
        return self._queue_names

    async def queues(self) -> list[QueueState]:
        """The open cases by queue, from the partial indexes over open cases."""
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

    async def consumer_positions(self, region: str) -> list[ConsumerPosition]:
        """The positions of the region's consumer, of the partitions that have one."""
        stored = await PositionTable(self._database).of_group(f"piepowder-decision-{region}")
        return [
            ConsumerPosition(tp.topic, tp.partition, at.position, at.topic_id, at.gap and at.gap.describe(tp))
            for tp, at in sorted(stored.items())
        ]

    async def totals(self) -> Counter[str]:
        """The tallies: `decided`, `superseded`, `withdrawn`, `closed`, and `policy/<action>`, `people/<action>`,
        `appeals/<action>`."""
        query = sa.select(TALLIES.c.name, sa.cast(sa.func.sum(TALLIES.c.n), sa.BigInteger)).group_by(TALLIES.c.name)
        async with self._database.query() as connection:
            return Counter({row[0]: row[1] for row in await connection.execute(query)})

    async def page(self, queue: str, states: Collection[str], after: Urgency | None, limit: int) -> list[Case]:
        """Open cases of a queue in these states, most urgent first, after the place `after`."""
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
            return [case_from(row._mapping) for row in await connection.execute(query)]

    async def case(self, case_id: str) -> CaseWithDecisions | None:
        """A case and its decisions; None when there is no such case."""
        async with self._database.query() as connection:
            row = (await connection.execute(CASES.select().where(CASES.c.case_id == case_id))).first()
            if row is None:
                return None
            decisions = DECISIONS.select().where(DECISIONS.c.case_id == case_id).order_by(DECISIONS.c.n)
            found = [Decision(**decision._mapping) for decision in await connection.execute(decisions)]
            return CaseWithDecisions(case_from(row._mapping), found)

    async def decided(self, subject: str, before: tuple[datetime, str] | None, limit: int) -> list[CaseWithDecisions]:
        """The decided cases of a subject with their decisions, the latest due time first, before the place `before`
        (due time, case id)."""
        place = (CASES.c.due_at, CASES.c.case_id)
        query = CASES.select().where(CASES.c.subject == subject, _in_state(DECIDED))
        if before is not None:
            query = query.where(sa.tuple_(*place) < sa.tuple_(*map(sa.literal, before, (c.type for c in place))))
        query = query.order_by(*(column.desc() for column in place)).limit(limit)
        async with self._database.query() as connection:
            cases = [case_from(row._mapping) for row in await connection.execute(query)]
            of_cases = DECISIONS.c.case_id.in_([case.case_id for case in cases])
            decisions: defaultdict[str, list[Decision]] = defaultdict(list)
            for row in await connection.execute(DECISIONS.select().where(of_cases).order_by(DECISIONS.c.n)):
                decisions[row.case_id].append(Decision(**row._mapping))
        return [CaseWithDecisions(case, decisions[case.case_id]) for case in cases]

    async def concerned(self, case: Case) -> list[CaseWithDecisions]:
        """The cases that a notice or an appeal is about, nearest first: the appealed case, then the newest version of
        the reported subject. Cases that are not stored here are left out."""
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
        return [concerned for concerned in found if concerned is not None]


def _in_state(state: str) -> "sa.ColumnElement[bool]":
    return CASES.c.state == sa.literal_column(f"'{state}'")  # a literal, so that the partial index applies


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
