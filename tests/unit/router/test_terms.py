"""Word lists find whole words in any script and case, but not inside other words."""

import pytest

from services.router.terms import Terms


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("gun", "A GUN!"),
        ("gun", "gun"),
        ("assault rifle", "an Assault\n  Rifle for sale"),
        ("assault rifle", "assault\u2003rifle"),
        ("assault rifle", "assault\u2028rifle"),
        ("Straße", "HAUPTSTRASSE STRASSE"),
        ("épée", "une ÉPÉE, neuve"),
        ("épée", "une e\u0301pe\u0301e"),
        ("ΣΊΣΥΦΟΣ", "ο σίσυφος"),
        ("оружие", "продам ОРУЖИЕ"),
        ("gun", "ｇｕｎ"),
        ("武器", "新武器店"),
        ("c++ crack", "get a C++ crack now"),
        ("1:1 copy", "a 1:1 copy"),
    ],
)
def test_a_phrase_is_found_as_whole_words(phrase: str, text: str) -> None:
    assert Terms({"list": [phrase]}).find(text) == {"list": phrase}


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("gun", "begun"),
        ("gun", "gunpowder"),
        ("gun", "égun"),
        ("gun", "guné"),
        ("gun", "gun_metal"),
        ("épée", "épées"),
        ("a.b", "axb"),
        ("assault rifle", "assault. rifle"),
        ("оружие", "оружием"),
    ],
)
def test_a_phrase_is_not_found_inside_other_words(phrase: str, text: str) -> None:
    assert Terms({"list": [phrase]}).find(text) == {}


def test_list_names_are_sorted_and_unique() -> None:
    terms = Terms({"z": ["one", "two"], "a": ["three", "one"], "none": ["four"], "empty": []})
    assert [*terms.find("three two one").items()] == [("a", "three"), ("z", "one")]


def test_the_first_phrase_of_a_list_is_named_wherever_it_is_in_the_text() -> None:
    terms = Terms({"a": ["one", "two", "one two"]})
    assert [terms.find(text) for text in ("two ONE", "one two", "two", "three")] == [
        {"a": "one"},
        {"a": "one"},
        {"a": "two"},
        {},
    ]


def test_without_lists_nothing_is_found() -> None:
    assert Terms({}).find("anything") == {}


def test_a_phrase_of_spaces_only_is_rejected() -> None:
    with pytest.raises(ValueError, match="spaces only"):
        Terms({"list": [" \u2003 "]})


def test_none_of_thousands_of_phrases_is_missed() -> None:
    words = [f"wort{n}a" for n in range(5000)]
    terms = Terms({word: [word] for word in words})
    assert all(terms.find(f"davor {word}, danach") == {word: word} for word in words[::7])
    assert terms.find(" ".join(words[:300])) == {word: word for word in words[:300]}
