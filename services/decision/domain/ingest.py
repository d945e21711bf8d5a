"""The rules for cases and withdrawals that arrive from the router.

A subject has at most one open item case: that of its newest version. Cases of notices and appeals are independent of
it: no newer version and no withdrawal ends them, because every complaint needs a decision. A case has at most one open
appeal. The first event that opens a case is valid. A later one, which the router sends when it repeats its input under
other rules, changes nothing and is counted.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from services.decision.domain import appeals, recovery
from services.decision.domain.appeals import AppealedCase
from services.decision.domain.case_events import EventLinks, case_event, decision_made
from services.decision.domain.cases import APPEAL, ITEM, NEW, REVIEW, WAITING, WITHDRAWN, Decision
from services.decision.domain.lifecycle import CLOSE, DECIDE, OPEN, SUPERSEDE, TRANSITIONS, WITHDRAW, CaseTransition
from services.decision.domain.recovery import PublishedEvent
from shared.contracts import events, ids
from shared.contracts.envelope import Event
from shared.runtime.clock import to_text


class ReceivedCase(msgspec.Struct, frozen=True, gc=False):
    """A `case.opened` event: its ids, its data, and the bytes of its data."""

    event_id: str
    correlation_id: str
    subject: str
    received_at: datetime
    due_at: datetime
    opened: events.CaseOpened
    raw: bytes
    requested_at: datetime | None = None


class ReceivedWithdrawal(msgspec.Struct, frozen=True, gc=False):
    """A `case.withdrawn` event: its id, and the case that it withdraws."""

    event_id: str
    subject: str
    case_id: str
    item_id: str


CaseMessage: TypeAlias = ReceivedCase | ReceivedWithdrawal

_CLIENTS: Final = 20  # of a subject, whose times are kept


class RequestTimes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The latest times that a client stated for the versions of a subject: of any, and of one without a number."""

    latest: datetime
    unnumbered: datetime | None = None


