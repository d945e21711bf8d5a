"""What may become of a business request: given what is so, who asks for what, then what is so, and the events of it.

    draft ──submit──► submitted ──approve──► approved ──deploy──► deployed ──review──► reviewed
                          └──reject──► rejected                      └──rollback──► rolled_back
    draft, submitted, approved ──withdraw──► withdrawn

Only a draft changes. Whoever wrote a request, or sponsors it, does not decide it, and only they take it back. All that
is accepted counts one version on and is one event in each region that the request concerns, with an id made of the
request, what happened and the version: so a relay may tell it again, and readers know. In a region each event names the
one before it as its cause, so a request's life there is a chain. The same act by the same person again is accepted and
changes nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event, subject_of
from shared.contracts.events import BusinessRequest, ProposedChange, Struct
from shared.validation.faults import Fault, InputRejected

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


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of what is stored."""


class ProposedDifference(_Kept, frozen=True, kw_only=True):
    """`what`, such as `policies/weapons`, would be `added`, `removed`, `changed` or `reordered`."""

    what: str
    how: str


class ChangeCheck(_Kept, frozen=True, kw_only=True):
    """What the router said of the attached change: `verdict` is `fits`, `unchecked` (`reason` says why), or `nothing`
    where none is attached.

    `operating_model` and `policy_set` are the ids of what it was held against, empty where nothing was in force;
    `differences` the first of the `differing` things that it would change.
    """

    verdict: str = NOTHING
    checked_at: str = ""
    reason: str = ""
    operating_model: str = ""
    policy_set: str = ""
    differing: int = 0
    differences: list[ProposedDifference] = []


class Mark(_Kept, frozen=True, kw_only=True):
    """Who did something, when, and what they said."""

    by: str
    at: str
    reason: str = ""


class PublishedEvents(_Kept, frozen=True, kw_only=True):
    """The ids of the first and the last event that a region was told."""

    first: str
    last: str


class RequestStep(_Kept, frozen=True, kw_only=True):
    """One thing that happened to a request; `kind` is a state that it came to, or `drafted`, `changed`, `commented`,
    `endorsed`."""

    version: int
    kind: str
    at: str
    by: str
    text: str = ""
    comment_id: str = ""


class Request(_Kept, frozen=True, kw_only=True):
    """A business request as it is. `authors` wrote it, `done` says by command who brought it where it is, `told` by
    region what was told."""

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
    told: dict[str, PublishedEvents] = {}

    @property
    def subject(self) -> str:
        """Its name on every topic and in the audit log."""
        return subject_of("piepowder", "request", self.request_id)


class Transition(NamedTuple):
    """What is so after something was accepted, the step of its history, and an event for each region."""

    request: Request
    step: RequestStep
    events: Sequence[Event[Any]]


class Rule(NamedTuple):
    """A command: from which states it leads to which, and the event of it."""

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


def draft(
    request_id: str, content: BusinessRequest, check: ChangeCheck, *, by: str, at: str, approvals_needed: int
) -> Transition:
    """Begin a request."""
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
    told = _EventContent(DRAFTED, events.REQUEST_DRAFTED, events.RequestDrafted, {"request": content})
    return _record(request, told, _mark(request, by, at))


def change(request: Request, content: BusinessRequest, check: ChangeCheck, *, by: str, at: str) -> Transition | None:
    """Have the draft say this from now on; None when it says so already. Raises InputRejected."""
    require_draft(request)
    if content == request.content and check.verdict == request.check.verdict:
        return None
    _require_room(request)
    changed = msgspec.structs.replace(
        request, content=content, check=check, authors=list(dict.fromkeys([*request.authors, by]))
    )
    said = {"regions": content.regions, "request": content}
    left = [region for region in request.content.regions if region not in content.regions]
    told = _EventContent(CHANGED, events.REQUEST_CHANGED, events.RequestChanged, said, left)
    return _record(changed, told, _mark(request, by, at))


def comment(request: Request, comment_id: str, text: str, *, by: str, at: str) -> Transition:
    """Say something about a request, whatever its state. Raises InputRejected when it has become too much."""
    _require_room(request)
    said = {"comment_id": comment_id, "text": text}
    told = _EventContent(COMMENTED, events.REQUEST_COMMENTED, events.RequestCommented, said)
    return _record(request, told, _mark(request, by, at, text), comment_id)


def submit(
    request: Request,
    change: ProposedChange | None,
    check: ChangeCheck,
    *,
    by: str,
    reason: str,
    at: str,
    approvals_needed: int,
) -> Transition | None:
    """Put a draft up for decision, with its change as it was checked just now; None when that is so. Raises
    InputRejected."""
    if is_done(request, SUBMIT, by, reason):
        return None
    require_draft(request)
    authors = list(dict.fromkeys([*request.authors, by]))
    submitted = msgspec.structs.replace(request, check=check, authors=authors, approvals_needed=approvals_needed)
    said = {"reason": reason, "approvals_needed": approvals_needed, "request": request.content, "change": change}
    return _transition(submitted, SUBMIT, said, _mark(request, by, at, reason))


