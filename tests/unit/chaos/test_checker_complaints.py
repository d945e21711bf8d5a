"""The checker finds what breaks a promise about notices and appeals: each is planted in a history that is sound."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, CaseRow, DecisionRow
from tests.support.chaos_history import Recording, drop, is_of, titles

OPPOSITE = {"approve": "reject", "reject": "approve"}


class Complaining(Recording):
    """A recording in which people complain, in `eu`."""

    def __init__(self) -> None:
        super().__init__()
        self._types: dict[str, str] = {}
        self._current: dict[str, tuple[int, str, str]] = {}  # of a case: n, decision's id, action

    def complain(self, type_: str, subject: str, reference: str, *, about: str = "", state: str = "waiting") -> str:
        """A notice, or an appeal about a case's decision: posted, answered 202, told and routed."""
        of, key = derived(type_, reference), f"p:product:{subject}"
        event_id = derived("event", of, f"piepowder.{type_}.submitted.v1", "eu")
        answer = {f"{type_}_id": of, "regions": {"eu": {"event_id": event_id}}}
        self.call(type_, {"body": {"reference": reference, "markets": ["DE"]}}, 202, answer)
        recording = {f"{type_}_id": of, "reference": reference}
        self.event("piepowder.submissions.eu", "eu", f"{type_}.submitted", key, event_id, recording)
        case_id = derived("case", of, "eu", type_)
        self._items[case_id], self._types[case_id] = of, type_
        opened: dict[str, Any] = {
            "case_id": case_id,
            "case_type": type_,
            "item_id": of,
            "verdict": "review",
            "queue": f"{type_}s",
            "priority": 5,
            "trace": {"policy_set": "ps-1"},
        }
        if about:
            n, decision_id, action = self._current[about]
            opened["appeal"] = {"decision": {"case_id": about, "n": n, "decision_id": decision_id, "action": action}}
        self.event("piepowder.cases.eu", "eu", "case.opened", key, derived("o", case_id), opened)
        row = CaseRow(case_id, key, state, derived("o", case_id), None, 0, "")
        self.history.cells["eu"].cases.append(row)
        if state == "closed":
            closed = {"case_id": case_id, "case_type": type_, "item_id": of, "reason": "duplicate"}
            self.event("piepowder.decisions.eu", "eu", "case.closed", key, derived("cc", case_id), closed)
            self._tallies["eu"]["closed"] += 1
        return case_id

    def lease_event(self, case_id: str, name: str, token: int, reviewer: str, **more: object) -> None:
        super().lease_event(case_id, name, token, reviewer, case_type=self._types.get(case_id, "item"), **more)

    def answer(self, case_id: str, reviewer: str, action: str) -> Call:
        """A reviewer claims a case, and decides it."""
        self.claim(case_id, reviewer)
        token = self.row(case_id).lease_token
        facts = {"region": "eu", "case_id": case_id, "token": token, "action": action, "reasons": [], "note": ""}
        call = self.call("decide", facts, 201, {})
        self._store(case_id, 1, action, reviewer, token)
        self.set_row(self.row(case_id)._replace(state="decided"))
        by = "appeals" if self._types.get(case_id) == "appeal" else "people"
        self._tallies["eu"]["decided"] += 1
        self._tallies["eu"][f"{by}/{action}"] += 1
        return call

    def overturn(self, appeal: str, about: str, reviewer: str, *, action: str = "") -> None:
        """An appeal succeeds: the decision of the case that it is about is replaced."""
        self.answer(appeal, reviewer, "overturn")
        n, decision_id, before = self._current[about]
        more = {"replaces": decision_id, "why": "appeal", "appeal_case_id": appeal}
        self._store(about, n + 1, action or OPPOSITE[before], reviewer, 0, **more)

    def post_decided(self, subject: str, reviewer: str, action: str = "reject") -> str:
        """An item that a reviewer decided."""
        case_id = self.post(subject, 1, verdict="review")
        self.answer(case_id, reviewer, action)
        self.status(self._item(case_id), "eu", "approved" if action == "approve" else "rejected")
        return case_id

    def _store(self, case_id: str, n: int, action: str, reviewer: str, token: int, **more: str) -> None:
        decision_id = derived("decision", case_id, str(n))
        row = DecisionRow(case_id, n, decision_id, action, (), "ps-1", False, reviewer, "", token, "")
        self.history.cells["eu"].decisions.append(row)
        self._current[case_id] = n, decision_id, action
        data = {
            "case_id": case_id,
            "case_type": self._types.get(case_id, "item"),
            "item_id": self._item(case_id),
            "n": n,
            "decision_id": decision_id,
            "action": action,
            "policy_set": "ps-1",
            "automated": False,
            "reviewer": reviewer,
            "lease_token": token,
            **more,
        }
        name = "decision.replaced" if more else "decision.made"
        event_id = derived(name, case_id, str(n))
        self.event("piepowder.decisions.eu", "eu", name, self.row(case_id).subject, event_id, data)


