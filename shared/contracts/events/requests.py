"""Events on `piepowder.requests.<region>`: the lifecycle of business requests."""

from typing import Final

from shared.contracts.events.base import Struct
from shared.contracts.events.control import Policy, Region, TermOptions

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
    term_options: dict[str, TermOptions] = {}
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


class _RequestEvent(Struct, frozen=True, kw_only=True):
    request_id: str
    version: int
    by: str


class _ReasonedEvent(_RequestEvent, frozen=True, kw_only=True):
    reason: str = ""


class RequestDrafted(_RequestEvent, frozen=True, kw_only=True):
    """A business request was drafted. `version` counts the events of a request, from 1."""

    request: BusinessRequest


class RequestChanged(_RequestEvent, frozen=True, kw_only=True):
    """The draft was changed; `request` is None in a region that the request no longer concerns."""

    regions: list[str]
    request: BusinessRequest | None = None


class RequestCommented(_RequestEvent, frozen=True, kw_only=True):
    """A comment on a request."""

    comment_id: str
    text: str


class RequestSubmitted(_ReasonedEvent, frozen=True, kw_only=True):
    """A request was submitted for approval; its content is final. It needs approvals by `approvals_needed` people."""

    approvals_needed: int
    request: BusinessRequest
    change: ProposedChange | None = None


class RequestEndorsed(_ReasonedEvent, frozen=True, kw_only=True):
    """A person approved a request that still needs more approvals."""

    approvals: int
    approvals_needed: int


class RequestApproved(_ReasonedEvent, frozen=True, kw_only=True):
    """A request got its last required approval; `approved_by` lists all approvers in order."""

    approved_by: list[str]


class RequestRejected(_RequestEvent, frozen=True, kw_only=True):
    """A request was rejected."""

    reason: str


class RequestWithdrawn(_ReasonedEvent, frozen=True, kw_only=True):
    """The requesters withdrew their request."""


class RequestDeployed(_ReasonedEvent, frozen=True, kw_only=True):
    """A person stated that the change of an approved request is in force; not published at present (ADR 45)."""


class RequestRolledBack(_RequestEvent, frozen=True, kw_only=True):
    """A person stated that the deployed change is no longer in force; not published at present (ADR 45)."""

    reason: str


class RequestReviewed(_ReasonedEvent, frozen=True, kw_only=True):
    """The deployed change was reviewed after some time, and stays in force; `reason` has the result."""
