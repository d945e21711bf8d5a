"""The REST views of items."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from services.intake.items.domain.status import (
    Status,
    StatusFacts,
    conflict,
    dead_letter_of,
    reference,
    status,
    submitted_to,
    updated_at,
    withdrawn_since,
)
from services.intake.items.domain.status import subject as subject_of
from services.intake.items.handlers import PreparedItem
from services.intake.items.withdrawals import PreparedWithdrawal
from services.intake.publishing.regions import Publishable
from shared.auth.principal import Principal
from shared.http.models import View, example

ITEM_ID: Final = "9f6f2d1c-6f0b-5c8e-9a37-0f5d2b7c1e44"
_RECEIPT: Final[dict[str, Any]] = {
    "item_id": ITEM_ID,
    "subject": "shop:product:B000051ZOA",
    "regions": {"eu": {"event_id": "1d1a4a52-0b8e-5b0a-8c55-3f1f4e0e9a10"}},
    "status_url": f"/v1/items/{ITEM_ID}",
}
_ITEM: Final[dict[str, Any]] = json.loads("""{
    "item_id": "9f6f2d1c-6f0b-5c8e-9a37-0f5d2b7c1e44", "subject": "shop:product:B000051ZOA", "version": 1,
    "reference": "import-2026-05-01", "received_at": "2026-05-01T09:30:00.000Z",
    "regions": {"eu": {"status": "in_review", "updated_at": "2026-05-01T09:30:00.120Z", "queue": "electronics",
        "due_at": "2026-05-01T13:30:00.000Z", "verdict": "review", "case_id": "c41a9f7e-1d0d-5d8a-b2d4-77f2a9a0c001"}}
}""")
PROJECTION: Final = {"lag_seconds": 0.4}


class RegionReceiptView(View):
    """The event that a region's topic acknowledged."""

    event_id: str


class WithdrawalReceiptView(View):
    """The response to a withdrawal; a repetition gets the same."""

    item_id: str
    subject: str
    regions: dict[str, RegionReceiptView]
    status_url: str

    model_config = example(_RECEIPT)


class ItemDecisionView(View):
    """The decision in force."""

    decision_id: str
    action: str
    reasons: list[str]
    automated: bool
    policy_set: str
    decided_at: str
    reviewer: str = ""
    team: str = ""


class ItemRegionView(View):
    """The status of an item in a region. `reason` explains a dead letter, its discard, a withdrawal or a supersession.

    `withdrawn_at` is the time of a withdrawal. The status is `withdrawn` when no case is open any more, unless the item
    was decided or superseded before.
    """

    status: Status
    updated_at: str
    queue: str = ""
    due_at: str = ""
    verdict: str = ""
    case_id: str = ""
    decision: ItemDecisionView | None = None
    reason: str = ""
    withdrawn_at: str = ""


class ProjectionView(View):
    """The maximum age of the response in seconds; null while a partition of one of its regions was never consumed."""

    lag_seconds: float | None


class ItemView(View):
    """An item and its status by region, in the regions of the key.

    Only the client that submitted the item sees `reference`. `awaited`: regions that it was submitted to, and whose
    submission is not known yet. `conflict`: the same version was submitted with other content, in one or in several of
    these regions; in each region, the first content applies.
    """

    item_id: str
    subject: str | None
    version: int | None
    reference: str = ""
    received_at: str | None
    regions: dict[str, ItemRegionView]
    awaited: list[str] = Field(default_factory=list)
    conflict: bool = False


class ItemStatusView(ItemView):
    """An item's status by region, and the maximum age of this response."""

    projection: ProjectionView

    model_config = example(_ITEM | {"projection": PROJECTION})


class ItemReceiptView(View):
    """The response to an accepted item; a repetition gets the same.

    An older version, and a used version number with other content, are accepted too, but they change nothing in a
    region that already has the newer version or the first content; `status_url` shows this. `conflict`: other content
    was accepted under this version before; without it, other content may still be found later (`status_url`). `status`
    is the response of `status_url`, for a client that preferred to wait for a decision.
    """

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: dict[str, RegionReceiptView]
    status_url: str
    status: ItemStatusView | SkipJsonSchema[None] = None
    conflict: bool = False

    model_config = example(_RECEIPT | {"version": 1, "content_hash": "0a" * 32})


class ItemsView(View):
    """A page of items, newest first; it can have fewer items than its limit. `next` is the cursor of the next page."""

    items: list[ItemView]
    next: str | None
    projection: ProjectionView

    model_config = example({"items": [_ITEM], "next": None, "projection": PROJECTION})


