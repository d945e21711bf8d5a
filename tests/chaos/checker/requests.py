"""Business requests: each acknowledged step happened once, is stored, and was published in its regions in order; each
step was requested by a call; and nobody decided their own request."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.chaos.checker.cloudevents import Event, derived
from tests.chaos.checker.facts import Facts
from tests.chaos.checker.history import Call, RequestRow, StepRow
from tests.chaos.checker.violation import Violation

_STAGE = "requests"
_KIND = "request."
_APPROVALS = 2
_OPEN = ("draft", "submitted", "approved")
# The states before and after each step; other steps do not change the state.
_LEADS: dict[str, tuple[tuple[str, ...], str]] = {
    "drafted": (("",), "draft"),
    "submitted": (("draft",), "submitted"),
    "approved": (("submitted",), "approved"),
    "rejected": (("submitted",), "rejected"),
    "withdrawn": (_OPEN, "withdrawn"),
    "deployed": (("approved",), "deployed"),
    "rolled_back": (("deployed",), "rolled_back"),
    "reviewed": (("deployed",), "reviewed"),
}
_ONLY_IN = {"changed": ("draft",), "endorsed": ("submitted",)}
_STEPS = {
    "draft": ("drafted",),
    "change": ("changed",),
    "comment": ("commented",),
    "submit": ("submitted",),
    "approve": ("endorsed", "approved"),
    "reject": ("rejected",),
    "withdraw": ("withdrawn",),
    "deploy": ("deployed",),
    "rollback": ("rolled_back",),
    "review": ("reviewed",),
}


class _Dossier(NamedTuple):
    """The facts about one request; steps and events by version, events by region as well."""

    request_id: str
    calls: list[Call]
    row: RequestRow | None
    steps: dict[int, StepRow]
    published: dict[int, dict[str, Event]]

    def state(self, version: int) -> str:
        """The state after the steps up to a version."""
        kinds = [step.kind for v, step in sorted(self.steps.items()) if v <= version]
        led = [_LEADS[kind][1] for kind in kinds if kind in _LEADS]
        return led[-1] if led else ""

    def content(self, version: int) -> dict[str, Any]:
        """The content of the request at a version, as it was published."""
        said: dict[str, Any] = {}
        for v in sorted(self.published):
            if v <= version:
                said = next((e.data["request"] for e in self.published[v].values() if e.data.get("request")), said)
        return said

    def shown(self) -> tuple[str, ...]:
        return (*map(str, self.calls[:3]), str(self.row), *(str(self.steps[v]) for v in sorted(self.steps)))


def no_step_of_a_request_is_lost(facts: Facts) -> Iterator[Violation]:
    """Each step with a successful response happened as the response says; valid calls were not rejected."""
    for dossier in _dossiers(facts):
        drafted: Call | None = None
        for call in dossier.calls:
            if call.status in (200, 201):
                yield from _acknowledged(dossier, call)
                if call.kind == "request.draft":
                    drafted = drafted or call
                    if call.answer != drafted.answer:
                        title = f"DOUBLE: request {dossier.request_id} got another response the second time"
                        yield Violation(2, title, (str(drafted), str(call)))
            elif call.status == 404 and drafted is not None and (drafted.answered_at or 0.0) < call.sent_at:
                title = f"LOST: request {dossier.request_id} was created, but does not exist"
                yield Violation(1, title, (str(drafted), str(call)))
            elif call.status is not None and 400 <= call.status < 500 and not _is_right(dossier, call):
                yield Violation(9, f"a valid {call.kind} was rejected: {call.status}", (str(call), *dossier.shown()))


def no_step_of_a_request_is_invented(facts: Facts) -> Iterator[Violation]:
    """Each step was requested by the person it names, and not rejected; a repeated call caused one step."""
    for dossier in _dossiers(facts):
        if dossier.row is not None and dossier.row.version != len(dossier.steps):
            title = f"request {dossier.request_id} is at version {dossier.row.version} with {len(dossier.steps)} steps"
            yield Violation(2, title, dossier.shown())
        asked = [call for call in dossier.calls if not _rejected(call)]
        changes = Counter(call.facts["by"] for call in asked if call.kind == "request.change")
        comments: dict[str, StepRow] = {}
        for step in dossier.steps.values():
            asking = [call for call in asked if _asks_for(dossier.request_id, call, step)]
            if asking and all(call.facts["wrong"] for call in asking) and step.kind != "drafted":
                title = f"request {dossier.request_id} was {step.kind}, although each call for it had to be refused"
                yield Violation(3, title, (str(step), *map(str, asking)))
            if not asking:
                title = f"request {dossier.request_id} was {step.kind}, but no accepted call asked for it"
                yield Violation(1, title, (str(step), *map(str, dossier.calls)))
            if step.kind == "changed":
                changes[step.by] -= 1
            elif (first := comments.setdefault(step.comment_id or str(step.version), step)) is not step:
                title = f"DOUBLE: a comment on request {dossier.request_id} was stored twice"
                yield Violation(2, title, (str(first), str(step)))
        if any(n < 0 for n in changes.values()):
            title = f"DOUBLE: request {dossier.request_id} was changed more often than requested"
            yield Violation(2, title, dossier.shown())


def request_steps_follow_the_rules(facts: Facts) -> Iterator[Violation]:
    """Steps are numbered without a gap and follow from one another; two people decide, neither the author nor the
    sponsor."""
    for dossier in _dossiers(facts):
        if sorted(dossier.steps) != list(range(1, len(dossier.steps) + 1)):
            title = f"the steps of request {dossier.request_id} are {sorted(dossier.steps)}"
            yield Violation(2, title, dossier.shown())
        if (row := dossier.row) is None:
            continue
        own, approvals, state = {row.sponsor}, list[str](), ""
        for version in sorted(dossier.steps):
            step = dossier.steps[version]
            start, end = _LEADS.get(step.kind, (_ONLY_IN.get(step.kind, (state,)), state))
            if state not in start:
                title = f"request {row.request_id} was {step.kind} when it was {state or 'not there'}"
                yield Violation(2, title, dossier.shown())
            state = end
            if step.kind in ("drafted", "changed", "submitted"):
                own.add(step.by)
            elif step.kind in ("endorsed", "approved", "rejected"):
                if step.by in own or step.by in approvals:
                    title = f"request {row.request_id} was {step.kind} by {step.by}, who may not do this, or not again"
                    yield Violation(3, title, dossier.shown())
                if step.kind != "rejected":
                    approvals.append(step.by)
                if (step.kind == "approved") != (len(approvals) >= _APPROVALS) and step.kind != "rejected":
                    title = f"request {row.request_id} was {step.kind} after {len(approvals)} approval(s)"
                    yield Violation(3, title, dossier.shown())
        if (row.state, list(row.approvals)) != (state, approvals):
            title = f"request {row.request_id} is {row.state} by {row.approvals}; its steps mean {state} by {approvals}"
            yield Violation(2, title, dossier.shown())


def request_steps_are_published_once_in_order(facts: Facts) -> Iterator[Violation]:
    """In each region the events of a request are a chain: one event per step, which names the event before it."""
    for region in facts.regions:
        first = {event.id: event for event in facts.stage(_STAGE, region)}
        for event in facts.events[_STAGE, region]:
            if event.data != first[event.id].data:
                title = f"DOUBLE: event {event.id} of a request was published twice with different content"
                yield Violation(2, title, (str(first[event.id]), str(event)))
        lives: dict[str, list[Event]] = defaultdict(list)
        for event in facts.stage(_STAGE, region):
            lives[event.subject].append(event)
        for life in lives.values():
            yield from _chain(region, life)


def request_steps_are_published_in_their_regions(facts: Facts) -> Iterator[Violation]:
    """Each step is an event in each of the request's current regions, as it is stored, and in no other region."""
    for dossier in _dossiers(facts):
        regions: set[str] = set()
        for version, step in sorted(dossier.steps.items()):
            published = dossier.published.get(version, {})
            before, regions = regions, _regions(step, published, regions)
            for region in regions | before if step.kind == "changed" else regions:
                if region not in published:
                    title = f"LOST: request {dossier.request_id} was {step.kind}, but not published in {region}"
                    yield Violation(4, title, (str(step), *map(str, published.values())))
            for region, event in published.items():
                yield from _published(dossier.request_id, step, region, event)
                if region not in regions and (region not in before or event.data.get("request") is not None):
                    title = f"LEAK: request {dossier.request_id} does not belong to {region}, but its content is there"
                    yield Violation(7, title, (str(step), str(event)))
        for version in dossier.published.keys() - dossier.steps.keys():
            title = f"step {version} of request {dossier.request_id} was published, but is not stored"
            yield Violation(4, title, tuple(map(str, dossier.published[version].values())))
    if facts.history.intake.unpublished:
        yield Violation(4, f"{facts.history.intake.unpublished} event(s) of intake were never published", ())


