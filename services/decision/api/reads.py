"""Queues, cases and totals."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field

from services.decision.api import rejections, views
from services.decision.api.dependencies import CaseId, Reader, Reviews
from services.decision.domain import cases as domain
from services.decision.domain.reasons import no_policy_set
from shared.auth.api_key import PROTECTED
from shared.contracts.envelope import subject_of
from shared.http.models import Printable, View, example
from shared.http.queries import Cursor, PageLimit, ShortPageLimit, decode_cursor, encode_cursor
from shared.http.route import StrictRoute
from shared.runtime.clock import from_text

router: Final = APIRouter(prefix="/v1", route_class=StrictRoute, responses=PROTECTED)

SubjectPart = Annotated[Printable, Field(min_length=1, max_length=300)]

_QUEUE_EXAMPLE: Final = {
    "queue": "general",
    "waiting": 12,
    "claimed": 1,
    "overdue": 0,
    "oldest_due_at": "2026-05-01T13:30:00.000Z",
}


class QueueView(View):
    """The open cases of a queue; `overdue` counts open cases past their due time."""

    queue: str
    waiting: int
    claimed: int
    overdue: int
    oldest_due_at: views.Timestamp | None

    model_config = ConfigDict(from_attributes=True)


class QueuesView(View):
    """The region's queues: every queue that has ever had a case."""

    region: str
    queues: list[QueueView]

    model_config = example({"region": "eu", "queues": [_QUEUE_EXAMPLE]})


class PositionView(View):
    """The service's position in a partition: the offset of the next record that it stores, and the topic's id.
    `missing` describes missing records that have stopped the partition."""

    topic: str
    partition: int
    position: int
    topic_id: str
    missing: str | None

    model_config = ConfigDict(from_attributes=True)


class PositionsView(View):
    """The service's positions, of every partition that it has read."""

    region: str
    positions: list[PositionView]

    model_config = example(
        {
            "region": "eu",
            "positions": [
                {
                    "topic": "piepowder.cases.eu",
                    "partition": 0,
                    "position": 1040,
                    "topic_id": "t2vJ8yEbQ4iW0xCq5GdYpg",
                    "missing": None,
                }
            ],
        }
    )


class CasesView(View):
    """A page of a queue's open cases, most urgent first; `next` is the cursor of the next page."""

    cases: list[views.CaseSummaryView]
    next: str | None

    model_config = example({"cases": [views.SUMMARY_EXAMPLE], "next": None})


class SubjectDecisionsView(View):
    """A page of a subject's decided cases with their decisions, the case with the latest due time first. Cases of
    notices and appeals are included. `next` is the cursor of the next page."""

    cases: list[views.DecidedCaseView]
    next: str | None

    model_config = example(
        {
            "cases": [
                {
                    "case_id": "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de",
                    "case_type": "item",
                    "item_id": "6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11",
                    "version": 3,
                    "queue": "general",
                    "due_at": "2026-05-01T13:30:00.000Z",
                    "decisions": [views.DECISION_EXAMPLE],
                }
            ],
            "next": None,
        }
    )


class ReasonView(View):
    """A reason code, and the titles of the policies (or the ground of notices) that have it."""

    code: str
    titles: list[str]


class ReasonsView(View):
    """The reason codes that a decision may have now: those of the policy set in force."""

    policy_set: str
    reasons: list[ReasonView]

    model_config = example(
        {
            "policy_set": "ps-1-5f70bf18a086",
            "reasons": [{"code": "WEAPONS", "titles": ["Weapons and ammunition are forbidden"]}],
        }
    )


class TotalsView(View):
    """The numbers of cases by state, of decisions on items and notices by policies and by people, and of decisions on
    appeals; and the open cases by queue."""

    region: str
    cases: dict[str, int]
    decisions: dict[str, dict[str, int]]
    appeals: dict[str, int]
    queues: dict[str, QueueView]

    model_config = example(
        {
            "region": "eu",
            "cases": {"waiting": 12, "claimed": 1, "decided": 140, "superseded": 3, "withdrawn": 1, "closed": 0},
            "decisions": {"policy": {"approve": 100, "reject": 20}, "people": {"approve": 15, "reject": 5}},
            "appeals": {"overturn": 1, "uphold": 2},
            "queues": {"general": _QUEUE_EXAMPLE},
        }
    )


class QueuePosition(msgspec.Struct, frozen=True, array_like=True):
    """The position of a case in its queue, for a cursor."""

    priority: Annotated[int, msgspec.Meta(ge=1, le=9)]
    due_at: datetime
    case_id: UUID

    def __post_init__(self) -> None:
        if self.due_at.utcoffset() != timedelta(0):
            raise ValueError("due_at is not in UTC")


class DuePlace(msgspec.Struct, frozen=True, array_like=True):
    """The place of a decided case among those of its subject, for a cursor."""

    due_at: datetime
    case_id: UUID

    def __post_init__(self) -> None:
        if self.due_at.utcoffset() != timedelta(0):
            raise ValueError("due_at is not in UTC")


