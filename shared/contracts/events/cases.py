"""Events on `piepowder.cases.<region>`: routed cases and routed withdrawals."""

from typing import Final

from shared.contracts.events.base import Struct
from shared.contracts.events.submissions import Appeal, Item, Notice

CASE_OPENED: Final = "piepowder.case.opened.v1"
CASE_WITHDRAWN: Final = "piepowder.case.withdrawn.v1"


class TermHit(Struct, frozen=True, kw_only=True):
    """A phrase of a word list in an item. `field` is `title` or `text`; `start` and `end` count Unicode code points."""

    list: str
    phrase: str
    field: str
    start: int
    end: int


class Trace(Struct, frozen=True, kw_only=True):
    """Explanation of a verdict: policy set, operating model, matching policies, and conditions that held.

    A condition is named `<policy>/<index>`. A condition that is neither in `held` nor in `errors` did not hold.
    `terms` has the word lists found in title and text, each with the first of its phrases that was found;
    `hits` has the places, at most 20 of each list.
    """

    policy_set: str
    operating_model: str
    matched: list[str] = []
    held: list[str] = []
    errors: dict[str, str] = {}
    terms: dict[str, str] = {}
    hits: list[TermHit] = []


class _CaseEvent(Struct, frozen=True, kw_only=True):
    case_id: str
    case_type: str = "item"
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None


class CaseOpened(_CaseEvent, frozen=True, kw_only=True):
    """A region opened a case of an item, a notice or an appeal (`case_type`). `verdict` is `approve`, `reject` or
    `review`; `priority` is 1 (first) to 9.

    `item_id` is the id of the item, notice or appeal. The case of a notice or an appeal has the full `notice` or
    `appeal`; its `item` has only the fields that the notice or appeal contains. `client` and `requested_at` are the
    client and the time of its post, if the client stated the time: they order posts without version numbers.
    """

    queue: str
    priority: int
    received_at: str
    client: str = ""
    requested_at: str = ""
    due_at: str
    verdict: str
    reasons: list[str] = []
    trace: Trace
    item: Item
    notice: Notice | None = None
    appeal: Appeal | None = None


class CaseWithdrawn(_CaseEvent, frozen=True, kw_only=True):
    """An item was withdrawn: its case in a region is withdrawn too, even if the case is not opened yet."""

    withdrawn_at: str
    reason: str = ""
