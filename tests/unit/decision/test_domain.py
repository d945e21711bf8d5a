"""The rules of cases, leases and decisions (promises 2, 3 and 6)."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from services.decision import domain
from services.decision.domain import Arrival, Case, Decision, Latest, Refused, Withdrawal
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event
from shared.runtime.clock import from_text
from tests.support.decision_cases import NOON, opened, withdrawn

LATER = NOON + timedelta(minutes=4)


def arrival(subject_id: str = "B07", **what: Any) -> Arrival:
    return come_in(*opened("eu", subject_id, **what))


def come_in(attributes: Attributes, case: events.CaseOpened) -> Arrival:
    return Arrival(
        attributes.id,
        attributes.correlation_id,
        attributes.subject,
        from_text(case.received_at),
        from_text(case.due_at),
        case,
        msgspec.json.encode(case),
    )


def withdrawal(subject_id: str = "B07", **what: Any) -> Withdrawal:
    attributes, case = withdrawn("eu", subject_id, **what)
    return Withdrawal(attributes.id, attributes.subject, case.case_id, case.item_id)


def latest(of: Arrival, *, is_open: bool) -> dict[str, Latest]:
    case = of.opened
    return {of.subject: Latest(case.case_id, case.item_id, case.version, of.correlation_id if is_open else None)}


def waiting(**changed: Any) -> Case:
    come = arrival()
    return Case(
        **{
            "case_id": come.opened.case_id,
            "subject": come.subject,
            "event_id": come.event_id,
            "correlation_id": come.correlation_id,
            "opened": come.opened,
            **changed,
        }
    )


def claimed(*, seconds: int = 300) -> Case:
    return domain.claim("eu", waiting(), NOON, reviewer="r-1", team="in_house", seconds=seconds)[0]


def decided(case: Case, *, token: int = 1, action: str = "reject") -> tuple[Case, Decision, Event[Any] | None]:
    return domain.decide(
        "eu", case, None, LATER, token=token, action=action, reasons=["COUNTERFEIT"], note="a fake dial"
    )


def types(taken: domain.Intake) -> list[str]:
    return [event.attributes.type for event in taken.events]


def test_a_review_waits_and_says_nothing() -> None:
    taken = domain.take_in("eu", [arrival()], {}, NOON)
    assert [case.state for case in taken.cases] == ["waiting"]
    assert (taken.decisions, taken.events) == ([], [])


@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_what_a_policy_decided_is_decided_at_once(verdict: str) -> None:
    come = arrival(verdict=verdict)
    taken = domain.take_in("eu", [come], {}, NOON)
    [decision] = taken.decisions
    [event] = taken.events
    assert taken.cases[0].state == "decided"
    assert (decision.action, decision.automated, decision.policy_set, decision.n) == (
        verdict,
        True,
        "1-5f70bf18a086",
        1,
    )
    assert decision.decision_id == ids.decision_id(come.opened.case_id, 1)
    assert (event.attributes.type, event.attributes.causation_id) == (events.DECISION_MADE, come.event_id)
    assert (event.attributes.correlation_id, event.data.reasons) == (come.correlation_id, come.opened.reasons)


def test_a_newer_version_ends_the_open_case_and_names_itself() -> None:
    old, new = arrival(version=1), arrival(version=2)
    taken = domain.take_in("eu", [new], latest(old, is_open=True), NOON)
    assert taken.superseded == {old.opened.case_id: new.opened.item_id}
    [event] = taken.events
    assert event.data == events.CaseSuperseded(
        case_id=old.opened.case_id, item_id=old.opened.item_id, superseded_by=new.opened.item_id
    )
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (new.event_id, old.correlation_id)


def test_a_newer_version_leaves_a_decided_case_decided() -> None:
    taken = domain.take_in("eu", [arrival(version=2)], latest(arrival(version=1), is_open=False), NOON)
    assert (taken.superseded, taken.events) == ({}, [])
    assert [case.state for case in taken.cases] == ["waiting"]


def test_an_older_version_that_comes_late_is_superseded_at_birth_whatever_its_verdict() -> None:
    new, late = arrival(version=5), arrival(version=4, verdict="reject")
    taken = domain.take_in("eu", [late], latest(new, is_open=True), NOON)
    assert [(case.state, case.superseded_by) for case in taken.cases] == [("superseded", new.opened.item_id)]
    assert (taken.decisions, taken.latest, types(taken)) == ([], {}, [events.CASE_SUPERSEDED])


def test_without_two_numbers_later_in_the_topic_is_newer() -> None:
    numbered, hashed = arrival(version=7), arrival(version=None, content="x")
    taken = domain.take_in("eu", [numbered, hashed, arrival(version=1)], {}, NOON)
    assert [case.state for case in taken.cases] == ["superseded", "superseded", "waiting"]


def test_versions_of_one_batch_supersede_each_other_in_order() -> None:
    first, second, third = arrival(version=1), arrival(version=2), arrival(version=3, verdict="approve")
    taken = domain.take_in("eu", [first, second, third], {}, NOON)
    assert [(case.state, case.superseded_by) for case in taken.cases] == [
        ("superseded", second.opened.item_id),
        ("superseded", third.opened.item_id),
        ("decided", None),
    ]
    assert types(taken) == [events.CASE_SUPERSEDED, events.CASE_SUPERSEDED, events.DECISION_MADE]
    assert taken.superseded == {}
    assert taken.latest[first.subject].case_id == third.opened.case_id


def test_a_withdrawal_closes_the_open_case_and_says_so() -> None:
    come, back = arrival(), withdrawal()
    taken = domain.take_in("eu", [back], latest(come, is_open=True), NOON, stored={come.opened.case_id})
    [event] = taken.events
    assert (taken.withdrawn, taken.superseded, taken.early) == ([come.opened.case_id], {}, set())
    assert event.data == events.CaseClosed(case_id=come.opened.case_id, item_id=come.opened.item_id, reason="withdrawn")
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (back.event_id, come.correlation_id)
    assert event.attributes.id == ids.event_id(come.opened.case_id, events.CASE_CLOSED)


def test_a_withdrawal_leaves_what_has_ended_as_it_is() -> None:
    old, new = arrival(version=1), arrival(version=2)
    cases = {old.opened.case_id, new.opened.case_id}
    for version in (1, 2):
        taken = domain.take_in("eu", [withdrawal(version=version)], latest(new, is_open=False), NOON, stored=cases)
        assert taken == domain.Intake()


def test_a_superseded_version_that_is_withdrawn_leaves_the_newer_one_open() -> None:
    old, new = arrival(version=1), arrival(version=2)
    taken = domain.take_in("eu", [old, new, withdrawal(version=1)], {}, NOON)
    assert [case.state for case in taken.cases] == ["superseded", "waiting"]
    assert types(taken) == [events.CASE_SUPERSEDED]


def test_a_case_and_its_withdrawal_in_one_batch_end_withdrawn_in_either_order() -> None:
    batches: list[list[Arrival | Withdrawal]] = [[arrival(), withdrawal()], [withdrawal(), arrival()]]
    for batch in batches:
        taken = domain.take_in("eu", batch, {}, NOON)
        assert [case.state for case in taken.cases] == ["withdrawn"]
        assert types(taken) == [events.CASE_CLOSED]
        assert (taken.withdrawn, taken.early, taken.met, taken.decisions) == ([], set(), set(), [])


def test_a_withdrawal_that_comes_before_its_case_is_kept_until_it_comes() -> None:
    come = arrival(verdict="reject")
    kept = domain.take_in("eu", [withdrawal()], {}, NOON)
    assert (kept.early, kept.events, kept.latest) == ({come.opened.case_id}, [], {})
    taken = domain.take_in("eu", [come], {}, NOON, early=kept.early)
    assert [case.state for case in taken.cases] == ["withdrawn"]
    assert (types(taken), taken.decisions, taken.met) == ([events.CASE_CLOSED], [], kept.early)
    assert taken.events[0].attributes.causation_id == come.event_id


def test_what_a_policy_decided_before_its_withdrawal_stays_decided() -> None:
    taken = domain.take_in("eu", [arrival(verdict="approve"), withdrawal()], {}, NOON)
    assert [case.state for case in taken.cases] == ["decided"]
    assert types(taken) == [events.DECISION_MADE]


def test_a_newer_version_opens_after_a_withdrawal_and_an_older_one_does_not() -> None:
    old, gone, new = arrival(version=1), arrival(version=2), arrival(version=3)
    taken = domain.take_in("eu", [gone, withdrawal(version=2), old, new], {}, NOON)
    assert [(case.state, case.superseded_by) for case in taken.cases] == [
        ("withdrawn", None),
        ("superseded", gone.opened.item_id),
        ("waiting", None),
    ]
    assert types(taken) == [events.CASE_CLOSED, events.CASE_SUPERSEDED]


def test_an_older_version_that_was_withdrawn_before_it_came_is_superseded_as_ever() -> None:
    late, new = arrival(version=1), arrival(version=2)
    taken = domain.take_in("eu", [late], latest(new, is_open=True), NOON, early={late.opened.case_id})
    assert [(case.state, case.superseded_by) for case in taken.cases] == [("superseded", new.opened.item_id)]
    assert taken.met == {late.opened.case_id}


def test_each_claim_has_a_larger_token_and_an_event_of_its_own() -> None:
    first, said = domain.claim("eu", waiting(), NOON, reviewer="r-1", team="in_house", seconds=300)
    again, _ = domain.expire("eu", first, LATER)
    second, said_again = domain.claim("eu", again, LATER, reviewer="r-2", team="acme", seconds=300)
    assert (first.lease_token, second.lease_token) == (1, 2)
    assert said.attributes.id != said_again.attributes.id
    assert (said.data.reviewer, said.data.lease_until) == ("r-1", "2026-05-01T12:05:00.000Z")


def test_who_holds_the_case_decides_it() -> None:
    case, decision, event = decided(claimed())
    assert (case.state, decision.reviewer, decision.team, decision.lease_token) == ("decided", "r-1", "in_house", 1)
    assert event is not None
    assert (event.data.action, event.data.automated, event.data.note) == ("reject", False, "a fake dial")
    assert event.attributes.causation_id == ids.event_id(case.case_id, events.CASE_CLAIMED, 1)


def test_an_expired_lease_cannot_decide_even_if_nobody_else_has_claimed() -> None:
    with pytest.raises(Refused) as refused:
        decided(claimed(seconds=240))
    assert refused.value.slug == "lease-expired"


def test_a_swept_lease_cannot_decide_and_is_told_that_it_expired() -> None:
    swept, _ = domain.expire("eu", claimed(seconds=5), LATER)
    with pytest.raises(Refused) as refused:
        decided(swept)
    assert refused.value.slug == "lease-expired"


@pytest.mark.parametrize("token", [1, 3])
def test_another_token_than_the_last_decides_nothing(token: int) -> None:
    again, _ = domain.expire("eu", claimed(seconds=5), LATER)
    second, _ = domain.claim("eu", again, LATER, reviewer="r-2", team="acme", seconds=300)
    with pytest.raises(Refused) as refused:
        decided(second, token=token)
    assert refused.value.slug == "wrong-lease-token"


def test_a_refusal_does_not_tell_the_token_that_would_not_be_refused() -> None:
    held = msgspec.structs.replace(claimed(), lease_token=417)
    for token in (1, 418):
        with pytest.raises(Refused) as refused:
            decided(held, token=token)
        assert "417" not in str(refused.value)
    case, decision, _ = decided(held, token=417)
    with pytest.raises(Refused) as refused:
        domain.decide("eu", case, decision, LATER, token=1, action="approve", reasons=[], note="")
    assert "417" not in str(refused.value)


def test_a_lease_is_its_claimers_alone_where_names_are_told() -> None:
    told: Any = {"token": 1, "reviewer": "r-2"}
    of_another = (
        lambda: domain.heartbeat(claimed(), LATER, seconds=60, **told),
        lambda: domain.release("eu", claimed(), LATER, reason="", **told),
        lambda: domain.decide("eu", claimed(), None, LATER, action="reject", reasons=["X"], note="", **told),
    )
    for act in of_another:
        with pytest.raises(Refused) as refused:
            act()
        assert (refused.value.slug, "r-1" in str(refused.value)) == ("wrong-lease-token", False)
    case, decision, _ = decided(claimed())
    with pytest.raises(Refused) as refused:
        domain.decide("eu", case, decision, LATER, action="reject", reasons=["COUNTERFEIT"], note="a fake dial", **told)
    assert refused.value.slug == "already-decided"
    assert domain.heartbeat(claimed(), LATER, token=1, seconds=60, reviewer="r-1").reviewer == "r-1"


def test_a_case_that_was_never_claimed_cannot_be_decided() -> None:
    with pytest.raises(Refused, match="never did"):
        decided(waiting())


def test_the_same_decision_again_is_the_same_decision() -> None:
    case, decision, _ = decided(claimed())
    again = domain.decide(
        "eu", case, decision, LATER, token=1, action="reject", reasons=["COUNTERFEIT"], note="a fake dial"
    )
    assert again == (case, decision, None)


def test_another_decision_under_the_same_token_is_refused() -> None:
    case, decision, _ = decided(claimed())
    with pytest.raises(Refused) as refused:
        domain.decide("eu", case, decision, LATER, token=1, action="approve", reasons=[], note="")
    assert refused.value.slug == "already-decided"


def test_a_superseded_case_says_by_what() -> None:
    ended = msgspec.structs.replace(claimed(), state="superseded", superseded_by="the-newer-item")
    for act in (
        lambda: decided(ended),
        lambda: domain.heartbeat(ended, LATER, token=1, seconds=60),
        lambda: domain.release("eu", ended, LATER, token=1, reason=""),
    ):
        with pytest.raises(Refused, match="the-newer-item") as refused:
            act()
        assert refused.value.slug == "superseded"


def test_a_lease_on_a_withdrawn_case_decides_nothing_and_is_told_why() -> None:
    ended = msgspec.structs.replace(claimed(), state="withdrawn")
    for act in (
        lambda: decided(ended),
        lambda: domain.heartbeat(ended, LATER, token=1, seconds=60),
        lambda: domain.release("eu", ended, LATER, token=1, reason=""),
    ):
        with pytest.raises(Refused, match="its item was withdrawn") as refused:
            act()
        assert refused.value.slug == "withdrawn"


def test_a_heartbeat_moves_the_end_of_the_lease() -> None:
    assert domain.heartbeat(claimed(), LATER, token=1, seconds=60).lease_until == LATER + timedelta(seconds=60)


def test_a_released_case_waits_again_and_a_second_release_changes_nothing() -> None:
    case, event = domain.release("eu", claimed(), LATER, token=1, reason="not my language")
    assert (case.state, case.reviewer) == ("waiting", "")
    assert event is not None
    assert (event.data.reviewer, event.data.reason) == ("r-1", "not my language")
    assert domain.release("eu", case, LATER, token=1, reason="") == (case, None)
    with pytest.raises(Refused) as refused:
        decided(case)
    assert refused.value.slug == "lease-released"
