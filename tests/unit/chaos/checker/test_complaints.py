"""The checker reports each broken promise about notices and appeals: each test adds one defect to a valid history."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, CaseRow, DecisionRow
from tests.support.chaos_history import Recording, drop, has_type, titles

OPPOSITE = {"approve": "reject", "reject": "approve"}


class ComplaintRecording(Recording):
    """A recording with notices and appeals, in `eu`."""

    def __init__(self) -> None:
        super().__init__()
        self._types: dict[str, str] = {}
        self._current: dict[str, tuple[int, str, str]] = {}  # by case: n, decision id, action

    def complain(self, type_: str, subject: str, reference: str, *, about: str = "", state: str = "waiting") -> str:
        """Post, publish and route a notice, or an appeal about the decision of case `about`."""
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

    def claim_and_decide(self, case_id: str, reviewer: str, action: str) -> Call:
        """Claim a case as a reviewer, and decide it."""
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
        """Overturn a decision: the decision of case `about` is replaced."""
        self.claim_and_decide(appeal, reviewer, "overturn")
        n, decision_id, before = self._current[about]
        more = {"replaces": decision_id, "why": "appeal", "appeal_case_id": appeal}
        self._store(about, n + 1, action or OPPOSITE[before], reviewer, 0, **more)

    def post_decided(self, subject: str, reviewer: str, action: str = "reject") -> str:
        """Post an item that a reviewer decides."""
        case_id = self.post(subject, 1, verdict="review")
        self.claim_and_decide(case_id, reviewer, action)
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


def complaint_recording() -> ComplaintRecording:
    """Items, a waiting and a decided notice; appeals: upheld, successful, waiting, closed as the second open one."""
    recording = ComplaintRecording()
    recording.complain("notice", "ring", "n-1")
    followed = recording.complain("notice", "ring", "n-2")
    recording.claim_and_decide(followed, "ann", "reject")
    item = recording.post_decided("lamp", "ann")
    recording.claim_and_decide(recording.complain("appeal", "lamp", "a-1", about=item), "ben", "uphold")
    second = recording.complain("appeal", "lamp", "a-2", about=item)
    recording.complain("appeal", "lamp", "a-3", about=item, state="closed")
    recording.post("lamp", 2)  # the decision of an older version may be replaced after a newer version
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


def test_a_valid_history_has_no_violation() -> None:
    assert titles(complaint_recording().done()) == []


def test_a_replay_that_changes_nothing_has_no_violation() -> None:
    assert promises.compare(complaint_recording().done(), complaint_recording().done()) == []


def of(case_id: str) -> bytes:
    return case_id.encode()


def lose_a_notice(recording: ComplaintRecording) -> None:
    gone = derived("notice", "n-1").encode()
    drop(recording, lambda r: gone in (r.value or b"") and has_type(r, "notice.submitted"))


def lose_a_notice_in_the_router(recording: ComplaintRecording) -> None:
    drop(recording, lambda r: of(notice()) in (r.value or b"") and has_type(r, "case.opened"))
    recording.history.cells["eu"].cases = [
        row for row in recording.history.cells["eu"].cases if row.case_id != notice()
    ]


def lose_the_stored_case_of_an_appeal(recording: ComplaintRecording) -> None:
    cell = recording.history.cells["eu"]
    cell.cases = [row for row in cell.cases if row.case_id != appeal(4)]


def respond_with_another_id(recording: ComplaintRecording) -> None:
    recording.complain("notice", "cup", "n-9")
    call = recording.history.calls[-1]
    call.answer["regions"]["eu"]["event_id"] = derived("another")


def respond_differently_to_the_same_notice(recording: ComplaintRecording) -> None:
    call = next(call for call in recording.history.calls if call.kind == "notice")
    recording.call("notice", call.facts, 202, {**call.answer, "content_hash": "other"})


def respond_without_a_region(recording: ComplaintRecording) -> None:
    recording.call("notice", {"body": {"reference": "n-8", "markets": ["US"]}}, 202, {"notice_id": "x", "regions": {}})


def invent_a_notice(recording: ComplaintRecording) -> None:
    recording.complain("notice", "cup", "n-9")
    recording.history.calls.pop()


def reject_a_valid_notice(recording: ComplaintRecording) -> None:
    recording.call("notice", {"body": {"reference": "n-7", "markets": ["DE"]}}, 422, {})


def supersede_a_notice(recording: ComplaintRecording) -> None:
    recording.set_row(recording.row(notice())._replace(state="superseded"))


def withdraw_an_appeal(recording: ComplaintRecording) -> None:
    recording.set_row(recording.row(appeal(4))._replace(state="withdrawn"))


def leave_two_appeals_open(recording: ComplaintRecording) -> None:
    recording.complain("appeal", "lamp", "a-9", about=lamp())


def replace_a_decision_without_an_appeal(recording: ComplaintRecording) -> None:
    recording._store(
        lamp(), 3, "reject", "dan", 0, replaces=recording._current[lamp()][1], why="appeal", appeal_case_id="x"
    )


def replace_two_decisions_by_one_appeal(recording: ComplaintRecording) -> None:
    more = {"replaces": recording._current[lamp()][1], "why": "appeal", "appeal_case_id": appeal(2)}
    recording._store(lamp(), 3, "reject", "cid", 0, **more)


def replace_a_decision_by_the_same_action(recording: ComplaintRecording) -> None:
    recording.overturn(appeal(4), lamp(), "dan", action="approve")


def overturn_without_a_replacement(recording: ComplaintRecording) -> None:
    recording.claim_and_decide(appeal(4), "dan", "overturn")


def decide_an_appeal_about_ones_own_decision(recording: ComplaintRecording) -> None:
    recording.claim_and_decide(appeal(4), "cid", "uphold")


def leave_a_replacement_unpublished(recording: ComplaintRecording) -> None:
    drop(recording, lambda r: has_type(r, "decision.replaced"))


def report_a_replaced_decision(recording: ComplaintRecording) -> None:
    recording.status(derived("item", "p", "product", "lamp", "1"), "eu", "rejected")


def close_an_appeal_without_an_event(recording: ComplaintRecording) -> None:
    recording.set_row(recording.row(appeal(4))._replace(state="closed"))


def miscount_appeals(recording: ComplaintRecording) -> None:
    recording._tallies["eu"]["appeals/uphold"] += 1


DEFECTS: list[tuple[Callable[[ComplaintRecording], None], int, str]] = [
    (lose_a_notice, 1, "LOST: accepted notice"),
    (lose_a_notice_in_the_router, 1, "LOST: notice"),
    (lose_the_stored_case_of_an_appeal, 1, "LOST: case"),
    (respond_with_another_id, 1, "has another id than the response"),
    (respond_differently_to_the_same_notice, 1, "got another response"),
    (respond_without_a_region, 1, "has a response for"),
    (invent_a_notice, 1, "no response said so"),
    (reject_a_valid_notice, 9, "a valid notice was rejected"),
    (supersede_a_notice, 1, "WRONG END"),
    (withdraw_an_appeal, 1, "WRONG END"),
    (leave_two_appeals_open, 2, "appeals about case"),
    (replace_a_decision_without_an_appeal, 2, "no appeal was successful"),
    (replace_two_decisions_by_one_appeal, 2, "has replaced two decisions"),
    (replace_a_decision_by_the_same_action, 2, "replaced by a decision that does not follow it"),
    (overturn_without_a_replacement, 2, "no decision was replaced"),
    (decide_an_appeal_about_ones_own_decision, 3, "their own decision"),
    (leave_a_replacement_unpublished, 4, "was not published"),
    (report_a_replaced_decision, 1, "the status of item"),
    (close_an_appeal_without_an_event, 4, "its events differ"),
    (miscount_appeals, 2, "has wrong counts of its decisions"),
]


@pytest.mark.parametrize(
    ("add_defect", "promise", "title"), DEFECTS, ids=[add_defect.__name__ for add_defect, _, _ in DEFECTS]
)
def test_a_broken_promise_is_reported_with_its_records(
    add_defect: Callable[[ComplaintRecording], None], promise: int, title: str
) -> None:
    recording = complaint_recording()
    add_defect(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records for v in found)
