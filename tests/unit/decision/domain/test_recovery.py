"""The events that a restored database does not contain, tokens, and decision ids (promises 2, 3 and 5)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, get_args

import msgspec
import pytest

from services.decision.domain import decisions, leases
from services.decision.domain.appeals import AppealedCase
from services.decision.domain.cases import DECIDED, SUPERSEDED, WAITING, WITHDRAWN, Case
from services.decision.domain.decisions import DecideCommand
from services.decision.domain.leases import ClaimCommand
from services.decision.domain.lifecycle import TRANSITIONS
from services.decision.domain.recovery import (
    CaseEvent,
    PublishedEvent,
    RecoveredCase,
    RecoveryState,
    end_the_case,
    first_token,
    incarnation_of,
    published_event,
    recovered_event,
)
from shared.contracts import events, ids
from shared.contracts.envelope import Event
from shared.validation.faults import InputRejected
from tests.support.decision.cases import NOON
from tests.support.decision.domain import (
    CODES,
    LATER,
    event_types,
    ingested,
    newest,
    received_appeal,
    received_case,
    received_withdrawal,
    stored_case,
)

CLAIM = ClaimCommand("r-1", "in_house", 300)
ABOUT_NO_CASE = {events.DECISION_RECOVERED}
"""Event types of the decisions topic that no case has, so that a recovery applies them to none."""


def published(*of: Event[Any]) -> list[PublishedEvent]:
    found = [published_event(event) for event in of]
    assert None not in found
    return [event for event in found if event is not None]


def applied(case: Case, *of: Event[Any]) -> RecoveredCase:
    recovered = RecoveredCase(case)
    for event in published(*of):
        assert recovered.apply(event)
    return recovered


def test_every_event_type_of_the_decisions_topic_is_applied_or_is_about_no_case() -> None:
    applicable = {name for name, kind in events.TYPES.items() if kind in get_args(CaseEvent)}
    of_topic = {name for name, kind in events.TYPES.items() if kind.__module__ == events.DecisionMade.__module__}
    assert of_topic - applicable == ABOUT_NO_CASE
    assert applicable == {change.event_type for change in TRANSITIONS.values()} - {""}


def test_a_claim_is_applied() -> None:
    held, event = leases.claim("eu", stored_case(), NOON, CLAIM)
    assert applied(stored_case(), event).case == held


def test_a_release_is_applied() -> None:
    held, claimed = leases.claim("eu", stored_case(), NOON, CLAIM)
    free, released = leases.release("eu", held, LATER, token=1, reason="")
    assert released is not None
    assert applied(stored_case(), claimed, released).case == free


def test_an_expiry_is_applied() -> None:
    held, claimed = leases.claim("eu", stored_case(), NOON, CLAIM)
    free, expired = leases.expire("eu", held, NOON + timedelta(seconds=301))
    assert applied(stored_case(), claimed, expired).case == free


def test_a_decision_is_applied_and_counted() -> None:
    held, claimed = leases.claim("eu", stored_case(), NOON, CLAIM)
    ended, decision, made = decisions.decide(
        "eu", held, None, LATER, DecideCommand(1, "reject", ["FAKE"], "why"), codes=CODES
    )
    assert made is not None
    recovered = applied(stored_case(), claimed, made)
    assert recovered.case == ended
    assert recovered.decisions == [decision]
    assert recovered.counts == ["decided", "people/reject"]


def test_a_policys_decision_is_applied_and_counted() -> None:
    case = received_case(verdict="approve")
    changes = ingested(case)
    recovered = applied(stored_case(case), *changes.events)
    assert (recovered.case.state, recovered.counts) == (DECIDED, ["decided", "policy/approve"])
    assert recovered.decisions == changes.decisions


def test_the_end_of_a_claimed_case_is_applied() -> None:
    old = received_case()
    held, claimed = leases.claim("eu", stored_case(old), NOON, CLAIM)
    known = newest(old, is_open=True)
    [superseded] = ingested(received_case(version=2), newest=known, stored={old.opened.case_id: old.event_id}).events
    [closed] = ingested(received_withdrawal(), newest=known, stored={old.opened.case_id: old.event_id}).events
    by = superseded.data.superseded_by
    assert applied(stored_case(old), claimed, superseded).case == msgspec.structs.replace(
        held, state=SUPERSEDED, superseded_by=by
    )
    assert applied(stored_case(old), claimed, closed).case == msgspec.structs.replace(held, state=WITHDRAWN)


def history() -> tuple[list[Event[Any]], list[Case]]:
    """The events of a case, and its state after each of them."""
    first, one = leases.claim("eu", stored_case(), NOON, CLAIM)
    free, two = leases.release("eu", first, LATER, token=1, reason="")
    second, three = leases.claim("eu", free, LATER, CLAIM)
    expired, four = leases.expire("eu", second, LATER + timedelta(seconds=300))
    third, five = leases.claim("eu", expired, LATER + timedelta(seconds=301), CLAIM)
    ended, _, six = decisions.decide(
        "eu", third, None, LATER + timedelta(seconds=302), DecideCommand(3, "approve", []), codes=None
    )
    assert two is not None
    assert six is not None
    return [one, two, three, four, five, six], [first, free, second, expired, third, ended]


@pytest.mark.parametrize("contained", range(7))
def test_all_events_of_a_case_lead_from_each_earlier_state_to_the_last_one_and_change_nothing_again(
    contained: int,
) -> None:
    of_case, states = history()
    start = [stored_case(), *states][contained]
    recovered = RecoveredCase(start, n=int(contained == 6))
    known, new = published(*of_case[:contained]), published(*of_case[contained:])
    assert [recovered.apply(event) for event in known] == [False] * contained
    assert [recovered.apply(event) for event in new] == [True] * (6 - contained)
    assert recovered.case == states[-1]
    assert [recovered.apply(event) for event in [*known, *new]] == [False] * 6
    assert recovered.case == states[-1]


@pytest.mark.parametrize(
    ("incarnation", "written", "has_changed", "has_gone_back"),
    [
        (1, 10, False, False),
        (1, 11, False, False),  # the service works
        (1, 9, True, True),
        (2, 9, True, False),  # another process has recovered it
        (2, 11, True, False),
        (0, 11, True, False),  # it is noticed by the identity
        (0, 9, True, True),
    ],
)
def test_a_database_whose_outbox_went_back_is_a_restored_one(
    *, incarnation: int, written: int, has_changed: bool, has_gone_back: bool
) -> None:
    last = RecoveryState(1, False, "here", "here", "here", 10, False)
    found = last._replace(incarnation=incarnation, written=written)
    assert (found.has_changed_since(last), found.has_gone_back_since(last)) == (has_changed, has_gone_back)


def test_a_token_of_a_new_incarnation_is_larger_than_every_lost_one() -> None:
    held, _ = leases.claim("eu", stored_case(lease_token=7), NOON, CLAIM, first_token=first_token(2))
    assert held.lease_token == 2_000_000
    free, _ = leases.release("eu", held, NOON, token=2_000_000, reason="")
    again, _ = leases.claim("eu", free, NOON, CLAIM, first_token=first_token(2))
    assert again.lease_token == 2_000_001
    assert [incarnation_of(token) for token in (0, 999_999, 2_000_001)] == [0, 0, 2]


@pytest.mark.parametrize("token", [8, 1_999_999])
def test_a_token_that_the_case_does_not_know_was_lost(token: int) -> None:
    case = stored_case(lease_token=7)
    first = first_token(2)
    for command in (
        lambda: leases.heartbeat(case, NOON, token=token, seconds=5, first_token=first),
        lambda: leases.release("eu", case, NOON, token=token, reason="", first_token=first),
        lambda: decisions.decide(
            "eu", case, None, NOON, DecideCommand(token, "approve", []), codes=None, first_token=first
        ),
    ):
        with pytest.raises(InputRejected, match="was lost when the database was restored") as rejected:
            command()
        assert (rejected.value.slug, rejected.value.status) == ("lost-in-restore", 409)


@pytest.mark.parametrize(
    ("token", "slug"), [(7, "lease-released"), (6, "wrong-lease-token"), (2_000_000, "wrong-lease-token")]
)
def test_a_token_that_was_not_lost_is_refused_as_always(token: int, slug: str) -> None:
    with pytest.raises(InputRejected) as rejected:
        leases.heartbeat(stored_case(lease_token=7), NOON, token=token, seconds=5, first_token=first_token(2))
    assert rejected.value.slug == slug


def test_a_decision_after_a_restore_has_another_id_under_the_same_token() -> None:
    held, _ = leases.claim("eu", stored_case(), NOON, CLAIM)
    made = [
        decisions.decide(
            "eu", held, None, NOON, DecideCommand(1, "approve", []), codes=None, first_token=first_token(n)
        )[1]
        for n in range(3)
    ]
    assert made[0].decision_id == ids.decision_id(held.case_id, 1)
    assert len({decision.decision_id for decision in made}) == 3
    assert {decision.n for decision in made} == {1}


def again(case: Any, *of: Event[Any]) -> dict[str, Sequence[PublishedEvent]]:
    return {case.opened.case_id: published(*of)}


def test_a_decided_case_that_arrives_again_is_not_superseded_by_the_next_version_of_the_batch() -> None:
    old, new = received_case(), received_case(version=2)
    held, claimed = leases.claim("eu", stored_case(old), NOON, CLAIM)
    made = decisions.decide("eu", held, None, NOON, DecideCommand(1, "approve", []), codes=None)[2]
    assert made is not None
    changes = ingested(old, new, published=again(old, claimed, made))
    assert changes.events == []
    assert [case.state for case in changes.cases] == [WAITING, WAITING]
    assert changes.newest[old.subject].case_id == new.opened.case_id


def test_a_claimed_case_that_arrives_again_is_superseded_by_the_next_version_of_the_batch() -> None:
    old, new = received_case(), received_case(version=2)
    _, claimed = leases.claim("eu", stored_case(old), NOON, CLAIM)
    changes = ingested(old, new, published=again(old, claimed))
    assert event_types(changes) == ["piepowder.case.superseded.v1"]
    assert [case.state for case in changes.cases] == [SUPERSEDED, WAITING]


def test_an_older_version_that_arrives_again_stays_older() -> None:
    old, new = received_case(), received_case(version=2)
    [superseded] = ingested(old, newest=newest(new, is_open=True)).events
    changes = ingested(old, newest=newest(new, is_open=True), published=again(old, superseded))
    assert (changes.events, dict(changes.newest)) == ([], {})


@pytest.mark.parametrize(
    ("known", "event_type", "state"),
    [
        ({"withdrawn_early": {received_case().opened.case_id}}, "piepowder.case.closed.v1", WITHDRAWN),
        ({"newest": newest(received_case(version=2), is_open=True)}, "piepowder.case.superseded.v1", SUPERSEDED),
    ],
)
def test_a_claimed_case_that_arrives_again_ends_if_it_is_withdrawn_or_older_and_no_end_was_published(
    known: dict[str, Any], event_type: str, state: str
) -> None:
    case = received_case()
    held, claimed = leases.claim("eu", stored_case(case), NOON, CLAIM)
    changes = ingested(case, published=again(case, claimed), **known)
    assert event_types(changes) == [event_type]
    assert [new.state for new in changes.cases] == [state]
    recovered = RecoveredCase(stored_case(case, state=state))
    assert recovered.apply(*published(claimed))
    assert recovered.case == stored_case(case, state=state, lease_token=held.lease_token)


def test_an_appeal_that_was_closed_before_the_restore_does_not_block_the_next_one() -> None:
    item = received_case(verdict="reject").opened
    first, second = received_appeal(item), received_appeal(item, reference="2")
    known = {item.case_id: AppealedCase(1, has_open_appeal=True)}
    [closed] = ingested(first, appealed_cases=known).events
    changes = ingested(first, second, published=again(first, closed), appealed_cases={item.case_id: AppealedCase(1)})
    assert [case.state for case in changes.cases] == [WAITING, WAITING]
    assert changes.events == []


def test_a_claimed_newer_version_that_arrives_again_supersedes_the_open_case() -> None:
    old, new = received_case(), received_case(version=2)
    _, claimed = leases.claim("eu", stored_case(new), NOON, CLAIM)
    changes = ingested(new, newest=newest(old, is_open=True), published=again(new, claimed))
    assert changes.superseded == {old.opened.case_id: new.opened.item_id}
    assert event_types(changes) == ["piepowder.case.superseded.v1"]
    assert changes.newest[old.subject].case_id == new.opened.case_id


def test_the_early_withdrawal_of_a_case_that_was_closed_before_the_restore_does_not_wait_any_longer() -> None:
    case = received_case()
    early = {case.opened.case_id}
    [closed] = ingested(case, withdrawn_early=early).events
    changes = ingested(case, withdrawn_early=early, published=again(case, closed))
    assert (changes.events, changes.applied, changes.early) == ([], early, set())


def test_a_policys_decision_that_was_published_is_not_made_again() -> None:
    case = received_case(verdict="approve")
    [made] = ingested(case).events
    changes = ingested(case, published=again(case, made))
    assert (changes.events, changes.decisions) == ([], [])
    assert changes.newest[case.subject].open_correlation_id is None


def test_a_release_whose_claim_is_not_in_the_topic_any_more_raises_the_token() -> None:
    held, _ = leases.claim("eu", stored_case(lease_token=4), NOON, CLAIM)
    free, released = leases.release("eu", held, LATER, token=5, reason="")
    assert released is not None
    recovered = applied(stored_case(lease_token=4), released).case
    assert (recovered.state, recovered.lease_token) == (WAITING, free.lease_token)


def test_a_decision_under_an_earlier_token_does_not_set_the_token_back() -> None:
    held, _ = leases.claim("eu", stored_case(), NOON, CLAIM)
    made = decisions.decide("eu", held, None, LATER, DecideCommand(1, "approve", []), codes=None)[2]
    assert made is not None
    later, _ = leases.claim("eu", stored_case(), NOON, CLAIM, first_token=first_token(1))
    recovered = applied(later, made).case
    assert (recovered.state, recovered.lease_token) == (DECIDED, 1_000_000)


@pytest.mark.parametrize("state", [DECIDED, SUPERSEDED, WITHDRAWN])
def test_a_case_that_has_ended_is_not_ended_again_in_another_way(state: str) -> None:
    old = received_case()
    known, stored = newest(old, is_open=True), {old.opened.case_id: old.event_id}
    ends = [
        *ingested(received_case(version=2), newest=known, stored=stored).events,
        *ingested(received_withdrawal(), newest=known, stored=stored).events,
    ]
    recovered = RecoveredCase(stored_case(old, state=state))
    assert [recovered.apply(event) for event in published(*ends)] == [False, False]
    assert (recovered.case, recovered.counts) == (stored_case(old, state=state), [])


def test_a_published_claim_is_not_the_result_of_the_call_that_made_the_claim_before_it() -> None:
    before, _ = leases.claim("eu", stored_case(), NOON, CLAIM)
    keyed = msgspec.structs.replace(before, claim_key=ids.derive("call"), claim_body="body", claim_client="desk")
    free, _ = leases.release("eu", before, LATER, token=1, reason="")
    _, claimed = leases.claim("eu", free, LATER, ClaimCommand("r-2", "in_house", 300))
    recovered = applied(keyed, claimed).case
    assert (recovered.reviewer, recovered.lease_token) == ("r-2", 2)
    assert (recovered.claim_key, recovered.claim_body, recovered.claim_client) == (None, None, "")


def test_only_events_that_end_a_case_end_it() -> None:
    of_case, _ = history()
    assert not end_the_case(published(*of_case[:5]))
    assert end_the_case(published(*of_case))
    old = received_case()
    known, stored = newest(old, is_open=True), {old.opened.case_id: old.event_id}
    for message in (received_case(version=2), received_withdrawal()):
        assert end_the_case(published(*ingested(message, newest=known, stored=stored).events))


def test_the_event_of_an_incarnation_is_about_no_case_and_has_an_id_of_its_own() -> None:
    first, second = (recovered_event("eu", n, "2026-05-01T12:00:00.000Z") for n in (1, 2))
    assert published_event(first) is None
    assert first.attributes.id != second.attributes.id
    assert second.data.first_token == 2_000_000
