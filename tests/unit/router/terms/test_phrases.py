"""The patterns of a phrase: its literals are in every text that the exact pattern finds."""

from services.router.terms.phrases import PhraseLiteral, spellings


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


def test_a_text_with_the_phrase_has_one_of_its_literals_and_all_its_constant_parts() -> None:
    texts = [
        "knife",
        "knives",
        "a knife-x",
        "xknife",
        "оружием",
        "ナイフ",
        "k-nife",
        "knife blade",
        "knife_blade",
        "товассо",
    ]
    for phrase in ("knife", "knife blade", "оружие", "ナイフ", "knife's blade", "tobacco"):
        for options in ((), ("inflection",), ("joined",), ("joined", "inflection")):
            for spelling in spellings(phrase, frozenset(options))[0]:
                for text in texts:
                    if spelling.exact.search(text):
                        assert any(literal.text in text for literal in spelling.literals), (phrase, options, text)
                        assert spelling.may_be_in(text), (phrase, options, text)


def test_the_literal_is_the_longest_constant_part() -> None:
    def literals(phrase: str, *options: str) -> list[PhraseLiteral]:
        return spellings(phrase, frozenset(options))[0][-1].literals

    assert literals("hand grenade") == [("grenade", True)]
    assert literals("hand grenade", "inflection") == [("grenad", True)]
    assert literals("hand grenade", "joined") == [("grenade", False)]
    assert literals("cran d'arrêt") == [("arret", False)]
    assert literals("半自動 gun") == [("半自動", False)]
    assert sorted(literals("tobacco")) == [("tobacco", False), ("товассо", False)]
