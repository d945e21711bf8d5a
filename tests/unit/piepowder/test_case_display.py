"""A case at the terminal: everything that the decision depends on, and conditions that cannot be misread."""

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from piepowder import console_output
from piepowder.case_display import DecidedCases, Rules, case_display, due_in, effect, joined, rejects
from shared.contracts import events
from tests.support.decision.cases import opened
from tests.support.review_session import shown

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
POLICIES = {
    "weapons": events.Policy(
        id="weapons", title="Weapons", when=['a || b == "x"', '"weapons" in terms'], verdict="review"
    ),
    "plain": events.Policy(id="plain", title="Plain", when=["c || d"], verdict="review"),
}
TRACE = events.Trace(
    policy_set="ps-1",
    operating_model="om-1",
    matched=["weapons", "plain"],
    errors={"odd/0": "no such key"},
    terms={"weapons": "switchblade", "brands": "Rolex"},
)
ITEM = events.Item(
    markets=["DE", "FR"],
    language="de",
    title="Uhr",
    text="First\nsecond \x1b[2J line",
    category="watches/steel",
    brand="Rolex",
    gtin="4006381333931",
    attributes={"case": "steel", "size": "40"},
    media=["https://a.example/1.jpg", "https://a.example/2.jpg"],
    price=events.Money(amount_minor=4900, currency="EUR"),
    seller=events.Seller(id="s-1", name="Bo", age_days=0),
    scores={"fake": 0.9},
    trader=events.Trader(name="Uhren GmbH", register_number="HRB 1", self_certification=True),
    author=events.Author(id="u-7", name="Ann"),
    links=["shop:product:B07", "shop:seller:s-1"],
)


def text_of(
    case: dict[str, Any],
    rules: Rules = Rules("ps-1", POLICIES),  # noqa: B008 - immutable
    earlier: DecidedCases = DecidedCases(),  # noqa: B008 - immutable
    lines: int | None = None,
) -> str:
    with console_output.console.capture() as captured:
        console_output.console.print(case_display(case, rules, earlier, NOON, lines=lines))
    return captured.get()


def case_with(**changed: Any) -> dict[str, Any]:
    return shown(opened("eu", item=ITEM, trace=TRACE, **changed)[1])


def test_everything_that_the_reviewer_judges_is_shown() -> None:
    text = text_of(case_with(reasons=["WEAPONS"], version=0))
    for expected in (
        *("shop:product:B07", "Uhr", "First", "second ·[2J line", "watches/steel", "Rolex", "4006381333931"),
        *("case: steel", "size: 40", "https://a.example/1.jpg", "https://a.example/2.jpg", "49.00 EUR", "DE, FR"),
        *("id s-1, name Bo, age days 0", "fake 0.9", "name Uhren GmbH, register number HRB 1, self certification True"),
        *(
            "item, version 0 of the item",
            "id u-7, name Ann",
            "shop:product:B07",
            "shop:seller:s-1",
            "odd/0: no such key",
            "WEAPONS",
            "in 4 h 0 min",
        ),
    ):
        assert expected in text, expected
    assert "\x1b" not in text


def test_conditions_are_joined_with_brackets_and_the_found_term_of_each_policy_is_named() -> None:
    text = text_of(case_with())
    lines = [line.rstrip()[9:] for line in text.splitlines()]
    at = next(n for n, line in enumerate(lines) if line.strip() == "weapons: Weapons")
    assert [line.strip() for line in lines[at : at + 6]] == [
        "weapons: Weapons",
        'if (a || b == "x") and ("weapons" in terms)',
        "found “switchblade” (weapons)",
        "plain: Plain",
        "if c || d",
        "found “Rolex” (brands)",
    ]
    assert joined(["a || b"]) == "a || b"
    assert joined(["a || b", "c"]) == "(a || b) and (c)"


def test_conditions_of_another_set_than_that_of_the_case_are_not_shown_as_its_own() -> None:
    text = text_of(case_with(), Rules("ps-2", POLICIES))
    assert "a || b" not in text
    assert "(policy set ps-1; its conditions are not shown, because ps-2 is in force)" in text
    assert "found “switchblade” (weapons), “Rolex” (brands)" in text
    without = text_of(case_with(), Rules())
    assert ("weapons" in without, "ps-2" in without) == (True, False)


def test_earlier_decisions_have_their_authors_the_latest_first() -> None:
    made = {"action": "reject", "reasons": ["FAKE"], "decided_at": "2026-04-01T12:00:00.000Z", "automated": False}
    by = {"reviewer": "r-7", "team": "t-1", "note": "see\nthere"}
    later = {"action": "approve", "reasons": [], "decided_at": "2026-04-02T12:00:00.000Z", "automated": True}
    cases = [{"case_type": "item", "version": 3, "decisions": [{**made, **by}, {**later, "reviewer": "", "note": ""}]}]
    text = text_of(case_with(), earlier=DecidedCases(cases, has_more=True))
    lines = [line.split("  ", 1)[-1].strip() for line in text.splitlines()]
    at = lines.index("2026-04-02T12:00:00.000Z item version 3: approve, by a policy")
    assert lines[at + 1] == "2026-04-01T12:00:00.000Z item version 3: reject for FAKE, by r-7 (t-1), note: see"
    assert lines[at + 3].startswith("and older ones")
    assert "none: this is the first decision on the subject here" in text_of(case_with())
    assert "not all are known: No right." in text_of(case_with(), earlier=DecidedCases(problem="No right."))


