"""The rules of recovery after a restore of the database.

Kafka has events that a restored database does not contain: the topic of the decisions is newer. The service applies
each of them to its case, forward only: an event that the case already contains changes nothing. Events of a case that
the database does not have wait until the case arrives again.

A claim or decision that was answered but not published is lost. So that its token or decision id is not given to anyone
else, each recovery begins a new incarnation: tokens continue at the next multiple of a million, and the ids of
decisions contain its number.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from services.decision.domain.case_events import source
from services.decision.domain.cases import (
    APPEAL,
    CLAIMED,
    CLOSED,
    DECIDED,
    OPEN_STATES,
    SUPERSEDED,
    WAITING,
    WITHDRAWN,
    Case,
    Decision,
)
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event
from shared.runtime.clock import from_text

TOKENS: Final = 1_000_000
"""Tokens of one incarnation of a case."""


class RecoveryState(NamedTuple):
    """The state of the recovery, in the database that a connection is connected to.

    `is_incomplete`: a restore was noticed, and no new incarnation has begun since.
    `written`: the last id of the outbox. It never goes back, except in a restore.
    `has_waiting`: some published events wait because their case is not stored yet.
    """

    incarnation: int
    is_incomplete: bool
    identity: str
    read_for: str | None
    opened_for: str | None
    written: int
    has_waiting: bool

    @property
    def is_read(self) -> bool:
        return self.read_for == self.identity

    @property
    def is_open(self) -> bool:
        return self.opened_for == self.identity

    def has_changed_since(self, last: "RecoveryState") -> bool:
        """True if the database has gone back, or another process has recovered it.

        `last` must have been known before the statement that read this state began: another connection may have read a
        later state meanwhile, and the outbox's last id is visible before its transaction is committed.
        """
        return self.written < last.written or self.incarnation != last.incarnation

    def has_gone_back_since(self, last: "RecoveryState") -> bool:
        """True if the same database had a later content before, and no other process has recovered it.

        For `last`, see `has_changed_since`.
        """
        return self.written < last.written and self.incarnation <= last.incarnation


CaseEvent: TypeAlias = (
    events.CaseClaimed
    | events.CaseReleased
    | events.CaseExpired
    | events.CaseSuperseded
    | events.CaseClosed
    | events.DecisionMade
    | events.DecisionReplaced
)


class PublishedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event about a case that this service has published, and its time."""

    event_id: str
    at: datetime
    data: CaseEvent

    @property
    def case_id(self) -> str:
        return self.data.case_id


class TopicContent(NamedTuple):
    """The content of some records of the own topic.

    `sent`: the rows (shard, id) of the outbox whose events the records are.
    `incarnation`: the latest one that the records state, 0 for none.
    """

    events: Sequence[PublishedEvent] = ()
    sent: Sequence[tuple[int, int]] = ()
    incarnation: int = 0


class RecoveredCase(msgspec.Struct):
    """A case to which events are applied. `n` is the number of its decision in force, 0 for none.

    `decisions` are the new ones; `counts` are the names of the tallies to increase.
    """

    case: Case
    n: int = 0
    decisions: list[Decision] = []
    counts: list[str] = []

    def apply(self, published: PublishedEvent) -> bool:
        """Apply an event; False if it changes nothing: the case contains it, or has ended."""
        before, decided = self.case, len(self.decisions)
        match published.data:
            case events.CaseClaimed() as claimed:
                self._claim(claimed)
            case events.CaseReleased() | events.CaseExpired() as returned:
                self._return(returned, published.at)
            case events.CaseSuperseded() as superseded:
                self._end(SUPERSEDED, superseded.superseded_by)
            case events.CaseClosed() as closed:
                self._end(WITHDRAWN if closed.reason == WITHDRAWN else CLOSED)
            case events.DecisionMade() as made:
                self._decide(made, published.at)
            case _:
                assert_never(published.data)
        return self.case is not before or len(self.decisions) > decided

    def _claim(self, claimed: events.CaseClaimed) -> None:
        if claimed.lease_token <= self.case.lease_token:
            return
        self.case = replace(self.case, lease_token=claimed.lease_token)
        if self.case.state in OPEN_STATES:
            self.case = replace(
                self.case,
                state=CLAIMED,
                lease_until=from_text(claimed.lease_until),
                reviewer=claimed.reviewer,
                team=claimed.team,
                claim_key=None,
                claim_body=None,
                claim_client="",
            )

    def _return(self, returned: events.CaseReleased | events.CaseExpired, at: datetime) -> None:
        token, case = returned.lease_token, self.case
        if token < case.lease_token or (token == case.lease_token and case.state != CLAIMED):
            return
        until = case.lease_until if token == case.lease_token else at
        self.case = replace(case, lease_token=token)
        if case.state in OPEN_STATES:
            is_released = isinstance(returned, events.CaseReleased)
            self.case = replace(_unheld(self.case, WAITING), lease_until=None if is_released else until)

    def _end(self, state: str, superseded_by: str | None = None) -> None:
        if self.case.state in OPEN_STATES:
            self.case = replace(self.case, state=state, superseded_by=superseded_by, claim_key=None, claim_body=None)
            self.counts.append(state)

    def _decide(self, made: events.DecisionMade, at: datetime) -> None:
        if made.n <= self.n:
            return
        self.n = made.n
        self.decisions.append(
            Decision(
                decision_id=made.decision_id,
                case_id=made.case_id,
                n=made.n,
                action=made.action,
                reasons=made.reasons,
                policy_set=made.policy_set,
                automated=made.automated,
                reviewer=made.reviewer,
                team=made.team,
                lease_token=made.lease_token,
                note=made.note,
                decided_at=at,
            )
        )
        if self.case.state != DECIDED:
            by = "policy" if made.automated else "appeals" if made.case_type == APPEAL else "people"
            self.counts += [DECIDED, f"{by}/{made.action}"]
            token = max(self.case.lease_token, made.lease_token)
            self.case = replace(_unheld(self.case, DECIDED), lease_token=token)


def end_the_case(published: Sequence[PublishedEvent]) -> bool:
    """True if one of these events ends its case."""
    ending = events.CaseSuperseded | events.CaseClosed | events.DecisionMade
    return any(isinstance(each.data, ending) for each in published)


def published_event(event: Event[Any]) -> PublishedEvent | None:
    """An event of the own topic; None if it is about no case."""
    if not isinstance(event.data, CaseEvent):
        return None
    return PublishedEvent(event.attributes.id, from_text(event.attributes.time), event.data)


def first_token(incarnation: int) -> int:
    """The lowest token that an incarnation gives."""
    return incarnation * TOKENS


def incarnation_of(token: int) -> int:
    """The incarnation that gives a token."""
    return token // TOKENS


def recovered_event(region: str, incarnation: int, at: str) -> Event[events.DecisionRecovered]:
    """The event that begins an incarnation."""
    event_id = ids.event_id(f"decision/{region}", events.DECISION_RECOVERED, incarnation)
    attributes = Attributes(
        id=event_id,
        type=events.DECISION_RECOVERED,
        source=source(region),
        time=at,
        subject=f"decision:service:{region}",
        region=region,
        correlation_id=event_id,
    )
    return Event(attributes, events.DecisionRecovered(incarnation=incarnation, first_token=first_token(incarnation)))


def _unheld(case: Case, state: str) -> Case:
    return replace(case, state=state, reviewer="", team="", claim_key=None, claim_body=None)
