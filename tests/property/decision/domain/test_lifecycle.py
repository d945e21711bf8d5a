"""Random commands on one case: every change of state and every event is in the table of the life cycle (promise 3)."""

from datetime import datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.decision.domain import appeals, decisions, leases
from services.decision.domain.cases import CLAIMED, DECIDED, ENDED_STATES, NEW, OPEN_STATES, SUPERSEDED, WITHDRAWN, Case
from services.decision.domain.decisions import DecideCommand
from services.decision.domain.ingest import BatchChanges
from services.decision.domain.leases import ClaimCommand
from services.decision.domain.lifecycle import (
    CLAIM,
    CLOSE,
    DECIDE,
    EXPIRE,
    HEARTBEAT,
    OPEN,
    OVERTURN,
    RELEASE,
    SUPERSEDE,
    TRANSITIONS,
    WITHDRAW,
)
from shared.validation.faults import InputRejected
from tests.support.decision.cases import NOON
from tests.support.decision.domain import (
    claimed_case,
    decision_of,
    ingested,
    newest,
    received_appeal,
    received_case,
    received_withdrawal,
    stored_case,
)

RECEIVED = received_case(version=1)
UNDER_LEASE = (HEARTBEAT, RELEASE, DECIDE)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([CLAIM, CLAIM, CLAIM, *UNDER_LEASE, HEARTBEAT, RELEASE, EXPIRE, OVERTURN, SUPERSEDE, WITHDRAW]),
        st.sampled_from([0, 0, 0, 1]),  # difference between the last token and the token of the command
        st.sampled_from([0, 1, 30, 59, 60, 61]),  # seconds since the previous step; a lease lasts 60
    ),
    min_size=3,
    max_size=30,
)


def ended(case: Case, changes: BatchChanges) -> tuple[Case, str]:
    """The case after an ingest that may have ended it, and the type of the event about it."""
    state = (
        SUPERSEDED
        if case.case_id in changes.superseded
        else WITHDRAWN
        if case.case_id in changes.withdrawn
        else case.state
    )
    published = [event.attributes.type for event in changes.events if event.data.case_id == case.case_id]
    by = changes.superseded.get(case.case_id, case.superseded_by)
    return msgspec.structs.replace(case, state=state, superseded_by=by), "".join(published)


def perform(case: Case, command: str, token: int, now: datetime) -> tuple[Case, str]:
    """The case after a command, and the type of the published event; "" without an event."""
    known = newest(RECEIVED, is_open=case.state in OPEN_STATES)
    if command == SUPERSEDE:
        return ended(case, ingested(received_case(version=2), newest=known, stored={case.case_id: case.event_id}))
    if command == WITHDRAW:
        return ended(case, ingested(received_withdrawal(version=1), newest=known, stored={case.case_id: case.event_id}))
    if command == CLAIM:
        after, event = leases.claim("eu", case, now, ClaimCommand("r-1", "in_house", 60))
        return after, event.attributes.type
    if command == HEARTBEAT:
        return leases.heartbeat(case, now, token=token, seconds=60), ""
    if command == RELEASE:
        after, released = leases.release("eu", case, now, token=token, reason="")
        return after, "" if released is None else released.attributes.type
    if command == EXPIRE:
        after, expired = leases.expire("eu", case, now)
        return after, expired.attributes.type
    if command == DECIDE:
        after, _, made = decisions.decide("eu", case, None, now, DecideCommand(token, "approve", []), codes=None)
        return after, "" if made is None else made.attributes.type
    appeal = claimed_case(received_appeal(RECEIVED.opened), reviewer="r-2")
    _, replaced = appeals.overturn("eu", appeal, decision_of(RECEIVED), case, decision_of(RECEIVED))
    return case, replaced.attributes.type


def is_possible(case: Case, command: str) -> bool:
    """True if a use case can perform this command in this state: the store gives only waiting cases to a claim,
    claimed cases to the expiry, and decided cases to an appeal."""
    needed = {CLAIM: "waiting", EXPIRE: CLAIMED, OVERTURN: DECIDED}.get(command, case.state)
    return case.state == needed


def has_running_lease(case: Case, now: datetime) -> bool:
    """True if the case has a lease that has not expired."""
    return case.state == CLAIMED and case.lease_until is not None and case.lease_until > now


@given(STEPS)
def test_every_accepted_command_is_a_transition_of_the_table_and_a_rejected_command_changes_nothing(
    steps: list[tuple[str, int, int]],
) -> None:
    case, now = stored_case(RECEIVED), NOON
    for command, behind, seconds in steps:
        now += timedelta(seconds=seconds)
        if not is_possible(case, command):
            continue
        in_table = TRANSITIONS.get((case.state, command))
        try:
            after, event_type = perform(case, command, case.lease_token - behind, now)
        except InputRejected:
            assert command in UNDER_LEASE
            assert in_table is None or behind or not has_running_lease(case, now)
            continue
        if in_table is None:  # a repeated release, or an ingest after the end
            assert (after, event_type) == (case, "")
            assert command == RELEASE or case.state in ENDED_STATES
        else:
            assert (after.state, event_type) == in_table
            assert command not in UNDER_LEASE or (has_running_lease(case, now) and not behind)
        case = after


def test_every_way_to_open_a_case_is_a_transition_of_the_table() -> None:
    item, newer, policy = received_case(version=1), received_case(version=2), received_case(verdict="approve")
    appeal, second = (received_appeal(item.opened, reference=reference) for reference in "12")
    opened = {
        OPEN: ingested(item),
        DECIDE: ingested(policy),
        SUPERSEDE: ingested(item, newest=newest(newer, is_open=False)),
        WITHDRAW: ingested(item, withdrawn_early={item.opened.case_id}),
        CLOSE: ingested(appeal, second),
    }
    for command, changes in opened.items():
        event_type = "".join(event.attributes.type for event in changes.events)
        assert (changes.cases[-1].state, event_type) == TRANSITIONS[NEW, command]
    assert opened.keys() == {command for state, command in TRANSITIONS if state == NEW}
