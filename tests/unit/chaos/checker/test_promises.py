"""The checker reports each broken promise: each test adds one defect to a valid history."""

import ast
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import (
    Cell,
)
from tests.support.chaos_history import Recording, drop, has_type, titles


def valid_recording() -> Recording:
    """A history with two regions and two reviewers: superseded and late versions, an expired lease, parked keys, and
    withdrawals after a reviewer's decision, after a policy's decision, and during a lease."""
    recording = Recording()
    recording.post("ring", 1, markets="US")
    recording.post("lamp", 1, verdict="reject")
    recording.post("watch", 1, verdict="review")
    first = recording.post("watch", 3, verdict="review")
    recording.supersede(derived("case", derived("item", "p", "product", "watch", "1"), "eu", "item"), 3)
    late = recording.post("watch", 2, verdict="review")
    recording.supersede(late, 3)
    recording.claim(first, "ann")
    recording.expire(first)
    recording.claim(first, "ben")
    recording.decide_by(first, "ann", 1, status=409)
    recording.decide_by(first, "ben", 2)
    recording.withdraw(first, closes=False)
    recording.withdraw(recording.post("vase", 1), closes=False)
    held = recording.post("bowl", 1, verdict="review")
    recording.claim(held, "ann")
    recording.withdraw(held)
    recording.decide_by(held, "ann", 1, status=409)
    recording.call("withdraw", {"item_id": derived("nobody")}, 404, {})
    recording.call("withdraw", {"item_id": derived("nobody")}, 503, {})
    recording.publish_malformed("piepowder.cases.eu", "piepowder-decision-eu")
    recording.post("mug", 1, verdict="review")
    head = recording.park("p:product:mug")
    recording.post_to_parked_key(head, "mug", 2)
    recording.post_to_parked_key(head, "mug", 3)
    lost = {"platform": "p", "kind": "product", "id": "never", "version": 1, "markets": ["DE"]}
    recording.call("post", {"body": msgspec.json.encode(lost).decode()}, 503, None)
    recording.call("post", {"body": msgspec.json.encode(lost).decode()}, None, None)
    return recording


def watch(recording: Recording) -> str:
    """The case that both reviewers claimed."""
    return derived("case", derived("item", "p", "product", "watch", "3"), "eu", "item")


def lamp() -> str:
    return derived("case", derived("item", "p", "product", "lamp", "1"), "eu", "item")


def test_a_valid_history_has_no_violation() -> None:
    assert promises.check(valid_recording().done()) == []


def test_a_replay_that_only_repeats_records_has_no_violation() -> None:
    before, after = valid_recording().done(), valid_recording().done()
    opened = next(record for record in after.records if record.topic == "piepowder.cases.eu")
    after.records.append(opened._replace(offset=99))
    assert promises.compare(before, after) == []
    assert promises.check(after) == []


def lose_a_submission(recording: Recording) -> None:
    drop(recording, lambda r: "submissions.us" in r.topic or "cases.us" in r.topic or "decisions.us" in r.topic)
    recording.history.cells["us"] = Cell()
    recording.history.statuses = [row for row in recording.history.statuses if row.region != "us"]


def lose_a_case(recording: Recording) -> None:
    drop(recording, lambda r: r.topic == "piepowder.cases.eu" and lamp().encode() in (r.value or b""))


def lose_a_row(recording: Recording) -> None:
    cell = recording.history.cells["eu"]
    cell.cases = [row for row in cell.cases if row.case_id != lamp()]


def publish_a_second_decision(recording: Recording) -> None:
    recording.decide(lamp(), "eu", action="reject")
    record = recording.history.records[-1]
    headers = tuple((n, derived("other").encode() if n == "ce_id" else v) for n, v in record.headers)
    recording.history.records[-1] = record._replace(headers=headers)


def store_a_second_decision(recording: Recording) -> None:
    cell = recording.history.cells["eu"]
    cell.decisions.append(next(row for row in cell.decisions if row.case_id == lamp())._replace(decision_id="x"))


