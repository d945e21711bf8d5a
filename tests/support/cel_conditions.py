"""Generated conditions and items that compare the two engines of the router's conditions."""

from typing import Any, Final

from hypothesis import strategies as st

from shared.contracts.events import Author, ItemSubmitted, Money, Seller, Trader
from tests.support.router_samples import submitted

TEXTS: Final = (
    "",
    "a",
    "A",
    "Ab",
    "gun",
    "A Gun.",
    "É",
    "ß",
    "ŞİLAH",
    "😀",
    "e\u0301",
    "\uffff",
    "\U00010000",
    "'\"\\\n\t",
)
_KEYS: Final = ("a", "b", "É", "")
_NUMBERS: Final = (-1, 0, 1, 2, 3, 99, 2**31, 2**40 - 1, 2**40, 2**40 + 1, 2**63 - 1, 2**63)
_DECIMALS: Final = (-0.0, 0.0, 0.1, 0.3, 0.5, 0.7999999999999999, 0.8, 1.0, 5e-324, 1e308)
_INTEGERS: Final = ("0", "1", "2", "3", "100", "1099511627776", "9223372036854775807", "-9223372036854775808", "-1")
_FLOATS: Final = ("0.0", "0.5", ".8", "1e3", "4.50", "-0.3", "1.0E-3", "0.30000000000000004", "1e300", "1e400")

# without NUL: CEL reads a text of an item only up to it, and intake rejects it
text = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = st.none() | st.sampled_from(_NUMBERS) | st.integers(-3, 2**63 - 1)
decimal = st.sampled_from(_DECIMALS) | st.floats(0, 5)
market = st.sampled_from(["DE", "FR", "US"])


def _scores() -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from(_KEYS), decimal, max_size=3)


@st.composite
def items(draw: st.DrawFn) -> ItemSubmitted:
    """Items with the values at which languages differ: unknown and large numbers, letters beyond ASCII, empty maps."""
    number = draw(st.sampled_from([numbers, st.sampled_from(_NUMBERS)]))
    price = st.builds(Money, amount_minor=number.filter(lambda n: n is not None), currency=text)
    seller = st.builds(
        Seller, id=text, name=text, age_days=number, listings=number, rejected=number, rating=st.none() | decimal
    )
    item: dict[str, Any] = {
        "markets": draw(st.lists(market, min_size=1, max_size=3)),
        "kind": draw(st.sampled_from(["product", "seller", "content"])),
        "title": draw(text),
        "text": draw(text),
        "brand": draw(text),
        "category": draw(text),
        "media": draw(st.lists(text, max_size=2)),
        "links": draw(st.lists(text, max_size=3) | st.just(["a"] * 1_001)),
        "attributes": draw(st.dictionaries(st.sampled_from(_KEYS), text, max_size=3)),
        "scores": draw(_scores()),
        "price": draw(st.none() | price),
        "seller": draw(st.none() | seller),
        "trader": draw(st.none() | st.builds(Trader, name=text, self_certification=st.booleans())),
        "author": draw(st.none() | st.builds(Author, id=text)),
    }
    return submitted(**item)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped.replace(chr(13), "")}"'


strings = (
    st.sampled_from(["kind", "title", "text", "brand", "category", "seller.name", "price.currency", "author.id"])
    | text.filter(lambda value: value.isprintable() or value in TEXTS).map(_quoted)
    | st.sampled_from(["'a\\'b'", "'\\u00C9'", '"\\U0001F600"', '"\\x41"', 'r"\\d"', '"""a"""', "'''gun'''"])
)
lists = st.sampled_from(["markets", "links", "terms", '["DE", "FR"]', '["a", title]', '["gun"]'])
maps = st.sampled_from(["attributes", "scores"])
keys = st.sampled_from(_KEYS).map(_quoted)
integers = (
    st.sampled_from(["price.minor", "seller.age_days", "seller.listings", "seller.rejected", "market_count"])
    | st.sampled_from(["price .minor", "seller // x\n . age_days"])
    | st.sampled_from(["title_length", "text_length", "media_count"])
    | st.sampled_from(_INTEGERS)
)
doubles = st.sampled_from(["seller.rating"]) | keys.map(lambda key: f"scores[{key}]") | st.sampled_from(_FLOATS)
booleans = st.sampled_from(
    ["true", "false", "price.known", "seller.known", "trader.known", "trader.self_certification", "author.known"]
)
comparison = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
sign = st.sampled_from(["+", "-", "*"])


def _binary(left: Any, operator: Any, right: Any) -> Any:
    return st.tuples(left, operator, right).map(" ".join)


def _wrapped(pattern: str, *parts: Any) -> Any:
    return st.tuples(*parts).map(lambda values: pattern.format(*values))


def _grown_strings(inner: Any) -> Any:
    return (
        _wrapped("{}.lowerAscii()", inner)
        | _wrapped("{}.upperAscii()", inner)
        | _wrapped("({} + {})", inner, inner)
        | _wrapped("{}.substring(0)", inner)
        | _wrapped("{}.trim()", inner)
        | _wrapped("attributes[{}]", keys)
        | st.sampled_from(["attributes.a", "markets[0]", "markets[1]", "links[0]", "links[2]", "markets[-1]"])
        | _wrapped("({} ? {} : {})", booleans, inner, inner)
    )


