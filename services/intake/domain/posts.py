"""What a post may say. Form (types, sizes, ranges) is in the types themselves, where msgspec checks it while decoding
and the OpenAPI document reads it; `check` adds the meaning: codes, check digits, control characters. A good post costs
one decode and a dozen comparisons, because this is the hot path; for a bad one every fault is found. Nothing is mended
in silence: a code in the wrong case or a decimal price is refused with a hint, so that equal content has one spelling
and one hash.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from itertools import chain, islice
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, inspect

from services.intake.domain.faults import Fault, mismatches, pointer_to
from shared.auth.clients import PLATFORM
from shared.contracts import ids
from shared.contracts.events import Author, Item, ItemSubmitted, Money, Seller, Struct, Trader
from shared.validation import strict_json

MAX_BODY_BYTES: Final = 256 * 1024
_MAX_INT: Final = 2**63 - 1
_MAX_VERSION: Final = 2**53 - 1  # the largest that every JSON reader takes exactly: RFC 7493, section 2.2
MAX_FAULTS: Final = 20
_MAX_DEPTH: Final = 10  # of a category

is_platform = re.compile(PLATFORM).fullmatch
is_url = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]\S*").fullmatch
_is_email = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+").fullmatch
_is_phone = re.compile(r"\+?[0-9(][0-9 ()./-]{3,38}[0-9]").fullmatch
_is_subject = re.compile(PLATFORM + r":(?:product|seller|content):.{1,200}", re.DOTALL).fullmatch
_control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_control_escape = re.compile(rb"\\(?:u00[017]|[bf])").search

SubjectId = Annotated[str, Meta(min_length=1, max_length=200, description="Printable characters")]
_Short = Annotated[str, Meta(max_length=200)]
_Name = Annotated[str, Meta(max_length=500)]
_Label = Annotated[str, Meta(min_length=1, max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=_MAX_INT)]


class Price(Money, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price in minor units (cents) of an ISO 4217 currency: 12.65 EUR is 1265."""

    amount_minor: _Count
    currency: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Z]{3}$"})]


