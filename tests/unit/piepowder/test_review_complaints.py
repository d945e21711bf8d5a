"""Notices and appeals at the terminal: their display, and the reviewers' actions."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from deploy.local.accounting import AuditCounts, ItemOutcome, Ledger
from piepowder import console_output, timeline
from piepowder.case_display import DecidedCases, Rules, case_display, complaint, item_case
from piepowder.simulation import choose, truth_key
from piepowder.tally import RegionItem
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event, RecordId
from tests.support.decision.cases import appealed, noticed, opened
from tests.support.review_session import CODES, Made, shown, worked

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
_, ITEM = opened("eu", version=None, content="x")
_, NOTICE = noticed("eu")
DECISION = {"decision_id": "d", "action": "reject", "reasons": ["FAKE"], "decided_at": "2026-05-01T12:00:00.000Z"}

ITEM_SHOWN = {**shown(ITEM), "decisions": [DECISION]}
NOTICED = shown(NOTICE, ITEM_SHOWN)
APPEALED = shown(appealed("eu", ITEM, reviewer="r-1")[1], ITEM_SHOWN)
AGAINST_APPROVAL = shown(appealed("eu", NOTICE, action="approve")[1], shown(NOTICE) | {"decisions": []}, ITEM_SHOWN)
LETTERS = "  [n]ote  [v]iew  [s]kip  [q]uit > "


async def test_a_reviewer_is_offered_the_actions_of_the_case_type() -> None:
    reviews, asked, done = await worked(APPEALED, "a", "r", "o", "y")
    assert asked == [*["[u]phold  [o]verturn" + LETTERS] * 3, "y and Enter to send it > "]
    assert (reviews.made, done) == ([Made(APPEALED["case_id"], "overturn", [])], {"overturn": 1})
    reviews, asked, _ = await worked(NOTICED, "o", "u", "r", "+", "y")
    assert asked[0] == "[a]pprove  [r]eject" + LETTERS
    assert asked[3] == "reason codes, + for COUNTERFEIT, ? for a list, q to cancel > "
    assert reviews.made == [Made(NOTICED["case_id"], "reject", ["COUNTERFEIT"])]


async def test_overturning_an_approval_asks_for_reasons_and_a_confirmation() -> None:
    reviews, asked, _ = await worked(AGAINST_APPROVAL, "o", "fake, weapons", "y")
    assert asked[1:] == ["reason codes, + for COUNTERFEIT, ? for a list, q to cancel > ", "y and Enter to send it > "]
    assert [(made.action, made.reasons) for made in reviews.made] == [("overturn", ["FAKE", "WEAPONS"])]


async def test_the_effect_of_each_action_on_the_item_is_stated_in_words() -> None:
    async def said(case: dict[str, Any]) -> str:
        with console_output.console.capture() as captured:
            await worked(case, "q")
        return captured.get()

    notice = await said(NOTICED)
    assert "approve (dismiss the notice): the item stays as it is" in notice
    assert "reject (follow the notice): the marketplace is told to restrict the item" in notice
    appeal = await said(APPEALED)
    assert "uphold: the appeal fails: the decision to reject the item stays, and the item stays restricted" in appeal
    assert "overturn: the appeal succeeds: the decision to reject the item is replaced by approve" in appeal
    approval = await said(AGAINST_APPROVAL)
    assert "uphold: the appeal fails: the decision to dismiss the notice stays, and the item stays as it is" in approval
    assert "overturn: the appeal succeeds: the decision to dismiss the notice is replaced by reject" in approval


@pytest.mark.parametrize(
    ("case", "lines", "confirmed", "done", "count"),
    [
        (NOTICED, ["a"], "Dismiss the notice about shop:product:B07 “Uhr B07”: the item stays", "Dismissed", "dismiss"),
        (NOTICED, ["r", "FAKE"], "Follow the notice about shop:product:B07 “Uhr B07” for FAKE: ", "Followed", "follow"),
        (APPEALED, ["u"], "Uphold the decision to reject the item shop:product:B07 “Uhr B07”: ", "Upheld", "uphold"),
        (APPEALED, ["o"], "Overturn the decision to reject the item shop:product:B07 ", "Overturned", "overturn"),
    ],
)
async def test_a_decision_on_a_complaint_is_confirmed_in_words_that_cannot_be_misread(
    case: dict[str, Any], lines: list[str], confirmed: str, done: str, count: str
) -> None:
    for answer, expected in (("y", {count: 1}), ("", {}), ("a", {})):
        with console_output.console.capture() as captured:
            reviews, asked, counts = await worked(case, *lines, answer)
        assert confirmed in captured.get()
        assert asked[len(lines)] == "y and Enter to send it > "
        assert (counts, len(reviews.made)) == (expected, len(expected))
        assert (f"{done} the " in captured.get()) is bool(expected)


def test_the_language_of_a_complaint_and_the_policies_about_the_item_are_shown() -> None:
    assert NOTICE.notice is not None
    notice = msgspec.structs.replace(NOTICE.notice, language="fr")
    trace = {"policy_set": "ps-1", "matched": ["spy-cameras"], "terms": {"surveillance": "spy camera"}}
    case = shown(msgspec.structs.replace(NOTICE, notice=notice), ITEM_SHOWN | {"trace": trace})
    text = text_of(case)
    assert re.search(r"notice's language +fr *\n", text)
    assert re.search(r"why +spy-cameras *\n +found “spy camera” \(surveillance\) *\n", text)
    assert "no policy matched" not in text


def text_of(case: dict[str, Any], earlier: DecidedCases = DecidedCases()) -> str:  # noqa: B008 - immutable
    with console_output.console.capture() as captured:
        console_output.console.print(case_display(case, Rules(), earlier, NOON))
    return captured.get()


def test_a_complaint_is_shown_with_its_sender_its_text_and_the_item() -> None:
    text = text_of(NOTICED) + text_of(APPEALED, DecidedCases(problem="Refused."))
    for expected in ("user Ada", "counterfeit", "We make this watch, and not that one.", "https://shop.example/B07"):
        assert expected in text
    for expected in ("seller Bob", "reject, by r-1", "It is genuine.", "Uhr B07", "item: reject for FAKE"):
        assert expected in text


def test_texts_are_shown_without_control_characters() -> None:
    assert NOTICE.notice is not None
    changed = msgspec.structs.replace(NOTICE.notice, explanation="\x1b[2Jgone", locations=["https://a.b/\x1b[1m"])
    case = shown(msgspec.structs.replace(NOTICE, notice=changed))
    assert "\x1b" not in str(complaint(case)["notice"])
    assert "\x1b" not in text_of(case)


def test_a_simulated_reviewer_decides_an_appeal_by_the_truth_about_the_item() -> None:
    subject = "shop:product:B07"
    cases = [{**APPEALED, "case_id": f"case-{n}"} for n in range(300)]
    for deserved, expected in (("approve", "overturn"), ("reject", "uphold")):
        known = {truth_key(subject, None): deserved}
        decided = [choose(case, known, 1, CODES) for case in cases]
        assert 0.95 < sum(action == expected for action, _ in decided) / 300 <= 1.0
        assert {action for action, _ in decided} <= {"uphold", "overturn"}
    known = {truth_key(subject, None): "reject"}
    assert ("reject", ["COUNTERFEIT"]) in [choose({**NOTICED, "case_id": f"c-{n}"}, known, 1, CODES) for n in range(9)]


def test_a_complaint_is_decided_by_its_item_or_else_by_itself() -> None:
    assert item_case(ITEM_SHOWN) is ITEM_SHOWN
    assert item_case(NOTICED)["item_id"] == ITEM.item_id
    assert item_case(shown(NOTICE))["item_id"] == NOTICE.item_id


def summary(kind: str, data: events.Struct | dict[str, Any]) -> str:
    return timeline._summary({"type": kind, "data": msgspec.to_builtins(data)})


def test_the_timeline_shows_complaints_and_their_results() -> None:
    notice, about = NOTICE.notice, appealed("eu", ITEM)[1].appeal
    submitted = {"notice": msgspec.to_builtins(notice)}
    assert summary(events.NOTICE_SUBMITTED, submitted) == (
        "user reports counterfeit: “We make this watch, and not that one.”"
    )
    assert summary(events.APPEAL_SUBMITTED, {"appeal": msgspec.to_builtins(about)}) == (
        "seller appeals against reject: “It is genuine.”"
    )
    assert summary(events.CASE_OPENED, NOTICE).startswith("notice:  review →  queue general")
    replaced = {"case_type": "appeal", "action": "overturn", "reviewer": "r-2", "team": "t", "queue": "appeals"}
    assert summary(events.DECISION_MADE, replaced) == "appeal:  overturn  by r-2 (t)"
    assert summary(events.DECISION_REPLACED, {"action": "approve", "queue": "q", "replaces": "d-1"}) == (
        "approve  instead of decision d-1"
    )


def test_the_timeline_marks_a_case_that_was_opened_again() -> None:
    def event(id_: str) -> dict[str, Any]:
        opened_at = {"id": id_, "causation_id": "item", "time": "2026-05-01T12:00:00.000Z"}
        return {**opened_at, "type": events.CASE_OPENED, "data": msgspec.to_builtins(ITEM)}

    with console_output.console.capture() as captured:
        console_output.console.print(timeline._tree("shop:product:B07  in eu", [event("one"), event("two")]))
    shown_lines = [line for line in captured.get().splitlines() if "case.opened" in line]
    assert ["(repeated: the case existed already)" in line for line in shown_lines] == [False, True]


def test_the_account_counts_items_and_ignores_complaints() -> None:
    ledger = Ledger()

    def note(data: events.Struct, kind: str) -> None:
        attributes = Attributes(ids.derive(kind, repr(data)), kind, "test", "", "s", "eu", "c")
        ledger.add("eu", Event(attributes, data), RecordId("t", 0, 0))

    made = events.DecisionMade(
        decision_id="d-1",
        case_id=ITEM.case_id,
        item_id=ITEM.item_id,
        platform="shop",
        kind="product",
        subject_id="B07",
        queue="general",
        n=1,
        action="reject",
        policy_set="ps-1",
        automated=True,
        received_at="",
        due_at="",
    )
    _, appeal = appealed("eu", ITEM)
    again = {**msgspec.structs.asdict(made), "n": 2, "action": "approve", "decision_id": "d-2", "automated": False}
    note(ITEM, events.CASE_OPENED)
    note(made, events.DECISION_MADE)
    note(NOTICE, events.CASE_OPENED)
    note(appeal, events.CASE_OPENED)
    closed = events.CaseClosed(case_id=appeal.case_id, case_type="appeal", item_id=appeal.item_id, reason="duplicate")
    note(closed, events.CASE_CLOSED)
    note(events.DecisionReplaced(**again, replaces="d-1", why="appeal"), events.DECISION_REPLACED)
    account = ledger.account([RegionItem(ITEM.item_id, "eu")], {"eu": AuditCounts(6, 0)})
    assert account.holds, (account.missing, account.doubles, account.gaps)
    assert (account.total, dict(account.outcomes)) == (1, {ItemOutcome.BY_POLICY: 1})
