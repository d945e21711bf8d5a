"""The rules of cases, leases and decisions, without I/O: given what is so and what is asked, what is so then, and which
events tell it.

A case is open (waiting or claimed) until it is decided or superseded, and a subject has one open case at most: that of
its newest version. A lease is known by its token, which grows with every claim of a case, so that whoever held an
earlier one cannot act under it. Every event's id is derived from the case and the token, so a change that is made again
after a crash is told under the same id. Times are the database's, because all replicas must agree on when a lease ends.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shared import events, ids
from shared.clock import to_text
from shared.envelope import Attributes, Event
from shared.errors import PiepowderError

WAITING: Final = "waiting"
CLAIMED: Final = "claimed"
DECIDED: Final = "decided"
SUPERSEDED: Final = "superseded"

REVIEW: Final = "review"
ACTIONS: Final = frozenset({"approve", "reject"})


class Refused(PiepowderError):  # noqa: N818 - the field's word
    """A reviewer's act that the case's state does not allow; `slug` names the reason for good."""

    def __init__(self, slug: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A `case.opened` as it came: its ids, what it says, and the bytes that say it."""

    event_id: str
    correlation_id: str
    subject: str
    received_at: datetime
    due_at: datetime
    opened: events.CaseOpened
    raw: bytes


class Case(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stored case. `lease_token` is the last one given, 0 for none; `lease_until` is None once it was released."""

    case_id: str
    subject: str
    event_id: str
    correlation_id: str
    opened: events.CaseOpened
    state: str = WAITING
    lease_token: int = 0
    lease_until: datetime | None = None
    reviewer: str = ""
    team: str = ""
    claim_key: str | None = None
    claim_body: str | None = None
    superseded_by: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is so for a case, until one with a larger `n` replaces it."""

    decision_id: str
    case_id: str
    n: int
    action: str
    reasons: list[str]
    policy_set: str
    automated: bool
    reviewer: str = ""
    team: str = ""
    lease_token: int = 0
    note: str = ""
    decided_at: datetime


class Latest(msgspec.Struct, frozen=True, gc=False):
    """The newest version of a subject; `open_correlation_id` is None when its case is no longer open."""

    case_id: str
    item_id: str
    version: int | None
    open_correlation_id: str | None


class NewCase(msgspec.Struct, gc=False):
    """An arrival and the state it is stored in."""

    arrival: Arrival
    state: str
    superseded_by: str | None = None


class Intake(msgspec.Struct, gc=False):
    """What taking in a batch changes: rows to add, open cases that end (by item), newest versions, events in order."""

    cases: list[NewCase] = []
    decisions: list[Decision] = []
    superseded: dict[str, str] = {}
    latest: dict[str, Latest] = {}
    events: list[Event[Any]] = []


def take_in(region: str, arrivals: Sequence[Arrival], latest: dict[str, Latest], now: datetime) -> Intake:
    """What becomes of `arrivals`, in their order, when `latest` holds each known subject's newest version.

    A version older than the newest is superseded at birth; a newer one ends the open case, claimed or not. Two numbers
    are compared; without them, later in the topic is newer.
    """
    taken, at = Intake(), to_text(now)
    born: dict[str, NewCase] = {}
    for arrival in arrivals:
        opened = arrival.opened
        newest = taken.latest.get(arrival.subject) or latest.get(arrival.subject)
        if newest is not None and _is_older(opened.version, newest.version):
            taken.cases.append(NewCase(arrival, SUPERSEDED, newest.item_id))
            taken.events.append(
                _superseded(
                    region,
                    (opened.case_id, opened.item_id, arrival.subject, arrival.correlation_id),
                    newest.item_id,
                    arrival.event_id,
                    at,
                )
            )
            continue
        if newest is not None and newest.open_correlation_id is not None:
            earlier = born.get(newest.case_id)
            if earlier is None:
                taken.superseded[newest.case_id] = opened.item_id
            else:
                earlier.state, earlier.superseded_by = SUPERSEDED, opened.item_id
            taken.events.append(
                _superseded(
                    region,
                    (newest.case_id, newest.item_id, arrival.subject, newest.open_correlation_id),
                    opened.item_id,
                    arrival.event_id,
                    at,
                )
            )
        review = opened.verdict == REVIEW
        case = born[opened.case_id] = NewCase(arrival, WAITING if review else DECIDED)
        taken.cases.append(case)
        taken.latest[arrival.subject] = Latest(
            opened.case_id, opened.item_id, opened.version, arrival.correlation_id if review else None
        )
        if not review:
            decision = Decision(
                decision_id=ids.decision_id(opened.case_id, 1),
                case_id=opened.case_id,
                n=1,
                action=opened.verdict,
                reasons=opened.reasons,
                policy_set=opened.trace.policy_set,
                automated=True,
                decided_at=now,
            )
            taken.decisions.append(decision)
            taken.events.append(
                _made(region, decision, at, opened, (arrival.subject, arrival.correlation_id, arrival.event_id))
            )
    return taken


def claim(
    region: str,
    case: Case,
    now: datetime,
    *,
    reviewer: str,
    team: str,
    seconds: int,
    claim_key: str | None = None,
    claim_body: str | None = None,
) -> tuple[Case, Event[events.CaseClaimed]]:
    """A waiting case, held by a reviewer for `seconds` under the next token.

    `claim_key` and `claim_body` tell a claim that is sent again.
    """
    held = msgspec.structs.replace(
        case,
        state=CLAIMED,
        lease_token=case.lease_token + 1,
        lease_until=now + timedelta(seconds=seconds),
        reviewer=reviewer,
        team=team,
        claim_key=claim_key,
        claim_body=claim_body,
    )
    said = events.CaseClaimed(
        case_id=case.case_id,
        item_id=case.opened.item_id,
        queue=case.opened.queue,
        reviewer=reviewer,
        team=team,
        lease_token=held.lease_token,
        lease_until=to_text(now + timedelta(seconds=seconds)),
    )
    return held, _event(region, held, now, said, events.CASE_CLAIMED, cause=case.event_id)


def heartbeat(case: Case, now: datetime, *, token: int, seconds: int) -> Case:
    """The lease runs `seconds` from now; raises Refused when it is not held under `token` any more."""
    _require_lease(case, token, now)
    return msgspec.structs.replace(case, lease_until=now + timedelta(seconds=seconds))


def release(
    region: str, case: Case, now: datetime, *, token: int, reason: str
) -> tuple[Case, Event[events.CaseReleased] | None]:
    """The case waits again; released already under the same token, nothing changes. Raises Refused like `heartbeat`."""
    if case.state == WAITING and case.lease_token == token and case.lease_until is None and token > 0:
        return case, None
    _require_lease(case, token, now)
    said = events.CaseReleased(
        case_id=case.case_id,
        item_id=case.opened.item_id,
        queue=case.opened.queue,
        reviewer=case.reviewer,
        team=case.team,
        lease_token=token,
        reason=reason,
    )
    waiting = msgspec.structs.replace(_unheld(case, WAITING), lease_until=None)
    return waiting, _event(region, case, now, said, events.CASE_RELEASED, cause=_claim_of(case))


def expire(region: str, case: Case, now: datetime) -> tuple[Case, Event[events.CaseExpired]]:
    """A claimed case whose lease has run out waits again."""
    said = events.CaseExpired(
        case_id=case.case_id,
        item_id=case.opened.item_id,
        queue=case.opened.queue,
        reviewer=case.reviewer,
        team=case.team,
        lease_token=case.lease_token,
    )
    return _unheld(case, WAITING), _event(region, case, now, said, events.CASE_EXPIRED, cause=_claim_of(case))


def decide(
    region: str,
    case: Case,
    current: Decision | None,
    now: datetime,
    *,
    token: int,
    action: str,
    reasons: list[str],
    note: str,
) -> tuple[Case, Decision, Event[events.DecisionMade] | None]:
    """The decision of whoever holds the case under `token`; `current` is the one in force.

    An exact repeat gives the decision that was made, and no event. Raises Refused when the lease is not held any more,
    the case was superseded, or it was decided otherwise.
    """
    if current is not None:
        if current.lease_token == token and (current.action, current.reasons, current.note) == (action, reasons, note):
            return case, current, None
        by = "by a policy" if current.automated else f"under lease token {current.lease_token}"
        raise Refused("already-decided", f"Case {case.case_id} was decided already: {current.action}, {by}.")
    _require_lease(case, token, now)
    decision = Decision(
        decision_id=ids.decision_id(case.case_id, 1),
        case_id=case.case_id,
        n=1,
        action=action,
        reasons=reasons,
        policy_set=case.opened.trace.policy_set,
        automated=False,
        reviewer=case.reviewer,
        team=case.team,
        lease_token=token,
        note=note,
        decided_at=now,
    )
    about = (case.subject, case.correlation_id, _claim_of(case))
    return _unheld(case, DECIDED), decision, _made(region, decision, to_text(now), case.opened, about)


def _require_lease(case: Case, token: int, now: datetime) -> None:
    if case.state == SUPERSEDED:
        by = f"item {case.superseded_by}, a newer version"
        raise Refused("superseded", f"Case {case.case_id} was superseded by {by}. Claim another.")
    if case.state == DECIDED:
        raise Refused("already-decided", f"Case {case.case_id} was decided already.")
    if token != case.lease_token:
        latest = f"the last is {case.lease_token}" if case.lease_token else "it was never claimed"
        raise Refused("wrong-lease-token", f"Token {token} holds case {case.case_id} no longer or never did: {latest}.")
    if case.state == WAITING and case.lease_until is None:
        raise Refused("lease-released", f"The lease {token} of case {case.case_id} was given back. Claim again.")
    if case.lease_until is None or case.lease_until <= now:
        raise Refused("lease-expired", f"The lease {token} of case {case.case_id} has run out. Claim again.")


def _is_older(version: int | None, newest: int | None) -> bool:
    return version is not None and newest is not None and version < newest


def _claim_of(case: Case) -> str:
    return ids.event_id(case.case_id, events.CASE_CLAIMED, case.lease_token)


def _unheld(case: Case, state: str) -> Case:
    return msgspec.structs.replace(case, state=state, reviewer="", team="", claim_key=None, claim_body=None)


def _event(region: str, case: Case, now: datetime, data: Any, kind: str, *, cause: str) -> Event[Any]:
    return Event(
        Attributes(
            ids.event_id(case.case_id, kind, case.lease_token),
            kind,
            f"piepowder/decision/{region}",
            to_text(now),
            case.subject,
            region,
            case.correlation_id,
            cause,
        ),
        data,
    )


def _superseded(
    region: str, ended: tuple[str, str, str, str], by: str, cause: str, at: str
) -> Event[events.CaseSuperseded]:
    case_id, item_id, subject, correlation_id = ended
    return Event(
        Attributes(
            ids.event_id(case_id, events.CASE_SUPERSEDED),
            events.CASE_SUPERSEDED,
            f"piepowder/decision/{region}",
            at,
            subject,
            region,
            correlation_id,
            cause,
        ),
        events.CaseSuperseded(case_id=case_id, item_id=item_id, superseded_by=by),
    )


def _made(
    region: str, decision: Decision, at: str, opened: events.CaseOpened, about: tuple[str, str, str]
) -> Event[events.DecisionMade]:
    subject, correlation_id, cause = about
    return Event(
        Attributes(
            ids.event_id(decision.case_id, events.DECISION_MADE, decision.n),
            events.DECISION_MADE,
            f"piepowder/decision/{region}",
            at,
            subject,
            region,
            correlation_id,
            cause,
        ),
        events.DecisionMade(
            decision_id=decision.decision_id,
            case_id=decision.case_id,
            item_id=opened.item_id,
            platform=opened.platform,
            kind=opened.kind,
            subject_id=opened.subject_id,
            version=opened.version,
            queue=opened.queue,
            n=decision.n,
            action=decision.action,
            reasons=decision.reasons,
            policy_set=decision.policy_set,
            automated=decision.automated,
            reviewer=decision.reviewer,
            team=decision.team,
            lease_token=decision.lease_token,
            note=decision.note,
            received_at=opened.received_at,
            due_at=opened.due_at,
        ),
    )