def swap_two_cases(recording: Recording) -> None:
    places = [
        n
        for n, r in enumerate(recording.history.records)
        if r.topic == "piepowder.cases.eu" and b"watch" in (r.key or b"")
    ]
    a, b = (recording.history.records[n] for n in places[:2])
    recording.history.records[places[0]] = a._replace(offset=b.offset)
    recording.history.records[places[1]] = b._replace(offset=a.offset)


def swap_two_submissions(recording: Recording) -> None:
    places = [
        n
        for n, r in enumerate(recording.history.records)
        if r.topic == "piepowder.submissions.eu" and b"watch" in (r.key or b"")
    ]
    a, b = (recording.history.records[n] for n in places[:2])
    recording.history.records[places[0]] = a._replace(offset=b.offset)
    recording.history.records[places[1]] = b._replace(offset=a.offset)


def leave_an_older_version_open(recording: Recording) -> None:
    late = derived("case", derived("item", "p", "product", "watch", "2"), "eu", "item")
    recording.set_row(recording.row(late)._replace(state="waiting", superseded_by=None))


def decide_by_an_expired_lease(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.expire(case_id)
    recording.decide_by(case_id, "ann", 1)


def decide_after_the_lease_but_before_its_expiry_event(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording._now += 20
    recording.decide_by(case_id, "ann", 1)


def decide_with_an_old_token(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.expire(case_id)
    recording.claim(case_id, "ben")
    recording.decide_by(case_id, "ann", 1)


def claim_during_another_claim(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.claim(case_id, "ben")


def expire_too_early(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann", seconds=50)
    recording.expire(case_id, after=1)
    recording.claim(case_id, "ben")


def return_the_same_token_twice(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    call = recording.claim(case_id, "ann")
    recording.call("claim", {**call.facts}, 201, call.answer)


def decide_without_a_stored_decision(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.set_row(recording.row(case_id)._replace(state="decided"))


def lose_a_reviewers_decision(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    facts = {"region": "eu", "case_id": case_id, "token": 1, "action": "reject", "reasons": ["R"], "note": ""}
    recording.call("decide", facts, 201, {})


def leave_a_decision_unpublished(recording: Recording) -> None:
    drop(recording, lambda r: ".decisions.eu" in r.topic and lamp().encode() in (r.value or b""))
    recording.history.cells["eu"].unpublished = 1


def leave_a_gap_in_the_audit_log(recording: Recording) -> None:
    cell = recording.history.cells["eu"]
    cell.log = [row for row in cell.log if row.seq != 4]


def log_an_event_twice(recording: Recording) -> None:
    log = recording.history.cells["eu"].log
    log.append(log[3]._replace(seq=len(log) + 1))
    recording._count("eu")


def log_other_data(recording: Recording) -> None:
    log = recording.history.cells["eu"].log
    log[3] = log[3]._replace(sha256=sha256(b"{}").hexdigest())


def lose_a_dead_letter_in_the_audit(recording: Recording) -> None:
    recording.history.cells["eu"].letters.clear()


def leak_an_item_into_another_region(recording: Recording) -> None:
    item = derived("item", "p", "product", "lamp", "1")
    data = {"item_id": item, "version": 1, "item": {"markets": ["DE"]}}
    recording.event("piepowder.submissions.us", "us", "item.submitted", "p:product:lamp", derived("leak"), data)


def leak_an_event_of_another_region(recording: Recording) -> None:
    item = derived("item", "p", "product", "lamp", "1")
    data = {"item_id": item, "version": 1, "item": {"markets": ["DE"]}}
    recording.event("piepowder.submissions.us", "us", "item.submitted", "p:product:lamp", derived("leak"), data)
    record = recording.history.records[-1]
    headers = tuple((n, b"eu" if n == "ce_region" else v) for n, v in record.headers)
    recording.history.records[-1] = record._replace(headers=headers)


def leave_poison_without_a_dead_letter(recording: Recording) -> None:
    record = recording.publish_malformed("piepowder.submissions.eu", "piepowder-router-eu")
    drop(
        recording,
        lambda r: r.topic == "piepowder.deadletters.eu" and ("dl_offset", str(record.offset).encode()) in r.headers,
    )


def truncate_a_dead_letter(recording: Recording) -> None:
    recording.publish_malformed("piepowder.submissions.eu", "piepowder-router-eu")
    recording.history.records[-1] = recording.history.records[-1]._replace(value=b"")


def dead_letter_a_valid_record(recording: Recording) -> None:
    opened = next(
        r for r in recording.history.records if r.topic == "piepowder.cases.eu" and lamp().encode() in (r.value or b"")
    )
    recording.dead_letter(opened, "piepowder-decision-eu")


def invent_an_item(recording: Recording) -> None:
    recording.post("ghost", 1)
    recording.history.calls.pop()


def publish_a_rejected_item(recording: Recording) -> None:
    recording.post("ghost", 1)
    recording.history.calls[-1] = replace(recording.history.calls[-1], status=429, retry_after="1")


def name_another_policy_set(recording: Recording) -> None:
    cell = recording.history.cells["eu"]
    cell.decisions[0] = cell.decisions[0]._replace(policy_set="ps-9")


def repeat_a_case_with_another_verdict(recording: Recording) -> None:
    opened = next(
        r for r in recording.history.records if r.topic == "piepowder.cases.eu" and lamp().encode() in (r.value or b"")
    )
    data = msgspec.json.decode(opened.value or b"")
    recording.history.records.append(
        opened._replace(offset=99, value=msgspec.json.encode(data | {"verdict": "approve"}))
    )


def respond_with_500(recording: Recording) -> None:
    recording.history.calls[-1] = replace(recording.history.calls[-1], status=500)


def respond_with_503_without_retry_after(recording: Recording) -> None:
    recording.history.calls[-2] = replace(recording.history.calls[-2], retry_after=None)


def omit_a_result_of_a_batch(recording: Recording) -> None:
    recording.call("batch", {"lines": ["x", "y"], "bad": [1, 2]}, 200, [{"line": 1, "status": 400}])


def lose_a_withdrawal(recording: Recording) -> None:
    recording.withdraw(recording.post("cup", 1), closes=False)
    drop(recording, lambda r: b"cup" in (r.key or b"") and has_type(r, "withdrawn"))


def lose_a_withdrawal_in_the_router(recording: Recording) -> None:
    recording.withdraw(recording.post("cup", 1), closes=False, case=False)


def withdraw_in_one_of_two_regions(recording: Recording) -> None:
    recording.withdraw(recording.post("cup", 1), closes=False)
    item = derived("item", "p", "product", "cup", "1")
    data = {"item_id": item, "version": 1, "item": {"markets": ["US"]}}
    recording.event("piepowder.submissions.us", "us", "item.submitted", "p:product:cup", derived("s", item, "us"), data)


def leave_a_withdrawn_case_open(recording: Recording) -> None:
    recording.withdraw(recording.post("cup", 1, verdict="review"), closes=False)


def close_a_case_without_a_withdrawal(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.withdraw(case_id)
    drop(recording, lambda r: has_type(r, "case.withdrawn"))


def withdraw_without_a_call(recording: Recording) -> None:
    recording.withdraw(recording.post("cup", 1), closes=False)
    recording.history.calls.pop()


def decide_after_the_withdrawal(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.withdraw(case_id)
    recording.decide_by(case_id, "ann", 1)


def supersede_a_withdrawn_case(recording: Recording) -> None:
    case_id = recording.post("cup", 1, verdict="review")
    recording.withdraw(case_id, closes=False)
    recording.post("cup", 2, verdict="review")
    recording.supersede(case_id, 2)


def respond_differently_to_the_same_withdrawal(recording: Recording) -> None:
    call = recording.withdraw(recording.post("cup", 1), closes=False)
    recording.call("withdraw", call.facts, 202, {**call.answer, "regions": {}})


def respond_that_an_accepted_item_does_not_exist(recording: Recording) -> None:
    recording.post("cup", 1)
    recording.call("withdraw", {"item_id": derived("item", "p", "product", "cup", "1")}, 404, {})


def reject_a_valid_withdrawal(recording: Recording) -> None:
    recording.call("withdraw", {"item_id": derived("item", "p", "product", "lamp", "1")}, 422, {})


def put_a_withdrawal_before_its_item(recording: Recording) -> None:
    recording.withdraw(recording.post("cup", 1), closes=False)
    places = [n for n, r in enumerate(recording.history.records)
              if r.topic == "piepowder.submissions.eu" and b"cup" in (r.key or b"")]  # fmt: skip
    a, b = (recording.history.records[n] for n in places)
    recording.history.records[places[0]] = a._replace(offset=b.offset)
    recording.history.records[places[1]] = b._replace(offset=a.offset)


def count_one_withdrawn_case_too_few(recording: Recording) -> None:
    recording._tallies["eu"]["withdrawn"] -= 1


def report_a_wrong_status(recording: Recording) -> None:
    recording.status(derived("item", "p", "product", "lamp", "1"), "eu", "submitted")


def handle_a_record_behind_a_parked_one(recording: Recording) -> None:
    recording.post("jug", 1)
    recording.park("p:product:jug")
    recording.post("jug", 2)


def dead_letter_a_record_behind_an_unparked_one(recording: Recording) -> None:
    head = recording.publish_malformed("piepowder.cases.eu", "piepowder-decision-eu")
    recording.post_to_parked_key(head, "jug", 1)


def park_a_key_for_a_record_that_is_no_event(recording: Recording) -> None:
    record = recording.publish_malformed("piepowder.cases.eu", "piepowder-decision-eu")
    recording.dead_letter(record, "piepowder-decision-eu", since=record.offset)


def park_no_key_for_a_failed_event(recording: Recording) -> None:
    recording.post("jug", 1)
    record = recording.park("p:product:jug")
    recording.dead_letter(record, "piepowder-decision-eu")


def lose_a_dead_letter_behind_a_parked_record(recording: Recording) -> None:
    recording.post("jug", 1)
    record = recording.post_to_parked_key(recording.park("p:product:jug"), "jug", 2)
    drop(recording, lambda r: "deadletters" in r.topic and ("dl_offset", str(record.offset).encode()) in r.headers)


DEFECTS: list[tuple[Callable[[Recording], None], int, str]] = [
    (lose_a_submission, 1, "LOST: accepted"),
    (lose_a_case, 1, "LOST: item"),
    (lose_a_row, 1, "LOST: case"),
    (publish_a_second_decision, 2, "DOUBLE"),
    (store_a_second_decision, 2, "DOUBLE"),
    (swap_two_cases, 6, "DISORDER"),
    (swap_two_submissions, 6, "DISORDER"),
    (leave_an_older_version_open, 6, "DISORDER"),
    (decide_by_an_expired_lease, 3, "DECIDED BY AN EXPIRED LEASE"),
    (decide_after_the_lease_but_before_its_expiry_event, 3, "DECIDED BY AN EXPIRED LEASE"),
    (decide_with_an_old_token, 3, "DECIDED BY AN EXPIRED LEASE"),
    (claim_during_another_claim, 3, "TWO CLAIMS AT A TIME"),
    (expire_too_early, 3, "TWO CLAIMS AT A TIME"),
    (return_the_same_token_twice, 3, "TWO CLAIMS AT A TIME"),
    (decide_without_a_stored_decision, 3, "no decision is stored"),
    (lose_a_reviewers_decision, 2, "differs from the stored one"),
    (leave_a_decision_unpublished, 4, "was not published"),
    (leave_a_gap_in_the_audit_log, 4, "AUDIT GAP"),
    (log_an_event_twice, 4, "AUDIT GAP"),
    (log_other_data, 4, "with other data"),
    (lose_a_dead_letter_in_the_audit, 4, "AUDIT GAP"),
    (leak_an_item_into_another_region, 7, "LEAK"),
    (leak_an_event_of_another_region, 7, "LEAK"),
    (leave_poison_without_a_dead_letter, 1, "did not dead-letter it"),
    (truncate_a_dead_letter, 1, "changed it"),
    (dead_letter_a_valid_record, 1, "a valid record was dead-lettered"),
    (invent_an_item, 1, "no client posted it"),
    (publish_a_rejected_item, 1, "were rejected"),
    (name_another_policy_set, 8, "names policy set"),
    (repeat_a_case_with_another_verdict, 8, "got another result"),
    (respond_with_500, 9, "got 500"),
    (respond_with_503_without_retry_after, 9, "without Retry-After"),
    (omit_a_result_of_a_batch, 9, "results"),
    (report_a_wrong_status, 1, "the status of item"),
    (lose_a_withdrawal, 1, "LOST: the accepted withdrawal"),
    (lose_a_withdrawal_in_the_router, 1, "LOST: the withdrawal"),
    (withdraw_in_one_of_two_regions, 1, "not in region us"),
    (leave_a_withdrawn_case_open, 1, "NOT WITHDRAWN"),
    (close_a_case_without_a_withdrawal, 1, "without a withdrawal"),
    (withdraw_without_a_call, 1, "no call asked for it"),
    (decide_after_the_withdrawal, 2, "has an event after its end: decision.made"),
    (supersede_a_withdrawn_case, 1, "NOT WITHDRAWN"),
    (respond_differently_to_the_same_withdrawal, 1, "got another response"),
    (respond_that_an_accepted_item_does_not_exist, 1, "does not exist"),
    (reject_a_valid_withdrawal, 9, "a valid withdrawal was rejected"),
    (put_a_withdrawal_before_its_item, 6, "DISORDER: the withdrawal"),
    (count_one_withdrawn_case_too_few, 2, "has wrong counts of its decisions"),
    (handle_a_record_behind_a_parked_one, 6, "OVERTAKEN"),
    (dead_letter_a_record_behind_an_unparked_one, 1, "a valid record was dead-lettered"),
    (park_a_key_for_a_record_that_is_no_event, 6, "decision-eu parked its key"),
    (park_no_key_for_a_failed_event, 6, "did not park its key"),
    (lose_a_dead_letter_behind_a_parked_record, 1, "LOST: case"),
]


@pytest.mark.parametrize(
    ("add_defect", "promise", "title"), DEFECTS, ids=[add_defect.__name__ for add_defect, _, _ in DEFECTS]
)
def test_a_broken_promise_is_reported_with_its_records(
    add_defect: Callable[[Recording], None], promise: int, title: str
) -> None:
    recording = valid_recording()
    add_defect(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records or "never published" in v.title for v in found)
    assert f"promise {promise}: " in str(found[0])


@pytest.mark.parametrize("what", ["case", "decision", "log", "letter", "status", "event"])
def test_a_change_by_a_replay_is_reported(what: str) -> None:
    before, recording = valid_recording().done(), valid_recording()
    after = recording.done()
    cell = after.cells["eu"]
    if what == "case":
        cell.cases[0] = cell.cases[0]._replace(state="waiting")
    elif what == "decision":
        cell.decisions.append(cell.decisions[0]._replace(n=2))
    elif what == "log":
        cell.log.append(cell.log[0]._replace(seq=len(cell.log) + 1))
    elif what == "letter":
        cell.letters.append(cell.letters[0]._replace(offset=7))
    elif what == "status":
        after.statuses.pop()
    else:
        recording.post("new", 1)
    found = promises.compare(before, after)
    assert found
    assert {violation.promise for violation in found} == {5}


def test_a_repeated_record_behind_a_parked_one_changes_nothing() -> None:
    before, recording = valid_recording().done(), valid_recording()
    [head] = [p for p in recording.history.planted if p.kind == "a case that is already stored"]
    opened = next(r for r in recording.history.records if b"mug" in (r.key or b"") and has_type(r, "case.opened"))
    again = recording.put(opened.topic, "p:product:mug", {}, opened.value or b"")._replace(headers=opened.headers)
    recording.history.records[-1] = again
    recording.dead_letter(again, "piepowder-decision-eu", since=head.offset)
    after = recording.done()
    assert titles(after) == []
    assert promises.compare(before, after) == []


def test_the_checker_shares_no_code_with_the_services() -> None:
    for path in Path(promises.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"services", "shared", "deploy", "piepowder"}, path
