"""The checker finds what breaks a promise: each is planted in a recorded history that is sound without it."""

import ast
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import (
    Call,
    CaseRow,
    Cell,
    DecisionRow,
    History,
    LetterRow,
    LogRow,
    Planted,
    Record,
    StatusRow,
)

NOON = 1_699_999_980.0  # 22:13:00, the 780th second of the hour
MARKETS = {"DE": "eu", "FR": "eu", "US": "us"}


def text(seconds: float) -> str:
    return f"2023-11-14T22:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}.{int(seconds * 1000) % 1000:03d}Z"


class Recording:
    """A sound history, told as the services would: a small model of them, written for this test."""

    def __init__(self) -> None:
        self.history = History(MARKETS, cells={"eu": Cell(), "us": Cell()})
        self._offsets: Counter[str] = Counter()
        self._items: dict[str, str] = {}
        self._now = 780.0
        self._tallies: dict[str, Counter[str]] = {"eu": Counter(), "us": Counter()}
        about = {"id": "ps-1", "number": 1}
        self.event("piepowder.control", "global", "policyset.published", "policy-set", derived("ps"), about)

    def call(
        self, kind: str, facts: dict[str, Any], status: int | None, answer: Any, *, at: float | None = None
    ) -> Call:
        self._now += 0.01
        sent = self._now if at is None else at
        answered = None if status is None else NOON + sent - 780 + 0.005
        n = len(self.history.calls) + 1
        call = Call(n, kind, NOON + sent - 780, facts, answered, status, answer, "1" if status in (429, 503) else None)
        self.history.calls.append(call)
        return call

    def event(  # noqa: PLR0917 - an event has that many parts
        self, topic: str, region: str, name: str, subject: str, event_id: str, data: dict[str, Any]
    ) -> Record:
        self._now += 0.001
        headers = {
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_type": f"piepowder.{name}.v1",
            "ce_source": "test",
            "ce_time": text(self._now),
            "ce_subject": subject,
            "ce_region": region,
            "ce_correlationid": event_id,
        }
        record = self.put(topic, subject, headers, msgspec.json.encode(data))
        digest = sha256(record.value or b"").hexdigest()
        for cell in ("eu", "us") if region == "global" else (region,):
            log = self.history.cells[cell].log
            row = (event_id, f"piepowder.{name}.v1", subject, region, topic, 0, record.offset, digest)
            log.append(LogRow(len(log) + 1, *row))
            self._count(cell)
        return record

    def put(self, topic: str, key: str, headers: dict[str, str], value: bytes) -> Record:
        pairs = tuple((name, content.encode()) for name, content in headers.items())
        record = Record(topic, 0, self._offsets[topic], 0, key.encode(), pairs, value)
        self._offsets[topic] += 1
        self.history.records.append(record)
        return record

    def post(self, subject: str, version: int, *, markets: str = "DE", verdict: str = "approve") -> str:
        """An item, posted, answered 202 and routed; by policy it is decided at once."""
        body = {"platform": "p", "kind": "product", "id": subject, "version": version, "markets": [markets]}
        item = derived("item", "p", "product", subject, str(version))
        self.call("post", {"body": msgspec.json.encode(body).decode()}, 202, {"item_id": item})
        region = MARKETS[markets]
        key = f"p:product:{subject}"
        about = {"item_id": item, "version": version}
        self.event(
            f"piepowder.submissions.{region}",
            region,
            "item.submitted",
            key,
            derived("s", item, region),
            {**about, "item": {"markets": [markets]}},
        )
        case_id = derived("case", item, region, "item")
        self._items[case_id] = item
        opened = {
            **about,
            "case_id": case_id,
            "verdict": verdict,
            "queue": "general",
            "priority": 5,
            "trace": {"policy_set": "ps-1"},
        }
        self.event(f"piepowder.cases.{region}", region, "case.opened", key, derived("o", case_id), opened)
        state = "waiting" if verdict == "review" else "decided"
        self.history.cells[region].cases.append(CaseRow(case_id, key, state, derived("o", case_id), None, 0, ""))
        outcome = {"review": "in_review", "approve": "approved", "reject": "rejected"}[verdict]
        self.status(item, region, outcome)
        if verdict != "review":
            self.decide(case_id, region, action=verdict)
        return case_id

    def supersede(self, case_id: str, by: int) -> None:
        row = self.row(case_id)
        item = derived("item", "p", "product", row.subject.rpartition(":")[2], str(by))
        data = {"case_id": case_id, "item_id": self._item(case_id), "superseded_by": item}
        self.event("piepowder.decisions.eu", "eu", "case.superseded", row.subject, derived("x", case_id), data)
        self.set_row(row._replace(state="superseded", superseded_by=item))
        self._tallies["eu"]["superseded"] += 1
        self.status(self._item(case_id), "eu", "superseded")

    def withdraw(self, case_id: str, *, status: int = 202, closes: bool = True, case: bool = True) -> Call:
        """An item, taken back: told, passed on, and its case closed."""
        item, row = self._item(case_id), self.row(case_id)
        event_id = derived("event", item, "piepowder.item.withdrawn.v1", "eu")
        answer = {"item_id": item, "regions": {"eu": {"event_id": event_id}}} if status == 202 else {}
        call = self.call("withdraw", {"item_id": item}, status, answer)
        self.event("piepowder.submissions.eu", "eu", "item.withdrawn", row.subject, event_id, {"item_id": item})
        told = {"item_id": item, "case_id": case_id}
        if case:
            passed_on = derived("cw", case_id)
            self.event("piepowder.cases.eu", "eu", "case.withdrawn", row.subject, passed_on, told)
        if closes:
            about = {**told, "reason": "withdrawn"}
            self.event("piepowder.decisions.eu", "eu", "case.closed", row.subject, derived("cc", case_id), about)
            self.set_row(row._replace(state="withdrawn"))
            self._tallies["eu"]["withdrawn"] += 1
            self.status(item, "eu", "withdrawn")
        return call

    def claim(self, case_id: str, reviewer: str, *, seconds: float = 5) -> Call:
        row = self.row(case_id)
        token = row.lease_token + 1
        self.lease_event(case_id, "case.claimed", token, reviewer, lease_until=text(self._now + seconds))
        self.set_row(row._replace(state="claimed", lease_token=token, reviewer=reviewer))
        answer = {"case_id": case_id, "token": token, "until": text(self._now + seconds)}
        facts = {"region": "eu", "reviewer": reviewer, "team": "t", "key": None, "lease_seconds": int(seconds)}
        return self.call("claim", facts, 201, answer)

    def expire(self, case_id: str, *, after: float = 6) -> None:
        self._now += after
        row = self.row(case_id)
        self.lease_event(case_id, "case.expired", row.lease_token, row.reviewer)
        self.set_row(row._replace(state="waiting", reviewer=""))

    def lease_event(self, case_id: str, name: str, token: int, reviewer: str, **more: object) -> None:
        data = {"case_id": case_id, "item_id": self._item(case_id), "lease_token": token, "reviewer": reviewer, **more}
        event_id = derived(name, case_id, str(token))
        self.event("piepowder.decisions.eu", "eu", name, self.row(case_id).subject, event_id, data)

    def decide_by(self, case_id: str, reviewer: str, token: int, *, status: int = 201) -> None:
        facts = {"region": "eu", "case_id": case_id, "token": token, "action": "reject", "reasons": ["R"], "note": ""}
        self.call("decide", facts, status, {})
        if status == 201:
            self.decide(case_id, "eu", action="reject", reviewer=reviewer, token=token, reasons=["R"])
            self.set_row(self.row(case_id)._replace(state="decided"))
            self.status(self._item(case_id), "eu", "rejected")

    def decide(
        self, case_id: str, region: str, *, action: str, reviewer: str = "", token: int = 0, **more: Any
    ) -> None:
        reasons = more.get("reasons", [])
        data = {
            "case_id": case_id,
            "item_id": self._item(case_id),
            "n": 1,
            "decision_id": derived("d", case_id),
            "action": action,
            "policy_set": "ps-1",
            "automated": not reviewer,
            "reviewer": reviewer,
            "lease_token": token,
            "reasons": reasons,
        }
        row = self.row(case_id)
        self.event(f"piepowder.decisions.{region}", region, "decision.made", row.subject, derived("m", case_id), data)
        facts = (
            case_id,
            1,
            derived("d", case_id),
            action,
            tuple(reasons),
            "ps-1",
            not reviewer,
            reviewer,
            "",
            token,
            "",
        )
        self.history.cells[region].decisions.append(DecisionRow(*facts))
        self._tallies[region]["decided"] += 1
        self._tallies[region][f"{'people' if reviewer else 'policy'}/{action}"] += 1

    def spoil(self, topic: str, group: str) -> Record:
        record = self.put(topic, "k", {}, b"{")
        self.history.planted.append(Planted("truncated JSON", topic, 0, record.offset, (group,)))
        self.set_aside(record, group)
        return record

    def park(self, subject: str, group: str = "piepowder-decision-eu") -> Record:
        """A record that decision cannot handle; what comes of its subject from now on is to wait behind it."""
        record = self.put("piepowder.cases.eu", subject, {}, b"{}")
        self.history.planted.append(Planted("a case that is there already", record.topic, 0, record.offset, (group,)))
        self.set_aside(record, group, since=record.offset)
        return record

    def post_behind(self, head: Record, subject: str, version: int) -> Record:
        """An item whose case decision has set aside behind a parked record."""
        case_id = self.post(subject, version, verdict="review")
        cell = self.history.cells["eu"]
        cell.cases = [row for row in cell.cases if row.case_id != case_id]
        opened = [record for record in self.history.records if record.topic == head.topic][-1]
        self.set_aside(opened, "piepowder-decision-eu", since=head.offset)
        self.status(self._item(case_id), "eu", "parked")
        return opened

    def set_aside(self, record: Record, group: str, since: int | None = None) -> None:
        about = {"dl_topic": record.topic, "dl_partition": "0", "dl_offset": str(record.offset)}
        more = {"dl_group": group, "dl_reason": "no event"}
        if since is not None:
            more["dl_parked"] = str(since)
        headers = tuple((name, value.encode()) for name, value in (about | more).items())
        region = record.topic.rpartition(".")[2]
        letter = self.put(f"piepowder.deadletters.{region}", "k", {}, record.value or b"")
        self.history.records[-1] = letter._replace(key=record.key, headers=record.headers + headers)
        row = LetterRow(record.topic, 0, record.offset, group, "no event")
        self.history.cells[region].letters.append(row)

    def row(self, case_id: str) -> CaseRow:
        return next(row for cell in self.history.cells.values() for row in cell.cases if row.case_id == case_id)

    def set_row(self, row: CaseRow) -> None:
        cases = self.history.cells["eu"].cases
        cases[next(n for n, old in enumerate(cases) if old.case_id == row.case_id)] = row

    def status(self, item: str, region: str, status: str) -> None:
        others = [row for row in self.history.statuses if (row.item_id, row.region) != (item, region)]
        self.history.statuses = [*others, StatusRow(item, region, status)]

    def done(self) -> History:
        for region, cell in self.history.cells.items():
            cell.tallies = dict(self._tallies[region])
        self.history.totals = dict(Counter((row.region, row.status) for row in self.history.statuses))
        return self.history

    def _count(self, region: str) -> None:
        cell = self.history.cells[region]
        cell.log_size = len(cell.log)
        cell.log_counts = dict(Counter(row.type for row in cell.log))

    def _item(self, case_id: str) -> str:
        return self._items[case_id]


