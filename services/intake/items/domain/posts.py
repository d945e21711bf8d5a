"""The format and rules of a submitted item.

The types contain the format (types, sizes, ranges), which msgspec checks while it decodes. `check` adds the rules that
need more than a type: codes, check digits, control characters. This is the hot path: a valid item costs one decoding
and a dozen comparisons. For an invalid item, all faults are found. Nothing is corrected silently: a code in the wrong
case or a decimal price is rejected with a hint, so that equal content has one spelling and one hash.
"""

import re
from collections.abc import Iterator
from functools import lru_cache, reduce
from itertools import chain, islice
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, inspect

from shared.auth.clients import PLATFORM
from shared.contracts import ids
from shared.contracts.events import Author, Item, ItemSubmitted, Money, Seller, Struct, Trader
from shared.validation import strict_json
from shared.validation.codes import Codes
from shared.validation.faults import (
    MALFORMED_JSON,
    MAX_FAULTS,
    TOO_LARGE,
    Fault,
    InputRejected,
    RejectionType,
    mismatches,
    pointer_to,
)
from shared.validation.identifiers import identifier_problem

INVALID_ITEM: Final = RejectionType("invalid-item", 422, "The item is invalid", "/markets: is required")

MAX_BODY_BYTES: Final = 256 * 1024
_MAX_INT: Final = 2**63 - 1
MAX_VERSION: Final = 2**53 - 1  # the largest integer that every JSON parser reads exactly: RFC 7493, section 2.2
MAX_CATEGORY_LEVELS: Final = 10

is_platform = re.compile(PLATFORM).fullmatch
is_url = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]\S*").fullmatch
_is_email = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+").fullmatch
_is_phone = re.compile(r"\+?[0-9(][0-9 ()./-]{3,38}[0-9]").fullmatch
_is_subject = re.compile(PLATFORM + r":(?:product|seller|content):.{1,200}", re.DOTALL).fullmatch
_control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search
_control_escape = re.compile(rb"\\(?:u00[01789]|[bf])").search
_c1_in_utf8 = re.compile(rb"\xc2[\x80-\x9f]").search

SubjectId = Annotated[str, Meta(min_length=1, max_length=200)]
_Short = Annotated[str, Meta(max_length=200)]
_Name = Annotated[str, Meta(max_length=500)]
_Label = Annotated[str, Meta(min_length=1, max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=_MAX_INT)]


