"""Events on `piepowder.requests.<region>`: the lifecycle of business requests."""

from typing import Final

from shared.contracts.events.base import Struct
from shared.contracts.events.control import Policy, Region

REQUEST_DRAFTED: Final = "piepowder.request.drafted.v1"
REQUEST_CHANGED: Final = "piepowder.request.changed.v1"
REQUEST_COMMENTED: Final = "piepowder.request.commented.v1"
REQUEST_SUBMITTED: Final = "piepowder.request.submitted.v1"
REQUEST_ENDORSED: Final = "piepowder.request.endorsed.v1"
REQUEST_APPROVED: Final = "piepowder.request.approved.v1"
REQUEST_REJECTED: Final = "piepowder.request.rejected.v1"
REQUEST_WITHDRAWN: Final = "piepowder.request.withdrawn.v1"
REQUEST_DEPLOYED: Final = "piepowder.request.deployed.v1"
REQUEST_ROLLED_BACK: Final = "piepowder.request.rolledback.v1"
REQUEST_REVIEWED: Final = "piepowder.request.reviewed.v1"


class ProposedPolicySet(Struct, frozen=True, kw_only=True):
    """A policy set as somebody asks for it: `PolicySetPublished` without id and number."""

    terms: dict[str, list[str]] = {}
    policies: list[Policy]
    default_verdict: str


class ProposedRegions(Struct, frozen=True, kw_only=True):
    """How some regions of the operating model are to be, each whole; those that are not named stay as they are."""

    regions: list[Region]


class ProposedChange(Struct, frozen=True, kw_only=True):
    """What a business request asks to be put into force."""

    policy_set: ProposedPolicySet | None = None
    operating_model_diff: ProposedRegions | None = None


class BusinessRequest(Struct, frozen=True, kw_only=True):
    """What the business asks for. `expected_date` is an ISO 8601 date, `change_hash` the SHA-256 of what is attached;
    both may be empty."""

    title: str
    kind: str
    sponsor: str = ""
    regions: list[str]
    markets: list[str] = []
    expected_items_per_day: int | None = None
    expected_date: str = ""
    rationale: str = ""
    change_hash: str = ""


class RequestDrafted(Struct, frozen=True, kw_only=True):
    """Somebody began a business request. `version` counts all that happened to a request, from 1."""

    request_id: str
    version: int
    by: str
    request: BusinessRequest


class RequestChanged(Struct, frozen=True, kw_only=True):
    """The draft is now so; `request` is None in a region that it no longer concerns."""

    request_id: str
    version: int
    by: str
    regions: list[str]
    request: BusinessRequest | None = None


class RequestCommented(Struct, frozen=True, kw_only=True):
    """Somebody said something about a request."""

    request_id: str
    version: int
    by: str
    comment_id: str
    text: str


class RequestSubmitted(Struct, frozen=True, kw_only=True):
    """A request stands for decision, as it is here for good, once `approvals_needed` people approve it."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approvals_needed: int
    request: BusinessRequest
    change: ProposedChange | None = None


class RequestEndorsed(Struct, frozen=True, kw_only=True):
    """One of those who must approve a request did; more are needed, and nothing is approved yet."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approvals: int
    approvals_needed: int


class RequestApproved(Struct, frozen=True, kw_only=True):
    """The last approval that a request needed; `approved_by` are all who gave one, in their order."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approved_by: list[str]


class RequestRejected(Struct, frozen=True, kw_only=True):
    """A request is refused, and why."""

    request_id: str
    version: int
    by: str
    reason: str


class RequestWithdrawn(Struct, frozen=True, kw_only=True):
    """Those who asked took their request back."""

    request_id: str
    version: int
    by: str
    reason: str = ""


class RequestDeployed(Struct, frozen=True, kw_only=True):
    """What an approved request asked for is in force."""

    request_id: str
    version: int
    by: str
    reason: str = ""


class RequestRolledBack(Struct, frozen=True, kw_only=True):
    """What was deployed is no longer in force, and why."""

    request_id: str
    version: int
    by: str
    reason: str


class RequestReviewed(Struct, frozen=True, kw_only=True):
    """What was deployed stayed, and was looked back on; `reason` says what was found."""

    request_id: str
    version: int
    by: str
    reason: str = ""