def _grown_integers(inner: Any) -> Any:
    return (
        _wrapped("({} {} {})", inner, sign | st.sampled_from(["/", "%"]), inner)
        | _wrapped("-({})", inner)
        | _wrapped("size({})", strings | lists | maps)
        | _wrapped("{}.size()", lists | maps | st.just("title"))
        | _wrapped("({} ? {} : {})", booleans, inner, inner)
    )


def _grown_doubles(inner: Any) -> Any:
    return (
        _wrapped("({} {} {})", inner, sign | st.just("/"), inner)
        | _wrapped("-({})", inner)
        | st.just("scores.a")
        | st.just("double(price.minor)")
    )


all_strings = st.recursive(strings, _grown_strings, max_leaves=4)
all_integers = st.recursive(integers, _grown_integers, max_leaves=4)
all_doubles = st.recursive(doubles, _grown_doubles, max_leaves=3)

_element_tests = (
    _wrapped("x == {}", strings)
    | _wrapped("{} != x", strings)
    | _wrapped("x.contains({})", strings)
    | _wrapped("x < {} || {}", strings, booleans)
    | _wrapped("x in {}", lists)
    | st.sampled_from(["x in scores && scores[x] > 0.5", "attributes[x] == title", "size(x) < title_length"])
    | st.sampled_from(["scores[x] > 0.3", "markets.exists(y, y == x)", "seller.known", "x.lowerAscii() == title"])
)
_macros = _wrapped("{}.{}(x, {})", lists | maps, st.sampled_from(["exists", "all", "exists_one"]), _element_tests)

_SENSITIVE: Final = (
    "title.lowerAscii() == title",
    "title.upperAscii() == title",
    "brand.lowerAscii() == title.lowerAscii()",
    "size(title) == 1",
    "title < brand",
    "price.minor > 5",
    "price.minor <= 1",
    "seller.age_days == seller.listings",
    "price.minor * 8388607 > 0",
    "seller.rejected + 1 > 0",
    "seller.rating == -1.0",
    "links.all(x, x != 'gun')",
)
"""Conditions whose results differ between languages for many of the items."""
_tests = (
    booleans
    | _binary(all_strings, comparison, all_strings)
    | _binary(all_integers, comparison, all_integers)
    | _binary(all_doubles, comparison, all_doubles)
    | _binary(all_strings, st.just("in"), lists | maps)
    | _wrapped("{} in [1, {}]", all_integers, integers)
    | _wrapped("{} in [0.5, 1.0]", all_doubles)
    | _wrapped("{}.{}({})", all_strings, st.sampled_from(["contains", "startsWith", "endsWith"]), all_strings)
    | st.sampled_from(
        ["has(attributes.a)", "has(scores.b)", "markets == links", 'markets != ["DE"]', "scores == scores"]
    )
    | _binary(booleans, st.sampled_from(["==", "!="]), booleans)
    | _macros
    | st.sampled_from(_SENSITIVE)
    | keys.map(lambda key: f"{key} in scores && scores[{key}] >= 0.5")
    | keys.map(lambda key: f"!({key} in attributes) || attributes[{key}] == title")
)


def _grown(inner: Any) -> Any:
    return (
        _wrapped("({} && {})", inner, inner)
        | _wrapped("{} || {}", inner, inner)
        | _wrapped("!({})", inner)
        | _wrapped("({} ? {} : {})", inner, inner, inner)
        | _wrapped("({}) == {}", inner, booleans)
    )


conditions = st.recursive(_tests, _grown, max_leaves=4)
"""Conditions of every construct that is covered, and of several that are not; most of them are valid."""


def _chain(operands: Any, operators: list[str], max_size: int) -> Any:
    """Operands with operators and different spaces between them, without parentheses."""
    spaces = st.sampled_from(["", " ", "\n", " //\n", "\t"])
    pair = st.tuples(spaces, st.sampled_from(operators), spaces, operands).map("".join)
    return st.tuples(operands, st.lists(pair, min_size=1, max_size=max_size).map("".join)).map("".join)


_signed = st.tuples(st.sampled_from(["", "", "-", "--", "- -", "---"]), integers.filter(lambda i: i[0] != "-"))
_sums = _chain(_signed.map("".join), ["+", "-", "*", " -", "/", "%"], 4)
_atoms = (
    st.tuples(st.sampled_from(["", "", "!", "!!"]), booleans).map("".join)
    | st.tuples(_sums, comparison, _sums).map("".join)
    | _wrapped("{}in {}", strings.map(lambda one: f"{one} "), lists | maps)
    | st.sampled_from(["!(title in markets)", "title.size()>-1", "scores.a<.5", "1.5<scores['a']", "1<2==true"])
)
_chains = _chain(_atoms, ["&&", "||", "==", "!=", "?true:", "?false:"], 4)
_TOKENS: Final = [
    "kind",
    "title",
    "price.minor",
    "scores",
    "markets",
    "x",
    "true",
    "false",
    "in",
    "&&",
    "||",
    "!",
    "-",
    "--",
    "+",
    "*",
    "==",
    "!=",
    "<",
    "?",
    ":",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "1",
    "1u",
    "0x1F",
    "1.5",
    ".5",
    "1e3",
    "01",
    "'a'",
    '"a"',
    "r'a'",
    "b'a'",
    "'''a'''",
    '""',
    "'\\n'",
    "'\\q'",
    "//",
    "/*",
    "null",
    "size(",
    ".contains(",
    ".exists(x,",
    "has(",
    "_x",
]
soups = _chains | st.lists(st.sampled_from(_TOKENS), min_size=1, max_size=6).map("".join)
"""Operands and operators without parentheses, with few spaces, and sequences of tokens; many are not valid."""