def test_a_long_text_is_cut_on_the_screen_only_and_the_missing_lines_are_counted() -> None:
    case = case_with()
    case["item"]["text"] = "\n".join(f"line {n}" for n in range(100))
    whole, cut = text_of(case), text_of(case, lines=12)
    assert "line 99" in whole
    assert "more lines" not in whole
    assert "line 11 " in cut
    assert "line 12" not in cut
    assert "… 88 more lines: v shows the whole case" in cut


@pytest.mark.parametrize(
    ("kind", "contested", "action", "restricts", "words"),
    [
        ("item", None, "approve", False, "the marketplace is told that it may offer the item"),
        ("item", None, "reject", True, "the marketplace is told to restrict the item"),
        ("notice", None, "approve", False, "the item stays as it is"),
        ("notice", None, "reject", True, "the marketplace is told to restrict the item"),
        ("appeal", "reject", "uphold", False, "the decision to reject the item stays, and the item stays restricted"),
        ("appeal", "approve", "uphold", False, "the decision to approve the item stays, and the item stays as it is"),
        (
            "appeal",
            "reject",
            "overturn",
            False,
            "and the marketplace is told that the item is not restricted any more",
        ),
        ("appeal", "approve", "overturn", True, "replaced by reject, and the marketplace is told to restrict the item"),
    ],
)
def test_each_action_states_its_effect_and_asks_for_reasons_only_if_it_restricts(
    kind: str, contested: str | None, action: str, restricts: bool, words: str
) -> None:
    decision = {"action": contested, "case_type": "item"}
    case: dict[str, Any] = {"case_type": kind, "appeal": {"decision": decision} if contested else None}
    assert effect(case, action).endswith(words)
    assert rejects(case, action) is restricts


def test_the_time_until_a_case_is_due() -> None:
    assert due_in("2026-05-01T12:59:59.000Z", NOON) == "in 59 min"
    assert due_in("2026-05-01T10:00:00.000Z", NOON) == "2 h 0 min ago: OVERDUE"


@pytest.mark.parametrize(
    ("title", "text", "hits", "expected_title", "expected_text"),
    [
        ("A 5witchblade", "", [("title", 2, 13)], ["5witchblade"], []),
        ("", "one\r\ntwo gun\n\nthree gun", [("text", 9, 12), ("text", 20, 23)], [], ["gun", "gun"]),
        ("", "hand\n grenade x", [("text", 0, 13)], [], ["hand", " grenade"]),
        ("", "a\x1b[2Jgun", [("text", 5, 8)], [], ["gun"]),
        ("gun", "gun", [("text", 0, 3)], [], ["gun"]),
        ("no hit", "none", [], [], []),
    ],
)
def test_each_phrase_that_was_found_is_marked_in_title_and_text(
    title: str, text: str, hits: list[tuple[str, int, int]], expected_title: list[str], expected_text: list[str]
) -> None:
    found = [events.TermHit(list="w", phrase="p", field=field, start=start, end=end) for field, start, end in hits]
    trace = events.Trace(policy_set="ps-1", operating_model="om-1", terms={"w": "p"}, hits=found)
    case = shown(opened("eu", item=events.Item(markets=["DE"], title=title, text=text), trace=trace)[1])
    group = case_display(case, Rules(), DecidedCases(), NOON)
    assert isinstance(group, Group)
    grid = group.renderables[1]
    assert isinstance(grid, Table)
    names, values = ([*column.cells] for column in grid.columns)
    parts = {
        name: [value.plain[span.start : span.end] for span in value.spans if span.style == "reverse"]
        for name, value in zip(names, values, strict=True)
        if isinstance(value, Text)
    }
    assert (parts.get("title", []), parts.get("text", [])) == (expected_title, expected_text)


def test_another_spelling_of_a_phrase_is_shown_with_the_numbers_of_characters_that_are_not_displayed() -> None:
    item = events.Item(markets=["DE"], title="A switch\u200bblade", text="Rolex")
    hits = [
        events.TermHit(list="weapons", phrase="switchblade", field="title", start=2, end=14),
        events.TermHit(list="brands", phrase="rolex", field="text", start=0, end=5),
    ]
    terms = {"weapons": "switchblade", "brands": "rolex"}
    trace = events.Trace(policy_set="ps-1", operating_model="om-1", terms=terms, hits=hits)
    text = text_of(shown(opened("eu", item=item, trace=trace)[1]))
    assert "found “switchblade” (weapons), written “switch[U+200B]blade”, “rolex” (brands)" in " ".join(text.split())
