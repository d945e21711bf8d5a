"""The events, version 1: what is said on Kafka, as types.

These structs are the contract. A field may be added with a default; nothing inside a `.v1` is renamed, retyped or
removed. Enumerations are closed in what we write and open in what we read: a reader takes any string.
"""

from typing import Final

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of everything that travels: immutable, keyword-only, defaults left out."""


class Money(Struct, frozen=True, kw_only=True):
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount_minor: int
    currency: str


class Seller(Struct, frozen=True, kw_only=True):
    """What the upstream knows about who offers the item."""

    id: str
    name: str = ""
    country: str = ""
    age_days: int | None = None
    listings: int | None = None
    rejected: int | None = None
    rating: float | None = None


class Item(Struct, frozen=True, kw_only=True):
    """The content of one posted version of a subject.

    `markets` are ISO 3166-1 alpha-2, `language` BCP 47, `category` a path with `/`, `gtin` 8 to 14 digits, `scores`
    upstream classifiers' values by name, 0 to 1.
    """

    markets: list[str]
    language: str = "und"
    title: str = ""
    text: str = ""
    category: str = ""
    brand: str = ""
    gtin: str = ""
    attributes: dict[str, str] = {}
    media: list[str] = []
    price: Money | None = None
    seller: Seller | None = None
    scores: dict[str, float] = {}


class ItemSubmitted(Struct, frozen=True, kw_only=True):
    """An upstream posted a version of a subject; `version` None means that the content's hash names it."""

    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None
    content_hash: str
    client: str
    reference: str = ""
    received_at: str
    regions: list[str]
    item: Item


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
    """An item became a case of a region. `verdict` is `approve`, `reject` or `review`; `priority` 1 (first) to 9."""

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


class CaseClaimed(Struct, frozen=True, kw_only=True):
    """A reviewer holds the case until `lease_until`, under fencing token `lease_token`."""

    case_id: str
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int
    lease_until: str


class CaseReleased(Struct, frozen=True, kw_only=True):
    """The reviewer gave the case back undecided."""

    case_id: str
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int
    reason: str = ""


class CaseExpired(Struct, frozen=True, kw_only=True):
    """The lease ran out undecided; the case is in its queue again and the token no longer decides."""

    case_id: str
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int


class CaseSuperseded(Struct, frozen=True, kw_only=True):
    """A newer version of the subject took the case's place before it was decided."""

    case_id: str
    item_id: str
    superseded_by: str


class DecisionMade(Struct, frozen=True, kw_only=True):
    """What is so for an item in a region, until a later decision replaces it. `action` is `approve` or `reject`."""

    decision_id: str
    case_id: str
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None
    queue: str
    n: int
    action: str
    reasons: list[str] = []
    policy_set: str
    automated: bool
    reviewer: str = ""
    team: str = ""
    lease_token: int = 0
    note: str = ""
    received_at: str
    due_at: str


class Queue(Struct, frozen=True, kw_only=True):
    """A lane of a region that holds cases; `service_level_minutes` runs from the moment the item was received."""

    id: str
    title: str = ""
    service_level_minutes: int


class Region(Struct, frozen=True, kw_only=True):
    """An operating region: the markets and the queues it owns. Cases without a queue go to `default_queue`."""

    id: str
    title: str = ""
    markets: list[str]
    queues: list[Queue]
    default_queue: str


class OperatingModelPublished(Struct, frozen=True, kw_only=True):
    """Who owns what, from now on. `id` names `number` and the hash of the content."""

    id: str
    number: int
    published_by: str
    regions: list[Region]


class Policy(Struct, frozen=True, kw_only=True):
    """One rule: when all of `when` (CEL, each a bool) hold, it proposes `verdict`.

    `queue` and `priority` say where a review goes; `markets`, when not empty, limits the rule to items offered there.
    """

    id: str
    title: str = ""
    when: list[str]
    verdict: str
    reasons: list[str] = []
    queue: str = ""
    priority: int = 5
    markets: list[str] = []


class PolicySetPublished(Struct, frozen=True, kw_only=True):
    """The policies in force from now on. `terms` are word lists by name, looked for in title and text."""

    id: str
    number: int
    published_by: str
    terms: dict[str, list[str]] = {}
    policies: list[Policy]
    default_verdict: str


ITEM_SUBMITTED: Final = "piepowder.item.submitted.v1"
CASE_OPENED: Final = "piepowder.case.opened.v1"
CASE_CLAIMED: Final = "piepowder.case.claimed.v1"
CASE_RELEASED: Final = "piepowder.case.released.v1"
CASE_EXPIRED: Final = "piepowder.case.expired.v1"
CASE_SUPERSEDED: Final = "piepowder.case.superseded.v1"
DECISION_MADE: Final = "piepowder.decision.made.v1"
OPERATING_MODEL_PUBLISHED: Final = "piepowder.operatingmodel.published.v1"
POLICY_SET_PUBLISHED: Final = "piepowder.policyset.published.v1"

TYPES: Final[dict[str, type[Struct]]] = {
    ITEM_SUBMITTED: ItemSubmitted,
    CASE_OPENED: CaseOpened,
    CASE_CLAIMED: CaseClaimed,
    CASE_RELEASED: CaseReleased,
    CASE_EXPIRED: CaseExpired,
    CASE_SUPERSEDED: CaseSuperseded,
    DECISION_MADE: DecisionMade,
    OPERATING_MODEL_PUBLISHED: OperatingModelPublished,
    POLICY_SET_PUBLISHED: PolicySetPublished,
}
