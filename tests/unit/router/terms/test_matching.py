"""Word lists find whole words in any script and case, but not inside other words."""

import msgspec
import pytest

from services.router.domain.routing import NOTHING_FOUND, TermFault
from shared.contracts.events import TermHit
from tests.support.term_samples import marked, one_list, parts, plain_lists


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
    assert one_list(phrase).find("", text).phrases == {"list": phrase}


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
    assert one_list(phrase).find("", text) == NOTHING_FOUND


def test_list_names_are_sorted_and_unique() -> None:
    terms = plain_lists({"z": ["one", "two"], "a": ["three", "one"], "none": ["four"], "empty": []})
    assert [*terms.find("", "three two one").phrases.items()] == [("a", "three"), ("z", "one")]


def test_the_first_phrase_of_a_list_is_named_wherever_it_is_in_the_text() -> None:
    terms = plain_lists({"a": ["one", "two", "one two"]})
    assert [terms.find("", text).phrases for text in ("two ONE", "one two", "two", "three")] == [
        {"a": "one"},
        {"a": "one"},
        {"a": "two"},
        {},
    ]


def test_without_lists_nothing_is_found() -> None:
    assert plain_lists({}).find("anything", "") == NOTHING_FOUND


@pytest.mark.parametrize("phrase", [" \u2003 ", "\u200b", "\u00ad \ufeff", "\u0301"])
def test_every_phrase_without_a_displayed_character_is_reported_and_not_found(phrase: str) -> None:
    terms = plain_lists({"fine": ["gun"], "list": ["a", phrase, phrase]})
    assert terms.find(phrase, f"x {phrase} y").phrases == {}
    remedy = f"{phrase!r} has no character that is displayed: write a word, or remove the line"
    assert terms.faults == [TermFault("list", "phrases/1", remedy), TermFault("list", "phrases/2", remedy)]


def test_none_of_thousands_of_phrases_is_missed() -> None:
    words = [f"wort{n}a" for n in range(5000)]
    terms = plain_lists({word: [word] for word in words})
    assert all(terms.find("", f"davor {word}, danach").phrases == {word: word} for word in words[::7])
    assert terms.find("", " ".join(words[:300])).phrases == {word: word for word in words[:300]}


def test_each_hit_has_its_list_its_phrase_and_its_place_in_the_original_title_or_text() -> None:
    terms = plain_lists({"weapons": ["gun", "hand grenade"], "brands": ["Rolex"]})
    title, text = "ＲＯＬＥＸ gu\u00adn", "Ein\n  HAND\u2003Grenade, ein gun\u200b."
    found = terms.find(title, text)
    assert found.phrases == {"brands": "Rolex", "weapons": "gun"}
    assert found.hits == [
        TermHit(list="brands", phrase="Rolex", field="title", start=0, end=5),
        TermHit(list="weapons", phrase="gun", field="title", start=6, end=10),
        TermHit(list="weapons", phrase="hand grenade", field="text", start=6, end=18),
        TermHit(list="weapons", phrase="gun", field="text", start=24, end=28),
    ]
    assert marked(found, title=title, text=text) == ["ＲＯＬＥＸ", "gu\u00adn", "HAND\u2003Grenade", "gun\u200b"]


def test_no_phrase_is_found_across_title_and_text() -> None:
    terms = one_list("hand grenade")
    assert terms.find("hand", "grenade") == terms.find("hand ", " grenade") == NOTHING_FOUND


def test_a_list_has_at_most_twenty_hits_the_first_ones() -> None:
    found = plain_lists({"a": ["gun"], "b": ["knife"]}).find("", "gun " * 500 + "knife")
    assert [(hit.list, hit.start) for hit in found.hits] == [*(("a", 4 * n) for n in range(20)), ("b", 2000)]


def test_the_first_hits_of_a_list_are_kept_whatever_the_order_of_its_phrases() -> None:
    found = one_list("knife", "gun").find("gun in the title", "knife " * 90)
    assert found.phrases == {"list": "knife"}
    places = [(hit.phrase, hit.field, hit.start) for hit in found.hits]
    assert places == [("gun", "title", 0), *(("knife", "text", 6 * n) for n in range(19))]


