"""Conditions are rejected when they are compiled, not when an item is routed; an error never counts as "no match"."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from services.router import metrics
from services.router.cel.conditions import CelConditions
from services.router.cel.variables import VARIABLES
from services.router.domain.routing import InvalidConditions
from shared.contracts.events import Author, Money, Seller, Trader
from tests.conftest import project_root
from tests.support.router_samples import submitted


def fault(condition: str) -> str:
    with pytest.raises(InvalidConditions) as rejected:
        CelConditions([[condition]])
    (only,) = rejected.value.faults
    return only.message


def refused(condition: str) -> str:
    (only,) = CelConditions([["true"], ["true", condition]]).refused
    assert only[:2] == (1, 1)
    return only.message


def holds(condition: str, **item: Any) -> bool:
    held, errors = CelConditions([[condition]]).evaluate(submitted(**item), [])
    assert not errors
    return held[0]


def test_an_unknown_field_is_rejected_with_a_caret() -> None:
    assert fault('titel == "x"') == "1:1: undeclared reference to 'titel'\n | titel == \"x\"\n | ^"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("price.minor < 1.5", "money is in whole minor units"),
        ("title > 3", "no matching overload"),
        ("(true", "Syntax error"),
        ("", "Syntax error"),
        ("title", "true or false, this is string"),
        ("price.minor", "true or false, this is int"),
        ("seller.shoe_size > 3", "undeclared reference"),
    ],
)
def test_an_invalid_condition_is_rejected_with_the_reason(condition: str, message: str) -> None:
    assert message in fault(condition)


@pytest.mark.parametrize(
    "condition",
    [
        'title.matches("a+")',
        'matches (title, "a")',
        '.matches(title, "a")',
        '!title . matches("a")',
        'title.matches // x\n("a")',
        r'title == "\\" || title.matches("(a+)+$")',
        r"title == '\\' || title.matches('(a+)+$')",
        'title == r"\\\\" || title.matches("a")',
        'title == """"\\"""" || title.matches("a")',
    ],
)
def test_regular_expressions_are_rejected_with_the_alternative(condition: str) -> None:
    assert refused(condition) == (
        "matches() is not allowed: it would compile its pattern for every item."
        ' Add a word list under `terms` and write `"<list>" in terms`.'
    )


@pytest.mark.parametrize(
    "condition",
    [
        'title == "matches(x)"',
        "true // matches(x)",
        "title != 'it\\'s matches('",
        r'title == r"\a" + " .matches("',
        "title == '''\n'matches('''",
    ],
)
def test_the_word_matches_is_allowed_in_a_string_or_comment(condition: str) -> None:
    assert not CelConditions([[condition]]).refused


def test_every_fault_has_the_index_of_its_policy_and_condition() -> None:
    with pytest.raises(InvalidConditions) as rejected:
        CelConditions([["true", "nope"], ["true"], ["1 +", "false"]])
    assert [(f.policy, f.condition) for f in rejected.value.faults] == [(0, 1), (2, 0)]


def test_a_condition_cannot_close_its_own_parentheses() -> None:
    held, _ = CelConditions([["true // )", "false"], ["true"]]).evaluate(submitted(), [])
    assert held == (True, False, True)
    assert "Syntax error" in fault("true), (true")


def test_a_set_can_have_more_conditions_than_a_machine_word_has_bits() -> None:
    held, errors = CelConditions([[f"market_count == {n % 2}" for n in range(300)]]).evaluate(submitted(), [])
    assert (held, errors) == ((False, True) * 150, {})


def test_a_set_without_conditions_has_no_results() -> None:
    assert CelConditions([]).evaluate(submitted(), []) == ((), {})


def test_an_error_in_one_condition_is_reported_and_the_others_keep_their_results() -> None:
    conditions = CelConditions([["true", 'attributes["colour"] == "red"'], ["market_count / 0 == 1", "false"]])
    held, errors = conditions.evaluate(submitted(), [])
    assert held == (True, False, False, False)
    assert set(errors) == {1, 2}
    assert "colour" in errors[1]
    assert "zero" in errors[2]


def test_the_evaluators_budget_stops_a_condition_with_too_many_steps() -> None:
    digits = "[0,1,2,3,4,5,6,7,8,9]"
    nested = "market_count > 0"
    for name in "abcde":
        nested = f"{digits}.all({name}, {nested})"
    held, errors = CelConditions([[nested, "true"]]).evaluate(submitted(), [])
    assert held == (False, True)
    assert "budget" in errors[0]


def test_a_number_beyond_64_bits_is_an_error() -> None:
    item = submitted(price=Money(amount_minor=2**63, currency="EUR"))
    held, errors = CelConditions([["price.minor > 5"]]).evaluate(item, [])
    assert held == (False,)
    assert set(errors) == {0}


def test_only_variables_in_the_conditions_are_bound() -> None:
    conditions = CelConditions([['title == "text"', "seller.age_days > 3"], ['["brand"].exists(kind, kind == title)']])
    assert conditions.variables == ["title", "seller.age_days"]


@pytest.mark.parametrize(
    ("condition", "variables"),
    [
        ("price .minor % 2 == 0", ["price.minor"]),
        ("price. minor % 2 == 0", ["price.minor"]),
        ("price.\nminor / 2 == 2", ["price.minor"]),
        ("price // minor\n . // price\n minor / 2 == 2", ["price.minor"]),
        ("price.`minor` / 2 == 2", ["price.minor"]),
        (". price.minor / 2 == 2", ["price.minor"]),
        ("price\f.known && title.trim() == ''", ["title", "price.known"]),
    ],
)
def test_a_variable_of_a_slow_condition_is_bound_however_its_name_is_written(
    condition: str, variables: list[str]
) -> None:
    conditions = CelConditions([[condition]])
    assert ([*conditions.slow], conditions.variables) == ([0], variables)
    assert conditions.evaluate(submitted(price=Money(amount_minor=4, currency="EUR")), []) == ((True,), {})


def test_a_macro_in_the_compared_value_of_a_macro_is_left_to_cel() -> None:
    """CEL evaluates the inner one for every element, beyond its budget of steps."""
    inner = 'attributes.exists(j, j == "x") ? "a" : "b"'
    conditions = CelConditions([[f"!attributes.exists(k, k == ({inner}))", f"attributes.all(k, ({inner}) != k)"]])
    assert conditions.slow == {0: "`exists` inside another macro, or more than 8 macros"} | {
        1: "`exists` inside another macro, or more than 8 macros"
    }
    found = conditions.evaluate(submitted(attributes={str(number): "" for number in range(101)}), [])
    assert found.held == (False, False)
    assert found.errors == dict.fromkeys((0, 1), "INTERNAL: Iteration budget exceeded [INTERNAL]")


def test_every_variable_is_bound_with_its_declared_type_also_for_an_empty_item() -> None:
    conditions = CelConditions([[f"{name} == {name}" for name in VARIABLES]])
    seller = Seller(id="s", name="S", country="DE", age_days=1, listings=2, rejected=3, rating=4)
    rich = submitted(
        title="t",
        text="x",
        category="a/b",
        brand="b",
        gtin="12345678",
        media=["https://x.example/1"],
        attributes={"a": "b"},
        scores={"s": 1},
        price=Money(amount_minor=1, currency="EUR"),
        seller=seller,
        trader=Trader(name="T GmbH", country="DE", self_certification=True),
        author=Author(id="u", name="A"),
        links=["shop:product:1"],
    )
    for item in (rich, submitted()):
        assert conditions.evaluate(item, ["weapons"]) == ((True,) * len(VARIABLES), {})


def test_unknown_numbers_are_minus_one() -> None:
    assert holds("!price.known && price.minor == -1")
    assert holds("!seller.known && seller.age_days == -1 && seller.rating == -1.0")
    assert holds("seller.known && seller.age_days == -1", seller=Seller(id="s"))
    assert holds("price.known && price.minor == 0", price=Money(amount_minor=0, currency="EUR"))
    assert holds("seller.age_days == 0", seller=Seller(id="s", age_days=0))


def test_conditions_can_find_a_seller_without_the_data_that_the_law_requires() -> None:
    incomplete = "!trader.known || trader.register_number == '' || !trader.self_certification"
    assert holds(incomplete)
    assert holds(incomplete, trader=Trader(name="T", self_certification=True))
    assert not holds(incomplete, trader=Trader(name="T", register_number="HRB 1", self_certification=True))
    assert holds("!author.known && links.all(l, false)")
    assert holds(
        "author.id == 'u' && links.exists(l, l.startsWith('shop:'))", author=Author(id="u"), links=["shop:seller:1"]
    )


def test_the_routers_page_lists_every_variable_with_its_type() -> None:
    page = (project_root() / "docs" / "architecture" / "router.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, variable in VARIABLES.items():
        assert f"| `{name}` | {variable.type} | {variable.description} |" in rows


@pytest.mark.parametrize(
    ("slow", "fast"),
    [
        ("price.minor / 100 >= 750", "price.minor >= 75000"),
        ("text_length / title_length > 3", "text_length >= 4 * title_length"),
        ("price.minor * seller.listings > 100", "price.minor * 8388607 > 100 && seller.listings > 0"),
        ("double(price.minor) > 99.5", "price.minor > 99"),
        (
            'markets.exists_one(m, m == "DE")',
            '"DE" in markets || links.exists(l, l < "F") || links.all(l, l > "D")',
        ),
        ("markets.exists(m, links.exists(l, l == m))", "markets.exists(m, m == kind) && links.exists(l, l == kind)"),
        ('title.trim() == "a"', 'title.lowerAscii().contains("a") || title.startsWith("b") || title.endsWith("c")'),
        ("markets == []", "market_count == 0 || markets.size() == 0"),
        (r'title == r"\d"', r'title == "\\\"\'\n\r\t\u0041"'),
        (" || ".join(['title == "a"'] * 160), " || ".join(['title == "a"'] * 120)),
    ],
)
def test_the_idioms_of_the_routers_page_are_fast(slow: str, fast: str) -> None:
    assert [*CelConditions([[slow, fast]]).slow] == [0]


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udc00a"', b'"\\ud83d\\u0041"', b"NaN", b"Infinity", b"1e400"])
def test_the_decoder_of_events_rejects_values_that_the_engines_would_read_differently(text: bytes) -> None:
    """Half of a surrogate pair is an error in CEL only; not-a-number and infinity are unknown to JSON."""
    for kind in (str, float):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(text, type=kind)


def fallbacks() -> dict[str, float]:
    (family,) = metrics.CEL_FALLBACKS.collect()
    return {one.labels["reason"]: one.value for one in family.samples if one.name.endswith("_total")}


def test_an_evaluation_that_is_left_to_cel_because_of_an_item_is_counted_by_reason() -> None:
    conditions = CelConditions([["price.minor > 5", 'attributes["colour"] == "red"', "links[0] == 'a'"]])
    large = Money(amount_minor=2**62, currency="EUR")
    before = fallbacks()
    for item in (submitted(attributes={"colour": "red"}, links=["a"]), submitted(), submitted(price=large)):
        conditions.evaluate(item, [])
    increase = {reason: number - before[reason] for reason, number in fallbacks().items()}
    assert increase == {"condition": 2, "number": 1, "function": 0}


def test_cel_evaluates_an_item_for_which_the_function_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = CelConditions([["price.known", "title == 'a'"]])
    monkeypatch.setattr(conditions, "_evaluate", lambda *_: 1 / 0)
    before = fallbacks()
    assert conditions.evaluate(submitted(title="a"), []) == ((False, True), {})
    assert fallbacks()["function"] == before["function"] + 1


def test_sets_compile_in_several_threads_at_once() -> None:
    """A check compiles in a thread while a publication compiles in the event loop."""
    sets = [[f"price.minor > {number}", f"title.contains('{number}')"] * 20 for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        compiled = list(threads.map(lambda conditions: CelConditions([conditions]), sets))
    for number, conditions in enumerate(compiled):
        price = Money(amount_minor=20, currency="EUR")
        held, errors = conditions.evaluate(submitted(title=str(number), price=price), [])
        assert (set(held[::2]), set(held[1::2]), errors) == ({number < 20}, {True}, {})


def test_only_the_function_reads_a_text_beyond_a_nul() -> None:
    """The binding of `cel-expr-python` ends a text at its first NUL. Intake rejects control characters in items."""
    conditions = CelConditions([['title.contains("gun")', "title_length == 5"]])
    item = submitted(title="a\0gun")
    assert conditions.evaluate(item, []).held == (True, True)
    assert conditions.evaluate_by_cel(item, []).held == (False, True)


def test_a_set_can_have_more_text_than_cel_compiles_at_once() -> None:
    fast = [
        f'title == "{letter * 1_900}" || market_count == {n}'
        for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz" * 3)
    ]
    slow = [condition.replace("title ", "title.trim() ") for condition in fast]
    failing = 'attributes["a"] == "b"'
    conditions = CelConditions([fast, slow, [failing, "true"]])
    assert sum(map(len, fast)) > 100_000
    expected = tuple(n == 1 for n in range(78)) * 2 + (False, True)
    for evaluate in (conditions.evaluate, conditions.evaluate_by_cel):
        held, errors = evaluate(submitted(), [])
        assert (held, [*errors]) == (expected, [156])
