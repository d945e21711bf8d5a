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


class Trader(Struct, frozen=True, kw_only=True):
    """Who stands behind a seller, as the DSA, Art. 30(1), asks: `register` is the trade register, `register_number` the
    entry in it, `self_certification` the word that only what complies with the law of the Union is offered."""

    name: str
    address: str = ""
    country: str = ""
    register: str = ""
    register_number: str = ""
    email: str = ""
    phone: str = ""
    self_certification: bool = False


class Author(Struct, frozen=True, kw_only=True):
    """Who wrote a piece of content; `id` is the platform's own."""

    id: str
    name: str = ""


class Item(Struct, frozen=True, kw_only=True):
    """The content of one posted version of a subject.

    `markets` are ISO 3166-1 alpha-2, `language` BCP 47, `category` a path with `/`, `gtin` 8 to 14 digits, `scores`
    upstream classifiers' values by name, 0 to 1, `links` the subjects that a piece of content is about.
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
    trader: Trader | None = None
    author: Author | None = None
    links: list[str] = []


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


class ItemWithdrawn(Struct, frozen=True, kw_only=True):
    """The upstream took a version of a subject back. `regions` are all that it was submitted to."""

    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None
    client: str
    reason: str = ""
    withdrawn_at: str
    regions: list[str]


class Reporter(Struct, frozen=True, kw_only=True):
    """Who reported a subject: `kind` is `user`, `trusted_flagger` or `authority`; `reference` is their own.

    Name and e-mail are there but for offences against children (DSA Art. 16(2)(c)). In a case the e-mail is left out:
    who decides needs none.
    """

    kind: str
    name: str = ""
    email: str = ""
    reference: str = ""


class Notice(Struct, frozen=True, kw_only=True):
    """What somebody says of a subject, with the elements of DSA Art. 16(2).

    `markets` are where it is offered, `locations` URLs. `ground` is one of ours, `category` its name in the DSA's
    transparency database.
    """

    markets: list[str]
    ground: str
    category: str
    explanation: str
    locations: list[str]
    language: str = "und"
    good_faith: bool
    reporter: Reporter


class NoticeSubmitted(Struct, frozen=True, kw_only=True):
    """Somebody reported a subject. `reference` is the client's, and names the notice; `regions` are all that it went
    to."""

    notice_id: str
    platform: str
    kind: str
    subject_id: str
    client: str
    reference: str
    content_hash: str
    received_at: str
    regions: list[str]
    notice: Notice


class Contested(Struct, frozen=True, kw_only=True):
    """A decision that is complained about, as it was known when the appeal was taken in.

    `item_id` is what its case is about: an item's id, or a notice's where `case_type` is `notice`.
    """

    decision_id: str
    case_id: str
    case_type: str = "item"
    item_id: str
    n: int
    action: str
    reasons: list[str] = []
    automated: bool
    reviewer: str = ""
    team: str = ""
    decided_at: str


class Appellant(Struct, frozen=True, kw_only=True):
    """Who complains: `kind` is `seller`, whose content was restricted, or `notifier`, whose notice was not followed."""

    kind: str
    name: str = ""
    email: str = ""
    reference: str = ""


class Appeal(Struct, frozen=True, kw_only=True):
    """A complaint about a decision (DSA Art. 20). In a case the appellant's e-mail is left out."""

    appellant: Appellant
    explanation: str
    language: str = "und"
    decision: Contested


class AppealSubmitted(Struct, frozen=True, kw_only=True):
    """Somebody complained about a decision of the region. `reference` is the client's, and names the appeal."""

    appeal_id: str
    platform: str
    kind: str
    subject_id: str
    client: str
    reference: str
    content_hash: str
    received_at: str
    regions: list[str]
    appeal: Appeal


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


class CaseClaimed(Struct, frozen=True, kw_only=True):
    """A reviewer holds the case until `lease_until`, under fencing token `lease_token`."""

    case_id: str
    case_type: str = "item"
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int
    lease_until: str


