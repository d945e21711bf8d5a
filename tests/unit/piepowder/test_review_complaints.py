"""Notices and appeals at the terminal: their display, and the reviewers' actions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from deploy.local.accounting import AuditCounts, ItemOutcome, Ledger
from piepowder import console_output, review, timeline
from piepowder.review import LeasedCase, TerminalReviewer, complaint, item_case
from piepowder.simulation import choose, truth_key
from piepowder.submit import RegionItem
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event, RecordId
from tests.support.decision.cases import appealed, noticed, opened

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
_, ITEM = opened("eu", version=None, content="x")
_, NOTICE = noticed("eu")
DECISION = {"decision_id": "d", "action": "reject", "reasons": ["FAKE"], "decided_at": "2026-05-01T12:00:00.000Z"}


def shown(case: events.CaseOpened, *concerns: dict[str, Any]) -> dict[str, Any]:
    """A case as the review API returns it."""
    return {**msgspec.to_builtins(case), "case_type": case.case_type, "concerns": list(concerns)}


ITEM_SHOWN = {**shown(ITEM), "decisions": [DECISION]}
NOTICED = shown(NOTICE, ITEM_SHOWN)
APPEALED = shown(appealed("eu", ITEM, reviewer="r-1")[1], ITEM_SHOWN)


class OneCaseApi:
    """A review API with one case, which records the reviewer's actions."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.done: list[tuple[str, list[str]]] = []
        self._cases = [LeasedCase(case, {"token": 1, "until": ""})]

    async def claim(self) -> LeasedCase | None:
        return self._cases.pop() if self._cases else None

    async def decide(self, _: LeasedCase, action: str, reasons: Sequence[str]) -> None:
        self.done.append((action, list(reasons)))

    async def release(self, _: LeasedCase, reason: str) -> None:
        self.done.append((reason, []))


class ScriptedInput:
    """A keyboard that enters the given lines, and records the prompts."""

    def __init__(self, *lines: str) -> None:
        self.asked: list[str] = []
        self._lines = list(lines)

    async def ask(self, prompt: str) -> str | None:
        self.asked.append(prompt)
        return self._lines.pop(0) if self._lines else None


async def work(case: dict[str, Any], *lines: str) -> tuple[list[tuple[str, list[str]]], list[str], dict[str, int]]:
    api: Any = OneCaseApi(case)
    keyboard: Any = ScriptedInput(*lines)
    person = TerminalReviewer(api, keyboard, {})
    await person.work()
    return api.done, keyboard.asked, dict(person.decided)


async def test_a_reviewer_is_offered_the_actions_of_the_case_type() -> None:
    done, asked, decided = await work(APPEALED, "a", "o")
    assert asked == ["[u]phold  [o]verturn  [s]kip  [q]uit > "] * 2
    assert (done, decided) == ([("overturn", [])], {"overturn": 1})
    done, asked, _ = await work(NOTICED, "o", "r", "")
    assert asked[0] == "[a]pprove  [r]eject  [s]kip  [q]uit > "
    assert asked[2] == "reason codes, Enter for COUNTERFEIT > "
    assert done == [("reject", ["COUNTERFEIT"])]


async def test_another_word_that_begins_with_the_letter_of_an_action_decides_nothing() -> None:
    """Such as a reason code that is entered one prompt too early."""
    done, asked, decided = await work(NOTICED, "AGE", "RISK", "spy", "quiet", "", "Approve")
    assert (done, decided) == ([("approve", [])], {"approve": 1})
    assert len(asked) == 6


async def test_overturning_an_approval_asks_for_reasons() -> None:
    case = shown(appealed("eu", NOTICE, action="approve")[1], shown(NOTICE) | {"decisions": []}, ITEM_SHOWN)
    done, asked, _ = await work(case, "o", "fake, stolen")
    assert asked[1] == "reason codes, Enter for COUNTERFEIT > "
    assert done == [("overturn", ["FAKE", "STOLEN"])]


def test_a_complaint_is_shown_with_its_sender_its_text_and_the_item() -> None:
    with console_output.console.capture() as captured:
        review.show_case(NOTICED, {}, NOON)
        review.show_case(APPEALED, {}, NOON)
    text = captured.get()
    for expected in ("user Ada", "counterfeit", "We make this watch, and not that one.", "https://shop.example/B07"):
        assert expected in text
    for expected in ("seller Bob", "reject, by r-1", "It is genuine.", "Uhr B07", "reject at 2026-05-01"):
        assert expected in text


def test_texts_are_shown_without_control_characters() -> None:
    assert NOTICE.notice is not None
    changed = msgspec.structs.replace(NOTICE.notice, explanation="\x1b[2Jgone", locations=["https://a.b/\x1b[1m"])
    case = shown(msgspec.structs.replace(NOTICE, notice=changed))
    assert "\x1b" not in str(complaint(case)["notice"])
    with console_output.console.capture() as captured:
        review.show_case(case, {}, NOON)
    assert "\x1b" not in captured.get()


def test_a_simulated_reviewer_decides_an_appeal_by_the_truth_about_the_item() -> None:
    subject = "shop:product:B07"
    cases = [{**APPEALED, "case_id": f"case-{n}"} for n in range(300)]
    for deserved, expected in (("approve", "overturn"), ("reject", "uphold")):
        known = {truth_key(subject, None): deserved}
        decided = [choose(case, known, seed=1) for case in cases]
        assert 0.95 < sum(action == expected for action, _ in decided) / 300 <= 1.0
        assert {action for action, _ in decided} <= {"uphold", "overturn"}
    known = {truth_key(subject, None): "reject"}
    assert ("reject", ["COUNTERFEIT"]) in [choose({**NOTICED, "case_id": f"c-{n}"}, known, seed=1) for n in range(9)]


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
