"""The variables for conditions: name, CEL type, and how to read them from an item.

Each variable has one definition for both engines: `source` is a Python expression of ours. The generated function
contains it; `reader` compiles it for CEL.
"""

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from services.router.cel import code
from shared.contracts.events import Author, ItemSubmitted, Money, Seller, Trader

UNKNOWN: Final = -1

INT_BOUND: Final = 2**40
"""Bound of every int variable in the generated function; an item with a larger number is evaluated by CEL."""

ReadVariables: TypeAlias = Callable[[ItemSubmitted, Sequence[str]], dict[str, object]]


class Variable(NamedTuple):
    """A variable: its CEL type, its description, and its Python expression over the names of `PARTS`."""

    type: str
    description: str
    source: str

    @property
    def is_length(self) -> bool:
        """True for the length of a text or a list, which is never near `INT_BOUND`."""
        return self.source.startswith("len(")


PARTS: Final[Mapping[str, str]] = {
    "item": "submitted.item",
    "price": "item.price or NO_PRICE",
    "seller": "item.seller or NO_SELLER",
    "trader": "item.trader or NO_TRADER",
    "author": "item.author or NO_AUTHOR",
}
"""Parts of an item that are read once; beside them, a source may use the parameters `submitted` and `terms`."""

GLOBALS: Final[Mapping[str, object]] = {
    "NO_PRICE": Money(amount_minor=UNKNOWN, currency=""),
    "NO_SELLER": Seller(id="", age_days=UNKNOWN, listings=UNKNOWN, rejected=UNKNOWN, rating=float(UNKNOWN)),
    "NO_TRADER": Trader(name=""),
    "NO_AUTHOR": Author(id=""),
    "len": len,
}
"""The global names in the sources."""


def _or_unknown(path: str, unknown: str = "-1") -> str:
    return f"{unknown} if {path} is None else {path}"


VARIABLES: Final[Mapping[str, Variable]] = {
    "kind": Variable("string", "`product`, `seller` or `content`", "submitted.kind"),
    "platform": Variable("string", "the upstream platform", "submitted.platform"),
    "subject_id": Variable("string", "the platform's id of the subject", "submitted.subject_id"),
    "markets": Variable("list(string)", "ISO 3166-1 alpha-2 codes", "item.markets"),
    "market_count": Variable("int", "number of markets", "len(item.markets)"),
    "language": Variable("string", "BCP 47; `und` if unknown", "item.language"),
    "title": Variable("string", "", "item.title"),
    "text": Variable("string", "", "item.text"),
    "title_length": Variable("int", "characters", "len(item.title)"),
    "text_length": Variable("int", "characters", "len(item.text)"),
    "category": Variable("string", "path with `/`; empty if unknown", "item.category"),
    "brand": Variable("string", "empty if unknown", "item.brand"),
    "gtin": Variable("string", "8 to 14 digits; empty if unknown", "item.gtin"),
    "media_count": Variable("int", "number of pictures and videos", "len(item.media)"),
    "attributes": Variable("map(string, string)", "by name", "item.attributes"),
    "scores": Variable("map(string, double)", "of upstream classifiers, 0 to 1, by name", "item.scores"),
    "price.known": Variable("bool", "true if there is a price", "item.price is not None"),
    "price.minor": Variable("int", "minor units (cents); -1 if unknown", "price.amount_minor"),
    "price.currency": Variable("string", "ISO 4217; empty if unknown", "price.currency"),
    "seller.known": Variable("bool", "true if there is a seller", "item.seller is not None"),
    "seller.id": Variable("string", "empty if unknown", "seller.id"),
    "seller.name": Variable("string", "empty if unknown", "seller.name"),
    "seller.country": Variable("string", "ISO 3166-1 alpha-2; empty if unknown", "seller.country"),
    "seller.age_days": Variable("int", "-1 if unknown", _or_unknown("seller.age_days")),
    "seller.listings": Variable("int", "-1 if unknown", _or_unknown("seller.listings")),
    "seller.rejected": Variable("int", "earlier rejections; -1 if unknown", _or_unknown("seller.rejected")),
    "seller.rating": Variable("double", "-1.0 if unknown", _or_unknown("seller.rating", "-1.0")),
    "trader.known": Variable("bool", "true if the seller names a trader", "item.trader is not None"),
    "trader.name": Variable("string", "empty if unknown", "trader.name"),
    "trader.address": Variable("string", "empty if unknown", "trader.address"),
    "trader.country": Variable("string", "ISO 3166-1 alpha-2; empty if unknown", "trader.country"),
    "trader.register": Variable("string", "trade register; empty if unknown", "trader.register"),
    "trader.register_number": Variable("string", "its number there; empty if unknown", "trader.register_number"),
    "trader.email": Variable("string", "empty if unknown", "trader.email"),
    "trader.phone": Variable("string", "empty if unknown", "trader.phone"),
    "trader.self_certification": Variable(
        "bool", "the trader commits to offer only goods that comply with EU law", "trader.self_certification"
    ),
    "author.known": Variable("bool", "true if the content has an author", "item.author is not None"),
    "author.id": Variable("string", "empty if unknown", "author.id"),
    "author.name": Variable("string", "empty if unknown", "author.name"),
    "links": Variable("list(string)", "subjects of the content, `<platform>:<kind>:<id>`", "item.links"),
    "terms": Variable("list(string)", "names of the word lists found in title and text", "terms"),
}


def parts_read(variables: Collection[str]) -> list[ast.stmt]:
    """Statements that assign the parts in the sources of these variables."""
    needed = frozenset[str]().union(*(code.names(VARIABLES[variable].source) for variable in variables))
    if not needed.isdisjoint(PARTS):
        needed |= {"item"}
    return [code.assign(part, code.expression(source)) for part, source in PARTS.items() if part in needed]


def reader(variables: Collection[str]) -> ReadVariables:
    """A function that reads these variables, by name, from an item and the word lists found in it."""
    sources = [code.expression(VARIABLES[variable].source) for variable in variables]
    values = ast.Dict([ast.Constant(variable) for variable in variables], sources)
    definition = code.define("read", ["submitted", "terms"], [*parts_read(variables), ast.Return(values)])
    read: ReadVariables = code.run([definition], GLOBALS, "read")
    return read