def titles(history: History) -> list[str]:
    return [violation.title for violation in promises.check(history)]


def ordinary() -> Recording:
    """Two regions, three versions of which one waited and one came late, two reviewers, one lease that ran out; three
    withdrawals: after people's decision, after policy's, and under a reviewer's hands."""
    told = Recording()
    told.post("ring", 1, markets="US")
    told.post("lamp", 1, verdict="reject")
    told.post("watch", 1, verdict="review")
    first = told.post("watch", 3, verdict="review")
    told.supersede(derived("case", derived("item", "p", "product", "watch", "1"), "eu", "item"), 3)
    late = told.post("watch", 2, verdict="review")
    told.supersede(late, 3)
    told.claim(first, "ann")
    told.expire(first)
    told.claim(first, "ben")
    told.decide_by(first, "ann", 1, status=409)
    told.decide_by(first, "ben", 2)
    told.withdraw(first, closes=False)
    told.withdraw(told.post("vase", 1), closes=False)
    held = told.post("bowl", 1, verdict="review")
    told.claim(held, "ann")
    told.withdraw(held)
    told.decide_by(held, "ann", 1, status=409)
    told.call("withdraw", {"item_id": derived("nobody")}, 404, {})
    told.call("withdraw", {"item_id": derived("nobody")}, 503, {})
    told.spoil("piepowder.cases.eu", "piepowder-decision-eu")
    told.post("mug", 1, verdict="review")
    head = told.park("p:product:mug")
    told.post_behind(head, "mug", 2)
    told.post_behind(head, "mug", 3)
    lost = {"platform": "p", "kind": "product", "id": "never", "version": 1, "markets": ["DE"]}
    told.call("post", {"body": msgspec.json.encode(lost).decode()}, 503, None)
    told.call("post", {"body": msgspec.json.encode(lost).decode()}, None, None)
    return told


