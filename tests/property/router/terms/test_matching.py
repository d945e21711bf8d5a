"""Word lists on generated texts: nothing is missed, and every position is a position of the text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.terms.folding import fold
from services.router.terms.readings import READ_OTHERWISE
from tests.support.term_samples import marked, one_list

OPTIONS = st.sets(st.sampled_from(["inflection", "joined", "spaced", "leet", "prefixes", "accents"]))
PHRASES = st.text(max_size=6).filter(lambda phrase: bool(fold(phrase).split()))


@given(st.text(max_size=40), PHRASES)
@settings(max_examples=300)
def test_a_phrase_between_spaces_is_found_in_any_text(text: str, phrase: str) -> None:
    assert one_list(phrase).find(text, f"{text} {phrase} {text}").phrases == {"list": phrase}


@given(st.text(max_size=40), PHRASES, OPTIONS)
@settings(max_examples=300)
def test_options_find_more_and_never_less(text: str, phrase: str, options: set[str]) -> None:
    more = options - {"accents"}
    found = one_list(phrase, match=more).find("", f"{text} {phrase} {text}")
    assert found.phrases == {"list": phrase}


@given(st.text(max_size=30), PHRASES, OPTIONS)
@settings(max_examples=300)
def test_a_hit_is_found_again_in_its_own_part_of_the_text(text: str, phrase: str, options: set[str]) -> None:
    terms = one_list(phrase, match=options - READ_OTHERWISE - {"prefixes"})
    text = f"{text} {phrase}"
    found = terms.find("", text)
    for part in marked(found, text=text):
        assert terms.find("", part).phrases == {"list": phrase}


@given(st.text(alphabet="a1l$!@-_' .ножｂé武器\u200b\u00a0\n", max_size=40), OPTIONS)
@settings(max_examples=500)
def test_disguised_texts_have_hits_within_the_text(text: str, options: set[str]) -> None:
    terms = one_list("nо", "all", "bal", "нож", "武器", "a-la", match=options)
    found = terms.find(text, text)
    assert all(0 <= hit.start < hit.end <= len(text) for hit in found.hits)
