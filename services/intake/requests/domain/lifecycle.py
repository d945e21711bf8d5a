"""The state machine of business requests: each function maps a request and a command to a new state, or rejects it.

    draft ──submit──► submitted ──approve──► approved ──deploy──► deployed ──review──► reviewed
                          └──reject──► rejected                      └──rollback──► rolled_back
    draft, submitted, approved ──withdraw──► withdrawn

`deploy` and `rollback` are rejected in every state (ADR 45): nothing puts a change into force or takes it back yet, and
a state must not claim it. An approved request stays approved. Only requests of an earlier version are deployed, rolled
back or reviewed.

Only a draft can be changed. Authors and the sponsor of a request may not decide it, and only they may withdraw it. Each
accepted step increments the version and produces one event in each region of the request. The event's id derives from
the request, the kind of event and the version, so that consumers recognise a repeated event. In a region, each event
has the previous one as its cause. The same command by the same person again is accepted and changes nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event, subject_of
from shared.contracts.events import BusinessRequest, ProposedChange, Struct
from shared.validation.faults import INVALID_REQUEST, InputRejected, RejectionType

SOURCE: Final = "piepowder/intake"

DRAFT: Final = "draft"
SUBMITTED: Final = "submitted"
APPROVED: Final = "approved"
REJECTED: Final = "rejected"
WITHDRAWN: Final = "withdrawn"
DEPLOYED: Final = "deployed"
ROLLED_BACK: Final = "rolled_back"
REVIEWED: Final = "reviewed"
STATES: Final = (DRAFT, SUBMITTED, APPROVED, REJECTED, WITHDRAWN, DEPLOYED, ROLLED_BACK, REVIEWED)

SUBMIT: Final = "submit"
WITHDRAW: Final = "withdraw"
APPROVE: Final = "approve"
REJECT: Final = "reject"
DEPLOY: Final = "deploy"
ROLLBACK: Final = "rollback"
REVIEW: Final = "review"

DRAFTED: Final = "drafted"
CHANGED: Final = "changed"
COMMENTED: Final = "commented"
ENDORSED: Final = "endorsed"

UNCHECKED: Final = "unchecked"
FITS: Final = "fits"
NOTHING: Final = "nothing"

MAX_STEPS: Final = 500

OWN_REQUEST: Final = RejectionType(
    "own-request", 403, "Authors and sponsors may not decide their request", "Another person must decide."
)
NOT_OWN_REQUEST: Final = RejectionType(
    "not-own-request", 403, "Only authors and sponsors may withdraw a request", "Reject it instead."
)
TOO_MANY_STEPS: Final = RejectionType(
    "too-many-steps", 409, "The request has too many steps", "It can now only be decided or withdrawn"
)
BY_HAND: Final = RejectionType(
    "change-by-hand",
    409,
    "The change must be published by hand",
    "This call cannot put the change of the request into force; nothing was changed, and the request stays approved."
    " Publish the change at the router (POST /v1/control), verify it (GET /v1/control), and add a comment to the"
    " request.",
)
WRONG_STATE: Final = RejectionType(
    "wrong-state", 409, "The request's state does not allow it", "The request is draft, not submitted"
)


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base class of stored structs."""


class ProposedDifference(_Stored, frozen=True, kw_only=True):
    """A part of the operating model or policy set (`what`, for example `policies/weapons`) that the change would
    alter."""

    what: str
    how: str


class ChangeCheck(_Stored, frozen=True, kw_only=True):
    """The router's check of the attached change: `verdict` is `fits`, `unchecked` (for `reason`), or `nothing` without
    a change.

    `operating_model` and `policy_set` are the ids of the compared versions, empty if none was in force.
    `differences` has the first of `differing` differences.
    """

    verdict: str = NOTHING
    checked_at: str = ""
    reason: str = ""
    operating_model: str = ""
    policy_set: str = ""
    differing: int = 0
    differences: list[ProposedDifference] = []


class Mark(_Stored, frozen=True, kw_only=True):
    """The person, time and reason of an action."""

    by: str
    at: str
    reason: str = ""


class PublishedEvents(_Stored, frozen=True, kw_only=True):
    """The ids of the first and the last event of a request in a region."""

    first: str
    last: str


class RequestStep(_Stored, frozen=True, kw_only=True):
    """A step in the history of a request.

    `kind` is the new state, or `drafted`, `changed`, `commented`, `endorsed`.
    """

    version: int
    kind: str
    at: str
    by: str
    text: str = ""
    comment_id: str = ""