def test_the_first_hits_of_a_reading_without_disguises_are_kept() -> None:
    found = one_list("knife", "gun", match=["spaced", "joined"]).find("g u n", "knife " * 19 + "k-nife g u n")
    assert [(hit.phrase, hit.field, hit.start, hit.end) for hit in found.hits] == [
        ("gun", "title", 0, 5),
        *(("knife", "text", 6 * n, 6 * n + 5) for n in range(19)),
    ]


def test_a_text_with_thousands_of_phrases_confirms_only_those_that_can_be_shown() -> None:
    words = ["zz" + "".join("bcdfghkmnp"[int(digit)] for digit in f"{n:04}") + "zz" for n in range(4000)]
    terms = one_list(*words, match=["inflection", "joined", "spaced", "leet"])
    found = terms.find("", " ".join(reversed(words)))
    assert found.phrases == {"list": words[0]}
    assert [hit.phrase for hit in found.hits] == words[:-21:-1]
    assert sum("exact" in vars(each.spelling) for each in terms._plain._candidates) == 21


def test_an_exception_is_compiled_only_for_a_text_that_may_have_it() -> None:
    terms = one_list("gun", exceptions=[f"gun{n:04} gun" for n in range(5000)])
    assert [hit.start for hit in terms.find("", "a gun0017 gun and a gun").hits] == [20]
    exceptions = terms._lists[0]._exceptions._candidates
    assert [n for n, each in enumerate(exceptions) if "exact" in vars(each.spelling)] == [17]


def test_the_matches_of_phrases_within_each_other_are_bounded() -> None:
    terms = one_list(*("g" * length for length in range(1, 201)))
    assert len(terms._plain._literals) == 8
    assert terms.find("", "g" * 50_000) == NOTHING_FOUND
    assert terms.find("", "g " + "g" * 200).phrases == {"list": "g"}
    assert [hit.phrase for hit in terms.find("", "g" * 150).hits] == ["g" * 150]


def test_connectors_between_words_are_read_once() -> None:
    terms = one_list("rock - roll", match=["joined"])
    assert terms.find("", "rock" + "-" * 50_000) == NOTHING_FOUND
    assert parts("Rock-Roll, rock - roll", "rock - roll", match=["joined"]) == ["Rock-Roll", "rock - roll"]


def test_the_same_input_gives_the_same_bytes() -> None:
    lists = {name: ["gun", "ѕwitchblade", "наган", "ナイフ"] for name in "cab"}
    text = "Gun ѕwitchblade НАГАН ナイフ gun\u200b " * 3
    first, second = (msgspec.json.encode(plain_lists(lists).find(text, text)) for _ in range(2))
    assert first == second
    assert [hit.list for hit in plain_lists(lists).find(text, text).hits] == ["a"] * 20 + ["b"] * 20 + ["c"] * 20


@pytest.mark.parametrize(
    ("phrase", "exceptions", "text", "expected"),
    [
        ("knife", ["knife block"], "a knife block", []),
        ("knife", ["knife block"], "Knife  BLOCK and a knife", ["knife"]),
        ("knife", ["knife block"], "knife blocks", ["knife"]),
        ("knife", ["knife-block"], "knife block", ["knife"]),
        ("replica", ["replica jersey"], "Real Madrid Youth Replica Jersey", []),
        ("replica", ["youth replica jersey"], "Replica Jersey", ["Replica"]),
        ("switchblade", ["switchblade-style"], "switchblade‑style butter knife", []),
        ("switchblade", ["style"], "switchblade-style butter knife", ["switchblade"]),
        ("gun", ["glue gun", "gun show"], "glue gun show gun", ["gun"]),
        ("武器", ["武器屋"], "武器屋と武器", ["武器"]),
    ],
)
def test_a_hit_within_an_exception_does_not_count(
    phrase: str, exceptions: list[str], text: str, expected: list[str]
) -> None:
    assert parts(text, phrase, exceptions=exceptions) == expected


