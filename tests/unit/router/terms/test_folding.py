"""The form of a text, and the source of each of its characters."""

import pytest

from services.router.terms.confusables import LOOKALIKES, UNICODE_VERSION
from services.router.terms.folding import fold, fold_with_accents, looks_latin, sources


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A  Gun\n\tX", "a  gun\n\tx"),  # ASCII keeps its length
        ("Ä  b\u2003c", "a b c"),
        ("É", "e"),
        ("İIıi", "iiii"),
        ("ΟΔΟΣ ὀδός", "οδοσ οδοσ"),
        ("ﬁ Ⅻ ½", "fi xii 1⁄2"),
        ("æœøđłŧþß", "aeoeodltthss"),
        ("‘a’ ‚b′ ´c", "'a' 'b' 'c"),
        ("a‐b‑c–d—e−f", "a-b-c-d-e-f"),
        ("a‿b＿c", "a_b_c"),
        ("١٢٣ ４５", "123 45"),
        ("™ Note™", "™ note™"),
        ("कि क़", "कि क"),
        ("ｶﾞ ガ か\u3099", "ガ ガ が"),
        ("\u1112\u1161\u11ab", "한"),
        ("\u200b\u00ad", ""),
    ],
)
def test_the_form_of_a_text(text: str, form: str) -> None:
    assert fold(text) == form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("CAFÉ", "café"),
        ("cafe\u0301", "café"),
        ("Łódź", "łódź"),
        ("Όπλο", "όπλο"),
        ("ﬁné", "finé"),
        ("Straße", "strasse"),
    ],
)
def test_the_form_with_accents(text: str, form: str) -> None:
    assert fold_with_accents(text) == form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aB", ["a", "B"]),
        ("é e\u0301x", ["é", " ", "e\u0301", "x"]),
        ("ﬁß", ["ﬁ", "ﬁ", "ß", "ß"]),
        ("g\u00adun\u200b", ["g\u00ad", "u", "n\u200b"]),
        ("ﾊﾞ \u1112\u1161\u11ab", ["ﾊﾞ", " ", "\u1112\u1161\u11ab"]),
        ("  é\n ü ", ["é", "\n ", "ü"]),
        ("ѕwitch", ["ѕ", "w", "i", "t", "c", "h"]),
        ("\u200b é", [" ", "é"]),
    ],
)
def test_each_character_of_the_form_has_its_source(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sources(text)] == expected
    assert len(expected) == len(fold(text))


def test_a_word_in_letters_of_two_scripts_is_read_in_one_if_that_is_possible() -> None:
    assert fold("сосаіnе") == "cocaine"
    assert fold("oрyжиe") == "оружие"
    assert fold("НAГАН") == "наган"
    assert fold("άλφa") == "αλφα"
    assert fold("10μF 5кOм LVсумка") == "10μf 5ком lvсумка"


def test_the_letters_of_a_word_in_one_script_stay() -> None:
    assert fold("рот сор ѕех") == "рот сор ѕех"


def test_letters_look_latin_in_their_own_case_only() -> None:
    assert looks_latin("РОТ ѕех pot 5")
    assert not looks_latin("рот")


def test_the_table_of_lookalikes_is_of_the_stated_unicode_version_and_has_no_ascii() -> None:
    assert UNICODE_VERSION == "17.0"
    assert sum(map(len, LOOKALIKES.values())) == 482
    assert not any(alike.isascii() for alikes in LOOKALIKES.values() for alike in alikes)
    assert (LOOKALIKES["A"][:2], LOOKALIKES["i"][0]) == ("ΑА", "ı")