def act(request: Request, command: str, *, by: str, reason: str, at: str) -> Transition | None:
    """Do what a command other than `submit` says; None when the same person did so before. Raises InputRejected."""
    rule, mark = RULES[command], _mark(request, by, at, reason)
    if rule.needs_reason and not reason:
        raise InputRejected(
            422, "invalid-request", "A reason is missing", [Fault("/reason", f"say why, to {command} it")]
        )
    if is_done(request, command, by, reason):
        return None
    _require_role(request, command, by)
    if request.state not in rule.start:
        raise _wrong_state(request, command)
    if command != APPROVE:
        return _transition(request, command, {"reason": reason}, mark)
    said: dict[str, Any]
    approvals = [*request.approvals, mark]
    counted = msgspec.structs.replace(request, approvals=approvals)
    if len(approvals) >= request.approvals_needed:
        said = {"reason": reason, "approved_by": [approval.by for approval in approvals]}
        return _transition(counted, APPROVE, said, mark)
    said = {"reason": reason, "approvals": len(approvals), "approvals_needed": request.approvals_needed}
    return _record(counted, _EventContent(ENDORSED, events.REQUEST_ENDORSED, events.RequestEndorsed, said), mark)


def is_done(request: Request, command: str, by: str, reason: str) -> bool:
    """Whether this person did this before; an approval is one whatever was said with it."""
    if command == APPROVE:
        return any(approval.by == by for approval in request.approvals)
    mark = request.done.get(command)
    return mark is not None and (mark.by, mark.reason) == (by, reason)


def require_draft(request: Request) -> None:
    """Raises InputRejected when the request is no draft any more."""
    if request.state != DRAFT:
        raise _wrong_state(request, SUBMIT)


class _EventContent(NamedTuple):
    """What is told: the step's kind, the event, what it says besides who and when; `left` are regions that are told
    only that it does not concern them any more."""

    kind: str
    event_type: str
    event: Callable[..., Struct]
    said: Mapping[str, Any]
    left: Sequence[str] = ()


def _transition(request: Request, command: str, said: Mapping[str, Any], mark: Mark) -> Transition:
    rule = RULES[command]
    come = msgspec.structs.replace(request, state=rule.end, done=request.done | {command: mark})
    return _record(come, _EventContent(rule.end, rule.event_type, rule.event, said), mark)


def _record(request: Request, telling: _EventContent, mark: Mark, comment_id: str = "") -> Transition:
    """The request one version on, the step that brought it there, and the events that tell it."""
    version, at, told = request.version + 1, mark.at, dict(request.told)
    found: list[Event[Any]] = []
    for region in [*request.content.regions, *telling.left]:
        event_id = ids.event_id(request.request_id, telling.event_type, f"{version}/{region}")
        before = told.get(region)
        first, last = (event_id, None) if before is None else (before.first, before.last)
        attributes = Attributes(event_id, telling.event_type, SOURCE, at, request.subject, region, first, last)
        said = dict(telling.said)
        if region in telling.left:
            said["request"] = None
        data = telling.event(request_id=request.request_id, version=version, by=mark.by, **said)
        found.append(Event(attributes, data))
        told[region] = PublishedEvents(first=first, last=event_id)
    step = RequestStep(version=version, kind=telling.kind, at=at, by=mark.by, text=mark.reason, comment_id=comment_id)
    return Transition(msgspec.structs.replace(request, version=version, updated_at=at, told=told), step, found)


def _mark(request: Request, by: str, at: str, reason: str = "") -> Mark:
    """Who does what now; the clocks of replicas disagree, but a history does not go back."""
    return Mark(by=by, at=max(at, request.updated_at), reason=reason)


def _require_role(request: Request, command: str, by: str) -> None:
    own = {name.strip().casefold() for name in (*request.authors, request.content.sponsor)}
    if command in (APPROVE, REJECT) and by.casefold() in own:
        detail = f"{by!r} wrote or sponsors this request; somebody else decides it"
        raise InputRejected(403, "own-request", "One's own request is decided by others", [Fault("", detail)])
    if command == WITHDRAW and by.casefold() not in own:
        detail = f"{by!r} neither wrote nor sponsors this request; it can be rejected instead"
        raise InputRejected(403, "not-own-request", "Only one's own request is taken back", [Fault("", detail)])


def _require_room(request: Request) -> None:
    if request.version >= MAX_STEPS:
        detail = f"{request.version} things happened to this request; now it is only decided, or taken back"
        raise InputRejected(409, "too-many-steps", "The request has become too long", [Fault("", detail)])


def _wrong_state(request: Request, command: str) -> InputRejected:
    possible = [name for name, rule in RULES.items() if request.state in rule.start]
    can = f"what can be done is {', '.join(possible)}" if possible else "that is its end"
    wanted = " or ".join(RULES[command].start)
    detail = f"the request is {request.state}, not {wanted}; {can}"
    return InputRejected(409, "wrong-state", "The request's state does not allow it", [Fault("", detail)])
