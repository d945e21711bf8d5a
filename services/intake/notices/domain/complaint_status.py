"""The status of a notice or an appeal in a region, derived from facts.

The facts are merged like those of items: see `services.intake.items.domain.status`. In the events of a complaint's
case, `item_id` is the id of the notice or appeal.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from services.intake.items.domain import status
from services.intake.items.domain.status import DeadLetterFact, SubmissionFact
from shared.contracts.events import AppealSubmitted, CaseClosed, Contested, NoticeSubmitted, Struct

ITEM: Final = "item"
NOTICE: Final = "notice"
APPEAL: Final = "appeal"


class CaseIdentity(NamedTuple):
    """The case of a decision: its region, and its item or notice (`type`, `id`)."""

    region: str
    type: str
    id: str


class ComplaintStatus(StrEnum):
    """The status of a notice or an appeal in a region."""

    SUBMITTED = "submitted"
    IN_REVIEW = "in_review"
    DECIDED = "decided"
    CLOSED = "closed"
    PARKED = "parked"
    DEAD_LETTERED = "dead_lettered"
    DISCARDED = "discarded"


OPEN: Final = frozenset({ComplaintStatus.SUBMITTED, ComplaintStatus.IN_REVIEW, ComplaintStatus.PARKED})
"""The states of a complaint that is not decided yet."""


class Closed(Struct, frozen=True, kw_only=True):
    """The closure of an appeal without a decision."""

    reason: str
    at: str


class ComplaintFacts(Struct, frozen=True, kw_only=True):
    """All facts about a notice or an appeal (`type`) in a region.

    `case` holds the facts that items also have. `contested` is the decision in the first submission of an appeal.
    """

    type: str
    case: status.StatusFacts = msgspec.field(name="way")
    contested: Contested | None = None
    closed: Closed | None = None


class ComplaintUpdate(Struct, frozen=True):
    """The facts about a notice or an appeal in one record."""

    id: str
    facts: ComplaintFacts


def from_event(data: Struct, *, subject: str, position: int, time: str) -> ComplaintUpdate | None:
    """The facts in one event at `position` of its partition; None for an event that does not concern the status."""
    if isinstance(data, NoticeSubmitted):
        return ComplaintUpdate(data.notice_id, ComplaintFacts(type=NOTICE, case=_submitted(data, subject, position)))
    if isinstance(data, AppealSubmitted):
        case = _submitted(data, subject, position)
        return ComplaintUpdate(data.appeal_id, ComplaintFacts(type=APPEAL, case=case, contested=data.appeal.decision))
    case_type, about = getattr(data, "case_type", ""), getattr(data, "item_id", "")
    if isinstance(data, CaseClosed):
        closed = Closed(reason=data.reason, at=time)
        return ComplaintUpdate(
            about, ComplaintFacts(type=case_type, case=status.StatusFacts(subject=subject), closed=closed)
        )
    facts = status.facts_from_event(data, subject=subject, position=position, time=time)
    return None if facts is None else ComplaintUpdate(about, ComplaintFacts(type=case_type, case=facts))


def from_dead_letter(letter: DeadLetterFact, type_: str, about: str, *, as_case: bool) -> ComplaintUpdate:
    """The facts in a dead letter of a submission or, with `as_case`, of a case."""
    case = status.StatusFacts(dead_case=letter) if as_case else status.StatusFacts(dead_submission=letter)
    return ComplaintUpdate(about, ComplaintFacts(type=type_, case=case))


def merge(a: ComplaintFacts, b: ComplaintFacts) -> ComplaintFacts:
    """The union of the facts; see `services.intake.items.domain.status.merge`."""
    return ComplaintFacts(
        type=max(a.type, b.type),
        case=status.merge(a.case, b.case),
        contested=_first_contested(a, b),
        closed=b.closed if a.closed is None else a.closed if b.closed is None else min(a.closed, b.closed, key=_rank),
    )


def status_of(facts: ComplaintFacts) -> ComplaintStatus:
    """The status: the latest stage that the facts prove."""
    if facts.case.decision is not None:
        return ComplaintStatus.DECIDED
    if facts.closed is not None:
        return ComplaintStatus.CLOSED
    if letter := status.dead_letter_of(facts.case):
        if letter.discarded:
            return ComplaintStatus.DISCARDED
        return ComplaintStatus.PARKED if letter.parked else ComplaintStatus.DEAD_LETTERED
    return ComplaintStatus.SUBMITTED if facts.case.opened is None else ComplaintStatus.IN_REVIEW


def waits_since(facts: ComplaintFacts) -> str:
    """The time (RFC 3339) of a submission that has no case yet; "" when there is none."""
    submission = facts.case.submission
    return submission.received_at if submission and status_of(facts) is ComplaintStatus.SUBMITTED else ""


def is_submitted_by(client: str, all_facts: Iterable[status.StatusFacts]) -> bool:
    """True if the facts of any region name the client as the submitter."""
    return any(case.submission is not None and case.submission.client == client for case in all_facts)


def status_since(facts: ComplaintFacts) -> str:
    """The time (RFC 3339) of the last change of `status_of`."""
    if facts.case.decision is None and facts.closed is not None:
        return facts.closed.at
    return status.updated_at(facts.case)


def _submitted(data: NoticeSubmitted | AppealSubmitted, subject: str, position: int) -> status.StatusFacts:
    submission = SubmissionFact(
        position=position,
        content_hash=data.content_hash,
        received_at=data.received_at,
        client=data.client,
        reference=data.reference,
        regions=data.regions,
    )
    return status.StatusFacts(subject=subject, submission=submission, submission_last=position)


def _first_contested(a: ComplaintFacts, b: ComplaintFacts) -> Contested | None:
    """The contested decision of the first submission."""
    if a.case.submission is None or b.case.submission is None:
        return a.contested or b.contested
    return a.contested if a.case.submission.position <= b.case.submission.position else b.contested


def _rank(closed: Closed) -> tuple[str, str]:
    return closed.at, closed.reason