@pytest.mark.parametrize(
    ("text", "match", "expected"),
    [
        ("knife blocks", ["inflection"], []),
        ("kn1fe b1ock", ["leet"], []),
        ("knife_block", ["joined"], []),
        ("knife-block", ["joined"], []),
        ("knifeblock", ["joined"], []),
        ("k n i f e", ["spaced"], ["k n i f e"]),
        ("knife b1ock", ["leet"], []),
        ("k n i f e b l o c k", ["spaced"], []),
    ],
)
def test_an_exception_has_the_options_of_its_list(text: str, match: list[str], expected: list[str]) -> None:
    assert parts(text, "knife", match=match, exceptions=["knife block"]) == expected


def test_phrases_without_a_space_between_them_are_all_found() -> None:
    assert parts("武器武器", "武器") == ["武器"] * 2
    assert parts("gungun gun,gun", "gun") == ["gun"] * 2


@pytest.mark.parametrize(
    "text", ["b u y    h a n d g u n", "n e w: h a n d g u n", "n e w • h a n d g u n", "c h e a p  h a n d g u n"]
)
def test_spaced_words_with_wider_gaps_between_them_are_found(text: str) -> None:
    assert parts(text, "handgun", match=["spaced"]) == ["h a n d g u n"]
    assert parts("Models C: B: D", "cb", match=["spaced"]) == []


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("$$witchblade", "switchblade"),
        ("5witchblade$$$", "switchblade"),
        ("switchblad€", "switchblade"),
        ("a$$ault rifle", "assault rifle"),
        ("gra$$", "grass"),
        ("coc@!ne", "cocaine"),
    ],
)
def test_signs_in_a_row_are_letters_inside_a_word_and_two_at_its_end(text: str, phrase: str) -> None:
    assert len(parts(text, phrase, match=["leet"])) == 1


def test_a_word_of_digits_only_is_not_found() -> None:
    assert parts("iphone5 8008", "boob", match=["leet"]) == []
    assert parts("call 8008 now", "boob", match=["leet"]) == []
    assert parts("b00b", "boob", match=["leet"]) == ["b00b"]


@pytest.mark.parametrize("phrase", ["don\\'t", "\\'", "a\\'b", "5\\' pole", "`x"])
def test_a_phrase_with_a_backslash_before_an_apostrophe_is_found(phrase: str) -> None:
    assert parts(f"a {phrase} b", phrase) == [phrase]


def test_digits_that_stand_for_one_letter_only_are_no_word() -> None:
    assert parts("a2222 42222", "a2222", match=["leet"]) == ["a2222"]
    assert parts("ab222 4b222", "ab222", match=["leet"]) == ["ab222"]


def test_the_first_phrase_is_named_also_if_only_a_reading_has_it() -> None:
    found = one_list("knife", "dagger", match=["leet"]).find("", "a dagger and a kn1fe")
    assert found.phrases == {"list": "knife"}


def test_an_exception_covers_the_whole_phrase_also_among_others_that_overlap() -> None:
    assert parts("glue gun show", "gun show", exceptions=["glue gun"]) == ["gun show"]
    assert parts("glue gun holder set", "set", exceptions=["glue gun holder set", "gun holder"]) == []
    assert parts("gun toy gun toy gun", "gun", exceptions=["gun toy gun"]) == []


def test_an_exception_counts_in_each_reading_of_a_text_at_its_own_places() -> None:
    exceptions = ["knife block"]
    assert parts("a knife and a kn1fe b1ock", "knife", match=["leet"], exceptions=exceptions) == ["knife"]
    assert parts("a knife block and a kn1fe", "knife", match=["leet"], exceptions=exceptions) == ["kn1fe"]


def test_an_exception_counts_in_each_reading() -> None:
    assert parts("象 牙 色", "象牙", match=["spaced"], exceptions=["象牙色"]) == []
    assert parts("g1ue gun and a gun", "gun", match=["leet"], exceptions=["glue gun"]) == ["gun"]


def test_the_first_phrase_that_is_not_excepted_is_named() -> None:
    found = one_list("knife", "dagger", exceptions=["knife block"]).find("", "a knife block and a dagger")
    assert found.phrases == {"list": "dagger"}