def watch(told: Recording) -> str:
    """The case that the two reviewers had."""
    return derived("case", derived("item", "p", "product", "watch", "3"), "eu", "item")


def lamp() -> str:
    return derived("case", derived("item", "p", "product", "lamp", "1"), "eu", "item")


def test_a_sound_history_has_no_violation() -> None:
    assert promises.check(ordinary().done()) == []


def test_a_history_that_did_not_change_is_the_same_after_a_replay() -> None:
    before, after = ordinary().done(), ordinary().done()
    opened = next(record for record in after.records if record.topic == "piepowder.cases.eu")
    after.records.append(opened._replace(offset=99))
    assert promises.compare(before, after) == []
    assert promises.check(after) == []


def drop(told: Recording, wanted: Callable[[Record], bool]) -> None:
    told.history.records = [record for record in told.history.records if not wanted(record)]


def is_of(record: Record, name: str) -> bool:
    """Whether the name of its type holds that."""
    return name.encode() in (dict(record.headers).get("ce_type") or b"")


def lose_a_submission(told: Recording) -> None:
    drop(told, lambda r: "submissions.us" in r.topic or "cases.us" in r.topic or "decisions.us" in r.topic)
    told.history.cells["us"] = Cell()
    told.history.statuses = [row for row in told.history.statuses if row.region != "us"]


