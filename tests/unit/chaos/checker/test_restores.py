"""The checker reports each broken promise about restores of decision's database: each test adds one defect to a valid
history."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.facts import Facts
from tests.chaos.checker.history import Call, Note
from tests.chaos.checker.restores import count_losses
from tests.support.chaos_history import START, Recording, drop, has_type, timestamp, titles

DECISIONS = "piepowder.decisions.eu"
FIRST = 1_000_000


class RestoredRecording(Recording):
    """A recording with restores of the database of eu's decisions."""

    dumped = 0.0
    incarnation = 0

    @property
    def now(self) -> float:
        """The present time of the recording, in epoch seconds."""
        return START + self._now - 780

    def dump(self) -> None:
        self._now += 1
        self.dumped = self.now
        self._now += 1

    def restore(self, *, begins: bool = True, unpublished: float = 0.5) -> None:
        """Drop the database, whose events of the last `unpublished` seconds are not published, and restore it."""
        self._now += 0.1
        dropped = {"unpublished": self.now - unpublished, "dropping": self.now, "dropped": self.now + 0.1}
        facts = {"database": "decision-eu", "dumped": self.dumped, "in_place": False, **dropped}
        self.history.notes.append(Note("restored", self.now, facts))
        self._now += 1
        if begins:
            self.begin(self.incarnation + 1)

    def begin(self, incarnation: int, **data: int) -> None:
        self.incarnation = incarnation
        event_id = derived("event", "decision/eu", "piepowder.decision.recovered.v1", str(incarnation))
        about = {"incarnation": incarnation, "first_token": incarnation * FIRST} | data
        self.event(DECISIONS, "eu", "decision.recovered", "decision:service:eu", event_id, about)

    def claim(self, case_id: str, reviewer: str, *, seconds: float = 5, first_token: int | None = None) -> Call:
        first = self.incarnation * FIRST if first_token is None else first_token
        return super().claim(case_id, reviewer, seconds=seconds, first_token=first)

    def lost_claim(self, case_id: str, reviewer: str, token: int) -> None:
        """A claim that has a response only."""
        facts = {"region": "eu", "reviewer": reviewer, "team": "t", "key": None, "lease_seconds": 5}
        self.call("claim", facts, 201, {"case_id": case_id, "token": token, "until": timestamp(self._now + 5)})

    def lost_decision(self, case_id: str, token: int, *, name: str = "lost") -> None:
        """A decision that has a response only."""
        self.decide_call(case_id, token, 201, {"decision_id": derived(name, case_id)})

    def decide_call(self, case_id: str, token: int, status: int, answer: dict[str, Any]) -> None:
        facts = {"region": "eu", "case_id": case_id, "token": token, "action": "reject", "reasons": ["R"], "note": "1"}
        self.call("decide", facts, status, answer)

    def extend(self, case_id: str, token: int, *, seconds: float) -> None:
        facts = {"region": "eu", "case_id": case_id, "token": token}
        self.call("heartbeat", facts, 200, {"until": timestamp(self._now + seconds)})

    def lost_release(self, case_id: str, token: int) -> None:
        """A release that has a response only."""
        self.call("release", {"region": "eu", "case_id": case_id, "token": token}, 200, {})


def case_of(subject: str) -> str:
    return derived("case", derived("item", "p", "product", subject, "1"), "eu", "item")


CUP, PAN, POT, JAR = map(case_of, ("cup", "pan", "pot", "jar"))


def restored_recording() -> RestoredRecording:
    """A history in which one dump is restored twice: lost are a decision about the cup, a lease of the pan, and an
    extension of the lease of the jar."""
    recording = RestoredRecording()
    for subject in ("cup", "pan", "pot", "jar"):
        recording.post(subject, 1, verdict="review")
    recording.dump()
    recording.claim(POT, "ann")
    recording.decide_by(POT, "ann", 1)
    recording.claim(JAR, "ann")
    recording.extend(JAR, 1, seconds=20)
    recording.claim(CUP, "ann", seconds=9)
    recording.lost_decision(CUP, 1)
    recording.lost_claim(PAN, "ann", 1)
    recording.restore()
    recording.call("claim", {"region": "eu", "reviewer": "ann", "key": None}, 503, {"type": "urn:x:recovering"})
    recording.decide_call(PAN, 1, 409, {"type": "urn:piepowder:problem:lost-in-restore"})
    recording.claim(PAN, "ann")
    recording.expire(JAR)
    recording.claim(JAR, "ben")
    recording.lost_decision(JAR, FIRST, name="second")
    recording.lost_release(PAN, FIRST)
    recording.restore()
    recording.expire(CUP, after=5)
    recording.claim(CUP, "ben")
    recording.decide_by(CUP, "ben", 2 * FIRST)
    return recording


