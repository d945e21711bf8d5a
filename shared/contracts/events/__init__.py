"""The event contract, version 1: one module per topic, and the table of event types.

A field may be added with a default; nothing inside a `.v1` is renamed, retyped or removed. Writers use a closed set of
values for an enumeration; readers accept any string.
"""

from typing import Final

from shared.contracts.events.access import *
from shared.contracts.events.base import Struct as Struct
from shared.contracts.events.cases import *
from shared.contracts.events.control import *
from shared.contracts.events.decisions import *
from shared.contracts.events.requests import *
from shared.contracts.events.submissions import *

TYPES: Final[dict[str, type[Struct]]] = {
    ITEM_SUBMITTED: ItemSubmitted,
    ITEM_WITHDRAWN: ItemWithdrawn,
    NOTICE_SUBMITTED: NoticeSubmitted,
    APPEAL_SUBMITTED: AppealSubmitted,
    CASE_OPENED: CaseOpened,
    CASE_WITHDRAWN: CaseWithdrawn,
    CASE_CLAIMED: CaseClaimed,
    CASE_RELEASED: CaseReleased,
    CASE_EXPIRED: CaseExpired,
    CASE_SUPERSEDED: CaseSuperseded,
    CASE_CLOSED: CaseClosed,
    DECISION_MADE: DecisionMade,
    DECISION_REPLACED: DecisionReplaced,
    DECISION_RECOVERED: DecisionRecovered,
    OPERATING_MODEL_PUBLISHED: OperatingModelPublished,
    POLICY_SET_PUBLISHED: PolicySetPublished,
    REQUEST_DRAFTED: RequestDrafted,
    REQUEST_CHANGED: RequestChanged,
    REQUEST_COMMENTED: RequestCommented,
    REQUEST_SUBMITTED: RequestSubmitted,
    REQUEST_ENDORSED: RequestEndorsed,
    REQUEST_APPROVED: RequestApproved,
    REQUEST_REJECTED: RequestRejected,
    REQUEST_WITHDRAWN: RequestWithdrawn,
    REQUEST_DEPLOYED: RequestDeployed,
    REQUEST_ROLLED_BACK: RequestRolledBack,
    REQUEST_REVIEWED: RequestReviewed,
    CLIENT_CHANGED: ClientChanged,
    ACCESS_REFUSED: AccessRefused,
    ACCESS_USED: AccessUsed,
    LOSS_ACCEPTED: LossAccepted,
    DEADLETTER_DISCARDED: DeadLetterDiscarded,
}
