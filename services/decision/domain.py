"""The rules of cases, leases and decisions, without I/O: given what is so and what is asked, what is so then, and which
events tell it.

A case is open (waiting or claimed) until it is decided, superseded, withdrawn or closed. Of an item's cases a subject
has one open at most: that of its newest version. Notices and appeals stand beside it: no version and no withdrawal ends
them, for whoever complained is owed an answer. A decision has one open appeal at most. What has ended stays as it is,
whatever comes later; an appeal that succeeds adds a decision to the case that it is about. A lease is known by its
token, which grows with every claim of a case, so that whoever held an earlier one cannot act under it. Every event's id
is derived from the case and the token, so a change that is made again after a crash is told under the same id. Times
are the database's, because all replicas must agree on when a lease ends.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event
from shared.runtime.clock import to_text
from shared.runtime.errors import PiepowderError

WAITING: Final = "waiting"
CLAIMED: Final = "claimed"
DECIDED: Final = "decided"
SUPERSEDED: Final = "superseded"
WITHDRAWN: Final = "withdrawn"
CLOSED: Final = "closed"

ITEM: Final = "item"
NOTICE: Final = "notice"
APPEAL: Final = "appeal"

REVIEW: Final = "review"
ACTIONS: Final = frozenset({"approve", "reject"})
OVERTURN: Final = "overturn"
APPEAL_ACTIONS: Final = frozenset({"uphold", OVERTURN})
ACTIONS_OF: Final = {ITEM: ACTIONS, NOTICE: ACTIONS, APPEAL: APPEAL_ACTIONS}

REPLACED: Final = "replaced"  # why an appeal's case is closed: the decision is not in force any more
DUPLICATE: Final = "duplicate"  # another appeal about it is open

_OPPOSITE: Final = {"approve": "reject", "reject": "approve"}


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


class Withdrawal(msgspec.Struct, frozen=True, gc=False):
    """A `case.withdrawn` as it came: its id, and what it is about."""

    event_id: str
    subject: str
    case_id: str
    item_id: str


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


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a case stands that somebody complains about: `n` of its decision in force, 0 for none; whether an appeal
    about it is open."""

    n: int = 0
    appealed: bool = False


class NewCase(msgspec.Struct, gc=False):
    """An arrival and the state it is stored in."""

    arrival: Arrival
    state: str
    superseded_by: str | None = None


class Intake(msgspec.Struct, gc=False):
    """What taking in a batch changes: rows to add, open cases that end (`superseded` by item, `withdrawn`), newest
    versions, events in order; withdrawals to keep until their case comes (`early`), and those whose case came (`met`).
    """

    cases: list[NewCase] = []
    decisions: list[Decision] = []
    superseded: dict[str, str] = {}
    withdrawn: list[str] = []
    latest: dict[str, Latest] = {}
    events: list[Event[Any]] = []
    early: set[str] = set()
    met: set[str] = set()


_NONE: Final[Mapping[str, Standing]] = {}


def take_in(
    region: str,
    come: Sequence[Arrival | Withdrawal],
    latest: dict[str, Latest],
    now: datetime,
    *,
    stored: Collection[str] = (),
    early: Collection[str] = (),
    standings: Mapping[str, Standing] = _NONE,
) -> Intake:
    """What becomes of what has `come`, in its order, when `latest` holds each known subject's newest version.

    A version older than the newest is superseded at birth; a newer one ends the open case, claimed or not. Two numbers
    are compared; without them, later in the topic is newer. A withdrawal ends its case if that is open. `stored` are
    the withdrawals' cases that are there; one that is not is withdrawn at birth, as are those in `early`, whose
    withdrawals came before. `standings` are those of the cases that appeals are about: an appeal about a decision that
    is not in force any more, or about which another is open, is closed at birth.
    """
    return _Taking(region, latest, now, stored, early, standings).take_in(come)


