"""A condition is translated only if Python certainly has CEL's value; otherwise the reason names the construct."""

import pytest

from services.router.cel.syntax import NotCovered, parse
from services.router.cel.translation import MAX_ELEMENTS, MAX_MACROS, Translation, few, lower_ascii, upper_ascii
from services.router.cel.variables import INT_BOUND, VARIABLES


def translate(condition: str) -> set[str]:
    """Translate a condition and return the variables that it reads; raises NotCovered."""
    translation = Translation()
    translation.condition(parse(condition))
    return translation.variables


@pytest.mark.parametrize(
    ("condition", "variables"),
    [
        ("price.known && price.minor < 250", {"price.known", "price.minor"}),
        ("!(kind in ['a', title]) || 'x' in terms", {"kind", "title", "terms"}),
        ("'a' in scores && scores['a'] >= 0.8", {"scores"}),
        ("has(attributes.size) ? attributes.size == '' : attributes[title] > brand", {"attributes", "title", "brand"}),
        ("title_length + text_length * 2 - -1 < size(title)", {"title_length", "text_length", "title"}),
        ("scores.a * 2.0 - .5 > -seller.rating", {"scores", "seller.rating"}),
        ("(title + text).lowerAscii().contains(brand.upperAscii())", {"title", "text", "brand"}),
        ("title.startsWith('a') == title.endsWith('b')", {"title"}),
        ("markets == ['DE'] && markets[0] == 'DE' && markets.size() == 1", {"markets"}),
        ("markets.exists(m, m == kind) || links.all(l, l != title)", {"markets", "kind", "links", "title"}),
        ("scores.exists(k, scores[k] > 0.5 && price.known)", {"scores", "price.known"}),
        ("['a', brand].all(x, x.size() > market_count)", {"brand", "market_count"}),
    ],
)
def test_a_covered_condition_reads_its_variables(condition: str, variables: set[str]) -> None:
    assert translate(condition) == variables


def test_every_variable_is_covered() -> None:
    for name, variable in VARIABLES.items():
        has_elements = variable.type.startswith(("list", "map"))
        assert translate(f"size({name}) > 0" if has_elements else f"{name} == {name}") == {name}


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("price.minor / 2 > 1", "`/`"),
        ("price.minor % 2 == 1", "`%`"),
        ("seller.rating / 2.0 > 1.0", "`/`"),
        ("string(price.minor) == '1'", "`string`"),
        ("title.replace('a', 'b') == 'b'", "`replace`"),
        ("title.split(',')[0] == 'b'", "`split`"),
        ("timestamp(title) > timestamp(text)", "`timestamp`"),
        ("scores == scores", "`==` of map(string, double)"),
        ("price.known < seller.known", "`<` of bool"),
        ("title == titel", "`titel`"),
        ("title == null", "`null`"),
        ("dyn(1) == 1", "`dyn`"),
        ("1 in [1, 'a']", "a list that is empty or has elements of several types"),
        ("[] == markets", "a list that is empty or has elements of several types"),
        ("[markets] == [markets]", "a list that is empty or has elements of several types"),
        ("price.minor == 1.0", "int together with double"),
        ("markets[market_count] == 'a'", "an index that is not a constant"),
        ("markets[-1] == 'a'", "an index that is not a constant"),
        ("scores[1] > 0.5", "a key of type int"),
        ("has(price.known)", "`has`"),
        ("(price.known ? markets : links) == links", "`?_:` of list(string)"),
        ("markets.all(m, links.exists(l, l == m))", f"`exists` inside another macro, or more than {MAX_MACROS} macros"),
        ("markets.exists(kind, kind == title)", "`exists` with an element of this name"),
        ("markets.exists(seller, seller == title)", "`exists` with an element of this name"),
        ("markets.exists(__result__, true)", "`exists` with an element of this name"),
        ("[1].exists(x, x == 1)", "`exists` over list(int)"),
        ("markets.all(m, m)", "`all` with a body of type string"),
        ("markets.exists(m, m == 1)", "`exists` that compares with int"),
        ("markets.exists_one(m, m == 'a')", "`exists_one`"),
        ("markets.map(m, m) == markets", "`map`"),
        ("markets.filter(m, true) == markets", "`filter`"),
        ("title", "its type string"),
    ],
)  # fmt: skip
def test_the_reason_names_what_is_not_covered(condition: str, reason: str) -> None:
    with pytest.raises(NotCovered) as refused:
        translate(condition)
    assert str(refused.value) == reason


MORE_THAN_64_BITS = "a number that may need more than 64 bits"


@pytest.mark.parametrize(
    ("condition", "is_covered"),
    [
        (f"price.minor * {2**23 - 1} > 0", True),
        (f"price.minor * {2**23} > 0", False),
        (f"price.minor * -{2**23} > 0", False),
        (f"title_length + {2**63 - 1 - INT_BOUND} > 0", True),
        (f"title_length + {2**63 - INT_BOUND} > 0", False),
        (f"-{2**63 - 1 - INT_BOUND} - title_length < 0", True),
        (f"-{2**63 - INT_BOUND} - title_length < 0", False),
        (f"-title_length - {2**63 - 1 - INT_BOUND} < 0", True),
        (f"-title_length - {2**63 - INT_BOUND} < 0", False),
        (f"-title_length + {2**63 - 1} > 0", True),
        (f"{2**63 - 1} > 0", True),
        (f"{2**63} > 0", False),
        ("price.minor * seller.listings > 0", False),
        (f"(price.known ? price.minor : {2**62}) * 2 > 0", False),
        (f"-(price.known ? price.minor : {2**62}) * 1 < 0", True),
    ],
)
def test_arithmetic_is_covered_only_if_no_item_needs_more_than_64_bits(condition: str, is_covered: bool) -> None:
    if is_covered:
        translate(condition)
        return
    with pytest.raises(NotCovered, match=MORE_THAN_64_BITS):
        translate(condition)


def test_the_macros_of_a_condition_are_limited_because_cel_counts_their_steps() -> None:
    macro = "markets.exists(m, m < title)"
    translate(" || ".join([macro] * MAX_MACROS))
    with pytest.raises(NotCovered, match="more than 8 macros"):
        translate(" || ".join([macro] * (MAX_MACROS + 1)))
    assert MAX_MACROS * MAX_ELEMENTS < 10_000
    assert few(["a"] * MAX_ELEMENTS)
    with pytest.raises(OverflowError):
        few(["a"] * (MAX_ELEMENTS + 1))


def test_only_ascii_letters_change_their_case() -> None:
    assert (lower_ascii("AZaz09[`É"), upper_ascii("AZaz09{`é")) == ("azaz09[`É", "AZAZ09{`é")
    assert (lower_ascii("AZ[`"), upper_ascii("az{`")) == ("az[`", "AZ{`")
    assert lower_ascii("\u212a İ") == "\u212a İ"
    assert upper_ascii("ß ı") == "ß ı"
