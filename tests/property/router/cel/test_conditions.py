"""Both engines have the same result for every condition and item: values, errors, and the texts of errors."""

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from services.router.cel.conditions import CelConditions
from services.router.domain.routing import InvalidConditions
from shared.contracts.events import ItemSubmitted
from tests.support import cel_conditions


def compiled(conditions: list[str]) -> CelConditions:
    """The valid ones of these conditions, as one policy set."""
    valid: list[str] = []
    for condition in conditions:
        try:
            CelConditions([[condition]])
        except InvalidConditions:
            continue
        valid.append(condition)
    assume(valid)
    return CelConditions([valid])


def assert_equal_results(conditions: CelConditions, item: ItemSubmitted, terms: list[str]) -> None:
    by_both, by_cel = conditions.evaluate(item, terms), conditions.evaluate_by_cel(item, terms)
    assert by_both == by_cel
    assert [*by_both.errors] == [*by_cel.errors]
    assert all(type(value) is bool for value in by_both.held)


terms = st.lists(st.sampled_from(["gun", "a", "weapons"]), unique=True)
some_items = st.lists(st.tuples(cel_conditions.items(), terms), min_size=1, max_size=4)


@given(st.lists(cel_conditions.conditions, min_size=1, max_size=6), some_items)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_generated_conditions_have_the_same_results_in_both_engines(
    conditions: list[str], items: list[tuple[ItemSubmitted, list[str]]]
) -> None:
    both = compiled(conditions)
    for item, found in items:
        assert_equal_results(both, item, found)


@given(st.lists(cel_conditions.soups, min_size=1, max_size=20), some_items)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_sequences_of_tokens_that_cel_accepts_have_the_same_results_in_both_engines(
    conditions: list[str], items: list[tuple[ItemSubmitted, list[str]]]
) -> None:
    both = compiled([*conditions, "true"])
    for item, found in items:
        assert_equal_results(both, item, found)
