"""The REST views of business requests."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, Mark, Request, RequestStep


class RequestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A business request as lists show it. `subject` is its name in the audit log; `version` counts all that happened.

    `change_hash` is the SHA-256 of the attached change, empty without one; `check` what the router last said of it:
    `fits`, `unchecked`, or `nothing` where none is attached.
    """

    request_id: str
    subject: str
    state: str
    version: int
    title: str
    kind: str
    sponsor: str
    regions: list[str]
    markets: list[str]
    expected_items_per_day: int | None
    expected_date: str
    change_hash: str
    check_verdict: str
    drafted: Mark
    updated_at: str
    approvals_needed: int
    approvals: list[Mark]


class RequestView(RequestSummary, frozen=True, kw_only=True):
    """A business request, and what its change would change."""

    rationale: str
    check: ChangeCheck


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that happened to a request: a state that it came to, or `drafted`, `changed`, `commented`, `endorsed`."""

    version: int
    kind: str
    at: str
    by: str
    reason: str


class CommentView(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said about a request; `version` says when in its history."""

    comment_id: str
    version: int
    at: str
    by: str
    text: str


class WholeView(RequestView, frozen=True, kw_only=True):
    """A business request with its change, its history and its comments, both oldest first."""

    change: Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "#/$defs/ProposedChange"})] | None
    history: list[StepView]
    comments: list[CommentView]


class PageView(msgspec.Struct, frozen=True):
    """A page of business requests, the newest first; `next` is the cursor of the page that follows."""

    requests: list[RequestSummary]
    next: str | None


def summary(request: Request) -> RequestSummary:
    """As lists show it."""
    return RequestSummary(**_summary(request))


def view(request: Request) -> RequestView:
    """Without its change and history."""
    return RequestView(**_view(request))


def whole(request: Request, change: bytes | None, steps: Sequence[RequestStep]) -> WholeView:
    """All there is."""
    return WholeView(
        **_view(request),
        change=None if change is None else msgspec.Raw(change),
        history=[
            StepView(
                version=step.version,
                kind=step.kind,
                at=step.at,
                by=step.by,
                reason="" if step.kind == lifecycle.COMMENTED else step.text,
            )
            for step in steps
        ],
        comments=[comment_view(step) for step in steps if step.kind == lifecycle.COMMENTED],
    )


def comment_view(step: RequestStep) -> CommentView:
    """A comment."""
    return CommentView(comment_id=step.comment_id, version=step.version, at=step.at, by=step.by, text=step.text)


def _summary(request: Request) -> dict[str, Any]:
    content = request.content
    return {
        "request_id": request.request_id,
        "subject": request.subject,
        "state": request.state,
        "version": request.version,
        "title": content.title,
        "kind": content.kind,
        "sponsor": content.sponsor,
        "regions": content.regions,
        "markets": content.markets,
        "expected_items_per_day": content.expected_items_per_day,
        "expected_date": content.expected_date,
        "change_hash": content.change_hash,
        "check_verdict": request.check.verdict,
        "drafted": request.drafted,
        "updated_at": request.updated_at,
        "approvals_needed": request.approvals_needed,
        "approvals": request.approvals,
    }


def _view(request: Request) -> dict[str, Any]:
    return {**_summary(request), "rationale": request.content.rationale, "check": request.check}
