"""The REST views of notices and appeals."""

from typing import Any, Final

from services.intake.items.domain import status
from services.intake.items.views import (
    ItemDecisionView,
    ProjectionView,
    RegionReceiptView,
    case_fields,
    region_receipts,
)
from services.intake.notices.domain import complaint_status
from services.intake.notices.domain.complaint_status import NOTICE, ComplaintFacts, ComplaintStatus
from services.intake.notices.handlers import PreparedComplaint
from shared.auth.principal import Principal
from shared.http.models import View, example

NOTICE_ID: Final = "7e4bc627-fa72-5a5e-917f-7b7efa0040ba"
APPEAL_ID: Final = "149a4e65-0624-56fd-8deb-b5911137fb97"
_DECISION_ID: Final = "4ce3ba22-5975-5b0e-8896-1de27b443c88"
_RECEIPT: Final[dict[str, Any]] = {
    "subject": "shop:product:B000051ZOA",
    "content_hash": "0a" * 32,
    "regions": {"eu": {"event_id": "a4703444-568b-5a60-8883-6558f47e9fde"}},
}


class NoticeReceiptView(View):
    """The response to an accepted notice; a repetition gets the same. `conflict`: other content was accepted under this
    reference before."""

    notice_id: str
    subject: str
    content_hash: str
    regions: dict[str, RegionReceiptView]
    status_url: str
    conflict: bool = False

    model_config = example(_RECEIPT | {"notice_id": NOTICE_ID, "status_url": f"/v1/notices/{NOTICE_ID}"})


class AppealReceiptView(View):
    """The response to an accepted appeal against `decision_id`; a repetition gets the same. `conflict`: another appeal
    was accepted under this reference just before."""

    appeal_id: str
    subject: str
    decision_id: str
    content_hash: str
    regions: dict[str, RegionReceiptView]
    status_url: str
    conflict: bool = False

    model_config = example(
        _RECEIPT | {"appeal_id": APPEAL_ID, "decision_id": _DECISION_ID, "status_url": f"/v1/appeals/{APPEAL_ID}"}
    )


class ComplaintRegionView(View):
    """The status of a notice or an appeal in a region. `reason` explains a dead letter or a closure without
    decision."""

    status: ComplaintStatus
    updated_at: str
    queue: str = ""
    due_at: str = ""
    case_id: str = ""
    decision: ItemDecisionView | None = None
    reason: str = ""


class NoticeView(View):
    """A notice's status by region, for the client that submitted it.

    `conflict`: it was submitted again with other content, in one or in several of these regions; in each region,
    the first content applies.
    """

    notice_id: str
    subject: str | None
    reference: str | None
    received_at: str | None
    regions: dict[str, ComplaintRegionView]
    projection: ProjectionView
    conflict: bool = False

    model_config = example("""{
        "notice_id": "7e4bc627-fa72-5a5e-917f-7b7efa0040ba", "subject": "shop:product:B000051ZOA",
        "reference": "report-4711", "received_at": "2026-05-01T09:30:00.000Z",
        "regions": {"eu": {"status": "in_review", "updated_at": "2026-05-01T09:30:00.120Z", "queue": "notices",
            "due_at": "2026-05-01T21:30:00.000Z", "case_id": "174614d6-7cdd-5787-b3e1-a5d91978d3a6"}},
        "projection": {"lag_seconds": 0.4}
    }""")


