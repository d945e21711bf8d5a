"""The cases and decisions in responses."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from msgspec.structs import asdict
from pydantic import ConfigDict, PlainSerializer

from services.decision.domain.cases import CLAIMED, Case, Decision
from services.decision.store.reads import CaseWithDecisions
from shared.contracts import events
from shared.http.models import Embedded, View, example
from shared.runtime.clock import to_text

Timestamp = Annotated[datetime, PlainSerializer(to_text, return_type=str)]

LEASE_EXAMPLE: Final = {"token": 1, "until": "2026-05-01T09:35:00.000Z"}
SUMMARY_EXAMPLE: Final[dict[str, Any]] = {
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
DECISION_EXAMPLE: Final = {
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
CLAIMED_EXAMPLE: Final = {
    **SUMMARY_EXAMPLE,
    "state": "claimed",
    "lease": {"reviewer": "r-71", "team": "in_house", "until": "2026-05-01T09:35:00.000Z"},
    "superseded_by": None,
    "item": {"markets": ["DE"], "language": "de", "title": "Uhr"},
    "trace": {"policy_set": "1-5f70bf18a086", "operating_model": "1-0c1f4a2f6b11", "matched": ["brand-watches"]},
    "decisions": [],
    "notice": None,
    "appeal": None,
    "concerns": [],
}


class HolderView(View):
    """The reviewer who holds a case, and the end of the lease."""

    reviewer: str
    team: str
    until: Timestamp


class DecisionView(View):
    """A decision; the decision of a case with the largest `n` is in force."""

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
    decided_at: Timestamp

    model_config = ConfigDict(from_attributes=True) | example(DECISION_EXAMPLE)


class CaseSummaryView(View):
    """A case without its item; `lease` names the holder of a claimed case."""

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

    model_config = example(SUMMARY_EXAMPLE)


class ConcernedView(View):
    """A case that a notice or an appeal is about, and its decisions, oldest first."""

    case_id: str
    case_type: str
    item_id: str
    version: int | None
    state: str
    item: Annotated[events.Item, Embedded()]
    trace: Annotated[events.Trace, Embedded()]
    notice: Annotated[events.Notice, Embedded()] | None
    decisions: list[DecisionView]


class DecidedCaseView(View):
    """A decided case of a subject, and its decisions, oldest first; `due_at` is the time when its decision was due."""

    case_id: str
    case_type: str
    item_id: str
    version: int | None
    queue: str
    due_at: str
    decisions: list[DecisionView]


class CaseView(CaseSummaryView):
    """A case, its item, the reason for its verdict (`trace`), and its decisions, oldest first.

    The case of a notice has `notice`, the case of an appeal has `appeal`. `concerns`: the cases that the notice or
    appeal is about, nearest first: the appealed case, then the newest version of the reported subject.
    """

    superseded_by: str | None
    item: Annotated[events.Item, Embedded()]
    trace: Annotated[events.Trace, Embedded()]
    decisions: list[DecisionView]
    notice: Annotated[events.Notice, Embedded()] | None
    appeal: Annotated[events.Appeal, Embedded()] | None
    concerns: list[ConcernedView]

    model_config = example({**CLAIMED_EXAMPLE, "state": "decided", "lease": None, "decisions": [DECISION_EXAMPLE]})


def decided_view(decided: CaseWithDecisions) -> DecidedCaseView:
    """A decided case without its item."""
    return DecidedCaseView.model_validate({**_fields(decided.case), "decisions": decided.decisions})


def summary_view(case: Case) -> CaseSummaryView:
    """A case without its item."""
    return CaseSummaryView.model_validate(_fields(case))


def case_view(case: Case, decisions: Sequence[Decision], concerned: Sequence[CaseWithDecisions]) -> CaseView:
    """A case with its decisions and the cases that it concerns."""
    concerns = [{**_fields(about.case), "decisions": about.decisions} for about in concerned]
    return CaseView.model_validate({**_fields(case), "decisions": decisions, "concerns": concerns})


def _fields(case: Case) -> dict[str, Any]:
    holder = {"reviewer": case.reviewer, "team": case.team, "until": case.lease_until}
    return {
        **asdict(case.opened),
        "state": case.state,
        "superseded_by": case.superseded_by,
        "lease": holder if case.state == CLAIMED else None,
    }
