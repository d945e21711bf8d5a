"""The checker finds what breaks a promise about business requests: each is planted in a history that is sound."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, RequestRow, StepRow
from tests.support.chaos_history import Recording, drop, is_of, titles

STATES = {
    "draft": "draft",
    "submit": "submitted",
    "reject": "rejected",
    "withdraw": "withdrawn",
    "deploy": "deployed",
    "rollback": "rolled_back",
    "review": "reviewed",
}


class Asking(Recording):
    """A recording in which the business asks for things."""

    def __init__(self) -> None:
        super().__init__()
        self._contents: dict[str, dict[str, Any]] = {}
        self._told: dict[tuple[str, str], str] = {}

    def draft(self, name: str, *regions: str) -> str:
        """A request, drafted by ann."""
        request_id = derived("request", "ann", name)
        content = self._contents[request_id] = {"title": name, "sponsor": "dan", "regions": list(regions or ("eu",))}
        self.history.intake.requests.append(RequestRow(request_id, "draft", 0, "dan", ()))
        self._happens(request_id, "drafted", "ann", {"request": content})
        self.called(request_id, "draft", "ann", 201, body=dict(content), key=name)
        return request_id

    def change(self, request_id: str, by: str = "ann", **patch: Any) -> Call:
        """A draft that says something else."""
        left = self._contents[request_id]["regions"]
        content = self._contents[request_id] = {**self._contents[request_id], **patch}
        self._happens(request_id, "changed", by, {"regions": content["regions"], "request": content}, left=left)
        return self.called(request_id, "change", by, 200, body=patch, match="*")

    def comment(self, request_id: str, by: str, text: str) -> Call:
        comment_id = derived("comment", request_id, by, text)
        self._happens(request_id, "commented", by, {"comment_id": comment_id, "text": text}, text, comment_id)
        facts: dict[str, Any] = {"body": {"text": text}, "key": text, "comment_id": comment_id}
        return self.called(request_id, "comment", by, 201, **facts)

    def act(self, request_id: str, what: str, by: str, reason: str = "") -> Call:
        """A step after the draft, which is answered 200."""
        row = self.request(request_id)
        approvals = (*row.approvals, by) if what == "approve" else row.approvals
        kind = STATES.get(what, "approved" if len(approvals) > 1 else "endorsed")
        state = row.state if kind == "endorsed" else kind
        self.set_request(row._replace(state=state, approvals=approvals))
        self._happens(request_id, kind, by, {"reason": reason}, reason)
        return self.called(request_id, what, by, 200)

    def called(self, request_id: str, what: str, by: str, status: int | None, **facts: Any) -> Call:
        """A call, and when it succeeded what the request is now as its answer."""
        row = self.request(request_id)
        answer: dict[str, Any] = {"version": row.version, "state": row.state, "by": by}
        if what in ("draft", "change"):
            answer |= {name: self._contents[request_id][name] for name in ("title", "regions")}
        if comment_id := facts.pop("comment_id", None):
            answer |= {"comment_id": comment_id, "text": facts["body"]["text"]}
        about = {"by": by, "request_id": request_id, "body": {}, "key": "", "match": "", "wrong": (), **facts}
        return self.call(f"request.{what}", about, status, answer if status in (200, 201) else {})

    def request(self, request_id: str) -> RequestRow:
        return next(row for row in self.history.intake.requests if row.request_id == request_id)

    def set_request(self, row: RequestRow) -> None:
        rows = self.history.intake.requests
        rows[next(n for n, old in enumerate(rows) if old.request_id == row.request_id)] = row

    def set_step(self, request_id: str, version: int, /, **other: Any) -> None:
        steps = self.history.intake.steps
        n = next(n for n, step in enumerate(steps) if step[:2] == (request_id, version))
        steps[n] = steps[n]._replace(**other)

    def _happens(  # noqa: PLR0917 - a step has that many parts
        self,
        request_id: str,
        kind: str,
        by: str,
        said: dict[str, Any],
        text: str = "",
        comment_id: str | None = None,
        left: list[str] | None = None,
    ) -> None:
        row = self.request(request_id)
        version = row.version + 1
        self.set_request(row._replace(version=version))
        self.history.intake.steps.append(StepRow(request_id, version, kind, by, text, comment_id))
        regions = self._contents[request_id]["regions"]
        for region in [*regions, *(region for region in left or () if region not in regions)]:
            about = {**said, "request": None} if region not in regions else said
            self.tell(request_id, region, kind, version, {"by": by, **about})

    def tell(self, request_id: str, region: str, kind: str, version: int, said: dict[str, Any]) -> None:
        name = f"request.{kind.replace('_', '')}"
        event_id = derived("event", request_id, f"piepowder.{name}.v1", f"{version}/{region}")
        data = {"request_id": request_id, "version": version, **said}
        subject = f"piepowder:request:{request_id}"
        record = self.event(f"piepowder.requests.{region}", region, name, subject, event_id, data)
        if cause := self._told.get((request_id, region)):
            self.history.records[-1] = record._replace(headers=(*record.headers, ("ce_causationid", cause.encode())))
        self._told[request_id, region] = event_id


def asking() -> Asking:
    """Requests that are drafts, taken back, rejected, and one that was edited, moved, decided by two and rolled back,
    with repeats, refusals, and calls that nobody knows the end of."""
    recording = Asking()
    recording.draft("idle")
    recording.act(recording.draft("gone"), "withdraw", "ann", "never mind")
    rejected = recording.draft("refused", "us")
    recording.act(rejected, "submit", "ann")
    recording.act(rejected, "approve", "ben")
    recording.act(rejected, "reject", "cid", "no")
    whole = recording.draft("whole", "eu", "us")
    recording.called(whole, "draft", "ann", 201, body={"title": "whole"}, key="whole")
    recording.called(whole, "draft", "ann", 422, body={"title": "other"}, key="whole", wrong=(422,))
    recording.change(whole, title="whole and better")
    recording.change(whole, "eve", regions=["eu"])
    recording.called(whole, "change", "ann", 412, body={"title": "late"}, match='"1"')
    recording.comment(whole, "ben", "why?")
    recording.act(whole, "submit", "ann")
    recording.called(whole, "submit", "ann", 200)
    recording.called(whole, "approve", "ann", 403, wrong=(403,))
    recording.act(whole, "approve", "ben")
    recording.act(whole, "approve", "cid")
    recording.called(whole, "withdraw", "ann", None)
    recording.called(whole, "reject", "ben", 409)
    recording.called(whole, "deploy", "eve", 503)
    recording.act(whole, "deploy", "eve")
    recording.act(whole, "rollback", "eve", "it was wrong")
    return recording


def whole() -> str:
    return derived("request", "ann", "whole")


def test_a_sound_history_with_requests_has_no_violation() -> None:
    assert titles(asking().done()) == []


def lose_a_request(recording: Asking) -> None:
    intake = recording.history.intake
    intake.requests = [row for row in intake.requests if row.request_id != whole()]
    intake.steps = [step for step in intake.steps if step.request_id != whole()]


def lose_a_step(recording: Asking) -> None:
    recording.called(whole(), "review", "ben", 200)


def lose_an_edit(recording: Asking) -> None:
    recording.called(derived("request", "ann", "idle"), "change", "ann", 200, body={"title": "idle no more"}, match="*")


def lose_a_comment(recording: Asking) -> None:
    comment = {"body": {"text": "x"}, "key": "x", "comment_id": derived("comment", whole(), "ben", "x")}
    recording.called(whole(), "comment", "ben", 201, **comment)


def forget_a_request(recording: Asking) -> None:
    recording.called(whole(), "review", "ben", 404)
    recording._now += 1
    recording.called(whole(), "review", "ben", 404)


def refuse_a_sound_draft(recording: Asking) -> None:
    recording.called(
        derived("request", "ann", "idle"), "draft", "ann", 422, body=recording._contents[whole()], key="fresh"
    )
    recording.history.calls[-1].facts["request_id"] = derived("request", "ann", "fresh")


def refuse_a_sound_change(recording: Asking) -> None:
    recording.called(derived("request", "ann", "idle"), "change", "ann", 412, body={"title": "x"}, match="*")


def make_a_request_up(recording: Asking) -> None:
    recording.draft("made up")
    recording.history.calls.pop()


def make_a_second_request_of_one_call(recording: Asking) -> None:
    again = recording.draft("again")
    recording.history.calls[-1].facts.update({"request_id": whole(), "key": "whole", "body": {"title": "again"}})
    recording.history.calls[-1].answer.update({"title": "again"})
    assert recording.request(again).version == 1


def make_a_step_up(recording: Asking) -> None:
    recording.act(derived("request", "ann", "idle"), "submit", "ann")
    recording.history.calls.pop()


def do_what_was_refused(recording: Asking) -> None:
    recording.act(derived("request", "ann", "idle"), "submit", "ann")
    call = recording.history.calls.pop()
    recording.call(call.kind, call.facts, 409, {})


def change_twice_for_one_call(recording: Asking) -> None:
    idle = derived("request", "ann", "idle")
    recording.change(idle, title="one")
    recording.change(idle, title="one")
    recording.history.calls.pop()


def comment_twice_for_one_call(recording: Asking) -> None:
    recording.comment(whole(), "ben", "again")
    recording.comment(whole(), "ben", "again")


def answer_a_draft_differently(recording: Asking) -> None:
    call = next(call for call in recording.history.calls if call.facts.get("key") == "whole")
    recording.call(call.kind, call.facts, 201, {**call.answer, "version": 2})


def answer_another_title(recording: Asking) -> None:
    recording.change(derived("request", "ann", "idle"), title="said").answer["title"] = "not said"


def skip_a_step(recording: Asking) -> None:
    recording.set_step(whole(), 4, version=40)


def decide_what_was_not_submitted(recording: Asking) -> None:
    recording.act(derived("request", "ann", "idle"), "reject", "ben", "no")


def approve_ones_own(recording: Asking) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "ann")


def approve_by_the_sponsor(recording: Asking) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "dan")


def approve_twice_by_one(recording: Asking) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "ben")
    recording.act(idle, "approve", "ben")


def take_what_was_to_be_refused(recording: Asking) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "ann")
    recording.history.calls[-1].facts["wrong"] = (403,)


def show_another_state(recording: Asking) -> None:
    recording.set_request(recording.request(whole())._replace(state="deployed"))


def show_other_approvals(recording: Asking) -> None:
    recording.set_request(recording.request(whole())._replace(approvals=("ben",)))


def leave_a_step_untold(recording: Asking) -> None:
    drop(recording, lambda r: is_of(r, "request.deployed"))


def leave_one_region_untold(recording: Asking) -> None:
    drop(
        recording,
        lambda r: is_of(r, "request.changed") and r.topic.endswith(".us") and b'"version":2' in (r.value or b""),
    )


def tell_what_is_not_stored(recording: Asking) -> None:
    recording.tell(whole(), "eu", "commented", 99, {"by": "ben", "text": "x", "comment_id": "x"})


def tell_it_otherwise(recording: Asking) -> None:
    recording.set_step(whole(), 4, text="another text")


def tell_it_twice(recording: Asking) -> None:
    recording.tell(whole(), "eu", "deployed", 8, {"by": "eve", "reason": ""})
    record = recording.history.records[-1]
    headers = tuple((n, derived("other").encode() if n == "ce_id" else v) for n, v in record.headers)
    recording.history.records[-1] = record._replace(headers=headers)


def tell_it_again_and_differently(recording: Asking) -> None:
    recording.tell(whole(), "eu", "deployed", 8, {"by": "another", "reason": ""})


def tell_in_disorder(recording: Asking) -> None:
    records = enumerate(recording.history.records)
    places = [n for n, r in records if r.topic.endswith("requests.eu") and whole().encode() in (r.key or b"")]
    a, b = (recording.history.records[n] for n in places[2:4])
    recording.history.records[places[2]] = a._replace(offset=b.offset)
    recording.history.records[places[3]] = b._replace(offset=a.offset)


def name_another_cause(recording: Asking) -> None:
    recording._told[whole(), "eu"] = derived("another")
    recording.comment(whole(), "ben", "because")


def tell_another_region(recording: Asking) -> None:
    recording.tell(whole(), "us", "rolled_back", 9, {"by": "eve", "reason": "it was wrong"})


def tell_a_region_that_was_left_what_it_says(recording: Asking) -> None:
    idle = derived("request", "ann", "idle")
    recording.tell(idle, "us", "drafted", 1, {"by": "ann", "request": recording._contents[idle]})


def leave_events_unpublished(recording: Asking) -> None:
    recording.history.intake.unpublished = 2


PLANTS: list[tuple[Callable[[Asking], None], int, str]] = [
    (lose_a_request, 1, "LOST: request.draft"),
    (lose_a_step, 1, "LOST: request.review"),
    (lose_an_edit, 1, "LOST: request.change"),
    (lose_a_comment, 1, "LOST: request.comment"),
    (forget_a_request, 1, "does not exist"),
    (refuse_a_sound_draft, 9, "a valid request.draft was rejected"),
    (refuse_a_sound_change, 9, "a valid request.change was rejected"),
    (make_a_request_up, 1, "no accepted call asked for it"),
    (make_a_second_request_of_one_call, 1, "no accepted call asked for it"),
    (make_a_step_up, 1, "no accepted call asked for it"),
    (do_what_was_refused, 1, "no accepted call asked for it"),
    (change_twice_for_one_call, 2, "more often than requested"),
    (comment_twice_for_one_call, 2, "was stored twice"),
    (answer_a_draft_differently, 2, "got another response"),
    (answer_another_title, 1, "with other content"),
    (skip_a_step, 2, "the steps of request"),
    (decide_what_was_not_submitted, 2, "was rejected when it was draft"),
    (approve_ones_own, 3, "who may not"),
    (approve_by_the_sponsor, 3, "who may not"),
    (approve_twice_by_one, 3, "or not again"),
    (take_what_was_to_be_refused, 3, "had to be rejected"),
    (show_another_state, 2, "its steps mean rolled_back"),
    (show_other_approvals, 2, "its steps mean rolled_back"),
    (leave_a_step_untold, 4, "not published in"),
    (leave_one_region_untold, 4, "not published in us"),
    (tell_what_is_not_stored, 4, "is not stored"),
    (tell_it_otherwise, 4, "published differently from the table"),
    (tell_it_twice, 2, "has a step of"),
    (tell_it_again_and_differently, 2, "published twice with different content"),
    (tell_in_disorder, 6, "DISORDER: eu has the steps"),
    (name_another_cause, 4, "names another cause"),
    (tell_another_region, 7, "LEAK: request"),
    (tell_a_region_that_was_left_what_it_says, 7, "LEAK: request"),
    (leave_events_unpublished, 4, "never published"),
]


@pytest.mark.parametrize(("plant", "promise", "title"), PLANTS, ids=[plant.__name__ for plant, _, _ in PLANTS])
def test_what_breaks_a_promise_is_named_with_its_records(
    plant: Callable[[Asking], None], promise: int, title: str
) -> None:
    recording = asking()
    plant(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records for v in found) or plant is leave_events_unpublished


def test_what_a_replay_changes_of_requests_is_named() -> None:
    before, after = asking().done(), asking()
    after.set_request(after.request(whole())._replace(state="approved"))
    after.set_step(whole(), 4, text="another")
    found = [violation.title for violation in promises.compare(before, after.done())]
    assert found == ["a replay changed a business request", "a replay changed a step of a request"]
