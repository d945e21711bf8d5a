"""The rules of appeals: format, admissibility, and the appeal window (DSA Art. 20).

A seller contests a decision that restricts their content. A notifier contests a decision that did not follow their
notice. The appeal must contest the decision in force, within the appeal window that starts with it. The decision in
force is known from the status projection.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from services.intake.items.domain import status
from services.intake.notices.domain.complaint_status import ITEM, NOTICE
from services.intake.notices.domain.notices import explanation_faults, person_faults, unprintable_faults
from shared.contracts import events, ids
from shared.contracts.events import Struct
from shared.runtime.clock import from_text, to_text
from shared.validation.codes import Codes
from shared.validation.faults import Fault, InputRejected, RejectionType

INVALID_APPEAL: Final = RejectionType(
    "invalid-appeal", 422, "The appeal is invalid", "/explanation: expected at least 20 characters"
)
WINDOW_CLOSED: Final = RejectionType(
    "appeal-window-closed",
    422,
    "The appeal window has ended",
    "/decision_id: the decision was made at 2026-05-01T09:30:00.000Z; its appeal window ended.",
)
UNDECIDED: Final = RejectionType(
    "undecided", 409, "No decision yet", "/item_id: item 9a03 has no decision that could be contested"
)
DECISION_REPLACED: Final = RejectionType(
    "decision-replaced", 409, "The decision was replaced", "/decision_id: decision 4ce3 was replaced."
)
APPEAL_OPEN: Final = RejectionType(
    "appeal-open", 409, "Another appeal is open", "/decision_id: another appeal is not decided yet"
)
APPEAL_ANSWERED: Final = RejectionType(
    "appeal-answered", 409, "An earlier appeal was decided", "/decision_id: an earlier appeal upheld it"
)
REFERENCE_USED: Final = RejectionType(
    "reference-used", 409, "The reference is already used", "/reference: belongs to another appeal"
)
INADMISSIBLE: Final = (WINDOW_CLOSED, UNDECIDED, DECISION_REPLACED, APPEAL_OPEN, APPEAL_ANSWERED, REFERENCE_USED)
_NAMED_BY: Final = ("decision_id", "item_id", "notice_id")


class AppealPost(Struct, frozen=True, kw_only=True):
    """An appeal as a client submits it: `AppealBody` in `services.intake.notices.models`."""

    decision_id: str = ""
    item_id: str = ""
    notice_id: str = ""
    region: str = ""
    appellant: events.Appellant
    explanation: str
    language: str = "und"
    reference: str


def faults(post: AppealPost, codes: Codes) -> Iterator[Fault]:
    """Every fault of an appeal that can be found without other data."""
    named_ids = {name: value for name in _NAMED_BY if (value := getattr(post, name))}
    if len(named_ids) != 1:
        pointer = f"/{list(named_ids)[1]}" if named_ids else "/decision_id"
        yield Fault(pointer, f"expected exactly one of {', '.join(_NAMED_BY)}")
    for name, value in named_ids.items():
        if ids.uuid_of(value) != value:
            yield Fault(f"/{name}", f"{value!r:.60} is not an id: expected a UUID in lower case")
    if post.region and post.decision_id:
        yield Fault("/region", "a decision belongs to one region: leave the field out")
    yield from unprintable_faults({"/region": post.region})
    yield from explanation_faults(post.explanation, post.language, post.reference, codes)
    appellant = post.appellant
    yield from person_faults("/appellant", appellant.name, appellant.email, appellant.reference)


def named(post: AppealPost) -> tuple[str, str]:
    """The id that identifies the contested decision: the name of its field, and its value."""
    return next((name, value) for name in _NAMED_BY if (value := getattr(post, name)))


class ContestedDecision(Struct, frozen=True, kw_only=True):
    """A decision on an item or a notice (`case_type`, `about`) in a region, with the facts of its case."""

    region: str
    case_type: str
    about: str
    facts: status.StatusFacts

    @property
    def decision(self) -> status.DecisionFact:
        """The decision in force."""
        assert self.facts.decision is not None  # noqa: S101 - only decided cases are contested
        return self.facts.decision

    @property
    def case_id(self) -> str:
        """The id of the decided case."""
        return ids.case_id(self.about, self.region, self.case_type)

    @property
    def first_event(self) -> str:
        """The id of the submission event, which is the correlation id of all later events."""
        submitted = events.ITEM_SUBMITTED if self.case_type == ITEM else events.NOTICE_SUBMITTED
        return ids.event_id(self.about, submitted, self.region)

    @property
    def decided_by_event(self) -> str:
        """The id of the event of the decision."""
        kind = events.DECISION_MADE if self.decision.n == 1 else events.DECISION_REPLACED
        return ids.event_id(self.case_id, kind, self.decision.n)


def inadmissible(post: AppealPost, contested: ContestedDecision, now: datetime, days: int) -> InputRejected | None:
    """The reason why an appeal is inadmissible, None for an admissible one.

    An appeal is inadmissible when it does not contest the decision in force, when the appellant may not contest this
    decision, or when the window of `days` since the decision has ended.
    """
    decision, [name, named_id] = contested.decision, named(post)
    if name == "decision_id" and named_id != decision.decision_id:
        detail = f"decision {named_id} was replaced by {decision.decision_id}: contest the new decision"
        return replaced(post, detail)
    if fault := _appellant_fault(post.appellant.kind, contested):
        return INVALID_APPEAL(fault, "/appellant/kind")
    ended = from_text(decision.decided_at) + timedelta(days=days)
    if now > ended:
        detail = f"the decision was made at {decision.decided_at}; its appeal window ended at {to_text(ended)}"
        return WINDOW_CLOSED(detail, f"/{name}")
    return None


def replaced(post: AppealPost, detail: str) -> InputRejected:
    """409: the contested decision was replaced, or is being replaced."""
    return DECISION_REPLACED(detail, f"/{named(post)[0]}")


def content_hash(post: AppealPost) -> str:
    """The hash that distinguishes the retry of an appeal from another appeal under the same reference."""
    return ids.struct_hash(post, always={*_NAMED_BY, "region", "language"})


def content(post: AppealPost, contested: ContestedDecision) -> events.Appeal:
    """The content of the event."""
    decision = contested.decision
    return events.Appeal(
        appellant=post.appellant,
        explanation=post.explanation,
        language=post.language,
        decision=events.Contested(
            decision_id=decision.decision_id,
            case_id=contested.case_id,
            case_type=contested.case_type,
            item_id=contested.about,
            n=decision.n,
            action=decision.action,
            reasons=decision.reasons,
            automated=decision.automated,
            reviewer=decision.reviewer,
            team=decision.team,
            decided_at=decision.decided_at,
        ),
    )


def _appellant_fault(kind: str, contested: ContestedDecision) -> str:
    action = contested.decision.action
    if kind == "seller":
        return "" if action == "reject" else f"a seller can only contest a rejection; the decision in force is {action}"
    if contested.case_type != NOTICE:
        return "a notifier can only contest the decision on a notice; only the seller can contest a decision on an item"
    return "" if action == "approve" else f"a notifier can only contest an approval; the decision in force is {action}"
