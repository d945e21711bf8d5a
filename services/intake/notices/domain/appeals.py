"""What an appeal must say, who may appeal about what, and until when (DSA Art. 20).

A seller appeals about what restricts their content, a notifier about a notice that was not followed, each about the
decision in force and within the window that begins with it. What is in force is known from the status projection.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta

from services.intake.domain import status
from services.intake.domain.documents import Form
from services.intake.domain.faults import Fault
from services.intake.domain.posts import Codes, Refused
from services.intake.notices.domain.lives import ITEM, NOTICE
from services.intake.notices.domain.notices import (
    LEAST_SAID,
    Email,
    Explanation,
    Language,
    Name,
    Own,
    Reference,
    said,
    unprintable,
    who,
)
from shared.contracts import events, ids
from shared.contracts.events import Struct
from shared.runtime.clock import from_text, to_text

_NAMED_BY: Final = ("decision_id", "item_id", "notice_id")


class Appellant(events.Appellant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who complains: the seller whose content was restricted, or the notifier whose notice was not followed."""

    kind: Literal["seller", "notifier"]
    name: Name = ""
    email: Email = ""
    reference: Own = ""


class AppealPost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An appeal, as it is posted: a complaint about one decision of a region, which one of three ids names."""

    decision_id: Annotated[str, Meta(description="The decision itself")] = ""
    item_id: Annotated[str, Meta(description="The decision in force on this item")] = ""
    notice_id: Annotated[str, Meta(description="The decision in force on this notice")] = ""
    region: Annotated[
        str, Meta(max_length=31, description="With an item or a notice: whose decision; may be left out if it has one")
    ] = ""
    appellant: Appellant
    explanation: Explanation
    language: Language = "und"
    reference: Reference


FORM: Final = Form(AppealPost, appellant={"kind": "seller"}, explanation="x" * LEAST_SAID, reference="x")


def faults(post: AppealPost, codes: Codes) -> Iterator[Fault]:
    """Every fault of an appeal's meaning that needs nothing else to be known."""
    given = {name: value for name in _NAMED_BY if (value := getattr(post, name))}
    if len(given) != 1:
        pointer = f"/{list(given)[1]}" if given else "/decision_id"
        yield Fault(pointer, f"expected exactly one of {', '.join(_NAMED_BY)}")
    for name, value in given.items():
        if not _is_uuid(value):
            yield Fault(f"/{name}", f"{value!r:.60} is no id: expected a UUID in lower case")
    if post.region and post.decision_id:
        yield Fault("/region", "a decision has its region: leave the field out")
    yield from unprintable({"/region": post.region})
    yield from said(post.explanation, post.language, post.reference, codes)
    appellant = post.appellant
    yield from who("/appellant", appellant.name, appellant.email, appellant.reference)


def named(post: AppealPost) -> tuple[str, str]:
    """The field that names what the appeal is about, and what stands in it."""
    return next((name, value) for name in _NAMED_BY if (value := getattr(post, name)))


class Disputed(Struct, frozen=True, kw_only=True):
    """The life in a region that holds a decision: of an item or of a notice (`case_type`, `about`)."""

    region: str
    case_type: str
    about: str
    life: status.Facts

    @property
    def decision(self) -> status.Decision:
        """The one in force."""
        assert self.life.decision is not None  # noqa: S101 - it is found by its decision
        return self.life.decision

    @property
    def case_id(self) -> str:
        """The case that the decision is of."""
        return ids.case_id(self.about, self.region, self.case_type)

    @property
    def first_event(self) -> str:
        """What everything about the item or the notice is correlated by."""
        submitted = events.ITEM_SUBMITTED if self.case_type == ITEM else events.NOTICE_SUBMITTED
        return ids.event_id(self.about, submitted, self.region)

    @property
    def decided_by_event(self) -> str:
        """The event that told the decision."""
        kind = events.DECISION_MADE if self.decision.n == 1 else events.DECISION_REPLACED
        return ids.event_id(self.case_id, kind, self.decision.n)


def refusal(post: AppealPost, disputed: Disputed, now: datetime, days: int) -> Refused | None:
    """Why an appeal is not heard: it is about another decision than that in force, not this appellant's to complain
    about, or too late; None when it is heard. The window is `days` from the decision."""
    decision, [name, given] = disputed.decision, named(post)
    if name == "decision_id" and given != decision.decision_id:
        detail = f"decision {given} was replaced by {decision.decision_id}, which is in force now: appeal about that"
        return replaced(post, detail)
    if why := _not_theirs(post.appellant.kind, disputed):
        return Refused(422, "invalid-appeal", "The appeal does not fit", [Fault("/appellant/kind", why)])
    ended = from_text(decision.decided_at) + timedelta(days=days)
    if now > ended:
        detail = f"the decision was made at {decision.decided_at}; appeals about it were taken until {to_text(ended)}"
        return Refused(422, "appeal-window-closed", "It is too late for an appeal", [Fault(f"/{name}", detail)])
    return None


def replaced(post: AppealPost, detail: str) -> Refused:
    """409: another decision took the place of the one that is appealed about, or is about to."""
    name, _ = named(post)
    return Refused(409, "decision-replaced", "The decision is not in force any more", [Fault(f"/{name}", detail)])


def content(post: AppealPost, disputed: Disputed) -> events.Appeal:
    """What is told of an appeal."""
    decision, appellant = disputed.decision, post.appellant
    return events.Appeal(
        appellant=events.Appellant(
            kind=appellant.kind, name=appellant.name, email=appellant.email, reference=appellant.reference
        ),
        explanation=post.explanation,
        language=post.language,
        decision=events.Contested(
            decision_id=decision.decision_id,
            case_id=disputed.case_id,
            case_type=disputed.case_type,
            item_id=disputed.about,
            n=decision.n,
            action=decision.action,
            reasons=decision.reasons,
            automated=decision.automated,
            reviewer=decision.reviewer,
            team=decision.team,
            decided_at=decision.decided_at,
        ),
    )


def content_hash(post: AppealPost) -> str:
    """The hash that distinguishes the retry of an appeal from another appeal under the same reference."""
    return ids.struct_hash(post, always={*_NAMED_BY, "region", "language"})


def invalid(found: list[Fault]) -> Refused:
    """422: it is JSON, and does not fit."""
    return Refused(422, "invalid-appeal", "The appeal does not fit", found)


def _not_theirs(kind: str, disputed: Disputed) -> str:
    action = disputed.decision.action
    if kind == "seller":
        return "" if action == "reject" else f"a seller appeals about what restricts; the decision in force is {action}"
    if disputed.case_type != NOTICE:
        return "a notifier appeals about the decision on a notice; this one is on an item, and the seller's to contest"
    return "" if action == "approve" else f"a notifier appeals about what was not restricted; it was decided {action}"


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
