"""The syntax gives a condition the meaning that CEL's parser gives it, or does not cover it."""

from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.router.cel.syntax import NotCovered, parse
from tests.support import cel_conditions
from tests.support.cel_trees import MacroExpanded, cel_tree, normalised


def assert_same_tree(condition: str) -> None:
    try:
        expected = cel_tree(condition)
    except (ValueError, MacroExpanded):
        return
    try:
        found = parse(condition)
    except NotCovered:
        return
    assert normalised(found) == expected


@given(cel_conditions.conditions)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_a_generated_condition_has_the_tree_of_cels_parser(condition: str) -> None:
    assert_same_tree(condition)


@given(cel_conditions.soups)
@settings(max_examples=1_500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_sequence_of_tokens_that_cel_accepts_has_the_tree_of_cels_parser(condition: str) -> None:
    assert_same_tree(condition)


@given(st.text(max_size=60) | st.text("()[]!-+.,?:&|=<>'\"\\ a1e", max_size=200))
@settings(max_examples=500)
def test_any_text_is_parsed_or_not_covered(text: str) -> None:
    with suppress(NotCovered):
        parse(text)
