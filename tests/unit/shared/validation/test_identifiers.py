"""An id has one spelling: the same text to a person is the same id."""

import pytest

from shared.validation.identifiers import identifier_problem


@pytest.mark.parametrize(
    "text",
    ["B07", "B07/XL", "B07%2FXL", "blue shoe", "Schuhgröße", "한국", "🛍", "...", ".a", "a/..", "a\u3164", "⠓", "क्षि"],
)
def test_an_ordinary_id_is_valid(text: str) -> None:
    assert identifier_problem(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (" ", "space"),
        ("   ", "space"),
        (" B07", "space"),
        ("B07 ", "space"),
        ("\u00a0", "printable"),
        ("\u2003B07", "printable"),
        ("B07\t", "printable"),
        ("B07\n", "printable"),
        ("B0\x007", "printable"),
        ("B07\u200b", "printable"),
        ("B07\u202e", "printable"),
        ("Schuhgro\u0308ße", "NFC"),
        ("\u212bngström", "NFC"),  # the Angstrom sign is canonically equal to a letter
        ("\u1112\u1161\u11ab", "NFC"),
        ("\u3164", "no visible character"),
        ("\u115f", "no visible character"),
        ("\u1160", "no visible character"),
        ("\uffa0", "no visible character"),
        ("\u2800", "no visible character"),
        ("\u2800 \u3164\u2800", "no visible character"),
        ("\u034f", "no visible character"),
        ("\ufe0f", "no visible character"),
        ("\u0301", "no visible character"),
        (".", "path of a URL"),
        ("..", "path of a URL"),
    ],
)
def test_an_id_with_a_second_spelling_or_invisible_characters_has_a_problem(text: str, says: str) -> None:
    problem = identifier_problem(text)
    assert problem is not None
    assert says in problem
