"""The cases that the simulated reviewers of a run may decide: those of the run's own items."""

from typing import Any

from deploy.local.run_cases import RunCases
from piepowder import simulation
from piepowder.tally import JournalEntry, Tally
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event, RecordId
from tests.support.decision.cases import noticed, opened


def add(cases: RunCases, data: Any, kind: str = events.CASE_OPENED) -> None:
    attributes = Attributes(ids.derive(kind, repr(data)), kind, "test", "", "s", "eu", "c")
    cases.add("eu", Event(attributes, data), RecordId("t", 0, 0))


def accept(tally: Tally, *submitted: events.CaseOpened) -> None:
    for case in submitted:
        tally.accept(JournalEntry(1, case.item_id, "s", ["eu", "us"]))


def decided(case: events.CaseOpened) -> events.DecisionMade:
    fields: dict[str, Any] = {
        name: getattr(case, name) for name in ("case_id", "item_id", "platform", "kind", "subject_id", "queue")
    }
    more: dict[str, Any] = {"decision_id": "d", "n": 1, "action": "reject", "policy_set": "ps", "automated": False}
    return events.DecisionMade(**fields, **more, received_at="", due_at="")


def test_only_waiting_cases_of_the_runs_items_are_offered() -> None:
    tally = Tally()
    cases = RunCases(tally)
    own, other, notice = opened("eu", "own")[1], opened("eu", "other")[1], noticed("eu", "own")[1]
    by_policy = opened("eu", "policy", verdict="approve")[1]
    for case in (own, other, notice, by_policy):
        add(cases, case)
    assert (cases.count("eu"), cases.next("eu")) == (0, [])
    accept(tally, own, by_policy)
    assert (cases.count("eu"), cases.next("eu"), cases.next("us")) == (1, [own.case_id], [])
    add(cases, own)  # a repeated event
    assert cases.count("eu") == 1


def test_a_case_that_has_ended_is_not_offered_in_any_order_of_the_events() -> None:
    tally = Tally()
    cases = RunCases(tally)
    first, second, third, fourth = (opened("eu", f"s{n}")[1] for n in range(4))
    accept(tally, first, second, third, fourth)
    add(cases, decided(first), events.DECISION_MADE)
    for case in (first, second, third, fourth):
        add(cases, case)
    superseded = events.CaseSuperseded(case_id=second.case_id, item_id=second.item_id, superseded_by="x")
    add(cases, superseded, events.CASE_SUPERSEDED)
    assert cases.next("eu") == [third.case_id, fourth.case_id]
    cases.done("eu", third.case_id)
    closed = events.CaseClosed(case_id=fourth.case_id, item_id=fourth.item_id, reason="withdrawn")
    add(cases, closed, events.CASE_CLOSED)
    assert (cases.count("eu"), cases.next("eu")) == (0, [])


def test_each_call_returns_other_cases_until_all_had_their_turn() -> None:
    tally = Tally()
    cases = RunCases(tally)
    submitted = [opened("eu", f"s{n}")[1] for n in range(simulation.MAX_CHOICE + 50)]
    accept(tally, *submitted)
    for case in submitted:
        add(cases, case)
    all_ids = [case.case_id for case in submitted]
    assert cases.next("eu") == all_ids[: simulation.MAX_CHOICE]
    assert cases.next("eu")[:50] == all_ids[simulation.MAX_CHOICE :]