def _dossiers(facts: Facts) -> Iterator[_Dossier]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in facts.history.calls:
        if call.kind.startswith(_KIND):
            calls[call.facts["request_id"]].append(call)
    intake = facts.history.intake
    rows = {row.request_id: row for row in intake.requests}
    steps: dict[str, dict[int, StepRow]] = defaultdict(dict)
    for step in intake.steps:
        steps[step.request_id][step.version] = step
    published: dict[str, dict[int, dict[str, Event]]] = defaultdict(lambda: defaultdict(dict))
    for region in facts.regions:
        for event in facts.stage(_STAGE, region):
            published[event.data["request_id"]][event.data["version"]][region] = event
    for request_id in sorted(calls.keys() | rows.keys() | steps.keys() | published.keys()):
        yield _Dossier(
            request_id,
            calls.get(request_id, []),
            rows.get(request_id),
            steps.get(request_id, {}),
            dict(published.get(request_id, {})),
        )


def _acknowledged(dossier: _Dossier, call: Call) -> Iterator[Violation]:
    what, answer, by = call.kind.removeprefix(_KIND), call.answer, call.facts["by"]
    version: int = answer["version"]
    done = [step for v, step in dossier.steps.items() if v <= version and step.kind in _STEPS[what] and step.by == by]
    if what == "comment":
        comment_id = derived("comment", dossier.request_id, by, call.facts["key"])
        wanted = (version, by, call.facts["body"]["text"], comment_id)
        lost = wanted not in [(step.version, step.by, step.text, step.comment_id) for step in done]
        lost = lost or answer["comment_id"] != comment_id
    elif what == "change":
        said = dossier.content(version)
        lost = any(said.get(name) != value for name, value in call.facts["body"].items())
    else:
        lost = not done or dossier.state(version) != answer["state"]
    if dossier.row is None or version not in dossier.steps or lost:
        title = f"LOST: {call.kind} of {dossier.request_id} had the response {call.status}, but did not happen"
        yield Violation(1, title, (str(call), *dossier.shown()))
    if what in ("draft", "change") and not _content_of(dossier.content(version), answer):
        title = f"{call.kind} of {dossier.request_id} has a response with other content"
        yield Violation(1, title, (str(call), str(dossier.content(version))))
    if call.facts["wrong"] and what != "draft":
        title = f"{call.kind} of {dossier.request_id} by {by} had to be rejected, but got {call.status}"
        yield Violation(3, title, (str(call), *dossier.shown()))