def complaining() -> Complaining:
    """Notices that wait and are decided, beside items; appeals that are upheld, that succeed, that wait, and one that
    came while another was open."""
    recording = Complaining()
    recording.complain("notice", "ring", "n-1")
    followed = recording.complain("notice", "ring", "n-2")
    recording.answer(followed, "ann", "reject")
    item = recording.post_decided("lamp", "ann")
    recording.answer(recording.complain("appeal", "lamp", "a-1", about=item), "ben", "uphold")
    second = recording.complain("appeal", "lamp", "a-2", about=item)
    recording.complain("appeal", "lamp", "a-3", about=item, state="closed")
    recording.post("lamp", 2)  # an older version's decision may be replaced when there is a newer one
    recording.overturn(second, item, "cid")
    recording.status(recording._item(item), "eu", "approved")
    recording.complain("appeal", "lamp", "a-4", about=item)
    recording.call("appeal", {"body": {"reference": "a-5"}}, 404, {})
    recording.call("appeal", {"body": {"reference": "a-6"}}, 409, {})
    recording.call("notice", {"body": {"reference": "n-3", "markets": ["DE"]}}, 503, None)
    return recording


def notice() -> str:
    return derived("case", derived("notice", "n-1"), "eu", "notice")


def appeal(number: int) -> str:
    return derived("case", derived("appeal", f"a-{number}"), "eu", "appeal")


def lamp() -> str:
    return derived("case", derived("item", "p", "product", "lamp", "1"), "eu", "item")


def test_a_sound_history_has_no_violation() -> None:
    assert titles(complaining().done()) == []


def test_a_history_that_did_not_change_is_the_same_after_a_replay() -> None:
    assert promises.compare(complaining().done(), complaining().done()) == []


def of(case_id: str) -> bytes:
    return case_id.encode()


def lose_a_notice(recording: Complaining) -> None:
    gone = derived("notice", "n-1").encode()
    drop(recording, lambda r: gone in (r.value or b"") and is_of(r, "notice.submitted"))


def lose_a_notice_on_its_way(recording: Complaining) -> None:
    drop(recording, lambda r: of(notice()) in (r.value or b"") and is_of(r, "case.opened"))
    recording.history.cells["eu"].cases = [
        row for row in recording.history.cells["eu"].cases if row.case_id != notice()
    ]


def lose_an_appeals_case(recording: Complaining) -> None:
    cell = recording.history.cells["eu"]
    cell.cases = [row for row in cell.cases if row.case_id != appeal(4)]


def answer_under_another_id(recording: Complaining) -> None:
    recording.complain("notice", "cup", "n-9")
    call = recording.history.calls[-1]
    call.answer["regions"]["eu"]["event_id"] = derived("another")


def answer_the_same_notice_differently(recording: Complaining) -> None:
    call = next(call for call in recording.history.calls if call.kind == "notice")
    recording.call("notice", call.facts, 202, {**call.answer, "content_hash": "other"})


def answer_for_a_region_that_is_not_its_own(recording: Complaining) -> None:
    recording.call("notice", {"body": {"reference": "n-8", "markets": ["US"]}}, 202, {"notice_id": "x", "regions": {}})


