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
DECISION_RECOVERED: Final = "piepowder.decision.recovered.v1"


class _LeaseEvent(Struct, frozen=True, kw_only=True):
    case_id: str
    case_type: str = "item"
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int


class CaseClaimed(_LeaseEvent, frozen=True, kw_only=True):
    """A reviewer leased the case until `lease_until`, with the fencing token `lease_token`."""

    lease_until: str


class CaseReleased(_LeaseEvent, frozen=True, kw_only=True):
    """The reviewer released the case without a decision."""

    reason: str = ""


class CaseExpired(_LeaseEvent, frozen=True, kw_only=True):
    """The lease expired without a decision: the case is in its queue again, and the token is no longer valid."""


class CaseSuperseded(Struct, frozen=True, kw_only=True):
    """A newer version of the subject replaced the case before its decision."""

    case_id: str
    item_id: str
    superseded_by: str


class CaseClosed(Struct, frozen=True, kw_only=True):
    """The case ended without a decision. `reason` is `withdrawn` (the client withdrew the item); for an appeal
    `replaced` (the contested decision is no longer in force) or `duplicate` (another appeal against it is open)."""

    case_id: str
    case_type: str = "item"
    item_id: str
    reason: str


class DecisionMade(Struct, frozen=True, kw_only=True):
    """The decision of a region's case, in force until a later decision replaces it.

    `action` is `approve` or `reject` for an item; the same for a notice (the content stays, or is restricted); `uphold`
    or `overturn` for an appeal. `item_id` is as in `CaseOpened`.
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
    """A new decision of a case, in force instead of decision `replaces`.

    `why` is `appeal`: this reviewer decided `overturn` on appeal `appeal_id` in case `appeal_case_id`. `lease_token`
    is 0, because the reviewer leased the appeal's case, not this one.
    """

    replaces: str
    why: str
    appeal_id: str = ""
    appeal_case_id: str = ""


class DecisionRecovered(Struct, frozen=True, kw_only=True):
    """The region recovered from a restore of the database of its cases, for the `incarnation`-th time.

    Every lease token from now on is `first_token` or larger. A lower token that no event has was returned in a response
    only, and is lost. The event is about no case; its subject is `decision:service:<region>`.
    """

    incarnation: int
    first_token: int
