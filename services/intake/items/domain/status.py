"""The status of an item in a region, derived from facts.

The projection reads several topics at the same time, so a decision can arrive before its submission, and every event
can arrive again. Events are therefore converted to facts whose `merge` is commutative, associative and idempotent. Any
order and any repetition of the same events gives the same facts; `status` derives the status from them.

A position is an offset in one partition. All events of a subject on a topic are in one partition, so that positions
give their order.
"""

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from shared.contracts.events import (
    CaseClosed,
    CaseOpened,
    CaseSuperseded,
    DecisionMade,
    DecisionReplaced,
    ItemSubmitted,
    ItemWithdrawn,
    Struct,
)


class Status(StrEnum):
    """The status of an item in a region."""

    SUBMITTED = "submitted"
    IN_REVIEW = "in_review"
    APPROVED = "approved"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    PARKED = "parked"
    DEAD_LETTERED = "dead_lettered"
    DISCARDED = "discarded"


class SubmissionFact(Struct, frozen=True, kw_only=True):
    """The first submission of the item; `regions` are all regions that it was submitted to. `markets` is empty for a
    notice or an appeal, and in facts of older versions."""

    position: int
    version: int | None = None
    content_hash: str
    received_at: str
    client: str
    reference: str = ""
    regions: list[str] = msgspec.field(default_factory=list)
    markets: list[str] = msgspec.field(default_factory=list)


class WithdrawalFact(Struct, frozen=True, kw_only=True):
    """The first withdrawal of the item."""

    position: int
    reason: str = ""
    at: str


class CaseFact(Struct, frozen=True, kw_only=True):
    """The first case of the item."""

    position: int
    case_id: str
    queue: str
    due_at: str
    verdict: str
    at: str


class DecisionFact(Struct, frozen=True, kw_only=True):
    """The decision in force, which has the largest `n`. `replaces` is the id of the decision before it, if any."""

    n: int
    decision_id: str
    action: str
    reasons: list[str] = msgspec.field(default_factory=list)
    automated: bool
    policy_set: str
    decided_at: str
    reviewer: str = ""
    team: str = ""
    replaces: str = ""


class SupersededFact(Struct, frozen=True, kw_only=True):
    """The supersession of the item by a newer version, `by`."""

    by: str
    at: str


class DeadLetterFact(Struct, frozen=True, kw_only=True):
    """The last dead letter of a record; `position` is the record's offset.

    `since` is the offset of the record that blocks the parked subject (possibly this record); -1 if the record was
    dead-lettered alone. `discarded`: an operator closed the dead letter, so the record is never handled.
    """

    position: int
    reason: str
    at: str
    since: int = -1
    discarded: bool = False

    @property
    def parked(self) -> bool:
        return self.since >= 0

    def is_a_repeat(self, first: int | None) -> bool:
        """True if the record was handled at offset `first`, before its subject was parked at `since`.

        The dead letter is then of a later copy of the record, and does not change the status.
        """
        return first is not None and first < self.since < self.position


class StatusFacts(Struct, frozen=True, kw_only=True):
    """All facts about an item in a region.

    `submission_last` and `opened_last` are the positions of the last copies of these events. `conflict`: the same item
    was submitted with other content. `closed_at` is the time when a withdrawal closed the case, `withdrawal_discarded`
    the time when an operator discarded the withdrawal, so that it has no effect.
    """

    subject: str = ""
    submission: SubmissionFact | None = None
    submission_last: int = -1
    conflict: bool = False
    opened: CaseFact | None = None
    opened_last: int = -1
    superseded: SupersededFact | None = None
    decision: DecisionFact | None = None
    withdrawal: WithdrawalFact | None = None
    closed_at: str = ""
    withdrawal_discarded: str = ""
    dead_submission: DeadLetterFact | None = None
    dead_case: DeadLetterFact | None = None


def facts_from_event(data: Struct, *, subject: str, position: int, time: str) -> StatusFacts | None:
    """The facts in one event at `position` of its partition; None for an event that does not concern the status."""
    facts_from = _FACTS_FROM.get(type(data))
    return None if facts_from is None else facts_from(data, subject, position, time)