class _Taking:
    def __init__(  # noqa: PLR0917 - what a batch meets has that many parts
        self,
        region: str,
        latest: dict[str, Latest],
        now: datetime,
        stored: Collection[str],
        early: Collection[str],
        standings: Mapping[str, Standing],
    ) -> None:
        self._region = region
        self._latest = latest
        self._now = now
        self._at = to_text(now)
        self._stored = stored
        self._early = early
        self._standings = dict(standings)
        self._born: dict[str, NewCase] = {}
        self._taken = Intake()

    def take_in(self, come: Sequence[Arrival | Withdrawal]) -> Intake:
        for one in come:
            newest = self._taken.latest.get(one.subject) or self._latest.get(one.subject)
            if isinstance(one, Withdrawal):
                self._withdraw(one, newest)
            elif one.opened.case_type == ITEM:
                self._open(one, newest)
            elif one.opened.appeal is None:
                self._bear(one, WAITING)
            else:
                self._hear(one, one.opened.appeal.decision)
        return self._taken

    def _open(self, arrival: Arrival, newest: Latest | None) -> None:
        taken, opened = self._taken, arrival.opened
        withdrawn = self._was_withdrawn(opened.case_id)
        if newest is not None and _is_older(opened.version, newest.version):
            self._bear(arrival, SUPERSEDED, newest.item_id)
            ended = (opened.case_id, opened.item_id, arrival.subject, arrival.correlation_id)
            self._tell_superseded(ended, newest.item_id, arrival.event_id)
            return
        if newest is not None and newest.open_correlation_id is not None:
            self._end(newest, opened.item_id)
            ended = (newest.case_id, newest.item_id, arrival.subject, newest.open_correlation_id)
            self._tell_superseded(ended, opened.item_id, arrival.event_id)
        state = WITHDRAWN if withdrawn else WAITING if opened.verdict == REVIEW else DECIDED
        self._bear(arrival, state)
        taken.latest[arrival.subject] = Latest(
            opened.case_id, opened.item_id, opened.version, arrival.correlation_id if state == WAITING else None
        )
        about = (arrival.subject, arrival.correlation_id, arrival.event_id)
        if state == WITHDRAWN:
            self._tell_closed(
                events.CaseClosed(case_id=opened.case_id, item_id=opened.item_id, reason=WITHDRAWN), about
            )
        elif state == DECIDED:
            decision = Decision(
                decision_id=ids.decision_id(opened.case_id, 1),
                case_id=opened.case_id,
                n=1,
                action=opened.verdict,
                reasons=opened.reasons,
                policy_set=opened.trace.policy_set,
                automated=True,
                decided_at=self._now,
            )
            taken.decisions.append(decision)
            taken.events.append(_made(self._region, decision, self._at, opened, about))

    def _withdraw(self, withdrawal: Withdrawal, newest: Latest | None) -> None:
        case_id = withdrawal.case_id
        if newest is not None and newest.case_id == case_id:
            if newest.open_correlation_id is not None:
                self._end(newest, None)
                self._taken.latest[withdrawal.subject] = msgspec.structs.replace(newest, open_correlation_id=None)
                about = (withdrawal.subject, newest.open_correlation_id, withdrawal.event_id)
                self._tell_closed(events.CaseClosed(case_id=case_id, item_id=newest.item_id, reason=WITHDRAWN), about)
        elif case_id not in self._stored and case_id not in self._born:
            self._taken.early.add(case_id)

    def _hear(self, arrival: Arrival, contested: events.Contested) -> None:
        opened = arrival.opened
        standing = self._standings.get(contested.case_id, Standing())
        reason = REPLACED if standing.n > contested.n else DUPLICATE if standing.appealed else ""
        if not reason:
            self._standings[contested.case_id] = Standing(standing.n, appealed=True)
            self._bear(arrival, WAITING)
            return
        self._bear(arrival, CLOSED)
        said = events.CaseClosed(case_id=opened.case_id, case_type=APPEAL, item_id=opened.item_id, reason=reason)
        self._tell_closed(said, (arrival.subject, arrival.correlation_id, arrival.event_id))

    def _was_withdrawn(self, case_id: str) -> bool:
        if case_id in self._taken.early:
            self._taken.early.remove(case_id)
            return True
        if case_id in self._early:
            self._taken.met.add(case_id)
            return True
        return False

    def _bear(self, arrival: Arrival, state: str, superseded_by: str | None = None) -> None:
        case = self._born[arrival.opened.case_id] = NewCase(arrival, state, superseded_by)
        self._taken.cases.append(case)

    def _end(self, newest: Latest, superseded_by: str | None) -> None:
        """The open case of a subject's newest version is superseded, or withdrawn."""
        born = self._born.get(newest.case_id)
        if born is not None:
            born.state, born.superseded_by = (SUPERSEDED if superseded_by else WITHDRAWN), superseded_by
        elif superseded_by is not None:
            self._taken.superseded[newest.case_id] = superseded_by
        else:
            self._taken.withdrawn.append(newest.case_id)

    def _tell_closed(self, said: events.CaseClosed, about: tuple[str, str, str]) -> None:
        self._taken.events.append(_closed(self._region, said, self._at, about))

    def _tell_superseded(self, ended: tuple[str, str, str, str], by: str, cause: str) -> None:
        self._taken.events.append(_superseded(self._region, ended, by, cause, self._at))


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
        case_type=case.opened.case_type,
        item_id=case.opened.item_id,
        queue=case.opened.queue,
        reviewer=reviewer,
        team=team,
        lease_token=held.lease_token,
        lease_until=to_text(now + timedelta(seconds=seconds)),
    )
    return held, _event(region, held, now, said, events.CASE_CLAIMED, cause=case.event_id)


