"""Conditions that could need much memory are refused with the remedy; the others stay within some hundred megabytes."""

import resource

import pytest

from services.router.cel.conditions import CelConditions
from services.router.cel.memory import MAX_LENGTH, Made, made
from tests.support.router_samples import submitted

LARGER = "() is not allowed: its result can be much larger than "
COMPARE = "compare with contains(), startsWith() or endsWith(), or use a word list."
OUTSIDE = "is not allowed there: it would make a new value for every element. Use it outside of macros."
CHANGES = (
    "lowerAscii() and upperAscii() are allowed at most 4 times inside of a macro, and not together with split(): change"
    ' the text before, as in `title.lowerAscii().split(" ").exists(word, …)`.'
)
LISTS = "split(), map() and filter() are allowed at most 16 times: write several conditions or policies."
SUMS = "`+` of texts or lists is allowed at most 30 times: write several conditions or policies."
LENGTH = (
    "a condition that makes texts or lists in a macro has at most 2,000 characters: write several conditions or"
    " policies, or use a word list."
)
LETTERS = ", ".join(f'"{number}"' for number in range(500))


def four_sums() -> str:
    return " && ".join(["(title + text + brand + title + text + brand + title + text) != ''"] * 5)


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ('text.replace("a", text) == ""', f"replace{LARGER}the text: {COMPARE}"),
        ('text . // x\n replace ("a", "b", 1) == ""', f"replace{LARGER}the text: {COMPARE}"),
        ('"%s%s".format([text, text]) == ""', f"format{LARGER}its arguments: {COMPARE}"),
        ("strings.quote(text) == ''", f"quote{LARGER}the text: {COMPARE}"),
        (
            "links.join(text) == ''",
            "join() is not allowed: its result can be much larger than the list: use exists() or all() with the list.",
        ),
        ('links.exists(l, (l + "a") == text)', f"`+` of texts or lists {OUTSIDE}"),
        ("[1, 2].exists(n, ([n] + [n]) == [1])", f"`+` of texts or lists {OUTSIDE}"),
        ("[dyn(1)].exists(n, n + n == 2)", f"`+` of texts or lists {OUTSIDE}"),
        ("[1, text].exists(n, n + n == n)", f"`+` of texts or lists {OUTSIDE}"),
        ('links.all(l, text.split(l) == [""])', f"split() {OUTSIDE}"),
        ("links.all(l, l.reverse() == l)", f"reverse() {OUTSIDE}"),
        ("links.all(l, links.map(m, m) == links)", f"map() {OUTSIDE}"),
        ("links.exists(l, markets.exists(m, text.lowerAscii() == m + l))", f"lowerAscii() {OUTSIDE}"),
        ("links.exists(l, " + " || ".join(["l.upperAscii() == text"] * 5) + ")", CHANGES),
        ('title.split(" ").exists(w, w.lowerAscii() == "a")', CHANGES),
        (
            "title.split('').map(c, c) == []",
            "map() and filter() are not allowed together with split(): use exists() or all().",
        ),
        (" || ".join(["title.split('') == markets"] * 17), LISTS),
        (four_sums(), SUMS),
        (f"links.exists(l, l in [{LETTERS}])", LENGTH),
        (f"[{LETTERS}].filter(l, l == text) == []", LENGTH),
    ],
)
def test_a_condition_that_could_need_much_memory_is_refused_and_fails_for_every_item(
    condition: str, reason: str
) -> None:
    conditions = CelConditions([["true"], ["title == ''", condition]])
    assert conditions.refused == [(1, 1, reason)]
    assert conditions.slow == {}
    for item in (submitted(), submitted(text="a" * 50_000)):
        for evaluate in (conditions.evaluate, conditions.evaluate_by_cel):
            assert evaluate(item, []) == ((True, True, False), {2: reason})


@pytest.mark.parametrize(
    "condition",
    [
        'title == "replace(" || title == r"\\d.format(" // .join(',
        'attributes.replace == "a" || attributes["join"] == "b"',
        "title + text == brand",
        "links.exists(l, l.size() + 1 > text_length + 2)",
        'title.lowerAscii().split(" ").exists(w, w == "gun" || w in ["a", "b"])',
        "attributes.exists(k, k.lowerAscii() == 'a' && attributes[k].upperAscii() == title.upperAscii())",
        "links.exists(l, markets.exists(m, l == m))",
        "links.map(l, l) == links.filter(l, true)",
        f"title in [{LETTERS}]",
        " || ".join([f'text.lowerAscii().contains("{number}")' for number in range(200)]),
        " || ".join(["title.split('') == markets"] * 16),
    ],
)
def test_other_conditions_are_allowed(condition: str) -> None:
    conditions = CelConditions([[condition]])
    assert conditions.refused == []
    item = submitted(title="A gun", attributes={"replace": "a"}, links=["a"])
    assert conditions.evaluate(item, []).errors == {}


def test_what_makes_texts_and_lists_has_the_number_of_macros_around_it() -> None:
    condition = (
        'links.exists(l, (l + "+").lowerAscii() == [l][0] && {l: 1}.all(k, k.trim() in [k])) || a(b).map(c, c[0])'
    )
    assert made(condition) == [
        Made("+", 1),
        Made("lowerAscii", 1),
        Made("[", 1),
        Made("{", 1),
        Made("[", 2),
        Made("map", 0),
    ]


DIGITS = "[0,1,2,3,4,5,6,7,8,9]"
ZEROS = f"[{','.join('0' * 880)}]"


@pytest.mark.parametrize(
    "conditions",
    [
        [f"{DIGITS}.all(a, {DIGITS}.all(b, {DIGITS}.all(c, {ZEROS}.size() > 0)))"],
        [f"{ZEROS}.all(a, {' && '.join(['text.upperAscii() != brand'] * 4)})"],
        [f"text.split('').size() > {number}" for number in range(60)],
        [f"{ZEROS}.map(n, text).size() > 0"],
        ["+".join(["text"] * 25) + " != ''"],
    ],
)
def test_the_largest_allowed_conditions_need_less_than_400_megabytes(conditions: list[str]) -> None:
    assert all(len(condition) <= MAX_LENGTH for condition in conditions)
    compiled = CelConditions([conditions])
    assert compiled.refused == []
    item = submitted(text="a" * 50_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert compiled.evaluate(item, []) == ((True,) * len(conditions), {})
    assert compiled.evaluate_by_cel(item, []) == ((True,) * len(conditions), {})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KB


def test_whatever_cel_raises_is_the_error_of_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raising:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def eval(self, **_: object) -> object:
            raise self.error

    conditions = CelConditions([['title.trim() == ""', "true"]])
    for error, message in ((MemoryError("std::bad_alloc"), "it needs too much memory"), (ValueError("a"), "a")):
        monkeypatch.setattr(conditions._each[0], "_expression", Raising(error))
        monkeypatch.setattr(conditions._slow, "_lists", [("", Raising(error), conditions._each[:1])])
        assert conditions.evaluate(submitted(), []) == ((False, True), {0: message})