class NewestVersion(msgspec.Struct, frozen=True, gc=False):
    """The newest version of a subject; `open_correlation_id` is None when its case has ended. `requested_at` is the
    time of its post by the clock of `client`, if the client stated it.

    `version` and `times` are about all versions that were the newest one until now: the highest number, and the latest
    times by client, if they are more than `client` and `requested_at` say.
    """

    case_id: str
    item_id: str
    version: int | None
    open_correlation_id: str | None
    client: str = ""
    requested_at: datetime | None = None
    times: Mapping[str, RequestTimes] = {}


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The stored state that a batch depends on, locked until the batch is stored.

    `newest`: the newest versions, by subject.
    `stored`: for each case that the batch opens or withdraws and that is in the database, the id of the event that
    opened it.
    `withdrawn_early`: the cases that the batch opens and whose withdrawal arrived first.
    `appealed_cases`: by case id.
    `published`: after a restore, the events about the cases of the batch that the service has published before.
    """

    now: datetime
    newest: Mapping[str, NewestVersion] = {}
    stored: Mapping[str, str] = {}
    withdrawn_early: Collection[str] = ()
    appealed_cases: Mapping[str, AppealedCase] = {}
    published: Mapping[str, Sequence[PublishedEvent]] = {}


class NewCase(msgspec.Struct, gc=False):
    """A received case, and the state in which it is stored."""

    received: ReceivedCase
    state: str
    superseded_by: str | None = None


class BatchChanges(msgspec.Struct):
    """The changes that a batch makes.

    `cases`: new cases, in the order of their arrival.
    `decisions`: new decisions, all by a policy.
    `superseded`: for each stored case that a newer version ends, a map from its id to the id of the newer item.
    `withdrawn`: ids of stored cases that a withdrawal ends.
    `newest`: the newest versions, by subject.
    `events`: the events to publish, in order.
    `early`: ids of cases that are not known yet; their withdrawals are kept until the cases arrive.
    `applied`: ids of cases that arrived after their withdrawals; these withdrawals are deleted.
    `reopened`: the number of ignored events that open a case again and are not a repeat of the first one.
    """

    cases: list[NewCase] = []
    decisions: list[Decision] = []
    superseded: dict[str, str] = {}
    withdrawn: list[str] = []
    newest: dict[str, NewestVersion] = {}
    events: list[Event[Any]] = []
    early: set[str] = set()
    applied: set[str] = set()
    reopened: int = 0


def ingest(region: str, batch: Sequence[CaseMessage], snapshot: Snapshot) -> BatchChanges:
    """The changes that a batch makes, in its order.

    A version older than the newest is superseded when it is opened; a newer version ends the open case, claimed or not.
    `is_older` states the order of versions. A withdrawal ends an open case. A case whose withdrawal arrived first is
    withdrawn when it is opened. An appeal is closed when it is opened if the contested decision is not in force any
    more, or another appeal about the case is open. A second opening of a case and a repeated event change nothing.
    """
    return _Batch(region, snapshot).ingest(batch)


class _Batch:
    def __init__(self, region: str, snapshot: Snapshot) -> None:
        self._region = region
        self._snapshot = snapshot
        self._at = to_text(snapshot.now)
        self._appealed_cases = dict(snapshot.appealed_cases)
        self._opened: dict[str, NewCase] = {}
        self._changes = BatchChanges()

    def ingest(self, batch: Sequence[CaseMessage]) -> BatchChanges:
        for message in batch:
            newest = self._changes.newest.get(message.subject) or self._snapshot.newest.get(message.subject)
            if isinstance(message, ReceivedWithdrawal):
                self._withdraw(message, newest)
            elif (opened_by := self._opened_by(message.opened.case_id)) is not None:
                self._changes.reopened += opened_by != message.event_id
            elif (published := self._snapshot.published.get(message.opened.case_id)) is not None:
                is_open = not recovery.end_the_case(published)
                if is_open and self._ends_at_once(message, newest):
                    self._open_item(message, newest)
                else:
                    self._open_again(message, newest, is_open=is_open)
            elif message.opened.case_type == ITEM:
                self._open_item(message, newest)
            elif message.opened.appeal is None:
                self._open_case(message, OPEN)
            else:
                self._open_appeal(message, message.opened.appeal.decision)
        return self._changes

    def _ends_at_once(self, received: ReceivedCase, newest: NewestVersion | None) -> bool:
        """True if the opening of an item's case also ends it: no event of its end was published before the restore."""
        opened = received.opened
        if opened.case_type != ITEM:
            return False
        withdrawn = opened.case_id in self._changes.early or opened.case_id in self._snapshot.withdrawn_early
        return withdrawn or (newest is not None and is_older(received, newest))

    def _open_again(self, received: ReceivedCase, newest: NewestVersion | None, *, is_open: bool) -> None:
        """Open a case about which events were published before a restore: they are applied to it afterwards, and every
        event of this opening is one of them."""
        opened = received.opened
        self._open_case(received, OPEN)
        if opened.appeal is not None:
            appealed = opened.appeal.decision.case_id
            known = self._appealed_cases.get(appealed, AppealedCase())
            self._appealed_cases[appealed] = AppealedCase(known.n, known.has_open_appeal or is_open)
        if opened.case_type != ITEM:
            return
        self._apply_early_withdrawal(opened.case_id)
        if newest is None or not is_older(received, newest):
            if newest is not None:
                self._close_case(newest, SUPERSEDE, received, opened.item_id)
            correlation_id = received.correlation_id if is_open else None
            self._changes.newest[received.subject] = newest_version(received, correlation_id, newest)

    def _open_item(self, received: ReceivedCase, newest: NewestVersion | None) -> None:
        opened = received.opened
        links = EventLinks(received.subject, received.correlation_id, received.event_id)
        was_withdrawn = self._apply_early_withdrawal(opened.case_id)
        if newest is not None and is_older(received, newest):
            transition = self._open_case(received, SUPERSEDE, newest.item_id)
            self._record(
                transition,
                events.CaseSuperseded(case_id=opened.case_id, item_id=opened.item_id, superseded_by=newest.item_id),
                links,
            )
            return
        if newest is not None:
            self._close_case(newest, SUPERSEDE, received, opened.item_id)
        command = WITHDRAW if was_withdrawn else OPEN if opened.verdict == REVIEW else DECIDE
        transition = self._open_case(received, command)
        correlation_id = received.correlation_id if command == OPEN else None
        self._changes.newest[received.subject] = newest_version(received, correlation_id, newest)
        if command == WITHDRAW:
            closed = events.CaseClosed(case_id=opened.case_id, item_id=opened.item_id, reason=WITHDRAWN)
            self._record(transition, closed, links)
        elif command == DECIDE:
            decision = Decision(
                decision_id=ids.decision_id(opened.case_id, 1),
                case_id=opened.case_id,
                n=1,
                action=opened.verdict,
                reasons=opened.reasons,
                policy_set=opened.trace.policy_set,
                automated=True,
                decided_at=self._snapshot.now,
            )
            self._changes.decisions.append(decision)
            self._record(transition, decision_made(decision, opened), links, decision.n)

    def _open_appeal(self, received: ReceivedCase, named_decision: events.Contested) -> None:
        opened = received.opened
        appealed_case = self._appealed_cases.get(named_decision.case_id, AppealedCase())
        reason = appeals.reason_to_close(named_decision, appealed_case)
        if not reason:
            self._appealed_cases[named_decision.case_id] = AppealedCase(appealed_case.n, has_open_appeal=True)
            self._open_case(received, OPEN)
            return
        transition = self._open_case(received, CLOSE)
        closed = events.CaseClosed(case_id=opened.case_id, case_type=APPEAL, item_id=opened.item_id, reason=reason)
        self._record(transition, closed, EventLinks(received.subject, received.correlation_id, received.event_id))

    def _withdraw(self, withdrawal: ReceivedWithdrawal, newest: NewestVersion | None) -> None:
        case_id = withdrawal.case_id
        if newest is not None and newest.case_id == case_id:
            if self._close_case(newest, WITHDRAW, withdrawal):
                self._changes.newest[withdrawal.subject] = msgspec.structs.replace(newest, open_correlation_id=None)
        elif self._opened_by(case_id) is None:
            self._changes.early.add(case_id)

    def _opened_by(self, case_id: str) -> str | None:
        """The id of the event that opened a case; None if the case is not known."""
        new = self._opened.get(case_id)
        return self._snapshot.stored.get(case_id) if new is None else new.received.event_id

    def _apply_early_withdrawal(self, case_id: str) -> bool:
        """Apply a withdrawal that arrived before its case; False if there is none."""
        in_batch, stored = case_id in self._changes.early, case_id in self._snapshot.withdrawn_early
        self._changes.early.discard(case_id)
        if stored:
            self._changes.applied.add(case_id)
        return in_batch or stored

    def _open_case(self, received: ReceivedCase, command: str, superseded_by: str | None = None) -> CaseTransition:
        transition = TRANSITIONS[NEW, command]
        case = self._opened[received.opened.case_id] = NewCase(received, transition.state, superseded_by)
        self._changes.cases.append(case)
        return transition

    def _close_case(
        self,
        newest: NewestVersion,
        command: str,
        cause: CaseMessage,
        superseded_by: str | None = None,
    ) -> bool:
        """Supersede or withdraw the newest version's case, waiting or claimed; False if it is not open."""
        if newest.open_correlation_id is None:
            return False
        case_id, item_id = newest.case_id, newest.item_id
        transition = TRANSITIONS[WAITING, command]
        if (case := self._opened.get(case_id)) is not None:
            case.state, case.superseded_by = transition.state, superseded_by
        elif superseded_by is not None:
            self._changes.superseded[case_id] = superseded_by
        else:
            self._changes.withdrawn.append(case_id)
        data = (
            events.CaseClosed(case_id=case_id, item_id=item_id, reason=WITHDRAWN)
            if superseded_by is None
            else events.CaseSuperseded(case_id=case_id, item_id=item_id, superseded_by=superseded_by)
        )
        self._record(transition, data, EventLinks(cause.subject, newest.open_correlation_id, cause.event_id))
        return True

    def _record(self, transition: CaseTransition, data: Any, links: EventLinks, n: int = 0) -> None:
        self._changes.events.append(case_event(self._region, self._at, links, transition.event_type, data, n=n))


