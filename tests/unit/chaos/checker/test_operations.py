"""The checker reports each broken promise about operators' actions: each test adds one defect to a valid history."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.facts import is_repeated
from tests.chaos.checker.history import GENERATION, LogRow, Note, Planted
from tests.chaos.checker.operations import PARTIAL, STORM
from tests.support.chaos_history import START, Recording, drop, has_type, titles

ROUTER = "piepowder-router-eu"
AUDIT = "piepowder-audit-eu"
SUBMISSIONS = "piepowder.submissions.eu"
ACCESS = "piepowder.access.eu"


class OperatedRecording(Recording):
    """A recording with operators' actions."""

    def note(self, kind: str, **facts: Any) -> None:
        self.history.notes.append(Note(kind, START, facts))

    def lose(self, group: str, topic: str, offset: int, *, reason: str = "deleted", topic_id: str = "t-0") -> None:
        """Let an action cause the loss of one record, and an operator accept it."""
        last = {} if reason == "recreated" else {"last": offset}
        missing = {"group": group, "topic": topic, "topic_id": topic_id, "partition": 0, "reason": reason}
        missing |= {"first": offset, **last}
        self.note("missing", **missing)
        about = {**missing, "continues_at": 0, "by": "ann"}
        event_id = derived("loss", group, topic, str(offset))
        self.event("piepowder.access.eu", "eu", "loss.accepted", f"piepowder:group:{group}", event_id, about)

    def publish_model(self, at: float, status: int | None = 200, *, leaves: str = "", **markets: str) -> None:
        """Publish an operating model, `at` seconds after the start."""
        owners = self.history.markets | markets
        sent = START + at
        self.note("model", sent=sent, answered=sent + 0.1, status=status, markets=owners, leaves=leaves)

    def post_at(self, subject: str, at: float, regions: list[str]) -> None:
        """Post an item with market DE, and publish it in these regions."""
        body = {"platform": "p", "kind": "product", "id": subject, "version": 1, "markets": ["DE"]}
        item = derived("item", "p", "product", subject, "1")
        response = {"item_id": item, "regions": {region: {} for region in regions}}
        self.call("post", {"body": msgspec.json.encode(body).decode()}, 202, response, at=780 + at)
        for region in regions:
            self.submit(item, subject, region)

    def submit(self, item: str, subject: str, region: str) -> None:
        """Publish an item whose case is opened, decided by policy and stored."""
        key, case_id = f"p:product:{subject}", derived("case", item, region, "item")
        about = {"item_id": item, "version": 1, "item": {"markets": ["DE"]}}
        topic = f"piepowder.submissions.{region}"
        self.event(topic, region, "item.submitted", key, derived("s", item, region), about)
        opened = {"item_id": item, "version": 1, "case_id": case_id, "verdict": "review", "queue": "general"}
        opened |= {"priority": 5, "trace": {"policy_set": "ps-1"}}
        self.event(f"piepowder.cases.{region}", region, "case.opened", key, derived("o", case_id), opened)
        self.store(case_id, key, region)
        self.status(item, region, "in_review")

    def repeat(self, subject: str) -> None:
        """Publish an item's submission again, as `piepowder reconcile` does."""
        key = f"p:product:{subject}".encode()
        record = next(r for r in self.history.records if r.topic == SUBMISSIONS and r.key == key)
        headers = {name: (value or b"").decode() for name, value in record.headers}
        self.put(SUBMISSIONS, key.decode(), headers, record.value or b"")

    def recreate(self, topic: str, topic_id: str) -> None:
        """Create a topic again, after its one reader, audit, has read it to the end."""
        self.note("recreated", topic=topic, topic_id=topic_id)
        self.lose(AUDIT, topic, self._offsets[topic], reason="recreated", topic_id=topic_id)

    def publish_in_second_generation(self, topic: str, event_id: str) -> None:
        """Publish the first event of a topic that was created again."""
        self.event(topic, "eu", "other", "p:product:x", event_id, {})
        record = self.history.records[-1]
        self.history.records[-1] = record._replace(offset=GENERATION)
        log = self.history.cells["eu"].log
        log[-1] = log[-1]._replace(offset=0)


