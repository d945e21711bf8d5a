"""One function evaluates the conditions of a set; no text of a policy becomes code."""

from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest

from services.router.cel.program import Program, program
from services.router.cel.variables import INT_BOUND
from shared.contracts.events import Money, Seller
from tests.support.router_samples import submitted


class Scores(dict[str, float]):
    """Scores that count how often each is read."""

    def __init__(self, **scores: float) -> None:
        super().__init__(**scores)
        self.reads = 0

    def __getitem__(self, name: str) -> float:
        self.reads += 1
        return super().__getitem__(name)


class Text(str):
    """A text that counts how often it is searched."""

    searches = 0

    def __contains__(self, part: object) -> bool:
        self.searches += 1
        return isinstance(part, str) and super().__contains__(part)


def evaluated(one: Program, *, by_cel: tuple[bool, ...] = (), **item: Any) -> Any:
    return one.evaluate(submitted(**item), ["weapons"], by_cel)


def test_results_are_in_the_sets_order_with_those_of_cel_between() -> None:
    one = program(["true", "price.minor / 2 > 1", "kind == 'seller'", "price.minor % 2 == 0", "'weapons' in terms"])
    assert one.not_covered == {1: "`/`", 3: "`%`"}
    assert evaluated(one, by_cel=(True, False)) == ((True, True, False, False, True), ())
    assert evaluated(one, by_cel=(False, True)) == ((True, False, False, True, True), ())


def test_a_set_without_conditions_has_no_results() -> None:
    assert evaluated(program([])) == ((), ())


def test_a_condition_that_raises_is_named_and_the_others_keep_their_results() -> None:
    one = program(["true", "attributes['a'] == 'b'", "links[0] == 'a'", "kind == 'product'", "attributes['a'] == 'b'"])
    assert evaluated(one) == ((True, False, False, True, False), (1, 4, 2))
    assert evaluated(one, attributes={"a": "b"}, links=["a"]) == ((True, True, True, True, True), ())


def test_equal_conditions_are_evaluated_once() -> None:
    one = program(["scores['a'] > 0.5", "kind == 'x'", "scores[ 'a' ]>0.5", "scores['a'] > 0.5 // same"])
    scores = Scores(a=0.7)
    assert evaluated(one, scores=scores) == ((True, False, True, True), ())
    assert scores.reads == 1


def test_a_search_of_several_conditions_is_done_once() -> None:
    one = program(["text.contains('a') && price.known", "text.contains('a') || price.known", "text.contains('b')"])
    text = Text("xay")
    assert evaluated(one, text=text) == ((False, True, False), ())
    assert text.searches == 2
    lowered = program(["title.lowerAscii().contains('gun')", "true && title.lowerAscii().contains('gun')"])
    assert evaluated(lowered, title="GUN") == ((True, True), ())


def test_an_item_with_a_larger_number_is_left_to_cel() -> None:
    one = program(["price.minor > 5", "seller.age_days > 5"])
    for number, result in ((INT_BOUND, ((True, True), ())), (INT_BOUND + 1, None)):
        price = Money(amount_minor=number, currency="EUR")
        assert evaluated(one, price=price, seller=Seller(id="s", age_days=7)) == result
        assert (
            evaluated(one, price=Money(amount_minor=7, currency="EUR"), seller=Seller(id="s", age_days=number))
            == result
        )
    assert evaluated(program(["price.known"]), price=Money(amount_minor=2**70, currency="EUR")) == ((True,), ())


HOSTILE = [
    """title == "__import__('os').system('exit 1')" """,
    r"""title == "\"); raise SystemExit #" """,
    r"""title == '\'\n    raise SystemExit\n\'' """,
    "attributes.__class__ == 'x'",
    "attributes['__class__'] == '{0.__globals__}'",
    "has(attributes.__globals__)",
    "'{title.__class__}' in scores",
    "markets.exists(submitted, submitted == title)",
    "markets.exists(element, element < title)",
    "markets.exists(elements, elements < title)",
    "markets.exists(v_title, v_title < title && title == 'a')",
    "markets.all(few, few != title || few.contains('x'))",
    "markets.all(len, len.size() > 1)",
    "markets.exists(c_0, c_0 < title) || markets.exists(failed, failed > title)",
    "markets.exists(loop_0, loop_0 < title)",
    "markets.exists(by_cel, by_cel == kind)",
]
NAMES = {
    "item", "kind", "title", "price", "amount_minor", "seller", "age_days", "scores", "attributes", "markets", "terms",
    "NO_PRICE", "NO_SELLER", "len", "few", "Exception", "lower_ascii", "upper_ascii", "startswith", "endswith",
}  # fmt: skip


@pytest.mark.parametrize("condition", HOSTILE)
def test_no_text_of_a_policy_becomes_a_name_of_the_code(condition: str) -> None:
    """Names are those of this package; a text of the condition is a constant or does not occur."""
    one = program([condition, "price.minor > 5 && seller.age_days > 3"])
    assert not one.not_covered
    function: Any = one.evaluate
    assert function.__globals__["__builtins__"] == {}
    named = {name for code in codes(function.__code__) for name in code.co_names}
    assert {name for name in named if not name.startswith("loop_")} <= NAMES
    held, failed = evaluated(one)
    assert held in ((False, False), (True, False))
    assert set(failed) <= {0}


def codes(code: CodeType) -> list[CodeType]:
    return [code, *(inner for one in code.co_consts if isinstance(one, CodeType) for inner in codes(one))]


@pytest.mark.parametrize(
    "condition",
    ["__import__('os').getpid() == 1", "title.__class__ == title", "eval(title)", "(lambda: true)()", "exec('x')"],
)
def test_python_that_is_not_cel_is_not_covered(condition: str) -> None:
    assert [*program([condition]).not_covered] == [0]


def test_two_thousand_conditions_fit_into_one_function() -> None:
    one = program([f"price.minor > {number} && 'l{number}' in terms || scores['s'] > 0.5" for number in range(2_000)])
    held, failed = evaluated(one, scores={"s": 0.9})
    assert (held, failed) == ((True,) * 2_000, ())
    assert len(evaluated(one)[1]) == 2_000


@pytest.mark.parametrize(
    "nest",
    [
        lambda inner: f"!({inner})",
        lambda inner: f"({inner}) && price.known",
        lambda inner: f"price.known || ({inner})",
        lambda inner: f"price.known ? true : ({inner})",
        lambda inner: f"({inner}) == true",
    ],
)
def test_the_deepest_covered_conditions_compile(nest: Callable[[str], str]) -> None:
    condition, deepest = "seller.known", ""
    while not program([condition]).not_covered:
        condition, deepest = nest(condition), condition
    assert program([deepest]).evaluate(submitted(), [], []) in [((True,), ()), ((False,), ())]
    assert "levels" in program([condition]).not_covered[0]