def _from_submission(data: ItemSubmitted, subject: str, position: int, _: str) -> StatusFacts:
    submission = SubmissionFact(
        position=position,
        version=data.version,
        content_hash=data.content_hash,
        received_at=data.received_at,
        client=data.client,
        reference=data.reference,
        regions=data.regions,
        markets=data.item.markets,
    )
    return StatusFacts(subject=subject, submission=submission, submission_last=position)


def _from_withdrawal(data: ItemWithdrawn, subject: str, position: int, time: str) -> StatusFacts:
    return StatusFacts(subject=subject, withdrawal=WithdrawalFact(position=position, reason=data.reason, at=time))


def _from_case(data: CaseOpened, subject: str, position: int, time: str) -> StatusFacts:
    opened = CaseFact(
        position=position, case_id=data.case_id, queue=data.queue, due_at=data.due_at, verdict=data.verdict, at=time
    )
    return StatusFacts(subject=subject, opened=opened, opened_last=position)


def _from_superseded(data: CaseSuperseded, subject: str, _: int, time: str) -> StatusFacts:
    return StatusFacts(subject=subject, superseded=SupersededFact(by=data.superseded_by, at=time))


def _from_closed(data: CaseClosed, subject: str, _: int, time: str) -> StatusFacts:
    return StatusFacts(subject=subject, closed_at=time if data.reason == "withdrawn" else "")


def _from_decision(data: DecisionMade, subject: str, _: int, time: str) -> StatusFacts:
    decision = DecisionFact(
        n=data.n,
        decision_id=data.decision_id,
        action=data.action,
        reasons=data.reasons,
        automated=data.automated,
        policy_set=data.policy_set,
        decided_at=time,
        reviewer=data.reviewer,
        team=data.team,
        replaces=data.replaces if isinstance(data, DecisionReplaced) else "",
    )
    return StatusFacts(subject=subject, decision=decision)


_FACTS_FROM: Final[dict[type[Struct], Callable[[Any, str, int, str], StatusFacts]]] = {
    ItemSubmitted: _from_submission,
    ItemWithdrawn: _from_withdrawal,
    CaseOpened: _from_case,
    CaseSuperseded: _from_superseded,
    CaseClosed: _from_closed,
    DecisionMade: _from_decision,
    DecisionReplaced: _from_decision,
}


def merge(a: StatusFacts, b: StatusFacts) -> StatusFacts:
    """The facts of both; where both have a fact, a choice that does not depend on the order."""
    clash = a.submission and b.submission and a.submission.content_hash != b.submission.content_hash
    return StatusFacts(
        subject=max(a.subject, b.subject),
        submission=_first(a.submission, b.submission),
        submission_last=max(a.submission_last, b.submission_last),
        conflict=a.conflict or b.conflict or bool(clash),
        opened=_first(a.opened, b.opened),
        opened_last=max(a.opened_last, b.opened_last),
        superseded=_of_two(a.superseded, b.superseded),
        decision=_largest(a.decision, b.decision),
        withdrawal=_first(a.withdrawal, b.withdrawal),
        closed_at=max(a.closed_at, b.closed_at),
        withdrawal_discarded=max(a.withdrawal_discarded, b.withdrawal_discarded),
        dead_submission=_last(a.dead_submission, b.dead_submission),
        dead_case=_last(a.dead_case, b.dead_case),
    )


def status(facts: StatusFacts) -> Status:
    """The status: the latest stage that the facts prove.

    A dead letter means `dead_lettered`, or `parked` while its subject is parked, or `discarded` after an operator has
    closed it, unless its record was handled later.
    """
    if facts.decision is not None:
        return Status.APPROVED if facts.decision.action == "approve" else Status.REJECTED
    if facts.superseded is not None:
        return Status.SUPERSEDED
    if withdrawn_since(facts):
        return Status.WITHDRAWN
    if letter := dead_letter_of(facts):
        if letter.discarded:
            return Status.DISCARDED
        return Status.PARKED if letter.parked else Status.DEAD_LETTERED
    if facts.opened is not None and facts.opened.verdict == "review":
        return Status.IN_REVIEW
    return Status.SUBMITTED