def operated_recording() -> OperatedRecording:
    """A history with a moved market, an accepted loss of the router and of audit, a recreated topic, a storm and a
    stop."""
    recording = OperatedRecording()
    recording.post("lost", 1)
    recording.post("missed", 1)
    recording.post_at("before", 5, ["eu"])
    recording.publish_model(10, DE="us")
    recording.publish_model(11, 422, leaves="eu", DE="us")
    recording.post_at("while", 13, ["eu"])
    recording.post_at("after", 40, ["us"])
    recording.publish_model(50, None, DE="eu")
    recording.post_at("maybe", 90, ["us"])
    repaired(recording)
    unaudited(recording)
    recording.event(ACCESS, "eu", "other", "p:product:x", derived("first"), {})
    recording.recreate(ACCESS, "t-1")
    recording.publish_in_second_generation(ACCESS, derived("second"))
    storm(recording)
    recording.note("stopped", service="intake", asked=START + 100, ended=START + 105, code=0)
    recording.call("post", {"body": "{}"}, None, None, at=880)
    return recording


def repaired(recording: OperatedRecording) -> None:
    """The router loses an item, which is published again."""
    recording.lose(ROUTER, SUBMISSIONS, 0)
    recording.repeat("lost")


def unaudited(recording: OperatedRecording) -> None:
    """Audit loses an item, and has no other copy of it."""
    recording.lose(AUDIT, SUBMISSIONS, 1)
    log = recording.history.cells["eu"].log
    gone = next(row for row in log if (row.topic, row.offset) == (SUBMISSIONS, 1))
    rest = [row for row in log if row is not gone]
    log[:] = [row._replace(seq=n) for n, row in enumerate(rest, 1)]
    recording._count("eu")


def storm(recording: OperatedRecording) -> None:
    record = recording.put("piepowder.decisions.eu", "k", {}, b"?")
    recording.history.planted.append(Planted(STORM, record.topic, 0, record.offset, (AUDIT,)))
    recording.dead_letter(record, AUDIT)
    stopped = {AUDIT: ["piepowder.decisions.eu"]}
    recording.note("storm", topic=record.topic, stopped=stopped, expected=stopped, other_region=True)


def test_a_valid_history_has_no_violation() -> None:
    assert promises.check(operated_recording().done()) == []


def drop_a_loss(recording: OperatedRecording) -> None:
    drop(recording, lambda record: has_type(record, "loss.accepted") and b"router" in (record.key or b""))


def accept_another_range(recording: OperatedRecording) -> None:
    notes = recording.history.notes
    n = next(n for n, note in enumerate(notes) if note.kind == "missing")
    notes[n] = notes[n]._replace(facts=notes[n].facts | {"last": 3})


def lose_without_an_action(recording: OperatedRecording) -> None:
    recording.lose(ROUTER, SUBMISSIONS, 7)
    recording.history.notes.pop()


def accept_a_loss_twice(recording: OperatedRecording) -> None:
    loss = next(r for r in recording.history.records if has_type(r, "loss.accepted"))
    headers = tuple((n, derived("other").encode() if n == "ce_id" else v) for n, v in loss.headers)
    recording.history.records.append(loss._replace(offset=99, headers=headers))


def do_not_repeat_a_lost_item(recording: OperatedRecording) -> None:
    lost = [r for r in recording.history.records if r.topic == SUBMISSIONS and b"lost" in (r.key or b"")]
    case = derived("case", derived("item", "p", "product", "lost", "1"), "eu", "item").encode()
    drop(recording, lambda r: r == lost[-1] or (r.topic == "piepowder.cases.eu" and case in (r.value or b"")))


def lose_an_audited_event_elsewhere(recording: OperatedRecording) -> None:
    log = recording.history.cells["eu"].log
    log.remove(next(row for row in log if (row.topic, row.offset) == (SUBMISSIONS, 2)))


def lose_an_event_of_the_second_generation(recording: OperatedRecording) -> None:
    log = recording.history.cells["eu"].log
    log.remove(next(row for row in log if row.event_id == derived("second")))


def log_other_data_for_the_second_generation(recording: OperatedRecording) -> None:
    log = recording.history.cells["eu"].log
    n = next(n for n, row in enumerate(log) if row.event_id == derived("second"))
    log[n] = log[n]._replace(sha256=sha256(b"other").hexdigest())


def log_an_event_of_no_generation(recording: OperatedRecording) -> None:
    log = recording.history.cells["eu"].log
    log.append(LogRow(len(log) + 1, derived("x"), "t", "s", "eu", ACCESS, 0, 5, ""))


def continue_after_a_recreation_without_a_report(recording: OperatedRecording) -> None:
    drop(recording, lambda record: has_type(record, "loss.accepted") and b"recreated" in (record.value or b""))


def report_nothing(recording: OperatedRecording) -> None:
    recording.note("unreported", what="audit-eu does not say: the records 1 to 2 are missing")


def fail_a_command(recording: OperatedRecording) -> None:
    recording.note("failed", what="piepowder reconcile: 1")


