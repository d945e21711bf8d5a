"""The review API: queues, cases, claims, leases, decisions, totals."""

import base64
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar
from uuid import UUID

import msgspec
from fastapi import APIRouter, FastAPI, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from starlette.requests import Request
from starlette.responses import Response

from services.decision import domain
from services.decision.domain import Case, Decision, Refused
from services.decision.handlers import Lease, ReviewCases
from services.decision.store import Store, Urgency
from shared.auth.authenticator import Authenticator
from shared.auth.keyed import keyed
from shared.contracts import events, ids
from shared.http.http import (
    IdempotencyKey,
    LimitBody,
    Problem,
    documented_answer,
    documented_problem,
    json_response,
    not_ready,
    read_idempotency_key,
)
from shared.http.idempotency import body_hash
from shared.runtime.clock import from_text, to_text
from shared.runtime.readiness import Readiness

READ: Final = "reviews:read"
WRITE: Final = "reviews:write"
_MAX_BODY: Final = 128 * 1024
_LARGEST: Final = 2**53 - 1  # the largest that every JSON reader takes exactly

_T = TypeVar("_T")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds characters that cannot be printed")
    return text


def _sound(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds NUL")
    return text


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Note = Annotated[str, Field(max_length=5000), AfterValidator(_sound)]
Reason = Annotated[str, Field(pattern="^[A-Z0-9_]{1,64}$")]
Token = Annotated[int, Field(ge=1, le=_LARGEST, description="The lease's fencing token, as the claim gave it")]
LeaseSeconds = Annotated[int, Field(ge=5, le=3600, description="How long the case is held from now")]
Limit = Annotated[int, Query(ge=1, le=200, description="Cases on a page, at most")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before")]
QueueName = Annotated[str, Path(description="A queue's id", examples=["general"])]
CaseId = Annotated[UUID, Path(description="A case's id")]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ClaimBody(_Body):
    """Who wants a case, from which queues (none: from all), and for how long."""

    reviewer: Name
    team: Name
    queues: list[Annotated[str, Field(max_length=200)]] = Field(default=[], max_length=200)
    lease_seconds: LeaseSeconds = 300

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"reviewer": "r-71", "team": "in_house", "queues": ["general"], "lease_seconds": 300}]
        }
    )

    def content_hash(self) -> str:
        """The hash that distinguishes the retry of a claim from another claim with the same Idempotency-Key."""
        return body_hash(self, always={"queues", "lease_seconds"})


class _LeaseBody(_Body):
    lease_token: Token
    reviewer: Name = Field(
        "", description="Who claimed it: checked when sent, as whoever serves several reviewers does"
    )


class HeartbeatBody(_LeaseBody):
    """Still at it."""

    lease_seconds: LeaseSeconds = 300

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"lease_token": 1, "reviewer": "r-71", "lease_seconds": 300}]}
    )


class ReleaseBody(_LeaseBody):
    """Given back undecided."""

    reason: Annotated[str, Field(max_length=500), AfterValidator(_sound)] = ""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lease_token": 1, "reason": "not my language"}]})