class SubjectVersionsView(View):
    """A page of a subject's versions, newest first; `next` is the cursor of the next page."""

    subject: str
    versions: list[ItemView]
    next: str | None
    projection: ProjectionView

    model_config = example({"subject": _ITEM["subject"], "versions": [_ITEM], "next": None, "projection": PROJECTION})


class WaitingEntryView(View):
    """A notice, an appeal or the withdrawal of an item (`type`, `id`) that has no effect yet; `since` is its time."""

    type: Literal["notice", "appeal", "withdrawal"]
    id: str
    subject: str
    since: str


class WaitingView(View):
    """A page of what has no effect yet in a region, oldest first; `next` is the cursor of the next page."""

    waiting: list[WaitingEntryView]
    next: str | None
    projection: ProjectionView

    model_config = example(
        {
            "waiting": [
                {"type": "withdrawal", "id": ITEM_ID, "subject": _ITEM["subject"], "since": "2026-05-01T09:30:00.000Z"}
            ],
            "next": None,
            "projection": PROJECTION,
        }
    )


class ItemTotalsView(View):
    """The number of items by region and status."""

    regions: dict[str, dict[str, int]]
    projection: ProjectionView

    model_config = example(
        {"regions": {"eu": {"approved": 940, "in_review": 31, "rejected": 29}}, "projection": PROJECTION}
    )


class FastReceiptView(msgspec.Struct, frozen=True):
    """An `ItemReceiptView` as the hot path encodes it."""

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: dict[str, dict[str, str]]
    status_url: str
    status: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    conflict: bool | msgspec.UnsetType = msgspec.UNSET


def fast_receipt(item: PreparedItem, *, conflict: bool) -> FastReceiptView:
    """The receipt of an accepted item, without a status."""
    regions = {region: {"event_id": event} for region, event in zip(item.regions, item.event_ids, strict=True)}
    url = f"/v1/items/{item.item_id}"
    said = True if conflict else msgspec.UNSET
    return FastReceiptView(item.item_id, item.subject, item.version, item.content_hash, regions, url, conflict=said)


def withdrawal_receipt(withdrawal: PreparedWithdrawal) -> WithdrawalReceiptView:
    """The receipt of an accepted withdrawal."""
    return WithdrawalReceiptView(
        item_id=withdrawal.item_id,
        subject=withdrawal.subject,
        regions=region_receipts(withdrawal),
        status_url=f"/v1/items/{withdrawal.item_id}",
    )


def region_receipts(published: Publishable) -> dict[str, RegionReceiptView]:
    """The published events by region."""
    events = zip(published.regions, published.event_ids, strict=True)
    return {region: RegionReceiptView(event_id=event) for region, event in events}


def item_fields(item_id: str, facts_by_region: Mapping[str, StatusFacts], reader: Principal) -> dict[str, Any]:
    """The fields of an `ItemView` that `reader` may see."""
    seen = {region: facts for region, facts in sorted(facts_by_region.items()) if reader.may_act_in(region)}
    first = next((facts.submission for facts in seen.values() if facts.submission is not None), None)
    awaited = submitted_to(facts_by_region) - {
        region for region, facts in facts_by_region.items() if facts.submission is not None
    }
    return {
        "item_id": item_id,
        "subject": subject_of(facts_by_region) or None,
        "version": first.version if first else None,
        "reference": reference(seen.values(), reader.name),
        "received_at": first.received_at if first else None,
        "regions": {region: _region_view(facts) for region, facts in seen.items()},
        "awaited": sorted(filter(reader.may_act_in, awaited)),
        "conflict": conflict(seen.values()),
    }


def case_fields(facts: StatusFacts) -> dict[str, Any]:
    """The fields of a view that describe the case and its decision."""
    opened = {} if facts.opened is None else msgspec.structs.asdict(facts.opened)
    return {**opened, "decision": facts.decision}


def _region_view(facts: StatusFacts) -> ItemRegionView:
    view = {
        **case_fields(facts),
        "status": status(facts),
        "updated_at": updated_at(facts),
        "reason": _reason(facts),
        "withdrawn_at": facts.withdrawal.at if facts.withdrawal else "",
    }
    return ItemRegionView.model_validate(view)


def _reason(facts: StatusFacts) -> str:
    if withdrawn_since(facts):
        return facts.withdrawal.reason if facts.withdrawal else ""
    if letter := dead_letter_of(facts):
        return letter.reason
    return f"superseded by {facts.superseded.by}" if facts.superseded else ""