def make_a_notice_up(recording: Complaining) -> None:
    recording.complain("notice", "cup", "n-9")
    recording.history.calls.pop()


def refuse_a_sound_notice(recording: Complaining) -> None:
    recording.call("notice", {"body": {"reference": "n-7", "markets": ["DE"]}}, 422, {})


def supersede_a_notice(recording: Complaining) -> None:
    recording.set_row(recording.row(notice())._replace(state="superseded"))


def withdraw_an_appeal(recording: Complaining) -> None:
    recording.set_row(recording.row(appeal(4))._replace(state="withdrawn"))


def leave_two_appeals_open(recording: Complaining) -> None:
    recording.complain("appeal", "lamp", "a-9", about=lamp())


def replace_a_decision_without_an_appeal(recording: Complaining) -> None:
    recording._store(
        lamp(), 3, "reject", "dan", 0, replaces=recording._current[lamp()][1], why="appeal", appeal_case_id="x"
    )


def replace_two_decisions_by_one_appeal(recording: Complaining) -> None:
    more = {"replaces": recording._current[lamp()][1], "why": "appeal", "appeal_case_id": appeal(2)}
    recording._store(lamp(), 3, "reject", "cid", 0, **more)


def replace_by_the_same(recording: Complaining) -> None:
    recording.overturn(appeal(4), lamp(), "dan", action="approve")


def overturn_and_replace_nothing(recording: Complaining) -> None:
    recording.answer(appeal(4), "dan", "overturn")


def hear_an_appeal_about_ones_own_decision(recording: Complaining) -> None:
    recording.answer(appeal(4), "cid", "uphold")


def leave_a_replaced_decision_untold(recording: Complaining) -> None:
    drop(recording, lambda r: is_of(r, "decision.replaced"))


def show_the_decision_that_was_replaced(recording: Complaining) -> None:
    recording.status(derived("item", "p", "product", "lamp", "1"), "eu", "rejected")


def close_an_appeal_and_say_nothing(recording: Complaining) -> None:
    recording.set_row(recording.row(appeal(4))._replace(state="closed"))


def miscount_appeals(recording: Complaining) -> None:
    recording._tallies["eu"]["appeals/uphold"] += 1


PLANTS: list[tuple[Callable[[Complaining], None], int, str]] = [
    (lose_a_notice, 1, "LOST: accepted notice"),
    (lose_a_notice_on_its_way, 1, "LOST: notice"),
    (lose_an_appeals_case, 1, "LOST: case"),
    (answer_under_another_id, 1, "has another id than the response"),
    (answer_the_same_notice_differently, 1, "got another response"),
    (answer_for_a_region_that_is_not_its_own, 1, "has a response for"),
    (make_a_notice_up, 1, "no response said so"),
    (refuse_a_sound_notice, 9, "a valid notice was rejected"),
    (supersede_a_notice, 1, "WRONG END"),
    (withdraw_an_appeal, 1, "WRONG END"),
    (leave_two_appeals_open, 2, "appeals about case"),
    (replace_a_decision_without_an_appeal, 2, "no appeal was successful"),
    (replace_two_decisions_by_one_appeal, 2, "has replaced two decisions"),
    (replace_by_the_same, 2, "replaced by a decision that does not follow it"),
    (overturn_and_replace_nothing, 2, "no decision was replaced"),
    (hear_an_appeal_about_ones_own_decision, 3, "their own decision"),
    (leave_a_replaced_decision_untold, 4, "was not published"),
    (show_the_decision_that_was_replaced, 1, "the status of item"),
    (close_an_appeal_and_say_nothing, 4, "its events differ"),
    (miscount_appeals, 2, "has wrong counts of its decisions"),
]


@pytest.mark.parametrize(("plant", "promise", "title"), PLANTS, ids=[plant.__name__ for plant, _, _ in PLANTS])
def test_what_breaks_a_promise_is_named_with_its_records(
    plant: Callable[[Complaining], None], promise: int, title: str
) -> None:
    recording = complaining()
    plant(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records for v in found)