class PriceInput(Money, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price: see `PriceBody` in `services.intake.items.models`, which documents all fields."""

    amount_minor: _Count
    currency: str


class SellerInput(Seller, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The seller of an item."""

    id: SubjectId
    name: _Name = ""
    country: str = ""
    age_days: _Count | None = None
    listings: _Count | None = None
    rejected: _Count | None = None
    rating: Annotated[float, Meta(ge=0)] | None = None


class TraderInput(Trader, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trader behind a seller."""

    name: Annotated[str, Meta(min_length=1, max_length=500)]
    address: Annotated[str, Meta(max_length=1_000)] = ""
    country: str = ""
    register: _Short = ""
    register_number: _Short = ""
    email: Annotated[str, Meta(max_length=320)] = ""
    phone: Annotated[str, Meta(max_length=40)] = ""
    self_certification: bool = False


class AuthorInput(Author, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The author of content."""

    id: SubjectId
    name: _Name = ""


class ItemPost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a subject, as a client submits it.

    `ItemBody` in `services.intake.items.models` documents it. A test compares both: they accept the same values.
    """

    platform: str
    kind: Literal["product", "seller", "content"]
    id: SubjectId
    version: Annotated[int, Meta(ge=1, le=MAX_VERSION)] | None = None
    reference: _Short = ""
    markets: Annotated[list[str], Meta(min_length=1, max_length=50)]
    language: str = "und"
    title: Annotated[str, Meta(max_length=1_000)] = ""
    text: Annotated[str, Meta(max_length=50_000)] = ""
    category: _Name = ""
    brand: _Name = ""
    gtin: str = ""
    attributes: Annotated[dict[_Label, Annotated[str, Meta(max_length=5_000)]], Meta(max_length=200)] = msgspec.field(
        default_factory=dict
    )
    media: Annotated[list[Annotated[str, Meta(max_length=2_048)]], Meta(max_length=100)] = msgspec.field(
        default_factory=list
    )
    price: PriceInput | None = None
    seller: SellerInput | None = None
    scores: Annotated[dict[_Label, Annotated[float, Meta(ge=0, le=1)]], Meta(max_length=100)] = msgspec.field(
        default_factory=dict
    )
    trader: TraderInput | None = None
    author: AuthorInput | None = None
    links: Annotated[list[str], Meta(max_length=100)] = msgspec.field(default_factory=list)


class MalformedItem(Exception):  # noqa: N818 - a state of the input
    """JSON that does not have the format of an item, with every fault of its format.

    `rest` is an item with the valid fields of the text and with placeholders for `fields`; None if there is no such
    item.
    """

    def __init__(self, faults: list[Fault], rest: "ItemPost | None", fields: frozenset[str]) -> None:
        super().__init__(f"{len(faults)} faults of format")
        self.faults = faults
        self.rest = rest
        self.fields = fields


class ItemIdentity(NamedTuple):
    """The identity of an item: the same for every client and every repetition."""

    item_id: str
    content_hash: str
    content: bytes  # the hashed JSON


class EncodedItemSubmitted(ItemSubmitted, frozen=True, kw_only=True):
    """An `ItemSubmitted` with the item as JSON, which was already encoded for its hash."""

    item: msgspec.Raw  # type: ignore[assignment]  # only encoded, to the same JSON


_decode = msgspec.json.Decoder(ItemPost).decode
_SHAPE: Final = inspect.type_info(ItemPost)
_NO_LANGUAGE: Final = "und"  # msgspec omits a default only if it is the identical object
_OF_KIND: Final = {
    "brand": "product",
    "gtin": "product",
    "price": "product",
    "trader": "seller",
    "author": "content",
    "links": "content",
}
_PLACEHOLDERS: Final[dict[str, Any]] = {"platform": "x", "kind": "product", "id": "x", "markets": ["XX"]}


def read(text: bytes) -> ItemPost:
    """Decode an item; raises InputRejected for malformed JSON, MalformedItem for JSON in another format."""
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        raise _malformed_item(text, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed_json(text, error) from error


def check(post: ItemPost, text: bytes, codes: Codes) -> list[Fault]:
    """Every fault of an item except its format and its markets; `text` is its JSON."""
    faults: list[Fault] = []
    if not is_platform(post.platform):
        faults.append(Fault("/platform", "expected 1 to 63 of a-z, 0-9 and '-', not starting with '-'"))
    if (problem := identifier_problem(post.id)) is not None:
        faults.append(Fault("/id", problem))
    if post.language != "und" and not codes.is_language(post.language):
        faults.append(
            Fault("/language", f"{post.language!r:.60} is not a BCP 47 tag; expected for example 'de' or 'pt-BR'")
        )
    if post.kind != "product" or post.trader is not None or post.author is not None or post.links:
        faults.extend(_faults_of_kind(post))
        faults.extend(_faults_of_parts(post, codes))
    if post.category and (problem := _category_problem(post.category)):
        faults.append(Fault("/category", problem))
    if post.gtin and (problem := gtin_problem(post.gtin)):
        faults.append(Fault("/gtin", problem))
    if post.media and not all(map(is_url, post.media)):
        faults.extend(_media_faults(post.media))
    if post.price is not None and post.price.currency not in codes.currencies:
        faults.append(_code_fault("/price/currency", post.price.currency, "ISO 4217 currency", codes.currencies))
    seller = post.seller
    if seller is not None:
        if (problem := identifier_problem(seller.id)) is not None:
            faults.append(Fault("/seller/id", problem))
        if seller.country and seller.country not in codes.countries:
            faults.append(_code_fault("/seller/country", seller.country, "ISO 3166-1 country", codes.countries))
    if b"\x7f" in text or (b"\xc2" in text and _c1_in_utf8(text)) or (b"\\" in text and _control_escape(text)):
        # without these bytes no string can contain a control character
        faults.extend(_control_faults(post, ""))
    return faults


def content(post: ItemPost) -> Item:
    """The content of the item, without the fields that identify it.

    Each field is written out, because a loop over the fields takes ten times as long. A test compares the fields.
    """
    return Item(
        markets=post.markets,
        language=_NO_LANGUAGE if post.language == _NO_LANGUAGE else post.language,
        title=post.title,
        text=post.text,
        category=post.category,
        brand=post.brand,
        gtin=post.gtin,
        attributes=post.attributes,
        media=post.media,
        price=post.price,
        seller=post.seller,
        scores=post.scores,
        trader=post.trader,
        author=post.author,
        links=post.links,
    )


def identity(post: ItemPost, item: Item) -> ItemIdentity:
    """The id of the item and the hash of its content.

    The hash is SHA-256 of the JSON with fields in a fixed order, sorted mappings and without defaults. Equal content
    has the same hash, independent of the order of its keys and of white space. The order of lists matters.
    """
    canonical = ids.canonical(item)
    content_hash = ids.content_hash(canonical)
    version = f"h:{content_hash}" if post.version is None else str(post.version)
    return ItemIdentity(ids.item_id(post.platform, post.kind, post.id, version), content_hash, canonical)


def duplicates(text: bytes) -> list[Fault]:
    """A fault for every duplicate name of an object in a valid JSON text."""
    return list(_duplicates(strict_json.decode_raw(text))) if strict_json.has_duplicates(text) else []


def too_large(input_name: str = "the item") -> InputRejected:
    """The rejection of an item above the size limit."""
    limit = f"{MAX_BODY_BYTES // 1024} KiB, which is the limit"
    return TOO_LARGE(f"{input_name} has more than {limit}; leave out data that is not moderated")


def gtin_problem(gtin: str) -> str | None:
    """The fault of a GTIN, None for a valid one.

    Source: GS1 General Specifications, section 7.9 (weights 3 and 1 from the right).
    """
    if len(gtin) not in (8, 12, 13, 14) or not (gtin.isascii() and gtin.isdigit()):
        return f"{gtin!r:.40} is not a GTIN: expected 8, 12, 13 or 14 digits, as text"
    digits = gtin.encode()
    body = len(digits) - 1
    total = 3 * sum(digits[-2::-2]) + sum(digits[-3::-2]) - 48 * (3 * ((body + 1) // 2) + body // 2)
    expected = -total % 10
    if digits[-1] - 48 != expected:
        return f"{gtin!r} has a wrong check digit: expected {expected} at the end"
    return None


def _duplicates(raw: object) -> Iterator[Fault]:
    for place in strict_json.duplicates(raw):
        yield Fault(reduce(pointer_to, place, ""), "duplicate object key")


def _faults_of_kind(post: ItemPost) -> Iterator[Fault]:
    for field, kind in _OF_KIND.items():
        if kind != post.kind and getattr(post, field) not in (None, "", []):
            yield Fault(f"/{field}", f"belongs to a {kind}, but this is a {post.kind}; leave it out")


def _faults_of_parts(post: ItemPost, codes: Codes) -> Iterator[Fault]:
    """The faults of the fields that only sellers and content have."""
    trader = post.trader
    if trader is not None:
        if trader.country and trader.country not in codes.countries:
            yield _code_fault("/trader/country", trader.country, "ISO 3166-1 country", codes.countries)
        if trader.email and not _is_email(trader.email):
            yield Fault("/trader/email", f"{trader.email!r:.60} is not an e-mail address")
        if trader.phone and not _is_phone(trader.phone):
            expected = "expected for example '+49 30 1234567'"
            yield Fault("/trader/phone", f"{trader.phone!r:.60} is not a telephone number; {expected}")
    if post.author is not None and (problem := identifier_problem(post.author.id)) is not None:
        yield Fault("/author/id", problem)
    for index, link in enumerate(post.links):
        if not _is_subject(link) or not link.isprintable():
            yield Fault(
                f"/links/{index}", f"{link!r:.60} is not a subject; expected for example 'shop:product:B000051ZOA'"
            )


@lru_cache(maxsize=4096)
def _category_problem(category: str) -> str | None:
    levels = category.split("/")
    if len(levels) > MAX_CATEGORY_LEVELS:
        return f"{len(levels)} levels; at most {MAX_CATEGORY_LEVELS} are allowed"
    if not all(level.strip() for level in levels):
        return "a level of the path is empty; expected for example 'Home/Garden', without '/' at either end"
    return None


def _code_fault(pointer: str, code: str, standard: str, codes: frozenset[str]) -> Fault:
    hint = f"; write {code.upper()!r}" if code.upper() in codes else ""
    return Fault(pointer, f"{code!r:.40} is not an {standard}{hint}")


def _media_faults(media: list[str]) -> Iterator[Fault]:
    for index, url in enumerate(media):
        if not is_url(url):
            yield Fault(f"/media/{index}", f"{url!r:.60} is not an http:// or https:// address")


def _control_faults(value: object, pointer: str) -> Iterator[Fault]:
    if isinstance(value, str):
        if found := _control(value):
            place = f"control character U+{ord(found[0]):04X} at {found.start()}"
            yield Fault(pointer, f"{place}; only tab and line ends are allowed")
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _control_faults(element, pointer_to(pointer, index))
    elif isinstance(value, dict):
        for name, element in value.items():
            if _control(name):
                yield Fault(pointer_to(pointer, name), "a control character in the name")
            yield from _control_faults(element, pointer_to(pointer, name))
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if name != "id":
                yield from _control_faults(getattr(value, name), pointer_to(pointer, name))


def _malformed_item(text: bytes, error: msgspec.ValidationError) -> InputRejected | MalformedItem:
    try:
        raw = strict_json.decode_raw(text)
        faults = list(islice(chain(mismatches(raw, _SHAPE), _duplicates(raw)), MAX_FAULTS)) or [Fault("", str(error))]
    except (ValueError, RecursionError) as malformed:
        return _malformed_json(text, malformed)
    invalid_fields = {fault.pointer.partition("/")[2].partition("/")[0] for fault in faults}
    if "" in invalid_fields or len(faults) == MAX_FAULTS:
        return MalformedItem(faults, None, frozenset(invalid_fields))
    fields = ItemPost.__struct_fields__
    valid = {name: value for name, value in raw.items() if name in fields and name not in invalid_fields}
    return MalformedItem(faults, msgspec.convert(_PLACEHOLDERS | valid, ItemPost), frozenset(invalid_fields))


def _malformed_json(text: bytes, error: Exception) -> InputRejected:
    if not text.strip():
        detail = "the input is empty; expected a JSON object"
    elif isinstance(error, RecursionError):
        detail = "the input is nested too deeply for an item"
    elif isinstance(error, UnicodeDecodeError):
        detail = f"the input is not UTF-8 ({error.reason}); encode it again"
    elif strict_json.has_lone_surrogate(text):
        detail = "the input is not JSON: a \\u escape in it is half of a surrogate pair"
    else:
        detail = f"the input is not JSON: {str(error).removeprefix('JSON is malformed: ')}"
    return MALFORMED_JSON(detail)
