"""Cases and their decisions: the values that all rules share."""

from datetime import datetime
from typing import Final

import msgspec

from shared.contracts import events

NEW: Final = "new"  # not stored yet
WAITING: Final = "waiting"
CLAIMED: Final = "claimed"
DECIDED: Final = "decided"
SUPERSEDED: Final = "superseded"
WITHDRAWN: Final = "withdrawn"
CLOSED: Final = "closed"
OPEN_STATES: Final = frozenset({WAITING, CLAIMED})
ENDED_STATES: Final = frozenset({DECIDED, SUPERSEDED, WITHDRAWN, CLOSED})

ITEM: Final = "item"
NOTICE: Final = "notice"
APPEAL: Final = "appeal"

REVIEW: Final = "review"
OVERTURN: Final = "overturn"
ACTIONS: Final = frozenset({"approve", "reject"})
APPEAL_ACTIONS: Final = frozenset({"uphold", OVERTURN})
ACTIONS_BY_CASE_TYPE: Final = {ITEM: ACTIONS, NOTICE: ACTIONS, APPEAL: APPEAL_ACTIONS}


class Case(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stored case. `lease_token` is the last token given, 0 for none; `lease_until` is None after a release.

    `claim_client` is the client whose API key made the last claim.
    """

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
    claim_client: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The `n`-th decision of a case, from 1. The decision with the largest `n` is in force."""

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
