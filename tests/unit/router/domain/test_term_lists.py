"""Checks of word lists at publication: list, row and remedy of each fault, and the examples."""

import pytest

from services.router.control import ControlState
from services.router.domain.publication import ControlSnapshot, publication_faults
from services.router.policies import compile_policy_set
from shared.contracts.events import PolicySetPublished, TermExamples, TermOptions
from shared.runtime.errors import Poison
from tests.support.router_samples import on_control, operating_model, policies, region, rule


def published(terms: dict[str, list[str]], **options: TermOptions) -> PolicySetPublished:
    return policies(rule("a"), terms=terms, term_options=options)


def faults(terms: dict[str, list[str]], **options: TermOptions) -> dict[str, str]:
    """The faults of a publication, by pointer."""
    in_force = ControlSnapshot(operating_model(region()), None)
    found = publication_faults(None, published(terms, **options), in_force, ["eu"], compile_policy_set)
    return {fault.pointer: fault.detail for fault in found}


def examples(match: list[str] | None = None, no_match: list[str] | None = None) -> TermExamples:
    return TermExamples(match=match or [], no_match=no_match or [])


def test_lists_with_correct_examples_have_no_fault() -> None:
    options = TermOptions(
        exceptions=["knife block"],
        match=["joined"],
        examples=examples(["a hunting_knife", "Knife"], ["Knife-block", "penknife"]),
    )
    assert faults({"knives": ["knife"], "plain": ["gun"]}, knives=options) == {}


def test_a_row_without_content_is_reported() -> None:
    options = TermOptions(exceptions=["knife block", " "])
    assert faults({"kni/ves": ["knife", ""], " ": ["x"]}, **{"kni/ves": options}) == {
        "/policy_set/terms/kni~1ves/1": "list 'kni/ves' has an empty phrase: write a word, or remove the line",
        "/policy_set/terms/ ": "a word list needs a name",
        "/policy_set/term_options/kni~1ves/exceptions/1": "list 'kni/ves' has an empty exception: write the words in"
        " which a phrase does not count, or remove it",
    }


def test_a_row_of_characters_that_are_not_displayed_is_reported() -> None:
    assert faults({"knives": ["knife", "\u200b"]}) == {
        "/policy_set/terms/knives/1": "list 'knives': '\\u200b' has no character that is displayed: write a word, or"
        " remove the line"
    }


def test_an_unknown_option_and_options_without_a_list_are_reported() -> None:
    found = faults({"w": ["x"]}, w=TermOptions(match=["fuzzy"]), v=TermOptions(exceptions=["y"]))
    assert found["/policy_set/term_options/v"] == "there is no list 'v': add it to `terms`, or remove its options"
    assert found["/policy_set/term_options/w/match/0"].startswith("list 'w': 'fuzzy' is not one of inflection, joined,")


def test_an_example_with_another_result_is_reported_with_list_row_and_remedy() -> None:
    options = TermOptions(examples=examples(["knife", "two knives"], ["a knife block", "fork"]))
    assert faults({"knives": ["blade", "knife"]}, knives=options) == {
        "/policy_set/term_options/knives/examples/match/1": "list 'knives' does not find its example 'two knives': add"
        " the phrase as it is written there, enable an option of `match`, or remove an exception",
        "/policy_set/term_options/knives/examples/no_match/0": "list 'knives' finds 'knife' in 'a knife block': add an"
        " exception, make the phrase longer, or disable an option of `match`",
    }


def test_an_exception_that_contains_no_phrase_is_reported() -> None:
    options = TermOptions(exceptions=["knife block", "gun show"])
    assert faults({"knives": ["knife"]}, knives=options) == {
        "/policy_set/term_options/knives/exceptions/1": "list 'knives' has the exception 'gun show', which contains"
        " none of its phrases, so it has no effect: write it as it is around a phrase, or remove it"
    }


def test_a_set_in_force_is_not_checked_against_its_examples_again() -> None:
    state = ControlState(["eu"], compile_policy_set)
    state.apply(on_control(published({"w": ["gun"]}, w=TermOptions(examples=examples(["knife"])))))
    assert state.policy_set is not None


def test_a_set_with_an_option_of_a_newer_version_does_not_come_into_force() -> None:
    state = ControlState(["eu"], compile_policy_set)
    with pytest.raises(Poison, match="ps-1-test does not compile here: list 'w': 'fuzzy' is not one of"):
        state.apply(on_control(published({"w": ["gun"]}, w=TermOptions(match=["fuzzy"]))))


def test_a_set_in_force_may_have_a_phrase_that_is_never_found() -> None:
    state = ControlState(["eu"], compile_policy_set)
    state.apply(on_control(published({"w": ["gun", "\u200b"]})))
    assert state.policy_set is not None
    assert state.policy_set.find_terms("gun", "").phrases == {"w": "gun"}


def test_lists_that_are_too_large_are_reported_before_they_are_compiled() -> None:
    of_words, of_characters = "ab " * 21, "x" * 201
    assert faults({"a": ["fine", of_words], "b": ["x"]}, b=TermOptions(exceptions=[of_characters])) == {
        "/policy_set/terms/a/1": f"list 'a' has the phrase {of_words[:60] + '…'!r} with 21 words and 63 characters; at"
        " most 20 words and 200 characters are possible: write a shorter part of it",
        "/policy_set/term_options/b/exceptions/0": f"list 'b' has the exception {'x' * 60 + '…'!r} with 1 words and 201"
        " characters; at most 20 words and 200 characters are possible: write a shorter part of it",
    }
    assert faults({"a": ["x"] * 20_001}) == {
        "/policy_set/terms": "the word lists have 20001 phrases; at most 20000 are possible: remove some"
    }
    assert faults({"a": ["x"]}, a=TermOptions(exceptions=["x y"] * 5_001)) == {
        "/policy_set/terms": "the word lists have 5001 exceptions; at most 5000 are possible: remove some"
    }
    assert faults({"a": ["x" * 200] * 2_501}) == {
        "/policy_set/terms": "phrases and exceptions of the word lists have 500200 characters; at most 500000 are"
        " possible: remove some"
    }


def test_a_set_in_force_may_have_lists_that_are_too_large() -> None:
    assert compile_policy_set(published({"a": ["ab " * 21]})).find_terms("", "ab " * 21).phrases == {"a": "ab " * 21}
