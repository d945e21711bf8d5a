"""Claims of cases and the leases on them."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import AfterValidator, Field
from starlette.responses import Response

from services.decision.api import rejections, views
from services.decision.api.dependencies import CaseId, Reviewer, Reviews
from services.decision.domain.leases import ClaimCommand
from services.decision.handlers.leases import Lease
from shared.auth.api_key import PROTECTED
from shared.contracts import ids
from shared.http.idempotency import body_hash
from shared.http.models import Body, Printable, View, example
from shared.http.queries import IdempotencyKey
from shared.http.route import StrictRoute
from shared.validation.identifiers import identifier_problem

router: Final = APIRouter(prefix="/v1", route_class=StrictRoute, responses=PROTECTED)

_LARGEST: Final = 2**53 - 1  # the largest integer that every JSON parser reads exactly


def _identifier(text: str) -> str:
    if (problem := identifier_problem(text)) is not None:
        raise ValueError(problem)
    return text


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains NUL")
    return text


Name = Annotated[Printable, Field(min_length=1, max_length=100)]
NewName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_identifier)]
Text = Annotated[str, AfterValidator(_without_nul)]
Seconds = Annotated[int, Field(ge=5, le=3600, description="Length of the lease from now, in seconds")]


AnyCaseId = Annotated[UUID, Field(strict=False)]  # a body is read from JSON, in which an id is a text


class ClaimBody(Body):
    """A reviewer's claim of a case from these queues, or from all.

    `skipped_cases` stay in their queues: cases that the reviewer has released and does not want again. `only_cases` are
    the cases to choose from; without any, these are all cases of the queues.
    """

    reviewer: NewName
    team: NewName
    queues: list[Annotated[str, Field(max_length=200)]] = Field(default=[], max_length=200)
    lease_seconds: Seconds = 300
    skipped_cases: list[AnyCaseId] = Field(default=[], max_length=1000)
    only_cases: list[AnyCaseId] = Field(default=[], max_length=1000)

    model_config = example({"reviewer": "r-71", "team": "in_house", "queues": ["general"], "lease_seconds": 300})

    def content_hash(self) -> str:
        """The hash that distinguishes a repeated claim from another claim with the same Idempotency-Key."""
        return body_hash(self, always={"queues", "lease_seconds"})


class LeaseBody(Body):
    """The lease of a command."""

    lease_token: Annotated[int, Field(ge=1, le=_LARGEST, description="The fencing token that the claim returned")]
    reviewer: Name = Field("", description="The holder of the lease; checked if given, for tools of several reviewers")


class HeartbeatBody(LeaseBody):
    """Extends the lease."""

    lease_seconds: Seconds = 300

    model_config = example({"lease_token": 1, "reviewer": "r-71", "lease_seconds": 300})


class ReleaseBody(LeaseBody):
    """Releases a case undecided."""

    reason: Annotated[Text, Field(max_length=500)] = ""

    model_config = example({"lease_token": 1, "reason": "not my language"})


class LeaseView(View):
    """The lease on a case: its `token` can decide the case before `until`."""

    token: int
    until: views.Timestamp


class ClaimView(View):
    """The claimed case and its lease."""

    case: views.CaseView
    lease: LeaseView

    model_config = example({"case": views.CLAIMED_EXAMPLE, "lease": views.LEASE_EXAMPLE})


class HeldView(View):
    """The extended lease."""

    lease: LeaseView

    model_config = example({"lease": views.LEASE_EXAMPLE})


@router.post(
    "/claims",
    status_code=201,
    response_model=ClaimView,
    summary="Claim the most urgent waiting case",
    description="With an `Idempotency-Key`, a repeated call returns the same lease while it runs. The number of open"
    " leases is limited for each reviewer, and for each client with all of its keys.",
    responses=rejections.OF_CLAIM
    | {204: {"description": "No case that the reviewer may decide waits in these queues"}},
)
async def claim(
    reviewer: Reviewer, reviews: Reviews, body: ClaimBody, idempotency_key: IdempotencyKey = None
) -> ClaimView | Response:
    queue_names = await reviews.reads.queue_names(body.queues)
    for n, queue in enumerate(body.queues):
        if queue not in queue_names:
            detail = rejections.no_queue(reviews.region, queue, queue_names)
            raise rejections.UNKNOWN_QUEUE_IN_BODY(detail, pointer=f"/queues/{n}")
    key = None if idempotency_key is None else ids.derive("claim", reviewer.name, idempotency_key)
    command = ClaimCommand(
        body.reviewer,
        body.team,
        body.lease_seconds,
        key,
        None if key is None else body.content_hash(),
        reviewer.name,
        [*map(str, body.only_cases)],
        [*map(str, body.skipped_cases)],
    )
    lease = await reviews.leases.claim(body.queues or queue_names, command)
    if lease is None:
        return Response(status_code=204)
    case = views.case_view(lease.case, [], await reviews.reads.concerned(lease.case))
    return ClaimView(case=case, lease=_lease_view(lease))


@router.post("/cases/{case_id}/heartbeat", summary="Extend a lease", responses=rejections.OF_LEASE)
async def heartbeat(_: Reviewer, reviews: Reviews, case_id: CaseId, body: HeartbeatBody) -> HeldView:
    lease = await reviews.leases.heartbeat(
        str(case_id), token=body.lease_token, seconds=body.lease_seconds, reviewer=body.reviewer
    )
    if lease is None:
        raise rejections.unknown_case(case_id)
    return HeldView(lease=_lease_view(lease))


@router.post("/cases/{case_id}/release", summary="Release a case undecided", responses=rejections.OF_LEASE)
async def release(_: Reviewer, reviews: Reviews, case_id: CaseId, body: ReleaseBody) -> views.CaseSummaryView:
    released = await reviews.leases.release(
        str(case_id), token=body.lease_token, reason=body.reason, reviewer=body.reviewer
    )
    if released is None:
        raise rejections.unknown_case(case_id)
    return views.summary_view(released)


def _lease_view(lease: Lease) -> LeaseView:
    return LeaseView(token=lease.case.lease_token, until=lease.until)