class Request(_Stored, frozen=True, kw_only=True):
    """A business request.

    `authors` wrote it. `done` has the last action by command, `published` the published events by region.
    """

    request_id: str
    version: int
    state: str
    content: BusinessRequest
    check: ChangeCheck
    drafted: Mark
    updated_at: str
    authors: list[str]
    approvals_needed: int
    approvals: list[Mark] = []
    done: dict[str, Mark] = {}
    published: dict[str, PublishedEvents] = msgspec.field(name="told", default_factory=dict)  # stored under this name

    @property
    def subject(self) -> str:
        """Its subject on every topic and in the audit log."""
        return subject_of("piepowder", "request", self.request_id)


class RequestTransition(NamedTuple):
    """The changed request, the step in its history, and one event for each region."""

    request: Request
    step: RequestStep
    events: Sequence[Event[Any]]


class Rule(NamedTuple):
    """A row of the transition table: the start states of a command, its end state and its event."""

    start: Collection[str]
    end: str
    event_type: str
    event: Callable[..., Struct]
    needs_reason: bool = False


RULES: Final[Mapping[str, Rule]] = {
    SUBMIT: Rule([DRAFT], SUBMITTED, events.REQUEST_SUBMITTED, events.RequestSubmitted),
    WITHDRAW: Rule([DRAFT, SUBMITTED, APPROVED], WITHDRAWN, events.REQUEST_WITHDRAWN, events.RequestWithdrawn),
    APPROVE: Rule([SUBMITTED], APPROVED, events.REQUEST_APPROVED, events.RequestApproved),
    REJECT: Rule([SUBMITTED], REJECTED, events.REQUEST_REJECTED, events.RequestRejected, needs_reason=True),
    DEPLOY: Rule([APPROVED], DEPLOYED, events.REQUEST_DEPLOYED, events.RequestDeployed),
    ROLLBACK: Rule([DEPLOYED], ROLLED_BACK, events.REQUEST_ROLLED_BACK, events.RequestRolledBack, needs_reason=True),
    REVIEW: Rule([DEPLOYED], REVIEWED, events.REQUEST_REVIEWED, events.RequestReviewed),
}
_BY_HAND: Final[Mapping[str, str]] = {
    DEPLOY: BY_HAND.example,
    ROLLBACK: "This call cannot take the change of the request back; nothing was changed, and the request stays"
    " deployed. Publish the previous rules at the router (POST /v1/control), verify them (GET /v1/control), and add a"
    " comment to the request.",
}
"""The commands without an effect, with the steps that a person makes instead."""


def draft(
    request_id: str, content: BusinessRequest, check: ChangeCheck, *, by: str, at: str, approvals_needed: int
) -> RequestTransition:
    """Create a request."""
    request = Request(
        request_id=request_id,
        version=0,
        state=DRAFT,
        content=content,
        check=check,
        drafted=Mark(by=by, at=at),
        updated_at=at,
        authors=[by],
        approvals_needed=approvals_needed,
    )
    event = _EventContent(DRAFTED, events.REQUEST_DRAFTED, events.RequestDrafted, {"request": content})
    return _record(request, event, _mark(request, by, at))


def change(
    request: Request, content: BusinessRequest, check: ChangeCheck, *, by: str, at: str
) -> RequestTransition | None:
    """Change a draft; None when the content is the same. Raises InputRejected."""
    require_draft(request)
    if content == request.content and check.verdict == request.check.verdict:
        return None
    _require_room(request)
    changed = msgspec.structs.replace(
        request, content=content, check=check, authors=list(dict.fromkeys([*request.authors, by]))
    )
    fields = {"regions": content.regions, "request": content}
    left = [region for region in request.content.regions if region not in content.regions]
    event = _EventContent(CHANGED, events.REQUEST_CHANGED, events.RequestChanged, fields, left)
    return _record(changed, event, _mark(request, by, at))


def comment(request: Request, comment_id: str, text: str, *, by: str, at: str) -> RequestTransition:
    """Add a comment, in any state. Raises InputRejected at the limit of steps."""
    _require_room(request)
    fields = {"comment_id": comment_id, "text": text}
    event = _EventContent(COMMENTED, events.REQUEST_COMMENTED, events.RequestCommented, fields)
    return _record(request, event, _mark(request, by, at, text), comment_id)


def submit(
    request: Request,
    change: ProposedChange | None,
    check: ChangeCheck,
    *,
    by: str,
    reason: str,
    at: str,
    approvals_needed: int,
) -> RequestTransition | None:
    """Submit a draft with its checked change; None when it is submitted already. Raises InputRejected."""
    if is_done(request, SUBMIT, by, reason):
        return None
    require_draft(request)
    authors = list(dict.fromkeys([*request.authors, by]))
    submitted = msgspec.structs.replace(request, check=check, authors=authors, approvals_needed=approvals_needed)
    fields = {"reason": reason, "approvals_needed": approvals_needed, "request": request.content, "change": change}
    return _transition(submitted, SUBMIT, fields, _mark(request, by, at, reason))


