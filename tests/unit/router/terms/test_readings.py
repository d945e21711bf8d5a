"""Readings without disguises, and the origin of each of their characters."""

import pytest

from services.router.terms.readings import JOINED, LEET, SPACED, joined, leet, origins, reading


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a switch-blade_x", {JOINED}, "a switchbladex"),
        ("a g u n x1", {SPACED}, "agun x1\0agu\0gun\0gu"),
        ("g.u.n. and a b", {SPACED}, "gun. and a b\0gu\0un"),
        ("2 x g u n", {SPACED}, "2xgun\0" + "2xgu\0xgun\0xgu\0gun\0gu\0un"),
        ("5witch 10 kg $x 5$", {LEET}, "switch io kg sx s$"),
        ("$ w 1 t c h", {SPACED, LEET}, "switch\0switc\0witch\0witc\0tch\0tc"),
        ("g-u-n", {SPACED, JOINED, LEET}, "gun\0gu\0un"),
        ("nothing", {SPACED, JOINED}, "nothing"),
    ],
)
def test_a_reading_and_its_origins(text: str, options: set[str], expected: str) -> None:
    assert reading(text, options) == expected
    found = origins(text, options)
    assert len(found) == len(expected)
    read_by_origin = "".join(text[at] for at in found)
    assert leet(joined(read_by_origin.replace(".", " "))).split()[0][:2] == leet(expected).split()[0][:2]


def test_leet_makes_l_and_i_one_letter() -> None:
    assert leet("illegal 1!legal") == "iiiegai iiiegai"
