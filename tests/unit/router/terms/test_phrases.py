"""The patterns of a phrase: RE2 finds everything that the exact pattern finds."""

import re2

from services.router.terms.phrases import spellings


def test_a_phrase_without_displayed_characters_has_no_spelling() -> None:
    assert spellings("\u200b \u00ad", frozenset({"joined"})) == ([], [])


def test_a_plain_phrase_has_one_spelling_and_others_where_letters_have_two_forms() -> None:
    def numbers(phrase: str, *options: str) -> tuple[int, int]:
        plain, hidden = spellings(phrase, frozenset(options))
        return len(plain), len(hidden)

    assert numbers("switchblade") == (1, 0)
    assert numbers("Schalldämpfer") == (2, 0)  # also with ae
    assert numbers("Schalldämpfer", "accents") == (1, 0)
    assert numbers("tobacco") == (2, 0)  # also in Cyrillic letters that look the same
    assert numbers("switchblade", "inflection", "prefixes") == (1, 0)
    assert numbers("switchblade", "joined", "leet") == (1, 1)
    assert numbers("gun", "leet") == (1, 0)  # too short
    assert numbers("gu", "spaced") == (1, 0)


def test_the_candidate_matches_where_the_exact_pattern_matches() -> None:
    texts = [
        "knife",
        "knives",
        "a knife-x",
        "xknife",
        "oружие",
        "ナイフ",
        "the KNIFE",
        "k-nife",
        "knife blade",
        "knife_blade",
    ]
    for phrase in ("knife", "knife blade", "оружие", "ナイフ"):
        for options in ((), ("inflection",), ("joined",), ("joined", "inflection")):
            for spelling in spellings(phrase, frozenset(options))[0]:
                for text in texts:
                    if spelling.exact.search(text):
                        assert re2.search(spelling.candidate, text), (phrase, options, text)