def lose_a_case(told: Recording) -> None:
    drop(told, lambda r: r.topic == "piepowder.cases.eu" and lamp().encode() in (r.value or b""))


def lose_a_row(told: Recording) -> None:
    cell = told.history.cells["eu"]
    cell.cases = [row for row in cell.cases if row.case_id != lamp()]


def double_a_decision(told: Recording) -> None:
    told.decide(lamp(), "eu", action="reject")
    record = told.history.records[-1]
    headers = tuple((n, derived("other").encode() if n == "ce_id" else v) for n, v in record.headers)
    told.history.records[-1] = record._replace(headers=headers)


def double_a_row(told: Recording) -> None:
    cell = told.history.cells["eu"]
    cell.decisions.append(next(row for row in cell.decisions if row.case_id == lamp())._replace(decision_id="x"))


def swap_two_cases(told: Recording) -> None:
    places = [
        n for n, r in enumerate(told.history.records) if r.topic == "piepowder.cases.eu" and b"watch" in (r.key or b"")
    ]
    a, b = (told.history.records[n] for n in places[:2])
    told.history.records[places[0]] = a._replace(offset=b.offset)
    told.history.records[places[1]] = b._replace(offset=a.offset)


def swap_two_submissions(told: Recording) -> None:
    places = [
        n
        for n, r in enumerate(told.history.records)
        if r.topic == "piepowder.submissions.eu" and b"watch" in (r.key or b"")
    ]
    a, b = (told.history.records[n] for n in places[:2])
    told.history.records[places[0]] = a._replace(offset=b.offset)
    told.history.records[places[1]] = b._replace(offset=a.offset)


def leave_an_older_version_open(told: Recording) -> None:
    late = derived("case", derived("item", "p", "product", "watch", "2"), "eu", "item")
    told.set_row(told.row(late)._replace(state="waiting", superseded_by=None))


