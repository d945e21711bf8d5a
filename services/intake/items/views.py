"""What intake answers about items, as types: the OpenAPI document reads them, and they are what is sent."""

from collections.abc import Mapping

import msgspec

from services.intake.items.domain.status import (
    DecisionFact,
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
from shared.auth.principal import Principal


class RegionReceipt(msgspec.Struct, frozen=True):
    """The event that a region's topic acknowledged."""

    event_id: str


class WithdrawalReceipt(msgspec.Struct, frozen=True):
    """The answer to an item that was taken back; the same again gets the same."""

    item_id: str
    subject: str
    regions: dict[str, RegionReceipt]
    status_url: str


class DecisionAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The decision in force."""

    decision_id: str
    action: str
    reasons: list[str]
    automated: bool
    policy_set: str
    decided_at: str
    reviewer: str = ""
    team: str = ""


class ItemInRegion(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an item is in a region; `reason` says why it was set aside or withdrawn, or what superseded it.

    `withdrawn_at` is when it was taken back; the status is `withdrawn` once no case of it is open any more, unless it
    was decided or superseded before.
    """

    status: Status
    updated_at: str
    queue: str = ""
    due_at: str = ""
    verdict: str = ""
    case_id: str = ""
    decision: DecisionAnswer | None = None
    reason: str = ""
    withdrawn_at: str = ""


class ProjectionAnswer(msgspec.Struct, frozen=True):
    """How far the answer may be behind the topics, in seconds; null while a partition of one of its regions is not
    followed yet."""

    lag_seconds: float | None


class ItemView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item and its status by region, in the regions of the key.

    `reference` is told to the client that gave it. `awaited` are regions that it was posted to and that are not known
    to have it yet. `conflict`: the version was posted again with other content, in one of these regions or in another
    of them; in each the first that came there stands.
    """

    item_id: str
    subject: str | None
    version: int | None
    reference: str = ""
    received_at: str | None
    regions: dict[str, ItemInRegion]
    awaited: list[str] = []
    conflict: bool = False


class ItemAnswer(ItemView, frozen=True, kw_only=True, omit_defaults=True):
    """An item's status by region, and how old this answer may be."""

    projection: ProjectionAnswer


class Receipt(msgspec.Struct, frozen=True):
    """The answer to an accepted item; the same post again gets the same.

    So do a version that is older than one before it and a number that was used for other content: neither changes
    anything in the regions where the other came first, and what stands at `status_url` says so. `status` is that, for a
    client that would wait for a decision.
    """

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: dict[str, RegionReceipt]
    status_url: str
    status: ItemAnswer | msgspec.UnsetType = msgspec.UNSET


class ItemsAnswer(msgspec.Struct, frozen=True):
    """A page of items, newest first; it may hold less than could be. `next` is the cursor of the page that follows."""

    items: list[ItemView]
    next: str | None
    projection: ProjectionAnswer


class SubjectAnswer(msgspec.Struct, frozen=True):
    """A page of a subject's versions, the last received first; `next` is the cursor of the page that follows."""

    subject: str
    versions: list[ItemView]
    next: str | None
    projection: ProjectionAnswer


class TotalsAnswer(msgspec.Struct, frozen=True):
    """How many items are where, by region and status."""

    regions: dict[str, dict[str, int]]
    projection: ProjectionAnswer


def receipt(accepted: PreparedItem, known: ItemAnswer | None = None) -> Receipt:
    """An accepted item as its client is told; with what is known of it by now."""
    return Receipt(
        accepted.item_id,
        accepted.subject,
        accepted.version,
        accepted.content_hash,
        _events(accepted),
        f"/v1/items/{accepted.item_id}",
        msgspec.UNSET if known is None else known,
    )


def withdrawal_receipt(withdrawal: PreparedWithdrawal) -> WithdrawalReceipt:
    """A withdrawal as its client is told."""
    url = f"/v1/items/{withdrawal.item_id}"
    return WithdrawalReceipt(withdrawal.item_id, withdrawal.subject, _events(withdrawal), url)


def _events(done: PreparedItem | PreparedWithdrawal) -> dict[str, RegionReceipt]:
    return {region: RegionReceipt(event) for region, event in zip(done.regions, done.event_ids, strict=True)}


def item_view(item_id: str, known: Mapping[str, StatusFacts], reader: Principal) -> ItemView:
    """What a client may see of what is known of an item."""
    seen = {region: facts for region, facts in sorted(known.items()) if reader.may_act_in(region)}
    first = next((facts.submission for facts in seen.values() if facts.submission is not None), None)
    awaited = submitted_to(known) - {region for region, facts in known.items() if facts.submission is not None}
    return ItemView(
        item_id=item_id,
        subject=subject_of(known) or None,
        version=first.version if first else None,
        reference=reference(seen.values(), reader.name),
        received_at=first.received_at if first else None,
        regions={region: _region_status(facts) for region, facts in seen.items()},
        awaited=sorted(filter(reader.may_act_in, awaited)),
        conflict=conflict(seen.values()),
    )


def item_answer(view: ItemView, projection: ProjectionAnswer) -> ItemAnswer:
    """An item, and how old that may be."""
    return ItemAnswer(**{name: getattr(view, name) for name in view.__struct_fields__}, projection=projection)


def _region_status(facts: StatusFacts) -> ItemInRegion:
    opened, decision, withdrawal = facts.opened, facts.decision, facts.withdrawal
    return ItemInRegion(
        status(facts),
        updated_at(facts),
        opened.queue if opened else "",
        opened.due_at if opened else "",
        opened.verdict if opened else "",
        opened.case_id if opened else "",
        None if decision is None else decision_answer(decision),
        _why(facts),
        withdrawal.at if withdrawal else "",
    )


def _why(facts: StatusFacts) -> str:
    if withdrawn_since(facts):
        return facts.withdrawal.reason if facts.withdrawal else ""
    if letter := dead_letter_of(facts):
        return letter.reason
    return f"superseded by {facts.superseded.by}" if facts.superseded else ""


def decision_answer(decision: DecisionFact) -> DecisionAnswer:
    """A decision as it is shown."""
    return DecisionAnswer(
        decision.decision_id,
        decision.action,
        decision.reasons,
        decision.automated,
        decision.policy_set,
        decision.decided_at,
        decision.reviewer,
        decision.team,
    )
