"""Events on `piepowder.control`: operating models, policy sets and clients."""

from typing import Final

import msgspec

from shared.contracts.events.base import Struct

OPERATING_MODEL_PUBLISHED: Final = "piepowder.operatingmodel.published.v1"
POLICY_SET_PUBLISHED: Final = "piepowder.policyset.published.v1"
CLIENT_CHANGED: Final = "piepowder.client.changed.v1"


class Queue(Struct, frozen=True, kw_only=True):
    """A queue of a region's cases; `service_level_minutes` counts from the receipt of the item."""

    id: str
    title: str = ""
    service_level_minutes: int


class Region(Struct, frozen=True, kw_only=True):
    """An operating region with its markets and queues. Cases without a queue go to `default_queue`. Notices and appeals
    go to `notice_queue` and `appeal_queue`, or to `default_queue` if these are empty."""

    id: str
    title: str = ""
    markets: list[str]
    queues: list[Queue]
    default_queue: str
    notice_queue: str = ""
    appeal_queue: str = ""


class OperatingModelPublished(Struct, frozen=True, kw_only=True):
    """The operating model in force from now on: which region owns which markets and queues. `id` consists of `number`
    and a hash of the content."""

    id: str
    number: int
    published_by: str
    regions: list[Region]


class Policy(Struct, frozen=True, kw_only=True):
    """A rule: if all conditions in `when` hold (CEL expressions of type bool), it proposes `verdict`.

    `queue` and `priority` apply to a review. Non-empty `markets` limit the rule to items offered there.
    """

    id: str
    title: str = ""
    when: list[str]
    verdict: str
    reasons: list[str] = []
    queue: str = ""
    priority: int = 5
    markets: list[str] = []


class TermExamples(Struct, frozen=True, kw_only=True):
    """Texts in which a word list must find a phrase, and texts in which it must find none."""

    match: list[str] = []
    no_match: list[str] = []


class TermOptions(Struct, frozen=True, kw_only=True):
    """Options of a word list: `exceptions` are texts in which a phrase does not count, `match` enables spellings,
    `patterns` adds personal data; `examples` are checked at publication."""

    exceptions: list[str] = []
    match: list[str] = []
    patterns: list[str] = []
    examples: TermExamples | None = None


class PolicySetPublished(Struct, frozen=True, kw_only=True):
    """The policies in force from now on. `terms` are word lists by name, searched in title and text; `term_options` has
    the options of some of them."""

    id: str
    number: int
    published_by: str
    terms: dict[str, list[str]] = {}
    term_options: dict[str, TermOptions] = {}
    policies: list[Policy]
    default_verdict: str


class RateLimit(Struct, frozen=True, kw_only=True):
    """Rate limit of a client, for each process: requests per second on average, and `burst` requests at once.

    `items_per_second` also limits the items in the requests; 0 means no such limit.
    """

    requests_per_second: float
    burst: int
    items_per_second: float = 0.0


class ClientKey(Struct, frozen=True, kw_only=True):
    """An API key of a client, as a hash. Without `expires_at` it does not expire; without `revoked_at` it is not
    revoked."""

    sha256: str
    created_at: str
    expires_at: str = ""
    revoked_at: str = ""


class ClientChanged(Struct, frozen=True, kw_only=True):
    """The complete new state of a client; `change` names the change. The event with the largest `revision` is valid.

    Its keys are accepted only while `state` is `active`. `*` in `regions` or `platforms` means all. Without `limit`,
    the client has no rate limit.
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