class CaseReleased(Struct, frozen=True, kw_only=True):
    """The reviewer gave the case back undecided."""

    case_id: str
    case_type: str = "item"
    item_id: str
    queue: str
    reviewer: str
    team: str
    lease_token: int
    reason: str = ""


class CaseExpired(Struct, frozen=True, kw_only=True):
    """The lease ran out undecided; the case is in its queue again and the token no longer decides."""

    case_id: str
    case_type: str = "item"
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


class CaseClosed(Struct, frozen=True, kw_only=True):
    """The case ended without a decision. `reason` is `withdrawn` (the upstream took its item back), or of an appeal
    `replaced` (the decision is not in force any more) or `duplicate` (another appeal about it is open)."""

    case_id: str
    case_type: str = "item"
    item_id: str
    reason: str


class DecisionMade(Struct, frozen=True, kw_only=True):
    """What is so for a case in a region, until a later decision replaces it.

    `action` is `approve` or `reject` for an item; for a notice too: the content stays, or is restricted; `uphold` or
    `overturn` for an appeal. `item_id` is what the case is about, as in `CaseOpened`.
    """

    decision_id: str
    case_id: str
    case_type: str = "item"
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


class DecisionReplaced(DecisionMade, frozen=True, kw_only=True):
    """Another decision of a case took the place of `replaces`, and is in force now.

    `why` is `appeal`: `appeal_id` was decided `overturn`, by this reviewer, in case `appeal_case_id`. `lease_token`
    is 0, because it was not this case that was held.
    """

    replaces: str
    why: str
    appeal_id: str = ""
    appeal_case_id: str = ""


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


class ProposedPolicySet(Struct, frozen=True, kw_only=True):
    """A policy set as somebody asks for it: `PolicySetPublished` without id and number."""

    terms: dict[str, list[str]] = {}
    policies: list[Policy]
    default_verdict: str


class ProposedRegions(Struct, frozen=True, kw_only=True):
    """How some regions of the operating model are to be, each whole; those that are not named stay as they are."""

    regions: list[Region]


class ProposedChange(Struct, frozen=True, kw_only=True):
    """What a business request asks to be put into force."""

    policy_set: ProposedPolicySet | None = None
    operating_model_diff: ProposedRegions | None = None


class BusinessRequest(Struct, frozen=True, kw_only=True):
    """What the business asks for. `expected_date` is an ISO 8601 date, `change_hash` the SHA-256 of what is attached;
    both may be empty."""

    title: str
    kind: str
    sponsor: str = ""
    regions: list[str]
    markets: list[str] = []
    expected_items_per_day: int | None = None
    expected_date: str = ""
    rationale: str = ""
    change_hash: str = ""


class RequestDrafted(Struct, frozen=True, kw_only=True):
    """Somebody began a business request. `version` counts all that happened to a request, from 1."""

    request_id: str
    version: int
    by: str
    request: BusinessRequest


class RequestChanged(Struct, frozen=True, kw_only=True):
    """The draft is now so; `request` is None in a region that it no longer concerns."""

    request_id: str
    version: int
    by: str
    regions: list[str]
    request: BusinessRequest | None = None


class RequestCommented(Struct, frozen=True, kw_only=True):
    """Somebody said something about a request."""

    request_id: str
    version: int
    by: str
    comment_id: str
    text: str


class RequestSubmitted(Struct, frozen=True, kw_only=True):
    """A request stands for decision, as it is here for good, once `approvals_needed` people approve it."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approvals_needed: int
    request: BusinessRequest
    change: ProposedChange | None = None


class RequestEndorsed(Struct, frozen=True, kw_only=True):
    """One of those who must approve a request did; more are needed, and nothing is approved yet."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approvals: int
    approvals_needed: int


class RequestApproved(Struct, frozen=True, kw_only=True):
    """The last approval that a request needed; `approved_by` are all who gave one, in their order."""

    request_id: str
    version: int
    by: str
    reason: str = ""
    approved_by: list[str]


