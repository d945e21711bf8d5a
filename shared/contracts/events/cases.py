"""Events on `piepowder.cases.<region>`: routed cases and routed withdrawals."""

from typing import Final

from shared.contracts.events.base import Struct
from shared.contracts.events.submissions import Appeal, Item, Notice

CASE_OPENED: Final = "piepowder.case.opened.v1"
CASE_WITHDRAWN: Final = "piepowder.case.withdrawn.v1"


class Trace(Struct, frozen=True, kw_only=True):
    """Why a verdict came out: the sets it was made under, the policies that matched, the conditions that held.

    A condition is named `<policy>/<index>`; one that is not in `held` or `errors` did not hold.
    """

    policy_set: str
    operating_model: str
    matched: list[str] = []
    held: list[str] = []
    errors: dict[str, str] = {}


class CaseOpened(Struct, frozen=True, kw_only=True):
    """An item, a notice or an appeal became a case of a region (`case_type`). `verdict` is `approve`, `reject` or
    `review`; `priority` 1 (first) to 9.

    `item_id` is the id of what the case is about. A notice's or an appeal's case has that of the notice or the appeal,
    and says in `notice` or `appeal` what came; of its `item` only what they say themselves is known here.
    """

    case_id: str
    case_type: str = "item"
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None
    queue: str
    priority: int
    received_at: str
    due_at: str
    verdict: str
    reasons: list[str] = []
    trace: Trace
    item: Item
    notice: Notice | None = None
    appeal: Appeal | None = None


class CaseWithdrawn(Struct, frozen=True, kw_only=True):
    """An item was withdrawn, and so is its case of a region, whether or not it was opened yet."""

    case_id: str
    case_type: str = "item"
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None
    withdrawn_at: str
    reason: str = ""
