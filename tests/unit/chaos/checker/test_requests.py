"""The checker reports each broken promise about business requests: each test adds one defect to a valid history."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, RequestRow, StepRow
from tests.support.chaos_history import Recording, drop, has_type, titles

STATES = {
    "draft": "draft",
    "submit": "submitted",
    "reject": "rejected",
    "withdraw": "withdrawn",
    "deploy": "deployed",
    "rollback": "rolled_back",
    "review": "reviewed",
}


class RequestRecording(Recording):
    """A recording with business requests."""

    def __init__(self) -> None:
        super().__init__()
        self._contents: dict[str, dict[str, Any]] = {}
        self._last_published: dict[tuple[str, str], str] = {}

    def draft(self, name: str, *regions: str) -> str:
        """Draft a request as ann."""
        request_id = derived("request", "ann", name)
        content = self._contents[request_id] = {"title": name, "sponsor": "dan", "regions": list(regions or ("eu",))}
        self.history.intake.requests.append(RequestRow(request_id, "draft", 0, "dan", ()))
        self._add_step(request_id, "drafted", "ann", {"request": content})
        self.called(request_id, "draft", "ann", 201, body=dict(content), key=name)
        return request_id

    def change(self, request_id: str, by: str = "ann", **patch: Any) -> Call:
        """Change the content of a draft."""
        regions_before = self._contents[request_id]["regions"]
        content = self._contents[request_id] = {**self._contents[request_id], **patch}
        self._add_step(
            request_id,
            "changed",
            by,
            {"regions": content["regions"], "request": content},
            regions_before=regions_before,
        )
        return self.called(request_id, "change", by, 200, body=patch, match="*")

    def comment(self, request_id: str, by: str, text: str) -> Call:
        comment_id = derived("comment", request_id, by, text)
        self._add_step(request_id, "commented", by, {"comment_id": comment_id, "text": text}, text, comment_id)
        facts: dict[str, Any] = {"body": {"text": text}, "key": text, "comment_id": comment_id}
        return self.called(request_id, "comment", by, 201, **facts)

    def act(self, request_id: str, what: str, by: str, reason: str = "") -> Call:
        """Make a step after the draft, with status 200."""
        row = self.request(request_id)
        approvals = (*row.approvals, by) if what == "approve" else row.approvals
        kind = STATES.get(what, "approved" if len(approvals) > 1 else "endorsed")
        state = row.state if kind == "endorsed" else kind
        self.set_request(row._replace(state=state, approvals=approvals))
        self._add_step(request_id, kind, by, {"reason": reason}, reason)
        return self.called(request_id, what, by, 200)

    def called(self, request_id: str, what: str, by: str, status: int | None, **facts: Any) -> Call:
        """Record a call; a successful one has the current request as its response."""
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

    def _add_step(  # noqa: PLR0917 - the parts of a step
        self,
        request_id: str,
        kind: str,
        by: str,
        said: dict[str, Any],
        text: str = "",
        comment_id: str | None = None,
        regions_before: list[str] | None = None,
    ) -> None:
        row = self.request(request_id)
        version = row.version + 1
        self.set_request(row._replace(version=version))
        self.history.intake.steps.append(StepRow(request_id, version, kind, by, text, comment_id))
        regions = self._contents[request_id]["regions"]
        for region in [*regions, *(region for region in regions_before or () if region not in regions)]:
            about = {**said, "request": None} if region not in regions else said
            self.publish(request_id, region, kind, version, {"by": by, **about})

    def publish(self, request_id: str, region: str, kind: str, version: int, said: dict[str, Any]) -> None:
        name = f"request.{kind.replace('_', '')}"
        event_id = derived("event", request_id, f"piepowder.{name}.v1", f"{version}/{region}")
        data = {"request_id": request_id, "version": version, **said}
        subject = f"piepowder:request:{request_id}"
        record = self.event(f"piepowder.requests.{region}", region, name, subject, event_id, data)
        if cause := self._last_published.get((request_id, region)):
            self.history.records[-1] = record._replace(headers=(*record.headers, ("ce_causationid", cause.encode())))
        self._last_published[request_id, region] = event_id


def request_recording() -> RequestRecording:
    """A history with a draft, a withdrawn and a rejected request, and one that was edited, moved to another region,
    approved by two, deployed and rolled back, with repeated and rejected calls and calls without a response."""
    recording = RequestRecording()
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


def test_a_valid_history_with_requests_has_no_violation() -> None:
    assert titles(request_recording().done()) == []


def lose_a_request(recording: RequestRecording) -> None:
    intake = recording.history.intake
    intake.requests = [row for row in intake.requests if row.request_id != whole()]
    intake.steps = [step for step in intake.steps if step.request_id != whole()]


def lose_a_step(recording: RequestRecording) -> None:
    recording.called(whole(), "review", "ben", 200)


def lose_an_edit(recording: RequestRecording) -> None:
    recording.called(derived("request", "ann", "idle"), "change", "ann", 200, body={"title": "idle no more"}, match="*")


def lose_a_comment(recording: RequestRecording) -> None:
    comment = {"body": {"text": "x"}, "key": "x", "comment_id": derived("comment", whole(), "ben", "x")}
    recording.called(whole(), "comment", "ben", 201, **comment)


def respond_404_for_an_existing_request(recording: RequestRecording) -> None:
    recording.called(whole(), "review", "ben", 404)
    recording._now += 1
    recording.called(whole(), "review", "ben", 404)


def reject_a_valid_draft(recording: RequestRecording) -> None:
    recording.called(
        derived("request", "ann", "idle"), "draft", "ann", 422, body=recording._contents[whole()], key="fresh"
    )
    recording.history.calls[-1].facts["request_id"] = derived("request", "ann", "fresh")


def reject_a_valid_change(recording: RequestRecording) -> None:
    recording.called(derived("request", "ann", "idle"), "change", "ann", 412, body={"title": "x"}, match="*")


def invent_a_request(recording: RequestRecording) -> None:
    recording.draft("made up")
    recording.history.calls.pop()


def create_two_requests_for_one_call(recording: RequestRecording) -> None:
    again = recording.draft("again")
    recording.history.calls[-1].facts.update({"request_id": whole(), "key": "whole", "body": {"title": "again"}})
    recording.history.calls[-1].answer.update({"title": "again"})
    assert recording.request(again).version == 1


def invent_a_step(recording: RequestRecording) -> None:
    recording.act(derived("request", "ann", "idle"), "submit", "ann")
    recording.history.calls.pop()


def store_a_rejected_step(recording: RequestRecording) -> None:
    recording.act(derived("request", "ann", "idle"), "submit", "ann")
    call = recording.history.calls.pop()
    recording.call(call.kind, call.facts, 409, {})


def change_twice_for_one_call(recording: RequestRecording) -> None:
    idle = derived("request", "ann", "idle")
    recording.change(idle, title="one")
    recording.change(idle, title="one")
    recording.history.calls.pop()


def comment_twice_for_one_call(recording: RequestRecording) -> None:
    recording.comment(whole(), "ben", "again")
    recording.comment(whole(), "ben", "again")


def respond_differently_to_the_same_draft(recording: RequestRecording) -> None:
    call = next(call for call in recording.history.calls if call.facts.get("key") == "whole")
    recording.call(call.kind, call.facts, 201, {**call.answer, "version": 2})


def respond_with_another_title(recording: RequestRecording) -> None:
    recording.change(derived("request", "ann", "idle"), title="said").answer["title"] = "not said"


def skip_a_step(recording: RequestRecording) -> None:
    recording.set_step(whole(), 4, version=40)


def reject_a_request_before_its_submission(recording: RequestRecording) -> None:
    recording.act(derived("request", "ann", "idle"), "reject", "ben", "no")


def approve_ones_own_request(recording: RequestRecording) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "ann")


def approve_by_the_sponsor(recording: RequestRecording) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "dan")


def approve_twice_by_one(recording: RequestRecording) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "ben")
    recording.act(idle, "approve", "ben")


def accept_a_step_that_must_be_rejected(recording: RequestRecording) -> None:
    idle = derived("request", "ann", "idle")
    recording.act(idle, "submit", "ann")
    recording.act(idle, "approve", "ann")
    recording.history.calls[-1].facts["wrong"] = (403,)


def make_a_step_that_must_be_rejected_without_a_response(recording: RequestRecording) -> None:
    calls = recording.history.calls
    for n, call in enumerate(calls):
        if call.kind == "request.deploy":
            calls[n] = replace(call, status=None, answer={}, facts={**call.facts, "wrong": (409,)})


def store_another_state(recording: RequestRecording) -> None:
    recording.set_request(recording.request(whole())._replace(state="deployed"))


def store_other_approvals(recording: RequestRecording) -> None:
    recording.set_request(recording.request(whole())._replace(approvals=("ben",)))


def leave_a_step_unpublished(recording: RequestRecording) -> None:
    drop(recording, lambda r: has_type(r, "request.deployed"))


def leave_a_step_unpublished_in_one_region(recording: RequestRecording) -> None:
    drop(
        recording,
        lambda r: has_type(r, "request.changed") and r.topic.endswith(".us") and b'"version":2' in (r.value or b""),
    )


def publish_a_step_that_is_not_stored(recording: RequestRecording) -> None:
    recording.publish(whole(), "eu", "commented", 99, {"by": "ben", "text": "x", "comment_id": "x"})


def store_another_text_than_published(recording: RequestRecording) -> None:
    recording.set_step(whole(), 4, text="another text")


def publish_a_step_under_two_ids(recording: RequestRecording) -> None:
    recording.publish(whole(), "eu", "deployed", 8, {"by": "eve", "reason": ""})
    record = recording.history.records[-1]
    headers = tuple((n, derived("other").encode() if n == "ce_id" else v) for n, v in record.headers)
    recording.history.records[-1] = record._replace(headers=headers)


def publish_an_event_twice_with_different_content(recording: RequestRecording) -> None:
    recording.publish(whole(), "eu", "deployed", 8, {"by": "another", "reason": ""})


def publish_steps_in_disorder(recording: RequestRecording) -> None:
    records = enumerate(recording.history.records)
    places = [n for n, r in records if r.topic.endswith("requests.eu") and whole().encode() in (r.key or b"")]
    a, b = (recording.history.records[n] for n in places[2:4])
    recording.history.records[places[2]] = a._replace(offset=b.offset)
    recording.history.records[places[3]] = b._replace(offset=a.offset)


def name_another_cause(recording: RequestRecording) -> None:
    recording._last_published[whole(), "eu"] = derived("another")
    recording.comment(whole(), "ben", "because")


def publish_a_step_in_a_former_region(recording: RequestRecording) -> None:
    recording.publish(whole(), "us", "rolled_back", 9, {"by": "eve", "reason": "it was wrong"})


def publish_content_in_another_region(recording: RequestRecording) -> None:
    idle = derived("request", "ann", "idle")
    recording.publish(idle, "us", "drafted", 1, {"by": "ann", "request": recording._contents[idle]})


def leave_events_unpublished(recording: RequestRecording) -> None:
    recording.history.intake.unpublished = 2


DEFECTS: list[tuple[Callable[[RequestRecording], None], int, str]] = [
    (lose_a_request, 1, "LOST: request.draft"),
    (lose_a_step, 1, "LOST: request.review"),
    (lose_an_edit, 1, "LOST: request.change"),
    (lose_a_comment, 1, "LOST: request.comment"),
    (respond_404_for_an_existing_request, 1, "does not exist"),
    (reject_a_valid_draft, 9, "a valid request.draft was rejected"),
    (reject_a_valid_change, 9, "a valid request.change was rejected"),
    (invent_a_request, 1, "no accepted call asked for it"),
    (create_two_requests_for_one_call, 1, "no accepted call asked for it"),
    (invent_a_step, 1, "no accepted call asked for it"),
    (store_a_rejected_step, 1, "no accepted call asked for it"),
    (change_twice_for_one_call, 2, "more often than requested"),
    (comment_twice_for_one_call, 2, "was stored twice"),
    (respond_differently_to_the_same_draft, 2, "got another response"),
    (respond_with_another_title, 1, "with other content"),
    (skip_a_step, 2, "the steps of request"),
    (reject_a_request_before_its_submission, 2, "was rejected when it was draft"),
    (approve_ones_own_request, 3, "who may not"),
    (approve_by_the_sponsor, 3, "who may not"),
    (approve_twice_by_one, 3, "or not again"),
    (accept_a_step_that_must_be_rejected, 3, "had to be rejected"),
    (make_a_step_that_must_be_rejected_without_a_response, 3, "although each call for it had to be refused"),
    (store_another_state, 2, "its steps mean rolled_back"),
    (store_other_approvals, 2, "its steps mean rolled_back"),
    (leave_a_step_unpublished, 4, "not published in"),
    (leave_a_step_unpublished_in_one_region, 4, "not published in us"),
    (publish_a_step_that_is_not_stored, 4, "is not stored"),
    (store_another_text_than_published, 4, "published differently from the table"),
    (publish_a_step_under_two_ids, 2, "has a step of"),
    (publish_an_event_twice_with_different_content, 2, "published twice with different content"),
    (publish_steps_in_disorder, 6, "DISORDER: eu has the steps"),
    (name_another_cause, 4, "names another cause"),
    (publish_a_step_in_a_former_region, 7, "LEAK: request"),
    (publish_content_in_another_region, 7, "LEAK: request"),
    (leave_events_unpublished, 4, "never published"),
]


@pytest.mark.parametrize(
    ("add_defect", "promise", "title"), DEFECTS, ids=[add_defect.__name__ for add_defect, _, _ in DEFECTS]
)
def test_a_broken_promise_is_reported_with_its_records(
    add_defect: Callable[[RequestRecording], None], promise: int, title: str
) -> None:
    recording = request_recording()
    add_defect(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records for v in found) or add_defect is leave_events_unpublished


def test_a_change_of_requests_by_a_replay_is_reported() -> None:
    before, after = request_recording().done(), request_recording()
    after.set_request(after.request(whole())._replace(state="approved"))
    after.set_step(whole(), 4, text="another")
    found = [violation.title for violation in promises.compare(before, after.done())]
    assert found == ["a replay changed a business request", "a replay changed a step of a request"]
