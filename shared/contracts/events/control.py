"""Events on `piepowder.control`: operating models, policy sets and clients."""

from typing import Final

import msgspec

from shared.contracts.events.base import Struct

OPERATING_MODEL_PUBLISHED: Final = "piepowder.operatingmodel.published.v1"
POLICY_SET_PUBLISHED: Final = "piepowder.policyset.published.v1"
CLIENT_CHANGED: Final = "piepowder.client.changed.v1"


class Queue(Struct, frozen=True, kw_only=True):
    """A lane of a region that holds cases; `service_level_minutes` runs from the moment the item was received."""

    id: str
    title: str = ""
    service_level_minutes: int


class Region(Struct, frozen=True, kw_only=True):
    """An operating region: the markets and the queues it owns. Cases without a queue go to `default_queue`; so do
    notices and appeals where no queue is named for them."""

    id: str
    title: str = ""
    markets: list[str]
    queues: list[Queue]
    default_queue: str
    notice_queue: str = ""
    appeal_queue: str = ""


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


class RateLimit(Struct, frozen=True, kw_only=True):
    """How often a client may call each process of ours: on average, and `burst` calls at once.

    `items_per_second` limits the items of its calls as well; 0 is no limit of their own.
    """

    requests_per_second: float
    burst: int
    items_per_second: float = 0.0


class ClientKey(Struct, frozen=True, kw_only=True):
    """A key of a client, by its hash alone; an empty time means that it does not end, or was not revoked."""

    sha256: str
    created_at: str
    expires_at: str = ""
    revoked_at: str = ""


class ClientChanged(Struct, frozen=True, kw_only=True):
    """What holds for a client from now on, whole; `change` says what is new. Of two, the larger `revision` holds.

    Its keys open nothing unless `state` is `active`. `regions` and `platforms` may be `*`, all; without `limit` there
    is none.
    """

    name: str
    revision: int
    state: str
    change: str
    changed_by: str
    scopes: list[str]
    regions: list[str]
    platforms: list[str] = msgspec.field(default_factory=lambda: ["*"])
    limit: RateLimit | None = None
    keys: list[ClientKey] = []