def heartbeat(case: Case, now: datetime, *, token: int, seconds: int, reviewer: str = "") -> Case:
    """The lease runs `seconds` from now; raises Refused when it is not held under `token` any more, or by somebody else
    than `reviewer`, if that is named."""
    _require_lease(case, token, reviewer, now)
    return msgspec.structs.replace(case, lease_until=now + timedelta(seconds=seconds))


def release(
    region: str, case: Case, now: datetime, *, token: int, reason: str, reviewer: str = ""
) -> tuple[Case, Event[events.CaseReleased] | None]:
    """The case waits again; released already under the same token, nothing changes. Raises Refused like `heartbeat`."""
    if case.state == WAITING and case.lease_token == token and case.lease_until is None and token > 0:
        return case, None
    _require_lease(case, token, reviewer, now)
    said = events.CaseReleased(
        case_id=case.case_id,
        case_type=case.opened.case_type,
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
        case_type=case.opened.case_type,
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
    made: Decision | None,
    now: datetime,
    *,
    token: int,
    action: str,
    reasons: list[str],
    note: str,
    reviewer: str = "",
    contested: Decision | None = None,
) -> tuple[Case, Decision, Event[events.DecisionMade] | None]:
    """The decision of whoever holds the case under `token`; `made` is the one that ended it, if one has.

    Of an appeal's case, `contested` is the decision in force of the case that the appeal is about. An exact repeat
    gives the decision that was made, and no event. Raises Refused when the lease is not held any more, the case was
    superseded, withdrawn or closed, it was decided otherwise, or it is not for this reviewer to decide so.
    """
    allowed = ACTIONS_OF[case.opened.case_type]
    if action not in allowed:
        detail = f"Case {case.case_id} is of type {case.opened.case_type!r}: expected {' or '.join(sorted(allowed))}."
        raise Refused("wrong-action", detail)
    if made is not None:
        theirs = made.lease_token == token and reviewer in ("", made.reviewer)
        if theirs and (made.action, made.reasons, made.note) == (action, reasons, note):
            return case, made, None
        by = "by a policy" if made.automated else "by people"
        raise Refused("already-decided", f"Case {case.case_id} was decided already: {made.action}, {by}.")
    _require_lease(case, token, reviewer, now)
    if case.opened.appeal is not None:
        _require_hearing(case, case.opened.appeal.decision, contested, action, reasons)
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