def test_a_valid_history_has_no_violation() -> None:
    assert promises.check(restored_recording().done()) == []


def test_the_losses_are_counted() -> None:
    found = count_losses(Facts(restored_recording().done()))
    assert found == {
        "restores": 2,
        "incarnations": 2,
        "lost decisions": 2,
        "lost leases": 1,
        "lost-in-restore": 1,
        "recovering": 1,
    }


def events_of(recording: Recording, name: str) -> list[int]:
    return [n for n, record in enumerate(recording.history.records) if has_type(record, name)]


def change(recording: Recording, n: int, **data: Any) -> None:
    """Change the data of a record, in the topic and in the audit log."""
    record = recording.history.records[n]
    value = msgspec.json.encode(msgspec.json.decode(record.value or b"") | data)
    recording.history.records[n] = record._replace(value=value)


def give_a_token_twice(recording: RestoredRecording) -> None:
    """The pan is claimed again under the token of its lost lease."""
    recording.incarnation = 0
    case_id = recording.post("pin", 1, verdict="review")
    recording.lost_claim(case_id, "ann", 1)
    recording.restore(begins=False)
    recording.begin(3)
    recording.claim(case_id, "ben", first_token=0)


def give_a_token_of_the_last_incarnation(recording: RestoredRecording) -> None:
    recording.claim(recording.post("pin", 1, verdict="review"), "ann", first_token=FIRST)


def give_a_token_of_no_incarnation(recording: RestoredRecording) -> None:
    recording.claim(recording.post("pin", 1, verdict="review"), "ann", first_token=9 * FIRST)


def lose_a_published_decision(recording: RestoredRecording) -> None:
    cell = recording.history.cells["eu"]
    cell.decisions = [row for row in cell.decisions if row.case_id != POT]
    recording.set_row(recording.row(POT)._replace(state="claimed"))


def return_to_an_older_state(recording: RestoredRecording) -> None:
    recording.set_row(recording.row(JAR)._replace(state="waiting", lease_token=0))


def lose_a_decision_that_was_committed_long_before(recording: RestoredRecording) -> None:
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann", seconds=5)
    recording.lost_decision(case_id, 2 * FIRST)
    recording.dump()
    recording._now += 2
    recording.restore()


def lose_a_lease_after_the_restore(recording: RestoredRecording) -> None:
    recording.lost_claim(recording.post("pin", 1, verdict="review"), "ann", 2 * FIRST)


def lose_a_release_after_the_restore(recording: RestoredRecording) -> None:
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.lost_release(case_id, 2 * FIRST)


def lose_a_decision_after_the_restore(recording: RestoredRecording) -> None:
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.lost_decision(case_id, 2 * FIRST)


def store_another_decision_under_a_lost_token(recording: RestoredRecording) -> None:
    """The lost decision was `reject`, with a note; the stored one under the same token has none."""
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann", seconds=9)
    recording.lost_decision(case_id, 2 * FIRST)
    recording.restore()
    recording.decide_by(case_id, "ann", 2 * FIRST)


def decide_twice_under_one_id(recording: RestoredRecording) -> None:
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann", seconds=1)
    recording.lost_decision(case_id, 2 * FIRST, name="d")
    recording.restore()
    recording.expire(case_id, after=1)
    recording.claim(case_id, "ben")
    recording.decide_by(case_id, "ben", 3 * FIRST)


def respond_with_two_decisions_of_one_id(recording: RestoredRecording) -> None:
    """Both are lost: the table has neither."""
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann", seconds=60)
    recording.lost_decision(case_id, 2 * FIRST)
    call = recording.history.calls[-1]
    recording.restore()
    facts = call.facts | {"action": "approve"}
    recording.call("decide", facts, 201, call.answer)
    recording.restore()


def publish_two_decisions_of_one_event(recording: RestoredRecording) -> None:
    made = [recording.history.records[n] for n in events_of(recording, "decision.made")]
    record = next(record for record in made if CUP.encode() in (record.value or b""))
    value = (record.value or b"").replace(b"reject", b"approve")
    recording.history.records.append(record._replace(offset=900, value=value))


def respond_with_another_decision_id(recording: RestoredRecording) -> None:
    call = recording.history.calls[-1]
    recording.call("decide", call.facts, 200, {"decision_id": derived("other")})