def newest_version(
    received: ReceivedCase, open_correlation_id: str | None, former: NewestVersion | None
) -> NewestVersion:
    """A received version as the newest one, after `former`."""
    opened, stated = received.opened, received.requested_at
    highest, version = None if former is None else former.version, opened.version
    newest = NewestVersion(
        opened.case_id,
        opened.item_id,
        highest if version is None or (highest is not None and highest > version) else version,
        open_correlation_id,
        opened.client,
        stated,
    )
    times = {} if former is None else dict(_times(former))
    if stated is not None:
        before = times.get(opened.client, RequestTimes(stated))
        unnumbered = before.unnumbered
        if version is None and (unnumbered is None or stated > unnumbered):
            unnumbered = stated
        times[opened.client] = RequestTimes(max(stated, before.latest), unnumbered)
    if len(times) > _CLIENTS:
        del times[min(times, key=lambda client: (times[client].latest, client))]
    return newest if times == _times(newest) else msgspec.structs.replace(newest, times=times)


def is_older(received: ReceivedCase, newest: NewestVersion) -> bool:
    """True if a received version is older than one that was the newest before: the only rule for the order of versions.

    Two version numbers are compared. Without two numbers, the times that one client stated are compared: a post can be
    delayed in a process that stopped. Otherwise the version that arrives later is newer. An older version stays older,
    whatever other versions were accepted in between.
    """
    version = received.opened.version
    if version is not None and newest.version is not None and version < newest.version:
        return True
    if received.requested_at is None or (times := _times(newest).get(received.opened.client)) is None:
        return False
    last = times.latest if version is None else times.unnumbered
    return last is not None and received.requested_at < last


def _times(newest: NewestVersion) -> Mapping[str, RequestTimes]:
    if newest.times or newest.requested_at is None:
        return newest.times
    unnumbered = newest.requested_at if newest.version is None else None
    return {newest.client: RequestTimes(newest.requested_at, unnumbered)}
