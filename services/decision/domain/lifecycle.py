"""The life cycle of a case: one table of (state, command) -> (next state, event).

               ┌─── release, expire ────┐
               ▼                        │      ┌─► heartbeat
    open ──► waiting ──── claim ────► claimed ─┴─ decide ──► decided ◄──┐
               │                        │                      └─ overturn
               └──────────┬─────────────┘
                          ├── supersede ──► superseded
                          └── withdraw ───► withdrawn

A case can also be decided (by a policy), superseded, withdrawn or closed at the moment it is opened. A case that has
ended keeps its state; an appeal that succeeds adds a decision to it. Every change of state in this service reads the
table.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from services.decision.domain.cases import CLAIMED, CLOSED, DECIDED, NEW, SUPERSEDED, WAITING, WITHDRAWN, Case
from shared.contracts import events
from shared.runtime.errors import PiepowderError

OPEN: Final = "open"
CLAIM: Final = "claim"
HEARTBEAT: Final = "heartbeat"
RELEASE: Final = "release"
EXPIRE: Final = "expire"
DECIDE: Final = "decide"
OVERTURN: Final = "overturn"
SUPERSEDE: Final = "supersede"
WITHDRAW: Final = "withdraw"
CLOSE: Final = "close"
COMMANDS: Final = (OPEN, CLAIM, HEARTBEAT, RELEASE, EXPIRE, DECIDE, OVERTURN, SUPERSEDE, WITHDRAW, CLOSE)


class CommandRejected(PiepowderError):  # noqa: N818 - a rejected command is a normal outcome
    """A command that the case's state or type does not allow. `slug` is the stable name of the reason."""

    def __init__(self, slug: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug


class Transition(NamedTuple):
    """The next state, and the type of the event that reports the change; "" when no event is published."""

    state: str
    event_type: str = ""


TRANSITIONS: Final[Mapping[tuple[str, str], Transition]] = {
    (NEW, OPEN): Transition(WAITING),
    (NEW, DECIDE): Transition(DECIDED, events.DECISION_MADE),
    (NEW, SUPERSEDE): Transition(SUPERSEDED, events.CASE_SUPERSEDED),
    (NEW, WITHDRAW): Transition(WITHDRAWN, events.CASE_CLOSED),
    (NEW, CLOSE): Transition(CLOSED, events.CASE_CLOSED),
    (WAITING, CLAIM): Transition(CLAIMED, events.CASE_CLAIMED),
    (WAITING, SUPERSEDE): Transition(SUPERSEDED, events.CASE_SUPERSEDED),
    (WAITING, WITHDRAW): Transition(WITHDRAWN, events.CASE_CLOSED),
    (CLAIMED, HEARTBEAT): Transition(CLAIMED),
    (CLAIMED, RELEASE): Transition(WAITING, events.CASE_RELEASED),
    (CLAIMED, EXPIRE): Transition(WAITING, events.CASE_EXPIRED),
    (CLAIMED, DECIDE): Transition(DECIDED, events.DECISION_MADE),
    (CLAIMED, SUPERSEDE): Transition(SUPERSEDED, events.CASE_SUPERSEDED),
    (CLAIMED, WITHDRAW): Transition(WITHDRAWN, events.CASE_CLOSED),
    (DECIDED, OVERTURN): Transition(DECIDED, events.DECISION_REPLACED),
}

_REJECTIONS: Final = {
    DECIDED: ("already-decided", "Case {0.case_id} was decided already."),
    SUPERSEDED: (
        "superseded",
        "Case {0.case_id} was superseded by item {0.superseded_by}, a newer version. Claim another case.",
    ),
    WITHDRAWN: ("withdrawn", "Case {0.case_id} was closed because its item was withdrawn. Claim another case."),
    CLOSED: ("closed", "Case {0.case_id} was closed without a decision. Claim another case."),
}


def transition(case: Case, command: str) -> Transition:
    """The effect of a command on a stored case. Raises CommandRejected when the case has ended."""
    found = TRANSITIONS.get((case.state, command))
    if found is None:
        slug, detail = _REJECTIONS[case.state]
        raise CommandRejected(slug, detail.format(case))
    return found
