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

from services.decision.domain import rejections
from services.decision.domain.cases import CLAIMED, CLOSED, DECIDED, NEW, SUPERSEDED, WAITING, WITHDRAWN, Case
from shared.contracts import events

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


class CaseTransition(NamedTuple):
    """The next state, and the type of the event that reports the change; "" when no event is published."""

    state: str
    event_type: str = ""


TRANSITIONS: Final[Mapping[tuple[str, str], CaseTransition]] = {
    (NEW, OPEN): CaseTransition(WAITING),
    (NEW, DECIDE): CaseTransition(DECIDED, events.DECISION_MADE),
    (NEW, SUPERSEDE): CaseTransition(SUPERSEDED, events.CASE_SUPERSEDED),
    (NEW, WITHDRAW): CaseTransition(WITHDRAWN, events.CASE_CLOSED),
    (NEW, CLOSE): CaseTransition(CLOSED, events.CASE_CLOSED),
    (WAITING, CLAIM): CaseTransition(CLAIMED, events.CASE_CLAIMED),
    (WAITING, SUPERSEDE): CaseTransition(SUPERSEDED, events.CASE_SUPERSEDED),
    (WAITING, WITHDRAW): CaseTransition(WITHDRAWN, events.CASE_CLOSED),
    (CLAIMED, HEARTBEAT): CaseTransition(CLAIMED),
    (CLAIMED, RELEASE): CaseTransition(WAITING, events.CASE_RELEASED),
    (CLAIMED, EXPIRE): CaseTransition(WAITING, events.CASE_EXPIRED),
    (CLAIMED, DECIDE): CaseTransition(DECIDED, events.DECISION_MADE),
    (CLAIMED, SUPERSEDE): CaseTransition(SUPERSEDED, events.CASE_SUPERSEDED),
    (CLAIMED, WITHDRAW): CaseTransition(WITHDRAWN, events.CASE_CLOSED),
    (DECIDED, OVERTURN): CaseTransition(DECIDED, events.DECISION_REPLACED),
}

_REJECTIONS: Final = {
    DECIDED: (rejections.ALREADY_DECIDED, "Case {0.case_id} was decided already."),
    SUPERSEDED: (
        rejections.SUPERSEDED,
        "Case {0.case_id} was superseded by item {0.superseded_by}, a newer version. Claim another case.",
    ),
    WITHDRAWN: (
        rejections.WITHDRAWN,
        "Case {0.case_id} was closed because its item was withdrawn. Claim another case.",
    ),
    CLOSED: (rejections.CLOSED, "Case {0.case_id} was closed without a decision. Claim another case."),
}


def transition(case: Case, command: str) -> CaseTransition:
    """The effect of a command on a stored case. Raises InputRejected when the case has ended."""
    found = TRANSITIONS.get((case.state, command))
    if found is None:
        kind, detail = _REJECTIONS[case.state]
        raise kind.with_message(detail.format(case))
    return found