def dead_letter_of(facts: StatusFacts) -> DeadLetterFact | None:
    """The dead letter that determines the status; None when there is none, or its record was handled later."""
    if facts.decision is not None or facts.superseded is not None:
        return None
    opened, submission = facts.opened, facts.submission
    letter, first, last = facts.dead_case, opened.position if opened else None, facts.opened_last
    if letter is None and opened is None:
        letter, last = facts.dead_submission, facts.submission_last
        first = submission.position if submission else None
    return None if letter is None or letter.position < last or letter.is_a_repeat(first) else letter


def withdrawn_since(facts: StatusFacts) -> str:
    """The time (RFC 3339) at which a withdrawal took effect, "" when none did.

    A withdrawal takes effect when it closes the case, or at once when no submission is known. Until then, the status
    stays: the case may still be decided, and an item whose record is dead-lettered stays dead-lettered.
    """
    if facts.decision is not None or facts.superseded is not None:
        return ""
    if facts.withdrawal is not None and facts.submission is None and facts.opened is None:
        return facts.closed_at or facts.withdrawal.at
    return facts.closed_at


def withdrawal_waits_since(facts: StatusFacts) -> str:
    """The time (RFC 3339) of a withdrawal that has not closed the open case yet; "" when there is none.

    While the item is `submitted`, its withdrawal waits with it. A discarded withdrawal does not wait.
    """
    if (
        facts.withdrawal is None
        or facts.withdrawal_discarded
        or facts.opened is None
        or status(facts) is not Status.IN_REVIEW
    ):
        return ""
    return facts.withdrawal.at


def submitted_to(facts_by_region: Mapping[str, StatusFacts]) -> set[str]:
    """The regions that an item was submitted to; empty while no submission is known."""
    submissions = [
        (region, facts.submission) for region, facts in facts_by_region.items() if facts.submission is not None
    ]
    return {each for region, submission in submissions for each in (region, *submission.regions)}


def markets(facts_by_region: Mapping[str, StatusFacts]) -> list[str]:
    """The markets of an item; empty while no submission is known."""
    submissions = (facts.submission for facts in facts_by_region.values())
    return next((submission.markets for submission in submissions if submission is not None), [])


def subject(facts_by_region: Mapping[str, StatusFacts]) -> str:
    """The subject of an item, from the facts of any region; empty while it is unknown."""
    return max((facts.subject for facts in facts_by_region.values()), default="")


def platform(facts_by_region: Mapping[str, StatusFacts]) -> str:
    """The platform of an item's subject; empty while it is unknown."""
    return subject(facts_by_region).partition(":")[0]


def conflict(all_facts: Collection[StatusFacts]) -> bool:
    """True if the same item was submitted with different content, in one region or in different regions."""
    hashes = {facts.submission.content_hash for facts in all_facts if facts.submission is not None}
    return len(hashes) > 1 or any(facts.conflict for facts in all_facts)


def reference(all_facts: Collection[StatusFacts], client: str) -> str:
    """The reference of `client` for the item; "" when another client submitted it."""
    submissions = (facts.submission for facts in all_facts if facts.submission is not None)
    return next((submission.reference for submission in submissions if submission.client == client), "")


def updated_at(facts: StatusFacts) -> str:
    """The time (RFC 3339) of the last change of `status`."""
    if facts.decision is not None:
        return facts.decision.decided_at
    if since := withdrawn_since(facts):
        return since
    last = facts.superseded or dead_letter_of(facts) or facts.opened
    if last is not None:
        return last.at
    return facts.submission.received_at if facts.submission is not None else ""


def _of_two(a: SupersededFact | None, b: SupersededFact | None) -> SupersededFact | None:
    return b if a is None else a if b is None or (a.by, a.at) >= (b.by, b.at) else b


def _first(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None or a.position <= b.position else b


def _last(a: DeadLetterFact | None, b: DeadLetterFact | None) -> DeadLetterFact | None:
    return max((one for one in (a, b) if one is not None), key=_by_position_and_time, default=None)


def _by_position_and_time(letter: DeadLetterFact) -> tuple[int, bool, str, str, int]:
    return letter.position, letter.discarded, letter.at, letter.reason, letter.since


def _largest(a: DecisionFact | None, b: DecisionFact | None) -> DecisionFact | None:
    return b if a is None else a if b is None or a.n >= b.n else b
