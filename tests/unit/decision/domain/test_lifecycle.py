"""The table of a case's life cycle."""

import itertools

import pytest

from services.decision.domain.cases import CLAIMED, ENDED_STATES, NEW, OPEN_STATES, WAITING
from services.decision.domain.lifecycle import (
    COMMANDS,
    OVERTURN,
    SUPERSEDE,
    TRANSITIONS,
    WITHDRAW,
    transition,
)
from shared.contracts.events import TYPES
from shared.validation.faults import InputRejected
from tests.support.decision.domain import stored_case

STATES = {NEW, *OPEN_STATES, *ENDED_STATES}


def test_the_table_has_only_known_states_commands_and_events() -> None:
    assert {state for state, _ in TRANSITIONS} <= STATES
    assert {command for _, command in TRANSITIONS} == set(COMMANDS)
    assert {found.state for found in TRANSITIONS.values()} == STATES - {NEW}
    assert {found.event_type for found in TRANSITIONS.values()} - {""} <= TYPES.keys()


def test_every_state_can_be_reached() -> None:
    reached = {NEW}
    while more := {found.state for (state, _), found in TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == STATES


def test_every_change_of_a_stored_cases_state_has_an_event() -> None:
    without_event = {key for key, found in TRANSITIONS.items() if found.state != key[0] != NEW and not found.event_type}
    assert without_event == set()


def test_a_case_that_has_ended_stays_in_its_state() -> None:
    assert all(found.state == state for (state, _), found in TRANSITIONS.items() if state in ENDED_STATES)


def test_waiting_and_claimed_cases_are_superseded_and_withdrawn_in_the_same_way() -> None:
    for command in (SUPERSEDE, WITHDRAW):
        assert TRANSITIONS[WAITING, command] == TRANSITIONS[CLAIMED, command]


@pytest.mark.parametrize(("state", "command"), [*itertools.product(sorted(ENDED_STATES), COMMANDS)])
def test_a_case_that_has_ended_rejects_every_command_that_is_not_in_the_table(state: str, command: str) -> None:
    case = stored_case(state=state, superseded_by="the-newer-item")
    if (found := TRANSITIONS.get((state, command))) is not None:
        assert (command, transition(case, command)) == (OVERTURN, found)
        return
    with pytest.raises(InputRejected) as rejected:
        transition(case, command)
    assert rejected.value.slug == {"decided": "already-decided"}.get(state, state)
