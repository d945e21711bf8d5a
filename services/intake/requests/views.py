"""The REST views of business requests."""

import json
from typing import Annotated, Any, Final

import msgspec
from msgspec import structs

from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, Mark, Request
from services.intake.requests.handlers import RequestDetails
from services.intake.requests.models import DRAFT_EXAMPLE
from shared.contracts.events import ProposedChange
from shared.http.models import Embedded, View, example

REQUEST_ID: Final = "0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10"
_decode_change = msgspec.json.Decoder(ProposedChange).decode
_MARK: Final = {"by": "policy-team", "at": "2026-05-01T09:30:00.000Z"}
_SUMMARY: Final[dict[str, Any]] = {
    "request_id": REQUEST_ID,
    "subject": f"piepowder:request:{REQUEST_ID}",
    "state": "draft",
    "version": 1,
    **{name: value for name, value in DRAFT_EXAMPLE.items() if name not in ("rationale", "change")},
    "expected_date": "",
    "change_hash": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
    "check_verdict": "fits",
    "drafted": _MARK,
    "updated_at": _MARK["at"],
    "approvals_needed": 2,
    "approvals": [],
}
_REQUEST: Final[dict[str, Any]] = {
    **_SUMMARY,
    "rationale": DRAFT_EXAMPLE["rationale"],
    "check": json.loads("""{
        "verdict": "fits", "checked_at": "2026-05-01T09:30:00.000Z", "operating_model": "om-1-0a1b2c3d4e5f",
        "policy_set": "ps-3-5f4e3d2c1b0a", "differing": 1,
        "differences": [{"what": "policies/lamps-too-cheap", "how": "added"}]
    }"""),
}
_COMMENT: Final = json.loads("""{
    "comment_id": "5a0f5b8e-6f60-5c69-8a51-9b8c4f3e2d10", "version": 2, "at": "2026-05-01T10:00:00.000Z",
    "by": "lead-a", "text": "How many of them were wrong?"
}""")


class RequestSummaryView(View):
    """A business request in a list.

    `subject` is its subject in the audit log; `version` counts all steps. `change_hash` is the SHA-256 of the attached
    change, empty without a change; `check_verdict` is the verdict of the router's last check. The states `deployed` and
    `rolled_back` were stated by a person under an earlier version; at present a request stays `approved`.
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
    drafted: Annotated[Mark, Embedded()]
    updated_at: str
    approvals_needed: int
    approvals: list[Annotated[Mark, Embedded()]]


class RequestView(RequestSummaryView):
    """A business request with the router's check of its change."""

    rationale: str
    check: Annotated[ChangeCheck, Embedded()]

    model_config = example(_REQUEST)


class StepView(View):
    """A step of the history; `kind` is the new state, or `drafted`, `changed`, `commented`, `endorsed`."""

    version: int
    kind: str
    at: str
    by: str
    reason: str


class CommentView(View):
    """A comment on a request; `version` is its position in the history."""

    comment_id: str
    version: int
    at: str
    by: str
    text: str

    model_config = example(_COMMENT)


class RequestDetailsView(RequestView):
    """A business request with its change, its history and its comments, both oldest first."""

    change: Annotated[ProposedChange, Embedded()] | None
    history: list[StepView]
    comments: list[CommentView]

    model_config = example(
        {
            **_REQUEST,
            "version": 2,
            "change": DRAFT_EXAMPLE["change"],
            "history": [
                {"version": 1, "kind": "drafted", **_MARK, "reason": ""},
                {"version": 2, "kind": "commented", "at": _COMMENT["at"], "by": "lead-a", "reason": ""},
            ],
            "comments": [_COMMENT],
        }
    )


class RequestsView(View):
    """A page of business requests, newest first; `next` is the cursor of the next page."""

    requests: list[RequestSummaryView]
    next: str | None

    model_config = example({"requests": [_SUMMARY], "next": None})


def summary_view(request: Request) -> RequestSummaryView:
    """A request in a list."""
    return RequestSummaryView.model_validate(_fields(request))


def request_view(request: Request) -> RequestView:
    """A request without its change and history."""
    return RequestView.model_validate(_fields(request))


def details_view(details: RequestDetails) -> RequestDetailsView:
    """A request with its change, history and comments."""
    view = {
        **_fields(details.request),
        "change": None if details.change is None else _decode_change(details.change),
        "history": [
            {**structs.asdict(step), "reason": "" if step.kind == lifecycle.COMMENTED else step.text}
            for step in details.steps
        ],
        "comments": [step for step in details.steps if step.kind == lifecycle.COMMENTED],
    }
    return RequestDetailsView.model_validate(view)


def _fields(request: Request) -> dict[str, Any]:
    fields = structs.asdict(request) | structs.asdict(request.content)
    return fields | {"subject": request.subject, "check_verdict": request.check.verdict}