def _content_of(said: dict[str, Any], answer: dict[str, Any]) -> bool:
    return all(said.get(name) == answer[name] for name in ("title", "regions"))


def _is_right(dossier: _Dossier, call: Call) -> bool:
    """True if a call may have this rejection: it was planned, too late or too early, or the system was busy."""
    if call.status in (404, 409, 429) or call.status in call.facts["wrong"]:
        return True
    if call.status == 422 and call.kind == "request.draft":  # an earlier draft has this key
        bodies = [c.facts["body"] for c in dossier.calls if c.kind == call.kind and not _rejected(c)]
        return any(body != call.facts["body"] for body in bodies)
    return call.status == 412 and call.facts["match"] not in ("", "*")


def _rejected(call: Call) -> bool:
    return call.status is not None and 400 <= call.status < 500


def _asks_for(request_id: str, call: Call, step: StepRow) -> bool:
    what = call.kind.removeprefix(_KIND)
    if step.kind not in _STEPS[what] or call.facts["by"] != step.by:
        return False
    if what == "comment":
        return step.comment_id == derived("comment", request_id, step.by, call.facts["key"])
    return what != "draft" or request_id == derived("request", step.by, call.facts["key"])


def _regions(step: StepRow, published: dict[str, Event], before: set[str]) -> set[str]:
    for event in published.values():
        if step.kind == "changed":
            return set(event.data["regions"])
        if step.kind == "drafted":
            return set(event.data["request"]["regions"])
    return before


def _published(request_id: str, step: StepRow, region: str, event: Event) -> Iterator[Violation]:
    data, name = event.data, f"request.{step.kind.replace('_', '')}"
    said = data.get("text") if step.kind == "commented" else data.get("reason", "")
    if (event.name, data["by"], said or "", data.get("comment_id")) != (name, step.by, step.text, step.comment_id):
        title = f"step {step.version} of request {request_id} was published differently from the table, in {region}"
        yield Violation(4, title, (str(step), str(event)))
    if event.id != derived("event", request_id, event.type, f"{step.version}/{region}"):
        title = f"DOUBLE: step {step.version} of request {request_id} was published under another id in {region}"
        yield Violation(2, title, (str(event),))


def _chain(region: str, life: list[Event]) -> Iterator[Violation]:
    versions = [event.data["version"] for event in life]
    if len(set(versions)) < len(versions):
        title = f"DOUBLE: {region} has a step of {life[0].subject} twice: {versions}"
        yield Violation(2, title, tuple(map(str, life)))
    elif versions != sorted(versions):
        title = f"DISORDER: {region} has the steps of {life[0].subject} as {versions}"
        yield Violation(6, title, tuple(map(str, life)))
    elif any(event.causation_id != before for event, before in zip(life, ["", *(e.id for e in life)], strict=False)):
        title = f"in {region}, a step of {life[0].subject} names another cause than the step before it"
        yield Violation(4, title, tuple(map(str, life)))
