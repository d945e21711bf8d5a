"""Events on `piepowder.submissions.<region>`: items, withdrawals, notices and appeals."""

from typing import Final

from shared.contracts.events.base import Struct

ITEM_SUBMITTED: Final = "piepowder.item.submitted.v1"
ITEM_WITHDRAWN: Final = "piepowder.item.withdrawn.v1"
NOTICE_SUBMITTED: Final = "piepowder.notice.submitted.v1"
APPEAL_SUBMITTED: Final = "piepowder.appeal.submitted.v1"


class Money(Struct, frozen=True, kw_only=True):
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount_minor: int
    currency: str


class Seller(Struct, frozen=True, kw_only=True):
    """The seller of an item, as the client describes it."""

    id: str
    name: str = ""
    country: str = ""
    age_days: int | None = None
    listings: int | None = None
    rejected: int | None = None
    rating: float | None = None


class Trader(Struct, frozen=True, kw_only=True):
    """The trader behind a seller (DSA Art. 30(1)). `register` is the trade register, `register_number` the entry in it,
    `self_certification` the promise to offer only products and services that comply with Union law."""

    name: str
    address: str = ""
    country: str = ""
    register: str = ""
    register_number: str = ""
    email: str = ""
    phone: str = ""
    self_certification: bool = False


class Author(Struct, frozen=True, kw_only=True):
    """The author of a piece of content; `id` is the platform's id."""

    id: str
    name: str = ""


class Item(Struct, frozen=True, kw_only=True):
    """The content of one posted version of a subject.

    `markets` are ISO 3166-1 alpha-2 codes, `language` is BCP 47, `category` a path with `/`, `gtin` 8 to 14 digits.
    `scores` are the client's classifier scores by name, from 0 to 1; `links` are the subjects of a piece of content.
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


class _ItemEvent(Struct, frozen=True, kw_only=True):
    item_id: str
    platform: str
    kind: str
    subject_id: str
    version: int | None = None


class ItemSubmitted(_ItemEvent, frozen=True, kw_only=True):
    """A client posted a version of a subject. Without `version`, the content's hash identifies it.

    `requested_at` is the time of the post by the client's clock, if the client stated it. `operating_model` is the id
    of the operating model that was in force when the item was accepted; `markets_by_region` has the item's markets by
    the region that owned them then. Both are empty in older events.
    """

    content_hash: str
    client: str
    reference: str = ""
    received_at: str
    requested_at: str = ""
    regions: list[str]
    operating_model: str = ""
    markets_by_region: dict[str, list[str]] = {}
    item: Item


class ItemWithdrawn(_ItemEvent, frozen=True, kw_only=True):
    """The client withdrew a version of a subject. `regions` lists all regions that received it."""

    client: str
    reason: str = ""
    withdrawn_at: str
    regions: list[str]


class Reporter(Struct, frozen=True, kw_only=True):
    """The reporter of a subject: `kind` is `user`, `trusted_flagger` or `authority`; `reference` is the reporter's own.

    Name and e-mail are required except for offences against children (DSA Art. 16(2)(c)). In a case the e-mail is left
    out, because a reviewer does not need it.
    """

    kind: str
    name: str = ""
    email: str = ""
    reference: str = ""


class Notice(Struct, frozen=True, kw_only=True):
    """A notice about a subject, with the elements of DSA Art. 16(2).

    `markets` are the markets where it is offered, `locations` are URLs. `ground` is Piepowder's name of the ground,
    `category` its name in the DSA transparency database.
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
    """A subject was reported. `reference` is the client's name of the notice; `regions` lists all regions that
    received it."""

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
    """The contested decision, as it was known when the appeal was accepted.

    `item_id` is the id of the case's item, or of its notice if `case_type` is `notice`.
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
    """The appellant: `kind` is `seller` (of restricted content) or `notifier` (of a notice without a restriction)."""

    kind: str
    name: str = ""
    email: str = ""
    reference: str = ""


class Appeal(Struct, frozen=True, kw_only=True):
    """An appeal against a decision (DSA Art. 20). In a case the appellant's e-mail is left out."""

    appellant: Appellant
    explanation: str
    language: str = "und"
    decision: Contested


class AppealSubmitted(Struct, frozen=True, kw_only=True):
    """An appeal against a region's decision was submitted. `reference` is the client's name of the appeal."""

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