def act(request: Request, command: str, *, by: str, reason: str, at: str) -> RequestTransition | None:
    """Execute a command other than `submit`; None if this person executed it before.

    Raises InputRejected, always for a `deploy` or a `rollback` that would be new.
    """
    rule, mark = RULES[command], _mark(request, by, at, reason)
    if rule.needs_reason and not reason:
        raise INVALID_REQUEST(f"is required for {command}", "/reason")
    if is_done(request, command, by, reason):
        return None
    _require_role(request, command, by)
    if request.state not in rule.start:
        raise _wrong_state(request, command)
    if command in _BY_HAND:
        raise BY_HAND.with_message(_BY_HAND[command])
    if command != APPROVE:
        return _transition(request, command, {"reason": reason}, mark)
    fields: dict[str, Any]
    approvals = [*request.approvals, mark]
    counted = msgspec.structs.replace(request, approvals=approvals)
    if len(approvals) >= request.approvals_needed:
        fields = {"reason": reason, "approved_by": [approval.by for approval in approvals]}
        return _transition(counted, APPROVE, fields, mark)
    fields = {"reason": reason, "approvals": len(approvals), "approvals_needed": request.approvals_needed}
    return _record(counted, _EventContent(ENDORSED, events.REQUEST_ENDORSED, events.RequestEndorsed, fields), mark)


def is_done(request: Request, command: str, by: str, reason: str) -> bool:
    """True if this person executed the command before with the same reason (an approval: with any reason)."""
    if command == APPROVE:
        return any(approval.by == by for approval in request.approvals)
    mark = request.done.get(command)
    return mark is not None and (mark.by, mark.reason) == (by, reason)


def require_draft(request: Request) -> None:
    """Require that the request is a draft; raises InputRejected."""
    if request.state != DRAFT:
        raise _wrong_state(request, SUBMIT)


class _EventContent(NamedTuple):
    """The events of a step: their type and content besides the author and time.

    Regions in `left` no longer belong to the request; their event does not contain the request.
    """

    kind: str
    event_type: str
    event: Callable[..., Struct]
    fields: Mapping[str, Any]
    left: Sequence[str] = ()


def _transition(request: Request, command: str, fields: Mapping[str, Any], mark: Mark) -> RequestTransition:
    rule = RULES[command]
    moved = msgspec.structs.replace(request, state=rule.end, done=request.done | {command: mark})
    return _record(moved, _EventContent(rule.end, rule.event_type, rule.event, fields), mark)


def _record(request: Request, event: _EventContent, mark: Mark, comment_id: str = "") -> RequestTransition:
    """Create the next version of the request, its step, and its events."""
    version, at, published = request.version + 1, mark.at, dict(request.published)
    found: list[Event[Any]] = []
    for region in [*request.content.regions, *event.left]:
        event_id = ids.event_id(request.request_id, event.event_type, f"{version}/{region}")
        before = published.get(region)
        first, last = (event_id, None) if before is None else (before.first, before.last)
        attributes = Attributes(event_id, event.event_type, SOURCE, at, request.subject, region, first, last)
        fields = dict(event.fields)
        if region in event.left:
            fields["request"] = None
        data = event.event(request_id=request.request_id, version=version, by=mark.by, **fields)
        found.append(Event(attributes, data))
        published[region] = PublishedEvents(first=first, last=event_id)
    step = RequestStep(version=version, kind=event.kind, at=at, by=mark.by, text=mark.reason, comment_id=comment_id)
    return RequestTransition(
        msgspec.structs.replace(request, version=version, updated_at=at, published=published), step, found
    )


def _mark(request: Request, by: str, at: str, reason: str = "") -> Mark:
    """The action with its time, which never decreases within a request, although the clocks of replicas differ."""
    return Mark(by=by, at=max(at, request.updated_at), reason=reason)


def _require_role(request: Request, command: str, by: str) -> None:
    own = {name.strip().casefold() for name in (*request.authors, request.content.sponsor)}
    if command in (APPROVE, REJECT) and by.casefold() in own:
        raise OWN_REQUEST(f"{by!r} wrote or sponsors this request; another person must decide it")
    if command == WITHDRAW and by.casefold() not in own:
        raise NOT_OWN_REQUEST(f"{by!r} neither wrote nor sponsors this request; reject it instead")


def _require_room(request: Request) -> None:
    if request.version >= MAX_STEPS:
        raise TOO_MANY_STEPS(f"the request has {request.version} steps; it can now only be decided or withdrawn")


def _wrong_state(request: Request, command: str) -> InputRejected:
    possible = [name for name, rule in RULES.items() if request.state in rule.start and name not in _BY_HAND]
    can = f"possible: {', '.join(possible)}" if possible else "this state is final"
    wanted = " or ".join(RULES[command].start)
    return WRONG_STATE(f"the request is {request.state}, not {wanted}; {can}")
