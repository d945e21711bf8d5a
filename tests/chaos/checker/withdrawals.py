"""Withdrawals: each accepted withdrawal is published in every region of its item, after the item, and closes its case,
unless the case was decided or superseded before."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checker.cloudevents import Event, derived
from tests.chaos.checker.facts import Facts, is_of_item, is_older, is_repeated
from tests.chaos.checker.history import Call
from tests.chaos.checker.violation import Violation


def no_withdrawal_is_lost(facts: Facts) -> Iterator[Violation]:
    """Each withdrawal with status 202 is in every region of its item once, after the item; no other withdrawal
    exists."""
    for item, calls in facts.withdraw_calls.items():
        first: Call | None = None
        for call in calls:
            if call.status == 202:
                first = first or call
                yield from _acknowledged(facts, item, call)
                kept = first.answer.get("regions", {}).keys() <= call.answer.get("regions", {}).keys()
                if not kept or not is_repeated(first.answer, call.answer):
                    title = f"the withdrawal of item {item} got another response the second time"
                    yield Violation(1, title, (str(first), str(call)))
            elif call.status == 404:
                yield from _denied(facts, item, call)
            elif call.status is not None and 400 <= call.status < 500 and call.status != 429:
                yield Violation(9, f"a valid withdrawal was rejected: {call.status}", (str(call),))
    for region in facts.regions:
        for item, event in facts.withdrawals[region].items():
            calls = facts.withdraw_calls.get(item, [])
            if all(call.status is not None and 400 <= call.status < 500 for call in calls):
                title = f"item {item} was withdrawn in {region}, but no call asked for it"
                yield Violation(1, title, (str(event), *map(str, calls)))
            submitted = facts.submissions[region].get(item)
            if submitted is not None and submitted.record.offset > event.record.offset:
                title = f"DISORDER: the withdrawal of item {item} is before it in {region}"
                yield Violation(6, title, (str(event), str(submitted)))
            passed_on = facts.withdrawn[region].get(derived("case", item, region, "item"))
            if passed_on is None and not facts.dead_lettered(event, region, "router"):
                yield Violation(1, f"LOST: the withdrawal of item {item} was not forwarded in {region}", (str(event),))


def withdrawals_close_their_cases(facts: Facts) -> Iterator[Violation]:
    """A withdrawal closes its case if the case is open; no other case is closed as withdrawn."""
    for region in facts.regions:
        arrivals: dict[str, list[Event]] = defaultdict(list)
        for event in filter(is_of_item, facts.opened[region].values()):
            arrivals[event.subject].append(event)
        for case_id, row in facts.rows[region].items():
            opened, withdrawn = facts.opened[region].get(case_id), facts.withdrawn[region].get(case_id)
            if opened is None:
                continue
            if withdrawn is None or facts.dead_lettered(withdrawn, region, "decision"):
                if row.state == "withdrawn":
                    title = f"case {case_id} in {region} is withdrawn without a withdrawal"
                    yield Violation(1, title, (str(opened), str(row)))
                continue
            expected = _ends(arrivals[opened.subject], opened, withdrawn)
            if row.state not in expected:
                title = f"NOT WITHDRAWN: case {case_id} in {region} is {row.state} instead of {' or '.join(expected)}"
                yield Violation(1, title, (str(opened), str(withdrawn), str(row)))


def _acknowledged(facts: Facts, item: str, call: Call) -> Iterator[Violation]:
    published = {region: about["event_id"] for region, about in call.answer["regions"].items()}
    for region in facts.regions:
        event = facts.withdrawals[region].get(item)
        if region not in published:
            submitted = facts.submissions[region].get(item)
            if submitted is not None and _was_accepted_before(facts, item, region, call):
                title = f"item {item} was withdrawn, but not in region {region}"
                yield Violation(1, title, (str(call), str(submitted)))
        elif event is None:
            title = f"LOST: the accepted withdrawal of item {item} is not in region {region}"
            yield Violation(1, title, (str(call),))
        elif {published[region], derived("event", item, event.type, region)} != {event.id}:
            title = f"the withdrawal of item {item} in {region} has another id than the response"
            yield Violation(1, title, (str(call), str(event)))


def _was_accepted_before(facts: Facts, item: str, region: str, call: Call) -> bool:
    """True if a response before the call said that the item is in the region."""
    return any(
        posted.outcome == "accepted"
        and (posted.call.answered_at or call.sent_at) < call.sent_at
        and region in posted.verdict.get("regions", [region])
        for posted in facts.posts.get(item, [])
    )


def _denied(facts: Facts, item: str, call: Call) -> Iterator[Violation]:
    for posted in facts.posts.get(item, []):
        answered = posted.call.answered_at
        if posted.outcome == "accepted" and answered is not None and answered < call.sent_at:
            title = f"item {item} was accepted, but does not exist for the withdrawal"
            yield Violation(1, title, (str(posted), str(call)))


def _ends(arrivals: list[Event], opened: Event, withdrawn: Event) -> tuple[str, ...]:
    """The allowed states of a case, by the events before it and before its withdrawal in the topic."""
    came, ended = opened.record.offset, withdrawn.record.offset
    if any(event.record.offset < came and is_older(opened, event) for event in arrivals):
        return ("superseded",)
    if ended < came:
        return ("withdrawn",)
    if opened.data["verdict"] != "review":
        return ("decided",)
    if any(came < event.record.offset < ended and not is_older(event, opened) for event in arrivals):
        return ("superseded", "decided")
    return ("withdrawn", "decided")