def end_a_process(recording: OperatedRecording) -> None:
    recording.note("ended", services=["audit-eu"])


def remove_a_region(recording: OperatedRecording) -> None:
    recording.publish_model(120, 200, leaves="eu")


def keep_the_old_market_for_ever(recording: OperatedRecording) -> None:
    recording.post_at("too late", 45, ["eu"])


def return_to_the_old_market(recording: OperatedRecording) -> None:
    n = next(n for n, note in enumerate(recording.history.notes) if note.kind == "model")
    recording.history.notes.insert(n + 1, Note("followed", START + 12, {}))


def move_too_early(recording: OperatedRecording) -> None:
    recording.post_at("too early", 5, ["us"])


def lose_an_item_of_the_new_region(recording: OperatedRecording) -> None:
    drop(recording, lambda record: record.topic.endswith(".us") and b"after" in (record.key or b""))


def stop_another_topic(recording: OperatedRecording) -> None:
    stopped = {AUDIT: ["piepowder.decisions.eu", SUBMISSIONS]}
    note = next(note for note in recording.history.notes if note.kind == "storm")
    note.facts["stopped"] = stopped


def stop_the_other_region(recording: OperatedRecording) -> None:
    note = next(note for note in recording.history.notes if note.kind == "storm")
    note.facts["other_region"] = False


def dead_letter_a_storm_twice(recording: OperatedRecording) -> None:
    letter = next(r for r in recording.history.records if "deadletters" in r.topic)
    recording.history.records.append(letter._replace(offset=99))


def kill_a_stopping_process(recording: OperatedRecording) -> None:
    recording.note("stopped", service="router", asked=START, ended=START + 25, code=-9)


def cut_a_response(recording: OperatedRecording) -> None:
    calls = recording.history.calls
    calls[-1] = replace(calls[-1], error=PARTIAL, answered_at=START + 101)


def let_a_call_hang(recording: OperatedRecording) -> None:
    calls = recording.history.calls
    calls[-1] = replace(calls[-1], sent_at=START + 99, error="TimeoutError", answered_at=START + 114)


@pytest.mark.parametrize(
    ("defect", "title"),
    [
        (drop_a_loss, "UNREPORTED LOSS"),
        (accept_another_range, "UNREPORTED LOSS"),
        (lose_without_an_action, "a loss was accepted that no action caused"),
        (accept_a_loss_twice, "UNREPORTED LOSS"),
        (do_not_repeat_a_lost_item, "is in a loss of the router in eu, and was not published again"),
        (lose_an_audited_event_elsewhere, "AUDIT GAP: event"),
        (lose_an_event_of_the_second_generation, "AUDIT GAP: event"),
        (log_other_data_for_the_second_generation, "with other data"),
        (log_an_event_of_no_generation, "an event that is in no topic"),
        (continue_after_a_recreation_without_a_report, "UNREPORTED LOSS"),
        (report_nothing, "UNREPORTED: audit-eu"),
        (fail_a_command, "a documented step failed"),
        (end_a_process, "processes ended"),
        (remove_a_region, "left the operating model"),
        (keep_the_old_market_for_ever, "which own not exactly its markets"),
        (return_to_the_old_market, "which own not exactly its markets"),
        (move_too_early, "which own not exactly its markets"),
        (lose_an_item_of_the_new_region, "LOST: accepted item"),
        (stop_another_topic, "STORM: "),
        (stop_the_other_region, "STORM: the other region"),
        (dead_letter_a_storm_twice, "DOUBLE: piepowder-audit-eu dead-lettered"),
        (kill_a_stopping_process, "STOP: router ended with -9"),
        (cut_a_response, "STOP: a response of intake is not complete"),
        (let_a_call_hang, "STOP: a call of intake got no end"),
    ],
)
def test_a_defect_is_reported(defect: Callable[[OperatedRecording], None], title: str) -> None:
    recording = operated_recording()
    defect(recording)
    found = titles(recording.done())
    assert any(title in one for one in found), found


@pytest.mark.parametrize(
    ("later", "repeats"),
    [
        ({"id": "n", "regions": {"eu": 1, "us": 2}}, True),
        ({"id": "n", "regions": {"us": 2}}, True),
        ({"id": "n", "regions": {"eu": 2}}, False),
        ({"id": "other", "regions": {"eu": 1}}, False),
    ],
)
def test_a_repeated_response_may_have_other_regions_but_no_other_id(later: dict[str, Any], *, repeats: bool) -> None:
    assert is_repeated({"id": "n", "regions": {"eu": 1}}, later) is repeats
