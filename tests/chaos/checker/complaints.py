"""Notices and appeals: each accepted complaint is published once in each of its regions, has a case there, and ends
only with its decision or, for an appeal, with a reason. Only a successful appeal adds a decision to the contested
case."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checker.cloudevents import Event, derived
from tests.chaos.checker.facts import APPEAL, NOTICE, Facts, is_repeated
from tests.chaos.checker.history import Call, DecisionRow
from tests.chaos.checker.violation import Violation

_OPEN = ("waiting", "claimed")
_STATES = {NOTICE: (*_OPEN, "decided"), APPEAL: (*_OPEN, "decided", "closed")}
_ALLOWED = {NOTICE: (202, 429), APPEAL: (202, 404, 409, 422, 429)}  # an appeal may arrive before its decision
_OPPOSITE = {"approve": "reject", "reject": "approve"}


def no_complaint_is_lost(facts: Facts) -> Iterator[Violation]:
    """Each notice and appeal with status 202 is in each of its regions, under the id in the response, and has a
    case."""
    for (type_, reference), calls in facts.complaints.items():
        first: Call | None = None
        for call in calls:
            if call.status == 202:
                first = first or call
                yield from _acknowledged(facts, type_, call)
                if not is_repeated(first.answer, call.answer):
                    title = f"{type_} {reference} got another response the second time"
                    yield Violation(1, title, (str(first), str(call)))
            elif call.status is not None and 400 <= call.status < 500 and call.status not in _ALLOWED[type_]:
                yield Violation(9, f"a valid {type_} was rejected: {call.status}", (str(call),))
    for region in facts.regions:
        for type_ in (NOTICE, APPEAL):
            for of, event in facts.complained[type_, region].items():
                yield from _has_response_and_case(facts, region, type_, of, event)


def complaints_end_with_their_decision(facts: Facts) -> Iterator[Violation]:
    """Versions and withdrawals do not end a notice or an appeal; a decision has at most one open appeal."""
    for region in facts.regions:
        still_open: dict[str, list[Event]] = defaultdict(list)
        for case_id, opened in facts.opened[region].items():
            row, type_ = facts.rows[region].get(case_id), opened.data.get("case_type", "item")
            if row is None or type_ not in _STATES:
                continue
            if row.state not in _STATES[type_]:
                title = f"WRONG END: the case {case_id} of a {type_} in {region} is {row.state}"
                yield Violation(1, title, (str(opened), str(row)))
            if row.state == "closed" and all(e.name != "case.closed" for e in facts.lives[region].get(case_id, [])):
                yield Violation(4, f"case {case_id} is closed, but its events differ", (str(opened), str(row)))
            if type_ == APPEAL and row.state in _OPEN:
                still_open[opened.data["appeal"]["decision"]["case_id"]].append(opened)
        for contested, appeals in still_open.items():
            if len(appeals) > 1:
                title = f"DOUBLE: {len(appeals)} appeals about case {contested} are open in {region}"
                yield Violation(2, title, tuple(map(str, appeals)))


def only_an_appeal_replaces_a_decision(facts: Facts) -> Iterator[Violation]:
    """Each later decision of a case has one successful appeal as its cause, which another reviewer decided."""
    for region in facts.regions:
        rows = {(row.case_id, row.n): row for row in facts.history.cells[region].decisions}
        overturned = {case_id: row for (case_id, _), row in rows.items() if row.action == "overturn"}
        used: dict[str, Event] = {}
        for event in facts.stage("decisions", region):
            if event.name == "decision.replaced":
                yield from _replacements(event, rows, overturned, used)
        for case_id, row in overturned.items():
            if case_id not in used:
                title = f"appeal case {case_id} was decided as overturn, but no decision was replaced in {region}"
                yield Violation(2, title, (str(row),))
        for (case_id, n), row in rows.items():
            opened = facts.opened[region].get(case_id)
            if n == 1 and opened is not None and (appeal := opened.data.get("appeal")) is not None:
                contested = rows.get((appeal["decision"]["case_id"], appeal["decision"]["n"]))
                if contested is not None and not contested.automated and contested.reviewer == row.reviewer:
                    title = f"{row.reviewer} decided the appeal about their own decision, in case {case_id}"
                    yield Violation(3, title, (str(contested), str(row)))


def _acknowledged(facts: Facts, type_: str, call: Call) -> Iterator[Violation]:
    of = call.answer[f"{type_}_id"]
    responses = {region: about["event_id"] for region, about in call.answer["regions"].items()}
    if type_ == NOTICE:
        allowed = [{model[market] for market in call.facts["body"]["markets"]} for model in facts.models_of(call)]
        if responses.keys() not in allowed:
            expected = " or ".join(str(sorted(regions)) for regions in allowed)
            yield Violation(1, f"{type_} {of} has a response for {sorted(responses)}, not {expected}", (str(call),))
    for region, event_id in responses.items():
        event = facts.complained[type_, region].get(of)
        if event is None:
            yield Violation(1, f"LOST: accepted {type_} {of} is not in region {region}", (str(call),))
        elif {event_id, derived("event", of, event.type, region)} != {event.id}:
            yield Violation(1, f"{type_} {of} in {region} has another id than the response", (str(call), str(event)))


def _has_response_and_case(facts: Facts, region: str, type_: str, of: str, event: Event) -> Iterator[Violation]:
    calls = facts.complaints.get((type_, event.data["reference"]), [])
    if all(call.status is not None and 400 <= call.status < 500 for call in calls):
        yield Violation(1, f"{type_} {of} is in {region}, but no response said so", (str(event), *map(str, calls)))
    case_id = derived("case", of, region, type_)
    opened = facts.opened[region].get(case_id)
    if opened is None:
        if facts.dead_lettered(event, region, "router") is None:
            yield Violation(1, f"LOST: {type_} {of} was accepted but has no case in {region}", (str(event),))
    elif case_id not in facts.rows[region] and facts.dead_lettered(opened, region, "decision") is None:
        yield Violation(1, f"LOST: case {case_id} was opened but is not stored in {region}", (str(opened),))


def _replacements(
    event: Event, rows: dict[tuple[str, int], DecisionRow], overturned: dict[str, DecisionRow], used: dict[str, Event]
) -> Iterator[Violation]:
    data, appeal = event.data, event.data.get("appeal_case_id", "")
    before = rows.get((data["case_id"], data["n"] - 1))
    if before is None or (before.decision_id, _OPPOSITE[before.action]) != (data["replaces"], data["action"]):
        title = f"the decision of case {data['case_id']} was replaced by a decision that does not follow it"
        yield Violation(2, title, (str(event), str(before)))
    if appeal not in overturned:
        title = f"the decision of case {data['case_id']} was replaced, but no appeal was successful"
        yield Violation(2, title, (str(event),))
    elif appeal in used:
        title = f"DOUBLE: appeal case {appeal} has replaced two decisions"
        yield Violation(2, title, (str(used[appeal]), str(event)))
    used[appeal] = event
