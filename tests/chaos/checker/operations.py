"""Actions of operators: each loss that an action caused was reported and accepted by an event that names it; a storm
stops only its topic; a stop lets every call end; and a region that owns markets stays in the operating model."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.chaos.checker.facts import Facts
from tests.chaos.checker.history import Call, Note
from tests.chaos.checker.violation import Violation

STORM = "a record of a storm"
PARTIAL = "PartialResponseError"
_OPEN_SECONDS = 2.0  # in which a client notices that a process has ended
_OF_DECISION = ("claim", "heartbeat", "release", "decide")


def losses_are_accepted_by_an_event(facts: Facts) -> Iterator[Violation]:
    """Each range of records that a group can never read is named by exactly one accepted loss; no other range is."""
    caused = [(_range(note.facts), note) for note in _notes(facts, "missing")]
    accepted = Counter(_range(loss.event.data) for loss in facts.losses)
    for missing, note in caused:
        if accepted[missing] != 1:
            title = f"UNREPORTED LOSS: {missing} is named by {accepted[missing]} accepted losses"
            yield Violation(1, title, (str(note), *(str(loss.event) for loss in facts.losses)))
    known = {missing for missing, _ in caused}
    for loss in facts.losses:
        if _range(loss.event.data) not in known:
            title = f"a loss was accepted that no action caused: {_range(loss.event.data)}"
            yield Violation(1, title, (str(loss.event),))


def actions_have_their_effect(facts: Facts) -> Iterator[Violation]:
    """The services reported what an action did to them, the documented commands worked, and no process ended."""
    for note in _notes(facts, "unreported"):
        yield Violation(1, f"UNREPORTED: {note.facts['what']}", (str(note),))
    for note in _notes(facts, "failed"):
        yield Violation(9, f"a documented step failed: {note.facts['what']}", (str(note),))
    for note in _notes(facts, "ended"):
        yield Violation(9, f"processes ended during an operator's action: {note.facts['services']}", (str(note),))
    for note in _notes(facts, "model"):
        if note.facts.get("leaves") and note.facts["status"] == 200:
            title = f"region {note.facts['leaves']} left the operating model while it owned markets"
            yield Violation(1, title, (str(note),))


def a_storm_stops_only_its_topic(facts: Facts) -> Iterator[Violation]:
    """All readers of the topic stop it, the other region continues, and no record is dead-lettered twice."""
    for note in _notes(facts, "storm"):
        expected, stopped = note.facts["expected"], note.facts["stopped"]
        if stopped != expected:
            yield Violation(9, f"STORM: {stopped} are stopped instead of {expected}", (str(note),))
        if not note.facts["other_region"]:
            yield Violation(9, "STORM: the other region did not continue", (str(note),))
    for region in facts.regions:
        count: Counter[tuple[Any, ...]] = Counter()
        for letter in facts.letters[region]:
            planted = facts.planted.get(letter.source)
            if planted is not None and planted.kind == STORM:
                count[letter.group, letter.source] += 1
        for (group, source), n in count.items():
            if n > 1:
                yield Violation(4, f"DOUBLE: {group} dead-lettered a record of a storm {n} times", (str(source),))


def a_stop_ends_every_call(facts: Facts) -> Iterator[Violation]:
    """A process ends by itself after SIGTERM; each of its calls gets a whole response, or its connection is closed."""
    for note in _notes(facts, "stopped"):
        service, asked, ended = note.facts["service"], note.facts["asked"], note.facts["ended"]
        if note.facts["code"] != 0:
            title = f"STOP: {service} ended with {note.facts['code']}, {ended - asked:.1f} s after SIGTERM"
            yield Violation(9, title, (str(note),))
        for call in facts.history.calls:
            over = call.answered_at
            if call.status is not None or over is None or _service(call) != service:
                continue
            if call.error == PARTIAL and call.sent_at < ended and over > asked:
                yield Violation(9, f"STOP: a response of {service} is not complete", (str(note), str(call)))
            elif call.sent_at < asked and over > ended + _OPEN_SECONDS:
                yield Violation(9, f"STOP: a call of {service} got no end", (str(note), str(call)))


def _notes(facts: Facts, kind: str) -> list[Note]:
    return [note for note in facts.history.notes if note.kind == kind]


def _range(about: dict[str, Any]) -> tuple[Any, ...]:
    names = ("group", "topic", "topic_id", "partition", "reason", "first", "last")
    return tuple(about.get(name) for name in names)


def _service(call: Call) -> str:
    return f"decision-{call.facts['region']}" if call.kind in _OF_DECISION else "intake"