def decide_by_an_expired_lease(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    told.expire(case_id)
    told.decide_by(case_id, "ann", 1)


def decide_after_the_lease_and_before_anybody_saw(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    told._now += 20
    told.decide_by(case_id, "ann", 1)


def decide_under_an_old_token(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    told.expire(case_id)
    told.claim(case_id, "ben")
    told.decide_by(case_id, "ann", 1)


def claim_twice_at_a_time(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    told.claim(case_id, "ben")


def expire_too_early(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann", seconds=50)
    told.expire(case_id, after=1)
    told.claim(case_id, "ben")


def give_one_token_twice(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    call = told.claim(case_id, "ann")
    told.call("claim", {**call.facts}, 201, call.answer)


def half_decide(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    told.set_row(told.row(case_id)._replace(state="decided"))


def lose_a_reviewers_decision(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    facts = {"region": "eu", "case_id": case_id, "token": 1, "action": "reject", "reasons": ["R"], "note": ""}
    told.call("decide", facts, 201, {})


def leave_a_decision_untold(told: Recording) -> None:
    drop(told, lambda r: ".decisions.eu" in r.topic and lamp().encode() in (r.value or b""))
    told.history.cells["eu"].unpublished = 1


def leave_a_gap_in_the_audit(told: Recording) -> None:
    cell = told.history.cells["eu"]
    cell.log = [row for row in cell.log if row.seq != 4]


def audit_twice(told: Recording) -> None:
    log = told.history.cells["eu"].log
    log.append(log[3]._replace(seq=len(log) + 1))
    told._count("eu")


def audit_other_data(told: Recording) -> None:
    log = told.history.cells["eu"].log
    log[3] = log[3]._replace(sha256=sha256(b"{}").hexdigest())


def forget_a_dead_letter(told: Recording) -> None:
    told.history.cells["eu"].letters.clear()


def leak_into_another_region(told: Recording) -> None:
    item = derived("item", "p", "product", "lamp", "1")
    data = {"item_id": item, "version": 1, "item": {"markets": ["DE"]}}
    told.event("piepowder.submissions.us", "us", "item.submitted", "p:product:lamp", derived("leak"), data)


def leak_an_event(told: Recording) -> None:
    item = derived("item", "p", "product", "lamp", "1")
    data = {"item_id": item, "version": 1, "item": {"markets": ["DE"]}}
    told.event("piepowder.submissions.us", "us", "item.submitted", "p:product:lamp", derived("leak"), data)
    record = told.history.records[-1]
    headers = tuple((n, b"eu" if n == "ce_region" else v) for n, v in record.headers)
    told.history.records[-1] = record._replace(headers=headers)


def leave_poison_where_it_is(told: Recording) -> None:
    record = told.spoil("piepowder.submissions.eu", "piepowder-router-eu")
    drop(
        told,
        lambda r: r.topic == "piepowder.deadletters.eu" and ("dl_offset", str(record.offset).encode()) in r.headers,
    )


def cut_a_dead_letter(told: Recording) -> None:
    told.spoil("piepowder.submissions.eu", "piepowder-router-eu")
    told.history.records[-1] = told.history.records[-1]._replace(value=b"")


def set_a_sound_record_aside(told: Recording) -> None:
    opened = next(
        r for r in told.history.records if r.topic == "piepowder.cases.eu" and lamp().encode() in (r.value or b"")
    )
    told.set_aside(opened, "piepowder-decision-eu")


def invent_an_item(told: Recording) -> None:
    told.post("ghost", 1)
    told.history.calls.pop()


def take_what_was_refused(told: Recording) -> None:
    told.post("ghost", 1)
    told.history.calls[-1] = replace(told.history.calls[-1], status=429, retry_after="1")


def name_another_policy_set(told: Recording) -> None:
    cell = told.history.cells["eu"]
    cell.decisions[0] = cell.decisions[0]._replace(policy_set="ps-9")


def judge_otherwise_the_second_time(told: Recording) -> None:
    opened = next(
        r for r in told.history.records if r.topic == "piepowder.cases.eu" and lamp().encode() in (r.value or b"")
    )
    data = msgspec.json.decode(opened.value or b"")
    told.history.records.append(opened._replace(offset=99, value=msgspec.json.encode(data | {"verdict": "approve"})))


def answer_500(told: Recording) -> None:
    told.history.calls[-1] = replace(told.history.calls[-1], status=500)


def answer_503_without_a_time(told: Recording) -> None:
    told.history.calls[-2] = replace(told.history.calls[-2], retry_after=None)


def forget_a_verdict(told: Recording) -> None:
    told.call("batch", {"lines": ["x", "y"], "bad": [1, 2]}, 200, [{"line": 1, "status": 400}])


def lose_a_withdrawal(told: Recording) -> None:
    told.withdraw(told.post("cup", 1), closes=False)
    drop(told, lambda r: b"cup" in (r.key or b"") and is_of(r, "withdrawn"))


def lose_a_withdrawal_on_its_way(told: Recording) -> None:
    told.withdraw(told.post("cup", 1), closes=False, case=False)


def take_back_in_one_region_of_two(told: Recording) -> None:
    told.withdraw(told.post("cup", 1), closes=False)
    item = derived("item", "p", "product", "cup", "1")
    data = {"item_id": item, "version": 1, "item": {"markets": ["US"]}}
    told.event("piepowder.submissions.us", "us", "item.submitted", "p:product:cup", derived("s", item, "us"), data)


def leave_a_withdrawn_case_open(told: Recording) -> None:
    told.withdraw(told.post("cup", 1, verdict="review"), closes=False)


def close_a_case_that_nobody_withdrew(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.withdraw(case_id)
    drop(told, lambda r: is_of(r, "case.withdrawn"))


def withdraw_what_nobody_took_back(told: Recording) -> None:
    told.withdraw(told.post("cup", 1), closes=False)
    told.history.calls.pop()


def decide_after_the_withdrawal(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.claim(case_id, "ann")
    told.withdraw(case_id)
    told.decide_by(case_id, "ann", 1)


def supersede_what_was_withdrawn(told: Recording) -> None:
    case_id = told.post("cup", 1, verdict="review")
    told.withdraw(case_id, closes=False)
    told.post("cup", 2, verdict="review")
    told.supersede(case_id, 2)


def answer_the_same_withdrawal_differently(told: Recording) -> None:
    call = told.withdraw(told.post("cup", 1), closes=False)
    told.call("withdraw", call.facts, 202, {**call.answer, "regions": {}})


def deny_an_accepted_item(told: Recording) -> None:
    told.post("cup", 1)
    told.call("withdraw", {"item_id": derived("item", "p", "product", "cup", "1")}, 404, {})


def refuse_a_sound_withdrawal(told: Recording) -> None:
    told.call("withdraw", {"item_id": derived("item", "p", "product", "lamp", "1")}, 422, {})


def put_a_withdrawal_before_its_item(told: Recording) -> None:
    told.withdraw(told.post("cup", 1), closes=False)
    places = [n for n, r in enumerate(told.history.records)
              if r.topic == "piepowder.submissions.eu" and b"cup" in (r.key or b"")]  # fmt: skip
    a, b = (told.history.records[n] for n in places)
    told.history.records[places[0]] = a._replace(offset=b.offset)
    told.history.records[places[1]] = b._replace(offset=a.offset)


def forget_to_count_what_was_withdrawn(told: Recording) -> None:
    told._tallies["eu"]["withdrawn"] -= 1


def misreport_a_status(told: Recording) -> None:
    told.status(derived("item", "p", "product", "lamp", "1"), "eu", "submitted")


def overtake(told: Recording) -> None:
    told.post("jug", 1)
    told.park("p:product:jug")
    told.post("jug", 2)


def wait_behind_nothing(told: Recording) -> None:
    head = told.spoil("piepowder.cases.eu", "piepowder-decision-eu")
    told.post_behind(head, "jug", 1)


def hold_others_up_for_what_is_no_event(told: Recording) -> None:
    record = told.spoil("piepowder.cases.eu", "piepowder-decision-eu")
    told.set_aside(record, "piepowder-decision-eu", since=record.offset)


def let_others_pass_what_failed(told: Recording) -> None:
    told.post("jug", 1)
    record = told.park("p:product:jug")
    told.set_aside(record, "piepowder-decision-eu")


def lose_what_was_parked(told: Recording) -> None:
    told.post("jug", 1)
    record = told.post_behind(told.park("p:product:jug"), "jug", 2)
    drop(told, lambda r: "deadletters" in r.topic and ("dl_offset", str(record.offset).encode()) in r.headers)


PLANTS: list[tuple[Callable[[Recording], None], int, str]] = [
    (lose_a_submission, 1, "LOST: answered 202"),
    (lose_a_case, 1, "LOST: item"),
    (lose_a_row, 1, "LOST: case"),
    (double_a_decision, 2, "DOUBLE"),
    (double_a_row, 2, "DOUBLE"),
    (swap_two_cases, 6, "DISORDER"),
    (swap_two_submissions, 6, "DISORDER"),
    (leave_an_older_version_open, 6, "DISORDER"),
    (decide_by_an_expired_lease, 3, "DECIDED BY AN EXPIRED LEASE"),
    (decide_after_the_lease_and_before_anybody_saw, 3, "DECIDED BY AN EXPIRED LEASE"),
    (decide_under_an_old_token, 3, "DECIDED BY AN EXPIRED LEASE"),
    (claim_twice_at_a_time, 3, "TWO CLAIMS AT A TIME"),
    (expire_too_early, 3, "TWO CLAIMS AT A TIME"),
    (give_one_token_twice, 3, "TWO CLAIMS AT A TIME"),
    (half_decide, 3, "half decided"),
    (lose_a_reviewers_decision, 2, "not the one that is stored"),
    (leave_a_decision_untold, 4, "was not told"),
    (leave_a_gap_in_the_audit, 4, "AUDIT GAP"),
    (audit_twice, 4, "AUDIT GAP"),
    (audit_other_data, 4, "with other data"),
    (forget_a_dead_letter, 4, "AUDIT GAP"),
    (leak_into_another_region, 7, "LEAK"),
    (leak_an_event, 7, "LEAK"),
    (leave_poison_where_it_is, 1, "did not set it aside"),
    (cut_a_dead_letter, 1, "did not keep it whole"),
    (set_a_sound_record_aside, 1, "a sound record was set aside"),
    (invent_an_item, 1, "nobody posted it"),
    (take_what_was_refused, 1, "were refused"),
    (name_another_policy_set, 8, "names policy set"),
    (judge_otherwise_the_second_time, 8, "came out differently"),
    (answer_500, 9, "answered 500"),
    (answer_503_without_a_time, 9, "without Retry-After"),
    (forget_a_verdict, 9, "verdicts"),
    (misreport_a_status, 1, "the status of item"),
    (lose_a_withdrawal, 1, "LOST: answered 202, and the withdrawal"),
    (lose_a_withdrawal_on_its_way, 1, "LOST: the withdrawal"),
    (take_back_in_one_region_of_two, 1, "not in region us"),
    (leave_a_withdrawn_case_open, 1, "NOT WITHDRAWN"),
    (close_a_case_that_nobody_withdrew, 1, "nobody withdrew it"),
    (withdraw_what_nobody_took_back, 1, "nobody asked for it"),
    (decide_after_the_withdrawal, 2, "had ended, and then: decision.made"),
    (supersede_what_was_withdrawn, 1, "NOT WITHDRAWN"),
    (answer_the_same_withdrawal_differently, 1, "answered differently"),
    (deny_an_accepted_item, 1, "nobody knew it"),
    (refuse_a_sound_withdrawal, 9, "a sound withdrawal was refused"),
    (put_a_withdrawal_before_its_item, 6, "DISORDER: the withdrawal"),
    (forget_to_count_what_was_withdrawn, 2, "miscounts its decisions"),
    (overtake, 6, "OVERTAKEN"),
    (wait_behind_nothing, 1, "a sound record was set aside"),
    (hold_others_up_for_what_is_no_event, 6, "holds up what follows it"),
    (let_others_pass_what_failed, 6, "does not hold up what follows it"),
    (lose_what_was_parked, 1, "LOST: case"),
]


@pytest.mark.parametrize(("plant", "promise", "title"), PLANTS, ids=[plant.__name__ for plant, _, _ in PLANTS])
def test_what_breaks_a_promise_is_named_with_its_records(
    plant: Callable[[Recording], None], promise: int, title: str
) -> None:
    told = ordinary()
    plant(told)
    found = [v for v in promises.check(told.done()) if v.promise == promise and title in v.title]
    assert found, titles(told.done())
    assert all(v.records or "never published" in v.title for v in found)
    assert f"promise {promise}: " in str(found[0])


@pytest.mark.parametrize("what", ["case", "decision", "log", "letter", "status", "event"])
def test_what_a_replay_changes_is_named(what: str) -> None:
    before, told = ordinary().done(), ordinary()
    after = told.done()
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
        told.post("new", 1)
    found = promises.compare(before, after)
    assert found
    assert {violation.promise for violation in found} == {5}


def test_a_repeat_that_waits_behind_a_parked_record_changes_nothing() -> None:
    before, told = ordinary().done(), ordinary()
    [head] = [p for p in told.history.planted if p.kind == "a case that is there already"]
    opened = next(r for r in told.history.records if b"mug" in (r.key or b"") and is_of(r, "case.opened"))
    again = told.put(opened.topic, "p:product:mug", {}, opened.value or b"")._replace(headers=opened.headers)
    told.history.records[-1] = again
    told.set_aside(again, "piepowder-decision-eu", since=head.offset)
    after = told.done()
    assert titles(after) == []
    assert promises.compare(before, after) == []


def test_the_checker_shares_no_code_with_the_services() -> None:
    for path in Path(promises.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"services", "shared", "deploy", "piepowder"}, path