@router.get("/queues", summary="Open cases by queue")
async def queues(_: Reader, reviews: Reviews) -> QueuesView:
    found = [QueueView.model_validate(queue) for queue in await reviews.reads.queues()]
    return QueuesView(region=reviews.region, queues=found)


@router.get(
    "/positions",
    summary="Positions in the topic of cases",
    description="Compare them with the ends of the topic to find out whether every routed case is stored. Read them"
    " before the open cases. The group's committed offsets are only information: a restored database is behind them.",
)
async def positions(_: Reader, reviews: Reviews) -> PositionsView:
    found = await reviews.reads.consumer_positions(reviews.region)
    return PositionsView(region=reviews.region, positions=[PositionView.model_validate(each) for each in found])


@router.get(
    "/queues/{queue}/cases",
    summary="Open cases of a queue, most urgent first",
    responses=rejections.OF_QUEUE,
)
async def cases(
    _: Reader,
    reviews: Reviews,
    queue: Annotated[str, Path(description="The id of a queue", examples=["general"])],
    *,
    state: Annotated[Literal["waiting", "claimed"] | None, Query(description="Only cases in this state")] = None,
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> CasesView:
    position: QueuePosition | None = decode_cursor(cursor, QueuePosition)
    after = None if position is None else (position.priority, position.due_at, str(position.case_id))
    if queue not in (queue_names := await reviews.reads.queue_names([queue])):
        raise rejections.UNKNOWN_QUEUE(rejections.no_queue(reviews.region, queue, queue_names))
    states = [domain.WAITING, domain.CLAIMED] if state is None else [state]
    found = await reviews.reads.page(queue, states, after, limit + 1)
    following = _position(found[limit - 1]) if len(found) > limit else None
    return CasesView(cases=[views.summary_view(case) for case in found[:limit]], next=encode_cursor(following))


@router.get(
    "/cases/{case_id}",
    summary="One case with its item, trace and decisions",
    responses=rejections.OF_CASE,
)
async def case(_: Reader, reviews: Reviews, case_id: CaseId) -> views.CaseView:
    found = await reviews.reads.case(str(case_id))
    if found is None:
        await reviews.reads.require_complete()
        raise rejections.unknown_case(case_id)
    return views.case_view(found.case, found.decisions, await reviews.reads.concerned(found.case))


@router.get(
    "/decisions",
    summary="Decisions on a subject, by case",
    description="The decided cases of a subject in this region, of items, notices and appeals, with every decision.",
)
async def decisions(
    _: Reader,
    reviews: Reviews,
    platform: Annotated[SubjectPart, Query(description="The subject's platform", examples=["shop"])],
    kind: Annotated[SubjectPart, Query(description="`product`, `seller` or `content`", examples=["product"])],
    subject_id: Annotated[SubjectPart, Query(description="The platform's own id", examples=["B07/XL"])],
    *,
    limit: ShortPageLimit = 10,
    cursor: Cursor = None,
) -> SubjectDecisionsView:
    place: DuePlace | None = decode_cursor(cursor, DuePlace)
    before = None if place is None else (place.due_at, str(place.case_id))
    found = await reviews.reads.decided(subject_of(platform, kind, subject_id), before, limit + 1)
    last = found[limit - 1].case if len(found) > limit else None
    following = None if last is None else DuePlace(from_text(last.opened.due_at), UUID(last.case_id))
    cases_of_subject = [views.decided_view(one) for one in found[:limit]]
    return SubjectDecisionsView(cases=cases_of_subject, next=encode_cursor(following))


@router.get(
    "/reasons",
    summary="Reason codes of decisions",
    description="The codes of the policies of the policy set in force, and the grounds of notices in capitals. Another"
    " code in a decision gets 422 `unknown-reason`.",
    responses=rejections.OF_REASONS,
)
async def reasons(_: Reader, reviews: Reviews) -> ReasonsView:
    codes = reviews.reasons.codes
    if codes is None:
        raise no_policy_set()
    listed = [ReasonView(code=code, titles=titles) for code, titles in codes.titles.items()]
    return ReasonsView(policy_set=codes.policy_set, reasons=listed)


@router.get("/totals", summary="Numbers of cases and decisions")
async def totals(_: Reader, reviews: Reviews) -> TotalsView:
    by_queue = [QueueView.model_validate(queue) for queue in await reviews.reads.queues()]
    tallies = await reviews.reads.totals()
    ended = {state: tallies[state] for state in (domain.DECIDED, domain.SUPERSEDED, domain.WITHDRAWN, domain.CLOSED)}
    return TotalsView(
        region=reviews.region,
        cases={
            domain.WAITING: sum(queue.waiting for queue in by_queue),
            domain.CLAIMED: sum(queue.claimed for queue in by_queue),
            **ended,
        },
        decisions={
            by: {action: tallies[f"{by}/{action}"] for action in sorted(domain.ACTIONS)} for by in ("policy", "people")
        },
        appeals={action: tallies[f"appeals/{action}"] for action in sorted(domain.APPEAL_ACTIONS)},
        queues={queue.queue: queue for queue in by_queue},
    )


def _position(case: domain.Case) -> QueuePosition:
    return QueuePosition(case.opened.priority, from_text(case.opened.due_at), UUID(case.case_id))