def overturn(
    region: str, appeal: Case, overturned: Decision, case: Case, current: Decision
) -> tuple[Decision, Event[events.DecisionReplaced]]:
    """What is so from now on for a `case` whose decision, `current`, was `overturned` by the decision of an appeal.

    It is made by whoever decided the appeal, under the policy set that the case was judged by.
    """
    n = current.n + 1
    decision = Decision(
        decision_id=ids.decision_id(case.case_id, n),
        case_id=case.case_id,
        n=n,
        action=_OPPOSITE[current.action],
        reasons=overturned.reasons,
        policy_set=case.opened.trace.policy_set,
        automated=False,
        reviewer=overturned.reviewer,
        team=overturned.team,
        note=overturned.note,
        decided_at=overturned.decided_at,
    )
    cause = ids.event_id(appeal.case_id, events.DECISION_MADE, overturned.n)
    made = _made(
        region, decision, to_text(overturned.decided_at), case.opened, (case.subject, case.correlation_id, cause)
    )
    said = events.DecisionReplaced(
        **msgspec.structs.asdict(made.data),
        replaces=current.decision_id,
        why=APPEAL,
        appeal_id=appeal.opened.item_id,
        appeal_case_id=appeal.case_id,
    )
    attributes = msgspec.structs.replace(
        made.attributes,
        id=ids.event_id(case.case_id, events.DECISION_REPLACED, n),
        type=events.DECISION_REPLACED,
    )
    return decision, Event(attributes, said)


def _require_hearing(
    case: Case, appealed: events.Contested, contested: Decision | None, action: str, reasons: list[str]
) -> None:
    if contested is not None and not contested.automated and contested.reviewer == case.reviewer:
        who = f"Reviewer {case.reviewer!r} made decision {contested.decision_id}"
        raise Refused("own-decision", f"{who}, and another has to hear the appeal about it. Give the case back.")
    if action != OVERTURN:
        return
    if contested is None or contested.decision_id != appealed.decision_id:
        raise Refused("replaced", f"Decision {appealed.decision_id} is not in force here: it cannot be overturned.")
    if contested.action == "approve" and not reasons:
        raise Refused("reasons-needed", "Overturning an approval rejects, and a reject needs at least one code.")


def _require_lease(case: Case, token: int, reviewer: str, now: datetime) -> None:
    if case.state == SUPERSEDED:
        by = f"item {case.superseded_by}, a newer version"
        raise Refused("superseded", f"Case {case.case_id} was superseded by {by}. Claim another.")
    if case.state == WITHDRAWN:
        raise Refused("withdrawn", f"Case {case.case_id} was closed: its item was withdrawn. Claim another.")
    if case.state == CLOSED:
        raise Refused("closed", f"Case {case.case_id} was closed undecided. Claim another.")
    if case.state == DECIDED:
        raise Refused("already-decided", f"Case {case.case_id} was decided already.")
    if token != case.lease_token or (case.state == CLAIMED and reviewer not in ("", case.reviewer)):
        held = f"Token {token} holds case {case.case_id} no longer or never did"
        raise Refused("wrong-lease-token", f"{held}{f', for {reviewer!r}' if reviewer else ''}. Claim again.")
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


def _closed(region: str, said: events.CaseClosed, at: str, about: tuple[str, str, str]) -> Event[events.CaseClosed]:
    subject, correlation_id, cause = about
    return Event(
        Attributes(
            ids.event_id(said.case_id, events.CASE_CLOSED),
            events.CASE_CLOSED,
            f"piepowder/decision/{region}",
            at,
            subject,
            region,
            correlation_id,
            cause,
        ),
        said,
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
            case_type=opened.case_type,
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