def claim_during_an_extension_that_is_not_lost(recording: RestoredRecording) -> None:
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann")
    recording.extend(case_id, 2 * FIRST, seconds=40)
    recording.dump()
    recording.restore()
    recording.expire(case_id)
    recording.claim(case_id, "ben")


def begin_no_incarnation(recording: RestoredRecording) -> None:
    recording.dump()
    recording.restore(begins=False)


def begin_the_same_incarnation_twice(recording: RestoredRecording) -> None:
    """The second restore of a dump begins the incarnation of the first one."""
    n = events_of(recording, "decision.recovered")[-1]
    change(recording, n, incarnation=1, first_token=FIRST)


def skip_an_incarnation(recording: RestoredRecording) -> None:
    drop(recording, lambda record: has_type(record, "recovered") and b'"incarnation":1,' in (record.value or b""))


def begin_with_another_token(recording: RestoredRecording) -> None:
    change(recording, events_of(recording, "decision.recovered")[-1], first_token=0)


def begin_without_a_restore(recording: RestoredRecording) -> None:
    del recording.history.notes[:]


def decide_while_it_recovers(recording: RestoredRecording) -> None:
    case_id = recording.post("pin", 1, verdict="review")
    recording.claim(case_id, "ann", seconds=20)
    recording.restore(begins=False)
    recording.decide_by(case_id, "ann", 2 * FIRST)
    recording._now += 1
    recording.begin(3)


def report_a_lost_lease_without_a_restore(recording: RestoredRecording) -> None:
    facts = {"region": "us", "case_id": PAN, "token": 1, "action": "reject", "reasons": [], "note": ""}
    recording.call("decide", facts, 409, {"type": "urn:piepowder:problem:lost-in-restore"})


def report_a_published_lease_as_lost(recording: RestoredRecording) -> None:
    recording.decide_call(JAR, FIRST, 409, {"type": "urn:piepowder:problem:lost-in-restore"})


def recover_without_retry_after(recording: RestoredRecording) -> None:
    calls = recording.history.calls
    n = next(n for n, call in enumerate(calls) if call.status == 503)
    calls[n] = replace(calls[n], retry_after=None)


def leave_the_new_incarnation_out_of_the_log(recording: RestoredRecording) -> None:
    cell = recording.history.cells["eu"]
    cell.log = [row for row in cell.log if "recovered" not in row.type]


@pytest.mark.parametrize(
    ("defect", "promise", "title"),
    [
        (give_a_token_twice, 3, "was claimed twice with token 1"),
        (give_a_token_twice, 3, "OLD TOKEN: 1 was given after a restore"),
        (give_a_token_of_the_last_incarnation, 3, "OLD TOKEN"),
        (give_a_token_of_no_incarnation, 3, "token 9000000 follows 0"),
        (lose_a_published_decision, 2, "DOUBLE"),
        (return_to_an_older_state, 4, "its events differ"),
        (lose_a_decision_that_was_committed_long_before, 2, "differs from the stored one"),
        (lose_a_lease_after_the_restore, 4, "has a response but no event"),
        (lose_a_release_after_the_restore, 4, "the release of case"),
        (lose_a_decision_after_the_restore, 2, "differs from the stored one"),
        (store_another_decision_under_a_lost_token, 2, "differs from the stored one"),
        (decide_twice_under_one_id, 2, "DOUBLE: decision id"),
        (respond_with_two_decisions_of_one_id, 2, "DOUBLE: decision id"),
        (publish_two_decisions_of_one_event, 2, "was published twice with different content"),
        (respond_with_another_decision_id, 2, "has another id in the table"),
        (claim_during_an_extension_that_is_not_lost, 3, "TWO CLAIMS AT A TIME"),
        (begin_no_incarnation, 3, "INCARNATION: none began"),
        (begin_the_same_incarnation_twice, 3, "INCARNATION: the 2. incarnation"),
        (skip_an_incarnation, 3, "INCARNATION: the 1. incarnation"),
        (begin_with_another_token, 3, "INCARNATION: the 2. incarnation"),
        (begin_without_a_restore, 3, "began without a restore"),
        (decide_while_it_recovers, 3, "OPEN DURING A RECOVERY: a decide"),
        (report_a_lost_lease_without_a_restore, 3, "got lost-in-restore without a restore"),
        (report_a_published_lease_as_lost, 3, "but its lease was published"),
        (recover_without_retry_after, 9, "503 without Retry-After"),
        (leave_the_new_incarnation_out_of_the_log, 4, "AUDIT GAP"),
    ],
)
def test_a_defect_is_reported(defect: Callable[[RestoredRecording], None], promise: int, title: str) -> None:
    recording = restored_recording()
    defect(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