class DecisionBody(_LeaseBody):
    """What is to be so: of an item or a notice `approve` or `reject`, which says why; of an appeal `uphold` or
    `overturn`."""

    action: Literal["approve", "reject", "uphold", "overturn"]
    reasons: list[Reason] = Field(default=[], max_length=20, validate_default=True)
    note: Note = ""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"lease_token": 1, "action": "reject", "reasons": ["COUNTERFEIT"], "note": ""}]}
    )

    @field_validator("reasons")
    @classmethod
    def _reject_says_why(cls, reasons: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("action") == "reject" and not reasons:
            raise ValueError("a reject needs at least one code")
        return reasons


class QueueView(msgspec.Struct, frozen=True):
    """What is open in a queue; `overdue` counts open cases past their due time."""

    queue: str
    waiting: int
    claimed: int
    overdue: int
    oldest_due_at: str | None


class QueuesView(msgspec.Struct, frozen=True):
    """The region's queues: each that a case was ever in."""

    region: str
    queues: list[QueueView]


class HolderView(msgspec.Struct, frozen=True):
    """Who holds a case, until when."""

    reviewer: str
    team: str
    until: str


class DecisionView(msgspec.Struct, frozen=True):
    """A decision; of a case's, the one with the largest `n` is in force."""

    decision_id: str
    case_id: str
    n: int
    action: str
    reasons: list[str]
    policy_set: str
    automated: bool
    reviewer: str
    team: str
    note: str
    decided_at: str


class CaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A case without its item; `lease` says who holds it, while it is claimed."""

    case_id: str
    case_type: str
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None
    queue: str
    priority: int
    state: str
    verdict: str
    reasons: list[str]
    received_at: str
    due_at: str
    lease: HolderView | None


class ConcernedView(msgspec.Struct, frozen=True, kw_only=True):
    """A case that a notice or an appeal is about, and its decisions, oldest first."""

    case_id: str
    case_type: str
    item_id: str
    version: int | None
    state: str
    item: events.Item
    notice: events.Notice | None
    decisions: list[DecisionView]


class CaseView(CaseSummary, frozen=True, kw_only=True):
    """A case, its item, why it is here (`trace`), and its decisions, oldest first.

    A notice's case has the `notice`, an appeal's the `appeal`; `concerns` is what they are about, nearest first: the
    case that is appealed about, the newest version of the subject that was reported.
    """

    superseded_by: str | None
    item: events.Item
    trace: events.Trace
    decisions: list[DecisionView]
    notice: events.Notice | None = None
    appeal: events.Appeal | None = None
    concerns: list[ConcernedView] = []


class CasesView(msgspec.Struct, frozen=True):
    """A page of a queue's open cases, most urgent first; `next` is the cursor of the page that follows."""

    cases: list[CaseSummary]
    next: str | None


class LeaseView(msgspec.Struct, frozen=True):
    """The hold on a case: whoever shows `token` before `until` may decide it."""

    token: int
    until: str


class ClaimView(msgspec.Struct, frozen=True):
    """The case that was claimed, and the lease."""

    case: CaseView
    lease: LeaseView


class HeldView(msgspec.Struct, frozen=True):
    """The lease as it runs now."""

    lease: LeaseView


class TotalsView(msgspec.Struct, frozen=True):
    """How many cases are in which state, what policies and people decided of items and notices, how appeals were
    decided, and what is open by queue."""

    region: str
    cases: dict[str, int]
    decisions: dict[str, dict[str, int]]
    appeals: dict[str, int]
    queues: dict[str, QueueView]


class Desk:
    """Where the use cases stand once the database answers; until then a call is answered 503."""

    def __init__(self, region: str, readiness: Readiness) -> None:
        self.region = region
        self._readiness = readiness
        self._parts: tuple[Store, ReviewCases] | None = None

    def open(self, store: Store, reviews: ReviewCases) -> None:
        """From now on, answer."""
        self._parts = store, reviews

    @property
    def store(self) -> Store:
        """What is stored; raises a 503 Problem that says what is lacking."""
        return self._open()[0]

    @property
    def reviews(self) -> ReviewCases:
        """What reviewers may do; raises like `store`."""
        return self._open()[1]

    def _open(self) -> tuple[Store, ReviewCases]:
        if self._parts is None:
            raise not_ready(self._readiness)
        return self._parts


def add_routes(app: FastAPI, desk: Desk, authenticator: Authenticator) -> None:
    """Add `/v1` to the application."""
    app.add_middleware(LimitBody, max_bytes=_MAX_BODY)
    reading = APIRouter(route_class=keyed(authenticator, READ, desk.region))
    writing = APIRouter(route_class=keyed(authenticator, WRITE, desk.region))

    @reading.get(
        "/v1/queues", summary="What is open, by queue", responses={200: documented_answer(QueuesView, _QUEUES)}
    )
    async def queues() -> Response:
        return json_response(QueuesView(desk.region, await _queues(desk.store)))

    @reading.get(
        "/v1/queues/{queue}/cases",
        summary="A queue's open cases, most urgent first",
        responses={200: documented_answer(CasesView, _CASES), 404: _NO_QUEUE},
    )
    async def cases(
        queue: QueueName,
        state: Annotated[
            Literal["waiting", "claimed"] | None, Query(description="Only these; a queue holds open cases alone")
        ] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        after = None if cursor is None else _parse(_urgency, cursor)
        store = desk.store
        if queue not in (known := await store.queue_names()):
            detail = f"Region {desk.region!r} has no queue {queue!r:.100}; it has {', '.join(known) or 'none yet'}."
            raise Problem(404, "unknown-queue", "No such queue", detail)
        states = [state] if state is not None else [domain.WAITING, domain.CLAIMED]
        found = await store.page(queue, states, after, limit + 1)
        following = _cursor(found[limit - 1]) if len(found) > limit else None
        return json_response(CasesView([_summary(case) for case in found[:limit]], following))

    @reading.get(
        "/v1/cases/{case_id}",
        summary="A case with its item, trace and decisions",
        responses={200: documented_answer(CaseView, _CASE), 404: _NO_CASE},
    )
    async def case(case_id: CaseId) -> Response:
        store = desk.store
        found = await store.case(str(case_id))
        return json_response(_view(*found, await store.concerned(found[0])) if found is not None else _no_case(case_id))

    @writing.post(
        "/v1/claims",
        status_code=201,
        summary="Hold the most urgent waiting case",
        description="With an `Idempotency-Key`, the same call gives the same lease while it runs.",
        responses={
            201: documented_answer(ClaimView, _CLAIM),
            204: {"description": "Nothing waits in these queues"},
            409: _IN_FLIGHT,
        },
    )
    async def claim(
        request: Request,
        body: ClaimBody,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        known = await desk.store.queue_names()
        if unknown := [n for n, queue in enumerate(body.queues) if queue not in known]:
            detail = (
                f"Region {desk.region!r} has no queue {body.queues[unknown[0]]!r:.100}; it has"
                f" {', '.join(known) or 'none yet'}."
            )
            raise Problem(422, "unknown-queue", "No such queue", detail, pointer=f"/queues/{unknown[0]}")
        client = authenticator.principal(request, WRITE)
        given = None if idempotency_key is None else read_idempotency_key(idempotency_key)
        key = None if given is None else ids.derive("claim", client.name, given)
        lease = await _acted(
            lambda: desk.reviews.claim(
                reviewer=body.reviewer,
                team=body.team,
                queues=body.queues or known,
                seconds=body.lease_seconds,
                key=key,
                body=None if key is None else body.content_hash(),
            )
        )
        if lease is None:
            return Response(status_code=204)
        view = _view(lease.case, [], await desk.store.concerned(lease.case))
        return json_response(ClaimView(view, _lease(lease)), 201)

    @writing.post(
        "/v1/cases/{case_id}/heartbeat",
        summary="Hold on to a case",
        responses={200: documented_answer(HeldView, {"lease": _LEASE}), 404: _NO_CASE, 409: _LEASE_EXPIRED},
    )
    async def heartbeat(case_id: CaseId, body: HeartbeatBody) -> Response:
        lease = await _acted(
            lambda: desk.reviews.heartbeat(
                str(case_id), token=body.lease_token, seconds=body.lease_seconds, reviewer=body.reviewer
            )
        )
        return json_response(HeldView(_lease(lease)) if lease is not None else _no_case(case_id))

    @writing.post(
        "/v1/cases/{case_id}/release",
        summary="Give a case back undecided",
        responses={200: documented_answer(CaseSummary, _SUMMARY), 404: _NO_CASE, 409: _LEASE_EXPIRED},
    )
    async def release(case_id: CaseId, body: ReleaseBody) -> Response:
        released = await _acted(
            lambda: desk.reviews.release(
                str(case_id), token=body.lease_token, reason=body.reason, reviewer=body.reviewer
            )
        )
        return json_response(_summary(released) if released is not None else _no_case(case_id))

    @writing.post(
        "/v1/cases/{case_id}/decisions",
        status_code=201,
        summary="Decide a case that is held",
        responses={
            200: documented_answer(DecisionView, _DECISION) | {"description": "The same was decided already"},
            201: documented_answer(DecisionView, _DECISION),
            404: _NO_CASE,
            409: _LEASE_EXPIRED,
        },
    )
    async def decide(case_id: CaseId, body: DecisionBody) -> Response:
        made = await _acted(
            lambda: desk.reviews.decide(
                str(case_id),
                token=body.lease_token,
                action=body.action,
                reasons=body.reasons,
                note=body.note,
                reviewer=body.reviewer,
            )
        )
        if made is None:
            _no_case(case_id)
        decision, is_new = made
        return json_response(_decision(decision), 201 if is_new else 200)

    @reading.get("/v1/totals", summary="How many", responses={200: documented_answer(TotalsView, _TOTALS)})
    async def totals() -> Response:
        store = desk.store
        by_queue = await _queues(store)
        tallies = await store.totals()
        return json_response(
            TotalsView(
                desk.region,
                {
                    domain.WAITING: sum(queue.waiting for queue in by_queue),
                    domain.CLAIMED: sum(queue.claimed for queue in by_queue),
                    domain.DECIDED: tallies[domain.DECIDED],
                    domain.SUPERSEDED: tallies[domain.SUPERSEDED],
                    domain.WITHDRAWN: tallies[domain.WITHDRAWN],
                    domain.CLOSED: tallies[domain.CLOSED],
                },
                {
                    by: {action: tallies[f"{by}/{action}"] for action in sorted(domain.ACTIONS)}
                    for by in ("policy", "people")
                },
                {action: tallies[f"appeals/{action}"] for action in sorted(domain.APPEAL_ACTIONS)},
                {queue.queue: queue for queue in by_queue},
            )
        )

    app.include_router(reading)
    app.include_router(writing)


async def _acted(act: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await act()
    except Refused as refusal:
        status = 422 if refusal.slug in _OF_INPUT else 409
        pointer = _OF_INPUT.get(refusal.slug)
        raise Problem(status, refusal.slug, _TITLES[refusal.slug], str(refusal), pointer=pointer) from refusal


def _no_case(case_id: UUID) -> NoReturn:
    detail = f"There is no case {case_id} in this region. Cases are listed at /v1/queues/<queue>/cases."
    raise Problem(404, "unknown-case", "No such case", detail)


def _parse(read: Callable[[str], _T], cursor: str) -> _T:
    try:
        return read(cursor)
    except ValueError as error:
        detail = "The cursor is not one of this list: send `next` of the page before, or none to begin."
        raise Problem(422, "invalid-request", "The request does not fit", detail, pointer="/query/cursor") from error


def _cursor(case: Case) -> str:
    due_at = from_text(case.opened.due_at).isoformat()
    return base64.urlsafe_b64encode(f"{case.opened.priority} {due_at} {case.case_id}".encode()).decode()


def _urgency(cursor: str) -> Urgency:
    priority, due_at, case_id = base64.b64decode(cursor.encode(), b"-_", validate=True).decode().split(" ")
    return min(int(priority[:4]), 9), from_text(due_at), str(UUID(case_id))


async def _queues(store: Store) -> list[QueueView]:
    return [
        QueueView(
            queue.queue,
            queue.waiting,
            queue.claimed,
            queue.overdue,
            None if queue.oldest_due_at is None else to_text(queue.oldest_due_at),
        )
        for queue in await store.queues()
    ]


def _text(moment: datetime | None) -> str:
    return "" if moment is None else to_text(moment)


def _fields(case: Case) -> dict[str, Any]:
    opened = case.opened
    held = case.state == domain.CLAIMED
    return {
        "case_id": case.case_id,
        "case_type": opened.case_type,
        "item_id": opened.item_id,
        "platform": opened.platform,
        "kind": opened.kind,
        "subject_id": opened.subject_id,
        "version": opened.version,
        "queue": opened.queue,
        "priority": opened.priority,
        "state": case.state,
        "verdict": opened.verdict,
        "reasons": opened.reasons,
        "received_at": opened.received_at,
        "due_at": opened.due_at,
        "lease": HolderView(case.reviewer, case.team, _text(case.lease_until)) if held else None,
    }


def _summary(case: Case) -> CaseSummary:
    return CaseSummary(**_fields(case))


def _view(case: Case, decisions: list[Decision], concerned: list[tuple[Case, list[Decision]]]) -> CaseView:
    return CaseView(
        **_fields(case),
        superseded_by=case.superseded_by,
        item=case.opened.item,
        trace=case.opened.trace,
        decisions=[_decision(decision) for decision in decisions],
        notice=case.opened.notice,
        appeal=case.opened.appeal,
        concerns=[_concerned(*one) for one in concerned],
    )


def _concerned(case: Case, decisions: list[Decision]) -> ConcernedView:
    opened = case.opened
    return ConcernedView(
        case_id=case.case_id,
        case_type=opened.case_type,
        item_id=opened.item_id,
        version=opened.version,
        state=case.state,
        item=opened.item,
        notice=opened.notice,
        decisions=[_decision(decision) for decision in decisions],
    )


def _lease(lease: Lease) -> LeaseView:
    return LeaseView(lease.case.lease_token, to_text(lease.until))


def _decision(decision: Decision) -> DecisionView:
    return DecisionView(
        decision.decision_id,
        decision.case_id,
        decision.n,
        decision.action,
        decision.reasons,
        decision.policy_set,
        decision.automated,
        decision.reviewer,
        decision.team,
        decision.note,
        to_text(decision.decided_at),
    )


_TITLES: Final = {
    "already-decided": "The case was decided already",
    "superseded": "A newer version took the case's place",
    "withdrawn": "The case's item was withdrawn",
    "closed": "The case was closed undecided",
    "replaced": "The decision is not in force any more",
    "own-decision": "Nobody hears an appeal about a decision of their own",
    "wrong-action": "A case of this type is not decided so",
    "reasons-needed": "A reject says why",
    "wrong-lease-token": "The token does not hold the case",
    "lease-expired": "The lease has run out",
    "lease-released": "The lease was given back",
    "in-flight": "The same claim is being made",
    "idempotency-key-reused": "The key came with another body",
}
_OF_INPUT: Final = {"idempotency-key-reused": None, "wrong-action": "/action", "reasons-needed": "/reasons"}
_NO_CASE: Final = documented_problem(404, "unknown-case", "No such case", "There is no case 0a5f... in this region.")
_NO_QUEUE: Final = documented_problem(404, "unknown-queue", "No such queue", "Region 'eu' has no queue 'x'.")
_IN_FLIGHT: Final = documented_problem(
    409, "in-flight", _TITLES["in-flight"], "A claim with the same Idempotency-Key was made just now."
)
_LEASE_EXPIRED: Final = documented_problem(
    409, "lease-expired", "The case's state does not allow it", "The lease 1 of case 0a5f... has run out. Claim again."
)
_LEASE: Final = {"token": 1, "until": "2026-05-01T09:35:00.000Z"}
_QUEUE: Final = {
    "queue": "general",
    "waiting": 12,
    "claimed": 1,
    "overdue": 0,
    "oldest_due_at": "2026-05-01T13:30:00.000Z",
}
_QUEUES: Final = {"region": "eu", "queues": [_QUEUE]}
_SUMMARY: Final[dict[str, Any]] = {
    "case_id": "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de",
    "case_type": "item",
    "item_id": "6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11",
    "platform": "shop",
    "kind": "product",
    "subject_id": "B07/XL",
    "version": 3,
    "queue": "general",
    "priority": 5,
    "state": "waiting",
    "verdict": "review",
    "reasons": ["COUNTERFEIT"],
    "received_at": "2026-05-01T09:30:00.000Z",
    "due_at": "2026-05-01T13:30:00.000Z",
    "lease": None,
}
_DECISION: Final[dict[str, Any]] = {
    "decision_id": "3d2c1b0a-1f2e-5d4c-8b7a-695847362514",
    "case_id": "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de",
    "n": 1,
    "action": "reject",
    "reasons": ["COUNTERFEIT"],
    "policy_set": "1-5f70bf18a086",
    "automated": False,
    "reviewer": "r-71",
    "team": "in_house",
    "note": "",
    "decided_at": "2026-05-01T09:31:00.000Z",
}
_HELD: Final[dict[str, Any]] = {
    **_SUMMARY,
    "state": "claimed",
    "lease": {"reviewer": "r-71", "team": "in_house", "until": "2026-05-01T09:35:00.000Z"},
    "superseded_by": None,
    "item": {"markets": ["DE"], "language": "de", "title": "Uhr"},
    "trace": {"policy_set": "1-5f70bf18a086", "operating_model": "1-0c1f4a2f6b11", "matched": ["brand-watches"]},
    "decisions": [],
}
_CASES: Final = {"cases": [_SUMMARY], "next": None}
_CASE: Final = {**_HELD, "state": "decided", "lease": None, "decisions": [_DECISION]}
_CLAIM: Final = {"case": _HELD, "lease": _LEASE}
_TOTALS: Final = {
    "region": "eu",
    "cases": {"waiting": 12, "claimed": 1, "decided": 140, "superseded": 3, "withdrawn": 1, "closed": 0},
    "decisions": {"policy": {"approve": 100, "reject": 20}, "people": {"approve": 15, "reject": 5}},
    "appeals": {"overturn": 1, "uphold": 2},
    "queues": {"general": _QUEUE},
}
