"""Word lists of a policy set, with their options."""

import pytest

from services.router.domain.routing import InvalidTerms, TermFault
from services.router.terms.lists import MATCH_OPTIONS, PATTERN_NAMES, TermList, term_lists
from shared.contracts.events import TermOptions


def test_a_list_has_its_options_and_one_without_has_none() -> None:
    options = {"w": TermOptions(exceptions=["gun show"], match=["leet", "joined"], patterns=["email"])}
    assert term_lists({"w": ["gun"], "x": ["a"]}, options) == [
        TermList("w", ["gun"], ["gun show"], frozenset({"joined", "leet"}), ["email"]),
        TermList("x", ["a"], [], frozenset(), []),
    ]


def test_every_unknown_option_is_reported_with_list_row_and_remedy() -> None:
    options = {"w": TermOptions(match=["leet", "fuzzy"], patterns=["ssn"])}
    with pytest.raises(InvalidTerms) as raised:
        term_lists({"w": ["gun"]}, options)
    assert raised.value.faults == [
        TermFault("w", "match/1", f"'fuzzy' is not one of {', '.join(MATCH_OPTIONS)}"),
        TermFault("w", "patterns/0", f"'ssn' is not one of {', '.join(PATTERN_NAMES)}"),
    ]


def test_patterns_are_named_after_the_phrases() -> None:
    assert [TermList("l", ["a", "b"], patterns=["iban"]).named(number) for number in range(3)] == ["a", "b", "iban"]
