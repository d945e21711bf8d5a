"""Restores of the database of a region's decisions: what it may have lost, and what must not be given out again.

Lost may be: leases and decisions that were committed and not yet published when the database was dropped, and the
extensions of leases since the backup, which are in no event. Everything else is as before the loss. Each restore, and
each start of the server, begins a new incarnation, whose lowest token is its number times a million.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.chaos.checker.cloudevents import Event, derived
from tests.chaos.checker.facts import Facts, Lease, Restore, seconds
from tests.chaos.checker.history import Call
from tests.chaos.checker.violation import Violation

LOST: Final = "lost-in-restore"
RECOVERING: Final = "recovering"
_COMMANDS: Final = ("claim", "heartbeat", "release", "decide")
_TOKENS: Final = 1_000_000  # of one incarnation
_UNPUBLISHED: Final = 30.0  # seconds that an event may wait to be published, also of a process that was stopped
_CLOCKS: Final = 0.25


def may_be_lost(facts: Facts, region: str, call: Call) -> bool:
    """True if the effect of a successful command may not have been published when its database was dropped."""
    over = call.answered_at
    return over is not None and any(
        max(restore.unpublished, restore.dropping - _UNPUBLISHED) - _CLOCKS <= over and call.sent_at <= restore.dropped
        for restore in facts.restores[region]
    )


def is_lost_lease(facts: Facts, region: str, lease: Lease) -> bool:
    """True if every claim that received this lease may be lost; its event must not exist then."""
    return bool(lease.claims) and all(may_be_lost(facts, region, call) for call in lease.claims)


def extensions_that_are_not_lost(facts: Facts, region: str, lease: Lease) -> list[Call]:
    """The heartbeats of a lease whose effect no restore can have undone."""
    return [
        call
        for call in lease.heartbeats
        if not any(
            (call.answered_at or call.sent_at) >= restore.dumped - _CLOCKS and call.sent_at <= restore.dropped
            for restore in facts.restores[region]
        )
    ]


def wrong_token(facts: Facts, region: str, claimed: Event, last: int) -> str | None:
    """The fault of a claim's token that follows token `last`; None for a correct one.

    A correct token is the next one, or an incarnation's first one, and not of an incarnation before the last restore.
    """
    given = claimed.data["lease_token"]
    firsts = {event.data["incarnation"] * _TOKENS for event in facts.incarnations[region]}
    if given != last + 1 and not (given > last and given in firsts):
        return f"token {given} follows {last}"
    at = seconds(claimed.time)
    for restore in facts.restores[region]:
        began = _begun_after(facts, region, restore)
        if at > restore.dropped and began is not None and given < (first := began.data["incarnation"] * _TOKENS):
            return f"OLD TOKEN: {given} was given after a restore, whose first token is {first}"
    return None


def a_restore_begins_an_incarnation(facts: Facts) -> Iterator[Violation]:
    """Each restore and each start of PostgreSQL begins an incarnation, and nothing else; the numbers have no gap."""
    for region in facts.regions:
        restores = facts.restores[region]
        for restore in restores:
            if _begun_after(facts, region, restore) is None:
                title = f"INCARNATION: none began after the restore of decision-{region}"
                yield Violation(3, title, (str(restore.note), *map(str, facts.incarnations[region])))
        for number, event in enumerate(facts.incarnations[region], 1):
            name = derived("event", f"decision/{region}", event.type, str(number))
            expected = {"incarnation": number, "first_token": number * _TOKENS}
            if (event.id, event.subject, event.data) != (name, f"decision:service:{region}", expected):
                title = f"INCARNATION: the {number}. incarnation of {region} is {event.data}"
                yield Violation(3, title, (str(event),))
            reasons = [*(restore.dropping for restore in restores), *facts.server_starts]
            if not any(reason <= seconds(event.time) + _CLOCKS for reason in reasons):
                title = f"INCARNATION: the {number}. of {region} began without a restore"
                yield Violation(3, title, (str(event),))


def no_decision_id_is_issued_twice(facts: Facts) -> Iterator[Violation]:
    """A decision id has one value, in responses and in the table; a decision that is not lost has the id of its
    response."""
    for region in facts.regions:
        values: dict[str, dict[tuple[Any, ...], str]] = defaultdict(dict)
        stored: dict[tuple[Any, ...], str] = {}
        for row in facts.history.cells[region].decisions:
            value = row.case_id, row.lease_token, row.action, row.reasons, row.note
            values[row.decision_id][value] = str(row)
            stored[value] = row.decision_id
        for call in _commands(facts, region):
            named = (call.answer or {}).get("decision_id") if call.kind == "decide" and _succeeded(call) else None
            if named:
                value = _decided(call)
                values[named].setdefault(value, str(call))
                if stored.get(value, named) != named and not may_be_lost(facts, region, call):
                    title = f"decision {named} has another id in the table: {stored[value]}"
                    yield Violation(2, title, (str(call),))
        for name, of_id in values.items():
            if len(of_id) > 1:
                yield Violation(2, f"DOUBLE: decision id {name} has {len(of_id)} values", tuple(of_id.values()))


def nothing_is_decided_during_a_recovery(facts: Facts) -> Iterator[Violation]:
    """No command succeeds between the drop of a database and the beginning of the next incarnation."""
    for region in facts.regions:
        for restore in facts.restores[region]:
            began = _begun_after(facts, region, restore)
            until = float("inf") if began is None else seconds(began.time) - _CLOCKS
            for call in _commands(facts, region):
                if _succeeded(call) and restore.dropped < call.sent_at and (call.answered_at or 0.0) < until:
                    title = f"OPEN DURING A RECOVERY: a {call.kind} got {call.status} before the incarnation began"
                    yield Violation(3, title, (str(restore.note), str(call), str(began)))


def a_lost_lease_is_reported_truly(facts: Facts) -> Iterator[Violation]:
    """`lost-in-restore` and `recovering` are responses after a restore only; a lost lease was not published."""
    for region in facts.regions:
        published = {
            (case_id, event.data["lease_token"])
            for case_id, life in facts.lives[region].items()
            for event in life
            if event.name == "case.claimed"
        }
        first = min((restore.dropping for restore in facts.restores[region]), default=float("inf"))
        for call in _commands(facts, region):
            if not _is(call, LOST):
                continue
            if (call.answered_at or 0.0) < first:
                yield Violation(3, f"a {call.kind} got {LOST} without a restore", (str(call),))
            elif (call.facts["case_id"], call.facts["token"]) in published:
                yield Violation(3, f"a {call.kind} got {LOST}, but its lease was published", (str(call),))


def count_losses(facts: Facts) -> Counter[str]:
    """Count the losses of the restores, by the responses, and the responses that report one."""
    found: Counter[str] = Counter()
    for region in facts.regions:
        if not facts.restores[region]:
            continue
        found["restores"] += len(facts.restores[region])
        found["incarnations"] += len(facts.incarnations[region])
        stored = {row.decision_id for row in facts.history.cells[region].decisions}
        lost = set()
        claimed = {
            (case_id, event.data["lease_token"]) for case_id, life in facts.lives[region].items() for event in life
            if event.name == "case.claimed"
        }  # fmt: skip
        for call in _commands(facts, region):
            found[LOST] += _is(call, LOST)
            found[RECOVERING] += _is(call, RECOVERING)
            if call.kind == "decide" and _succeeded(call) and call.answer["decision_id"] not in stored:
                lost.add(call.answer["decision_id"])  # a repeated call names it again
        found["lost decisions"] += len(lost)
        found["lost leases"] += sum(
            bool(lease.claims) and of == region and (case_id, token) not in claimed
            for (of, case_id, token), lease in facts.leases.items()
        )
    return found


def _begun_after(facts: Facts, region: str, restore: Restore) -> Event | None:
    """The first incarnation that began after a restore."""
    return next(
        (event for event in facts.incarnations[region] if seconds(event.time) > restore.dropped - _CLOCKS), None
    )


def _commands(facts: Facts, region: str) -> Iterator[Call]:
    return (call for call in facts.history.calls if call.kind in _COMMANDS and call.facts["region"] == region)


def _succeeded(call: Call) -> bool:
    return call.status in (200, 201)


def _is(call: Call, problem: str) -> bool:
    if call.status is None or call.status < 400 or not isinstance(call.answer, dict):
        return False
    return str(call.answer.get("type", "")).endswith(f":{problem}")


def _decided(call: Call) -> tuple[Any, ...]:
    facts = call.facts
    return facts["case_id"], facts["token"], facts["action"], tuple(facts["reasons"]), facts["note"]