class AppealView(View):
    """An appeal's status in its region, for the client that submitted it.

    It contests a decision on an item or a notice. `conflict`: it was submitted again with other content; the first
    content applies.
    """

    appeal_id: str
    subject: str | None
    reference: str | None
    received_at: str | None
    decision_id: str | None
    regions: dict[str, ComplaintRegionView]
    projection: ProjectionView
    item_id: str = ""
    notice_id: str = ""
    conflict: bool = False

    model_config = example("""{
        "appeal_id": "149a4e65-0624-56fd-8deb-b5911137fb97", "subject": "shop:product:B000051ZOA",
        "reference": "complaint-12", "received_at": "2026-05-01T09:30:00.000Z",
        "decision_id": "4ce3ba22-5975-5b0e-8896-1de27b443c88", "item_id": "9a034698-7026-5c72-8b10-096759598c7f",
        "regions": {"eu": {"status": "decided", "updated_at": "2026-05-02T08:00:00.000Z", "queue": "appeals",
            "due_at": "2026-05-03T09:30:00.000Z", "case_id": "8b09c641-313f-5083-874a-814b7e5c2350",
            "decision": {"decision_id": "1b1d5a0e-7a3c-5d0e-9c47-2f6f5d4d7a10", "action": "overturn", "reasons": [],
                "automated": false, "policy_set": "ps-3-5f4e3d2c1b0a", "decided_at": "2026-05-02T08:00:00.000Z",
                "reviewer": "r-2", "team": "in_house"}}},
        "projection": {"lag_seconds": 0.4}
    }""")


def notice_receipt(notice: PreparedComplaint) -> NoticeReceiptView:
    """The receipt of an accepted notice."""
    return NoticeReceiptView(notice_id=notice.id, status_url=f"/v1/notices/{notice.id}", **_receipt_fields(notice))


def appeal_receipt(appeal: PreparedComplaint) -> AppealReceiptView:
    """The receipt of an accepted appeal."""
    return AppealReceiptView(
        appeal_id=appeal.id,
        decision_id=appeal.decision_id,
        status_url=f"/v1/appeals/{appeal.id}",
        **_receipt_fields(appeal),
    )


def notice_view(
    notice_id: str, facts_by_region: dict[str, ComplaintFacts], projection: ProjectionView, reader: Principal
) -> NoticeView:
    """A notice as `reader` sees it, from its facts by region."""
    return NoticeView(notice_id=notice_id, projection=projection, **_complaint_fields(facts_by_region, reader))


def appeal_view(
    appeal_id: str, facts_by_region: dict[str, ComplaintFacts], projection: ProjectionView, reader: Principal
) -> AppealView:
    """An appeal as `reader` sees it, from its facts by region."""
    contested = next((facts.contested for facts in facts_by_region.values() if facts.contested is not None), None)
    about = "" if contested is None else contested.item_id
    is_notice = contested is not None and contested.case_type == NOTICE
    return AppealView(
        appeal_id=appeal_id,
        decision_id=None if contested is None else contested.decision_id,
        projection=projection,
        item_id="" if is_notice else about,
        notice_id=about if is_notice else "",
        **_complaint_fields(facts_by_region, reader),
    )


def _receipt_fields(complaint: PreparedComplaint) -> dict[str, Any]:
    return {
        "subject": complaint.subject,
        "content_hash": complaint.content_hash,
        "regions": region_receipts(complaint),
        "conflict": complaint.conflict,
    }


def _complaint_fields(facts_by_region: dict[str, ComplaintFacts], reader: Principal) -> dict[str, Any]:
    cases = [facts.case for facts in facts_by_region.values()]
    return {
        "subject": max(case.subject for case in cases) or None,
        "reference": status.reference(cases, reader.name) or None,
        "received_at": next((case.submission.received_at for case in cases if case.submission is not None), None),
        "regions": {region: _region_view(facts) for region, facts in facts_by_region.items()},
        "conflict": status.conflict(cases),
    }


def _region_view(facts: ComplaintFacts) -> ComplaintRegionView:
    letter = status.dead_letter_of(facts.case)
    closed = facts.closed.reason if facts.closed else ""
    view = {
        **case_fields(facts.case),
        "status": complaint_status.status_of(facts),
        "updated_at": complaint_status.status_since(facts),
        "reason": "" if facts.case.decision is not None else closed or (letter.reason if letter else ""),
    }
    return ComplaintRegionView.model_validate(view)
