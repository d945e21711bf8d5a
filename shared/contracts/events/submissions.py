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
