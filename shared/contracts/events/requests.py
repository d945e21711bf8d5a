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
    """A proposed policy set: `PolicySetPublished` without id and number."""

    terms: dict[str, list[str]] = {}
    policies: list[Policy]
    default_verdict: str


class ProposedRegions(Struct, frozen=True, kw_only=True):
    """Proposed new versions of some regions of the operating model, each complete; other regions do not change."""

    regions: list[Region]


class ProposedChange(Struct, frozen=True, kw_only=True):
    """The configuration change that a business request proposes."""

    policy_set: ProposedPolicySet | None = None
    operating_model_diff: ProposedRegions | None = None


class BusinessRequest(Struct, frozen=True, kw_only=True):
    """Content of a business request. `expected_date` is an ISO 8601 date, `change_hash` the SHA-256 of the attached
    change; both may be empty."""

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
    """A business request was drafted. `version` counts the events of a request, from 1."""

    request_id: str
    version: int
    by: str
    request: BusinessRequest


class RequestChanged(Struct, frozen=True, kw_only=True):
    """The draft was changed; `request` is None for a region that it no longer concerns."""

    request_id: str
    version: int
    by: str
    regions: list[str]
    request: BusinessRequest | None = None


class RequestCommented(Struct, frozen=True, kw_only=True):
    """A comment on a request."""

    request_id: str
    version: int
    by: str
    comment_id: str
    text: str


class RequestSubmitted(Struct, frozen=True, kw_only=True):
    """A request was submitted for approval; its content is final. It needs approvals by `approvals_needed` people."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approvals_needed: int
    request: BusinessRequest
    change: ProposedChange | None = None


class RequestEndorsed(Struct, frozen=True, kw_only=True):
    """A person approved a request that still needs more approvals."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approvals: int
    approvals_needed: int


class RequestApproved(Struct, frozen=True, kw_only=True):
    """A request got its last required approval; `approved_by` lists all approvers in order."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approved_by: list[str]


class RequestRejected(Struct, frozen=True, kw_only=True):
    """A request was rejected."""

    request_id: str
    version: int
    by: str
    reason: str


class RequestWithdrawn(Struct, frozen=True, kw_only=True):
    """The requesters withdrew their request."""

    request_id: str
    version: int
    by: str
    reason: str = ""


class RequestDeployed(Struct, frozen=True, kw_only=True):
    """The change of an approved request is in force."""

    request_id: str
    version: int
    by: str
    reason: str = ""


class RequestRolledBack(Struct, frozen=True, kw_only=True):
    """The deployed change is no longer in force."""

    request_id: str
    version: int
    by: str
    reason: str


class RequestReviewed(Struct, frozen=True, kw_only=True):
    """The deployed change was reviewed after some time, and stays in force; `reason` has the result."""

    request_id: str
    version: int
    by: str
    reason: str = ""