class Offerer(Seller, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who offers the item; `country` is ISO 3166-1 alpha-2, `rating` on the platform's own scale."""

    id: SubjectId
    name: _Name = ""
    country: Annotated[str, Meta(extra_json_schema={"pattern": "^([A-Z]{2})?$"})] = ""
    age_days: _Count | None = None
    listings: _Count | None = None
    rejected: _Count | None = None
    rating: Annotated[float, Meta(ge=0)] | None = None


class Trading(Trader, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who stands behind a seller, as the DSA, Art. 30(1), asks; whether it is complete is for policies to judge."""

    name: Annotated[str, Meta(min_length=1, max_length=500)]
    address: Annotated[str, Meta(max_length=1_000)] = ""
    country: Annotated[str, Meta(description="ISO 3166-1 alpha-2", extra_json_schema={"pattern": "^([A-Z]{2})?$"})] = ""
    register: Annotated[_Short, Meta(description="The trade register")] = ""
    register_number: Annotated[_Short, Meta(description="The entry in it")] = ""
    email: Annotated[str, Meta(max_length=320)] = ""
    phone: Annotated[str, Meta(max_length=40, description="Digits, spaces and ( ) . / - behind an optional +")] = ""
    self_certification: Annotated[
        bool, Meta(description="Whether the trader gave the word to offer only what complies with Union law")
    ] = False


class Writer(Author, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wrote it; `id` is the platform's own."""

    id: SubjectId
    name: _Name = ""


class Post(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a subject, as an upstream posts it. Without `version`, the content's hash names it.

    `brand`, `gtin` and `price` are of products, `trader` is of sellers, `author` and `links` are of content.
    """

    platform: Annotated[str, Meta(description="The marketplace", extra_json_schema={"pattern": f"^{PLATFORM}$"})]
    kind: Literal["product", "seller", "content"]
    id: SubjectId
    version: (
        Annotated[int, Meta(ge=1, le=_MAX_VERSION, description="Grows with each change; gaps are nothing")] | None
    ) = None
    reference: Annotated[_Short, Meta(description="The client's own; handed through")] = ""
    markets: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Z]{2}$"})]],
        Meta(min_length=1, max_length=50, description="ISO 3166-1 alpha-2", extra_json_schema={"uniqueItems": True}),
    ]
    language: Annotated[str, Meta(description="BCP 47")] = "und"
    title: Annotated[str, Meta(max_length=1_000)] = ""
    text: Annotated[str, Meta(max_length=50_000)] = ""
    category: Annotated[_Name, Meta(description=f"A path with `/`, at most {_MAX_DEPTH} deep")] = ""
    brand: _Name = ""
    gtin: Annotated[
        str, Meta(description="With its check digit", extra_json_schema={"pattern": "^([0-9]{8}|[0-9]{12,14})?$"})
    ] = ""
    attributes: Annotated[dict[_Label, Annotated[str, Meta(max_length=5_000)]], Meta(max_length=200)] = msgspec.field(
        default_factory=dict
    )
    media: Annotated[
        list[Annotated[str, Meta(max_length=2_048, extra_json_schema={"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"})]],
        Meta(max_length=100),
    ] = msgspec.field(default_factory=list)
    price: Price | None = None
    seller: Offerer | None = None
    scores: Annotated[
        dict[_Label, Annotated[float, Meta(ge=0, le=1)]],
        Meta(max_length=100, description="The upstream's own classifiers"),
    ] = msgspec.field(default_factory=dict)
    trader: Trading | None = None
    author: Writer | None = None
    links: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"pattern": f"^{PLATFORM}:(product|seller|content):"})]],
        Meta(max_length=100, description="The subjects it is about, `<platform>:<kind>:<id>`"),
    ] = msgspec.field(default_factory=list)


class Refused(Exception):  # noqa: N818 - the field's word
    """A post that is not taken, for good: the HTTP status, the problem's slug and title, and the faults found."""

    def __init__(self, status: int, slug: str, title: str, faults: list[Fault]) -> None:
        pointer, detail = faults[0]
        first = f"{pointer}: {detail}" if pointer else detail[0].upper() + detail[1:]
        more = len(faults[:MAX_FAULTS]) - 1
        super().__init__(f"{first}; {more} more in `errors`" if more else first)
        self.status = status
        self.slug = slug
        self.title = title
        self.faults = faults[:MAX_FAULTS]


class IllFormed(Exception):  # noqa: N818 - the field's word
    """A JSON text that has no post's form: every fault of form, and `rest`, the post that its sound fields make.

    `rest` is None where there is none to speak of; what it says about `fields` is not the text's.
    """

    def __init__(self, faults: list[Fault], rest: "Post | None", fields: frozenset[str]) -> None:
        super().__init__(f"{len(faults)} faults of form")
        self.faults = faults
        self.rest = rest
        self.fields = fields


class Codes(NamedTuple):
    """The world's code lists: ISO 3166-1 alpha-2, ISO 4217, and whether a tag is BCP 47."""

    countries: frozenset[str]
    currencies: frozenset[str]
    is_language: Callable[[str], bool]


class Identity(NamedTuple):
    """What names a post, whoever sends it and however often."""

    item_id: str
    content_hash: str
    content: bytes  # the JSON that the hash is of


class Submitted(ItemSubmitted, frozen=True, kw_only=True):
    """An `ItemSubmitted` whose item is JSON already: it was encoded for its hash."""

    item: msgspec.Raw  # type: ignore[assignment]  # written only, and the same on the wire


_decode = msgspec.json.Decoder(Post).decode
_SHAPE: Final = inspect.type_info(Post)
_NO_LANGUAGE: Final = "und"  # msgspec leaves a default out when it is the very same object
_OF_KIND: Final = {
    "brand": "product",
    "gtin": "product",
    "price": "product",
    "trader": "seller",
    "author": "content",
    "links": "content",
}
_STAND_INS: Final[dict[str, Any]] = {"platform": "x", "kind": "product", "id": "x", "markets": ["XX"]}


def read(text: bytes) -> Post:
    """The post in a JSON text; raises Refused when it is no JSON, IllFormed when its form is not a post's."""
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        raise _ill_formed(text, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(text, error) from error


def check(post: Post, text: bytes, codes: Codes) -> list[Fault]:
    """Every fault of meaning in a post but those of its markets; `text` is what it was read from."""
    faults: list[Fault] = []
    if not is_platform(post.platform):
        faults.append(Fault("/platform", "expected 1 to 63 of a-z, 0-9 and '-', not starting with '-'"))
    if not post.id.isprintable():
        faults.append(Fault("/id", "expected printable characters only"))
    if post.language != "und" and not codes.is_language(post.language):
        faults.append(Fault("/language", f"{post.language!r:.60} is no BCP 47 tag; expected such as 'de' or 'pt-BR'"))
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
        if not seller.id.isprintable():
            faults.append(Fault("/seller/id", "expected printable characters only"))
        if seller.country and seller.country not in codes.countries:
            faults.append(_code_fault("/seller/country", seller.country, "ISO 3166-1 country", codes.countries))
    if b"\x7f" in text or (b"\\" in text and _control_escape(text)):
        # only then can a string hold a control character, and each is looked at
        faults.extend(_control_faults(post, ""))
    return faults


def content(post: Post) -> Item:
    """What is judged: the post without what names it."""
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


def identity(post: Post, item: Item) -> Identity:
    """The item's id and its content's hash.

    The hash is SHA-256 over JSON with the fields in their order, mappings sorted and defaults left out: equal content
    has an equal hash whatever the order of its keys or its white space. The order of lists counts.
    """
    canonical = ids.canonical(item)
    content_hash = ids.content_hash(canonical)
    version = f"h:{content_hash}" if post.version is None else str(post.version)
    return Identity(ids.item_id(post.platform, post.kind, post.id, version), content_hash, canonical)


def is_doubled(text: bytes, post: Post, content: bytes) -> bool:
    """Whether an object in `text` has a name twice; `post` was read from it, `content` is its identity's.

    Of two members with one name the decoder keeps the last, so the text has more strings than what was read from it.
    Strings are counted by their quotation marks: first against what is judged, which costs a microsecond, and only when
    that has fewer (the text spells out defaults, or a mark is escaped in another way) against the text's own values.
    """
    marks = text.count(b'"')
    if b"\\" in text:
        marks += text.count(b"\\u0022")
    named = 12 if post.version is None else 14
    if marks == content.count(b'"') + (named + 4 if post.reference else named):
        return False
    return marks != msgspec.json.encode(msgspec.json.decode(text)).count(b'"') and any(doubled(text))


def doubled(text: bytes) -> Iterator[Fault]:
    """Every name that an object in a JSON text has more than once, with its pointer."""
    return _doubled(strict_json.read(text))


def invalid(faults: list[Fault]) -> Refused:
    """422: it is JSON, and does not fit."""
    return Refused(422, "invalid-item", "The item does not fit", faults)


def too_large(what: str = "the item") -> Refused:
    """413: more bytes than one item may have."""
    limit = f"{what} has more than {MAX_BODY_BYTES // 1024} KiB, the most one may have; leave out what is not judged"
    return Refused(413, "too-large", "The item is too large", [Fault("", limit)])


def gtin_problem(gtin: str) -> str | None:
    """What is wrong with a GTIN, None if nothing is.

    Source: GS1 General Specifications, section 7.9 (weights 3 and 1 from the right).
    """
    if len(gtin) not in (8, 12, 13, 14) or not (gtin.isascii() and gtin.isdigit()):
        return f"{gtin!r:.40} is no GTIN: expected 8, 12, 13 or 14 digits, as text"
    digits = gtin.encode()
    body = len(digits) - 1
    total = 3 * sum(digits[-2::-2]) + sum(digits[-3::-2]) - 48 * (3 * ((body + 1) // 2) + body // 2)
    expected = -total % 10
    if digits[-1] - 48 != expected:
        return f"{gtin!r} has a wrong check digit: {expected} was expected at its end"
    return None


def _doubled(given: object) -> Iterator[Fault]:
    for place in strict_json.twice(given):
        yield Fault(reduce(pointer_to, place, ""), "the name is given more than once in its object")


def _faults_of_kind(post: Post) -> Iterator[Fault]:
    for field, kind in _OF_KIND.items():
        if kind != post.kind and getattr(post, field) not in (None, "", []):
            yield Fault(f"/{field}", f"is of a {kind}, and this is a {post.kind}; leave it out")


def _faults_of_parts(post: Post, codes: Codes) -> Iterator[Fault]:
    """What is wrong with what only sellers and content have."""
    trader = post.trader
    if trader is not None:
        if trader.country and trader.country not in codes.countries:
            yield _code_fault("/trader/country", trader.country, "ISO 3166-1 country", codes.countries)
        if trader.email and not _is_email(trader.email):
            yield Fault("/trader/email", f"{trader.email!r:.60} is no e-mail address")
        if trader.phone and not _is_phone(trader.phone):
            expected = "expected such as '+49 30 1234567'"
            yield Fault("/trader/phone", f"{trader.phone!r:.60} is no telephone number; {expected}")
    if post.author is not None and not post.author.id.isprintable():
        yield Fault("/author/id", "expected printable characters only")
    for index, link in enumerate(post.links):
        if not _is_subject(link) or not link.isprintable():
            yield Fault(f"/links/{index}", f"{link!r:.60} is no subject; expected such as 'shop:product:B000051ZOA'")


@lru_cache(maxsize=4096)
def _category_problem(category: str) -> str | None:
    levels = category.split("/")
    if len(levels) > _MAX_DEPTH:
        return f"{len(levels)} levels; at most {_MAX_DEPTH} are taken"
    if not all(level.strip() for level in levels):
        return "a level of the path is empty; expected such as 'Home/Garden', without '/' at either end"
    return None


def _code_fault(pointer: str, given: str, what: str, known: frozenset[str]) -> Fault:
    hint = f"; write {given.upper()!r}" if given.upper() in known else ""
    return Fault(pointer, f"{given!r:.40} is no {what}{hint}")


def _media_faults(media: list[str]) -> Iterator[Fault]:
    for index, url in enumerate(media):
        if not is_url(url):
            yield Fault(f"/media/{index}", f"{url!r:.60} is no http:// or https:// address")


def _control_faults(value: object, pointer: str) -> Iterator[Fault]:
    if isinstance(value, str):
        if found := _control(value):
            place = f"control character U+{ord(found[0]):04X} at {found.start()}"
            yield Fault(pointer, f"{place}; of these only tab and line ends are taken")
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


def _ill_formed(text: bytes, error: msgspec.ValidationError) -> Refused | IllFormed:
    try:
        raw = strict_json.read(text)
        faults = list(islice(chain(mismatches(raw, _SHAPE), _doubled(raw)), MAX_FAULTS)) or [Fault("", str(error))]
    except (ValueError, RecursionError) as malformed:
        return _malformed(text, malformed)
    unsound = {fault.pointer.partition("/")[2].partition("/")[0] for fault in faults}
    if "" in unsound or len(faults) == MAX_FAULTS:
        return IllFormed(faults, None, frozenset(unsound))
    known = Post.__struct_fields__
    sound = {name: value for name, value in raw.items() if name in known and name not in unsound}
    return IllFormed(faults, msgspec.convert(_STAND_INS | sound, Post), frozenset(unsound))


def _malformed(text: bytes, error: Exception) -> Refused:
    if not text.strip():
        detail = "the input is empty; expected a JSON object"
    elif isinstance(error, RecursionError):
        detail = "the input is nested too deeply to be an item"
    elif isinstance(error, UnicodeDecodeError):
        detail = f"the input is not UTF-8 ({error.reason}); encode it again"
    elif strict_json.has_lone_surrogate(text):
        detail = "the input is not JSON: a \\u escape in it is half of a surrogate pair"
    else:
        detail = f"the input is not JSON: {str(error).removeprefix('JSON is malformed: ')}"
    return Refused(400, "malformed-json", "The input is not JSON", [Fault("", detail)])
