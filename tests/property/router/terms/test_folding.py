"""Folding on generated texts: each character of the form has its source, and words are folded by themselves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.terms.folding import fold, sources

ODD = st.sampled_from(
    "aIsß ﬁµĳǆ²ⅷＡがﾊﾞ각é\u0301\u0308\u0345όςΣİıłø\u200b\u00ad्कि\u093cсорАТхһ-‑’'_™ำัน，！武器ナイフ\u0000\u001f\n"
)
TEXTS = st.text(st.one_of(ODD, st.characters(exclude_categories=["Cs"])), max_size=30)


@given(TEXTS)
@settings(max_examples=500)
def test_each_character_of_the_form_has_its_source(text: str) -> None:
    found = sources(text)
    assert len(found) == len(fold(text))
    assert all(0 <= start < end <= len(text) for start, end in found)
    assert [start for start, _ in found] == sorted(start for start, _ in found)


@given(TEXTS, TEXTS)
@settings(max_examples=500)
def test_the_form_of_a_word_does_not_depend_on_the_words_beside_it(first: str, second: str) -> None:
    alone = [*map(fold, first.split()), *map(fold, second.split())]
    assert " ".join(fold(f"{first} {second}").split()) == " ".join(" ".join(alone).split())
