"""Events on `piepowder.decisions.<region>`: decisions, and the lifecycle of a case in its queue."""

from typing import Final

from shared.contracts.events.base import Struct

CASE_CLAIMED: Final = "piepowder.case.claimed.v1"
CASE_RELEASED: Final = "piepowder.case.released.v1"
CASE_EXPIRED: Final = "piepowder.case.expired.v1"
CASE_SUPERSEDED: Final = "piepowder.case.superseded.v1"
CASE_CLOSED: Final = "piepowder.case.closed.v1"
DECISION_MADE: Final = "piepowder.decision.made.v1"
DECISION_REPLACED: Final = "piepowder.decision.replaced.v1"


class CaseClaimed(Struct, frozen=True, kw_only=True):
    """A reviewer holds the case until `lease_until`, under fencing token `lease_token`."""

    case_id: str
    case_type: str = "item"
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int
    lease_until: str


class CaseReleased(Struct, frozen=True, kw_only=True):
    """The reviewer gave the case back undecided."""

    case_id: str
    case_type: str = "item"
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int
    reason: str = ""


class CaseExpired(Struct, frozen=True, kw_only=True):
    """The lease ran out undecided; the case is in its queue again and the token no longer decides."""

    case_id: str
    case_type: str = "item"
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int


class CaseSuperseded(Struct, frozen=True, kw_only=True):
    """A newer version of the subject took the case's place before it was decided."""

    case_id: str
    item_id: str
    superseded_by: str


class CaseClosed(Struct, frozen=True, kw_only=True):
    """The case ended without a decision. `reason` is `withdrawn` (the upstream took its item back), or of an appeal
    `replaced` (the decision is not in force any more) or `duplicate` (another appeal about it is open)."""

    case_id: str
    case_type: str = "item"
    item_id: str
    reason: str


class DecisionMade(Struct, frozen=True, kw_only=True):
    """What is so for a case in a region, until a later decision replaces it.

    `action` is `approve` or `reject` for an item; for a notice too: the content stays, or is restricted; `uphold` or
    `overturn` for an appeal. `item_id` is what the case is about, as in `CaseOpened`.
    """

    decision_id: str
    case_id: str
    case_type: str = "item"
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None
    queue: str
    n: int
    action: str
    reasons: list[str] = []
    policy_set: str
    automated: bool
    reviewer: str = ""
    team: str = ""
    lease_token: int = 0
    note: str = ""
    received_at: str
    due_at: str


class DecisionReplaced(DecisionMade, frozen=True, kw_only=True):
    """Another decision of a case took the place of `replaces`, and is in force now.

    `why` is `appeal`: `appeal_id` was decided `overturn`, by this reviewer, in case `appeal_case_id`. `lease_token`
    is 0, because it was not this case that was held.
    """

    replaces: str
    why: str
    appeal_id: str = ""
    appeal_case_id: str = ""