class RequestRejected(Struct, frozen=True, kw_only=True):
    """A request is refused, and why."""

    request_id: str
    version: int
    by: str
    reason: str


class RequestWithdrawn(Struct, frozen=True, kw_only=True):
    """Those who asked took their request back."""

    request_id: str
    version: int
    by: str
    reason: str = ""


class RequestDeployed(Struct, frozen=True, kw_only=True):
    """What an approved request asked for is in force."""

    request_id: str
    version: int
    by: str
    reason: str = ""


class RequestRolledBack(Struct, frozen=True, kw_only=True):
    """What was deployed is no longer in force, and why."""

    request_id: str
    version: int
    by: str
    reason: str


class RequestReviewed(Struct, frozen=True, kw_only=True):
    """What was deployed stayed, and was looked back on; `reason` says what was found."""

    request_id: str
    version: int
    by: str
    reason: str = ""


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


class AccessRefused(Struct, frozen=True, kw_only=True):
    """Calls of a process that were refused for the same `reason`, from the first (`since`) to the last (`until`).

    `client` is empty when it is not known who called. `key` is the first of them's: the first digits of its hash.
    """

    service: str
    method: str
    route: str
    status: int
    reason: str
    client: str = ""
    key: str = ""
    count: int
    since: str
    until: str


class KeyUse(Struct, frozen=True, kw_only=True):
    """How often a key opened something; `key` is the first digits of its hash."""

    client: str
    key: str
    calls: int
    last_used_at: str


class AccessUsed(Struct, frozen=True, kw_only=True):
    """The keys that a process was called with in a minute or so."""

    service: str
    since: str
    until: str
    keys: list[KeyUse]


ITEM_SUBMITTED: Final = "piepowder.item.submitted.v1"
ITEM_WITHDRAWN: Final = "piepowder.item.withdrawn.v1"
NOTICE_SUBMITTED: Final = "piepowder.notice.submitted.v1"
APPEAL_SUBMITTED: Final = "piepowder.appeal.submitted.v1"
CASE_OPENED: Final = "piepowder.case.opened.v1"
CASE_WITHDRAWN: Final = "piepowder.case.withdrawn.v1"
CASE_CLAIMED: Final = "piepowder.case.claimed.v1"
CASE_RELEASED: Final = "piepowder.case.released.v1"
CASE_EXPIRED: Final = "piepowder.case.expired.v1"
CASE_SUPERSEDED: Final = "piepowder.case.superseded.v1"
CASE_CLOSED: Final = "piepowder.case.closed.v1"
DECISION_MADE: Final = "piepowder.decision.made.v1"
DECISION_REPLACED: Final = "piepowder.decision.replaced.v1"
OPERATING_MODEL_PUBLISHED: Final = "piepowder.operatingmodel.published.v1"
POLICY_SET_PUBLISHED: Final = "piepowder.policyset.published.v1"
REQUEST_DRAFTED: Final = "piepowder.request.drafted.v1"
REQUEST_CHANGED: Final = "piepowder.request.changed.v1"
REQUEST_COMMENTED: Final = "piepowder.request.commented.v1"
REQUEST_SUBMITTED: Final = "piepowder.request.submitted.v1"
REQUEST_ENDORSED: Final = "piepowder.request.endorsed.v1"
REQUEST_APPROVED: Final = "piepowder.request.approved.v1"
REQUEST_REJECTED: Final = "piepowder.request.rejected.v1"
REQUEST_WITHDRAWN: Final = "piepowder.request.withdrawn.v1"
REQUEST_DEPLOYED: Final = "piepowder.request.deployed.v1"
REQUEST_ROLLED_BACK: Final = "piepowder.request.rolledback.v1"
REQUEST_REVIEWED: Final = "piepowder.request.reviewed.v1"
CLIENT_CHANGED: Final = "piepowder.client.changed.v1"
ACCESS_REFUSED: Final = "piepowder.access.refused.v1"
ACCESS_USED: Final = "piepowder.access.used.v1"

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
}
