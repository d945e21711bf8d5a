"""The status of items from facts: the same for any order and repetition of events; a decision takes precedence."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.items.domain.status import (
    DeadLetterFact,
    Status,
    StatusFacts,
    conflict,
    dead_letter_of,
    facts_from_event,
    markets,
    merge,
    status,
    submitted_to,
    updated_at,
    withdrawal_waits_since,
)
from shared.contracts.events import (
    CaseClaimed,
    CaseClosed,
    CaseOpened,
    CaseSuperseded,
    DecisionMade,
    Item,
    ItemSubmitted,
    ItemWithdrawn,
    Struct,
    Trace,
)

ITEM_ID = "e6fe604e-109f-52d7-b160-f27a832bcc56"
SUBJECT = "shop:product:B1"


def at(second: int) -> str:
    return f"2026-05-01T09:30:{second:02d}.000Z"


def facts(data: Struct, position: int, second: int) -> StatusFacts:
    found = facts_from_event(data, subject=SUBJECT, position=position, time=at(second))
    assert found is not None
    return found


def submitted(position: int = 0, *, content_hash: str = "aa") -> StatusFacts:
    data = ItemSubmitted(
        item_id=ITEM_ID,
        platform="shop",
        kind="product",
        subject_id="B1",
        content_hash=content_hash,
        client="c",
        received_at=at(position),
        regions=["eu"],
        item=Item(markets=["DE"]),
    )
    return facts(data, position, position)


def opened(position: int = 0, *, verdict: str = "review") -> StatusFacts:
    data = CaseOpened(
        case_id="case",
        item_id=ITEM_ID,
        platform="shop",
        kind="product",
        subject_id="B1",
        queue="q",
        priority=5,
        received_at=at(0),
        due_at=at(50),
        verdict=verdict,
        trace=Trace(policy_set="ps-1", operating_model="om-1"),
        item=Item(markets=["DE"]),
    )
    return facts(data, position, 10 + position)


def decided(n: int = 1, action: str = "approve") -> StatusFacts:
    data = DecisionMade(
        decision_id=f"d-{n}",
        case_id="case",
        item_id=ITEM_ID,
        platform="shop",
        kind="product",
        subject_id="B1",
        queue="q",
        n=n,
        action=action,
        policy_set="ps-1",
        automated=False,
        received_at=at(0),
        due_at=at(50),
    )
    return facts(data, n, 20 + n)


def superseded() -> StatusFacts:
    return facts(CaseSuperseded(case_id="case", item_id=ITEM_ID, superseded_by="other"), 3, 30)


def withdrawn(position: int = 1) -> StatusFacts:
    data = ItemWithdrawn(
        item_id=ITEM_ID,
        platform="shop",
        kind="product",
        subject_id="B1",
        client="c",
        reason="sold",
        withdrawn_at=at(position),
        regions=["eu"],
    )
    return facts(data, position, 32 + position)


def closed(reason: str = "withdrawn") -> StatusFacts:
    return facts(CaseClosed(case_id="case", item_id=ITEM_ID, reason=reason), 3, 35)


def dead_submission(position: int = 0) -> StatusFacts:
    return StatusFacts(dead_submission=DeadLetterFact(position=position, reason="no market", at=at(40 + position)))


def dead_case(position: int = 0) -> StatusFacts:
    return StatusFacts(dead_case=DeadLetterFact(position=position, reason="too long", at=at(40 + position)))


def parked_case(position: int = 0, second: int = 40) -> StatusFacts:
    return StatusFacts(
        dead_case=DeadLetterFact(position=position, reason="parked key", at=at(second), since=min(position, 2))
    )


def merged(*known: StatusFacts) -> StatusFacts:
    total = StatusFacts()
    for one in known:
        total = merge(total, one)
    return total


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([submitted()], Status.SUBMITTED),
        ([submitted(), opened()], Status.IN_REVIEW),
        ([submitted(), opened(verdict="approve")], Status.SUBMITTED),
        ([submitted(), opened(), decided()], Status.APPROVED),
        ([submitted(), opened(), decided(action="reject")], Status.REJECTED),
        ([decided(1, "approve"), decided(2, "reject")], Status.REJECTED),
        ([submitted(), opened(), superseded()], Status.SUPERSEDED),
        ([superseded(), decided()], Status.APPROVED),
        ([decided()], Status.APPROVED),
        ([submitted(), dead_submission()], Status.DEAD_LETTERED),
        ([submitted(), dead_submission(), opened()], Status.IN_REVIEW),
        ([submitted(), opened(), dead_case()], Status.DEAD_LETTERED),
        ([submitted(), opened(), parked_case()], Status.PARKED),
        ([submitted(), opened(), parked_case(), withdrawn()], Status.PARKED),
        ([submitted(), opened(), parked_case(), opened(4)], Status.IN_REVIEW),
        ([submitted(), opened(), parked_case(), opened(4), parked_case(4)], Status.IN_REVIEW),
        ([submitted(), opened(2), parked_case(2), opened(4), parked_case(4)], Status.PARKED),
        ([submitted(), opened(0), opened(2), parked_case(2)], Status.PARKED),
        ([submitted(), opened(), parked_case(3, second=39), dead_case(3)], Status.DEAD_LETTERED),
        ([submitted(), opened(), parked_case(), opened(4), decided()], Status.APPROVED),
        ([submitted(), opened(), dead_case(), decided()], Status.APPROVED),
        ([submitted(0), dead_submission(0), submitted(5)], Status.SUBMITTED),
        ([submitted(0), submitted(5), dead_submission(5)], Status.DEAD_LETTERED),
        ([opened(0), dead_case(0), opened(4)], Status.IN_REVIEW),
        ([submitted(), withdrawn()], Status.SUBMITTED),
        ([submitted(), opened(), withdrawn()], Status.IN_REVIEW),
        ([submitted(), opened(), withdrawn(), closed()], Status.WITHDRAWN),
        ([closed()], Status.WITHDRAWN),
        ([opened(), closed("merged")], Status.IN_REVIEW),
        ([submitted(), opened(), decided(action="reject"), withdrawn()], Status.REJECTED),
        ([submitted(), opened(), superseded(), withdrawn()], Status.SUPERSEDED),
        ([submitted(), dead_submission(), withdrawn()], Status.DEAD_LETTERED),
        ([submitted(), opened(), dead_case(), withdrawn()], Status.DEAD_LETTERED),
        ([submitted(), opened(), dead_case(), withdrawn(), closed()], Status.WITHDRAWN),
        ([withdrawn()], Status.WITHDRAWN),
    ],
)
def test_the_status_is_the_latest_stage_that_the_facts_prove(known: list[StatusFacts], expected: Status) -> None:
    assert status(merged(*known)) is expected


def test_a_dead_letter_determines_the_status_until_later_facts_exist() -> None:
    dead_letter = dead_letter_of(merged(submitted(), dead_submission()))
    assert dead_letter is not None
    assert dead_letter.reason == "no market"
    assert dead_letter_of(merged(submitted(), dead_submission(), opened())) is None


@pytest.mark.parametrize("position", [0, 5])
def test_a_discarded_dead_letter_is_the_status_in_any_order(position: int) -> None:
    """The discard is written at the position of the dead letter, or, by the group, at that of a later copy."""
    parked = StatusFacts(dead_submission=DeadLetterFact(position=0, reason="no market", at=at(3), since=0))
    closing = DeadLetterFact(position=position, reason="discarded: junk", at=at(2), discarded=True)
    for order in ([parked, StatusFacts(dead_submission=closing)], [StatusFacts(dead_submission=closing), parked]):
        known = merged(submitted(), *order)
        assert status(known) is Status.DISCARDED
        assert dead_letter_of(known) == closing
        assert status(merged(known, submitted(9))) is Status.SUBMITTED  # posted again, and not handled yet
        assert status(merged(known, opened())) is Status.IN_REVIEW


def test_a_discarded_withdrawal_does_not_wait_and_the_case_stays_open() -> None:
    known = merged(submitted(), opened(), withdrawn())
    assert withdrawal_waits_since(known)
    known = merged(known, StatusFacts(withdrawal_discarded=at(9)))
    assert (withdrawal_waits_since(known), status(known)) == ("", Status.IN_REVIEW)


def test_other_content_with_the_same_version_is_a_conflict_and_the_first_submission_applies() -> None:
    for order in ([submitted(0), submitted(1, content_hash="bb")], [submitted(1, content_hash="bb"), submitted(0)]):
        known = merged(*order, submitted(2))
        assert known.conflict
        assert known.submission is not None
        assert known.submission.content_hash == "aa"
    assert not merged(submitted(0), submitted(1)).conflict


def test_a_conflict_is_other_content_in_one_region_or_in_different_regions() -> None:
    here, there = submitted(0), submitted(7, content_hash="bb")
    assert conflict([here, there])
    assert conflict([opened(), merged(here, there)])
    assert not conflict([here, submitted(7), opened()])
    assert not conflict([])


def test_updated_at_is_the_time_of_the_status() -> None:
    assert updated_at(merged(submitted(0), submitted(3))) == at(0)
    assert updated_at(merged(submitted(), opened(1))) == at(11)
    assert updated_at(merged(submitted(), opened(), decided(1))) == at(21)
    assert updated_at(merged(submitted(), dead_submission())) == at(40)
    assert updated_at(merged(submitted(), opened(1), withdrawn())) == at(11)
    assert updated_at(merged(submitted(), opened(1), withdrawn(), closed())) == at(35)
    assert updated_at(merged(submitted(), opened(), decided(1), withdrawn())) == at(21)


def test_the_regions_of_an_item_are_known_from_its_submission_in_any_region() -> None:
    assert submitted_to({"us": merge(opened(), withdrawn())}) == set()
    assert submitted_to({"us": submitted(), "uk": opened()}) == {"eu", "us"}


def test_the_markets_of_an_item_are_known_from_its_submission_in_any_region() -> None:
    assert markets({"us": merge(opened(), withdrawn())}) == []
    assert markets({"us": opened(), "uk": submitted()}) == ["DE"]


def test_an_event_that_does_not_concern_the_status_gives_no_facts() -> None:
    claimed = CaseClaimed(
        case_id="c", item_id=ITEM_ID, queue="q", reviewer="r", team="t", lease_token=1, lease_until=at(1)
    )
    assert facts_from_event(claimed, subject=SUBJECT, position=0, time=at(1)) is None


_ALL_FACTS = [
    submitted(0),
    submitted(1),
    submitted(4, content_hash="bb"),
    opened(0),
    opened(3),
    dead_submission(1),
    dead_case(0),
    dead_case(3),
    parked_case(3, second=42),
    parked_case(4),
    decided(1),
    decided(2, "reject"),
    superseded(),
    withdrawn(1),
    withdrawn(5),
    closed(),
]


@given(st.sets(st.sampled_from(range(len(_ALL_FACTS))), min_size=1), st.randoms(use_true_random=False))
def test_any_order_repetition_and_grouping_of_events_gives_the_same_facts(chosen: set[int], rng: random.Random) -> None:
    chosen_facts = [_ALL_FACTS[n] for n in sorted(chosen)]
    expected = merged(*chosen_facts)
    repeated = chosen_facts + rng.choices(chosen_facts, k=len(chosen_facts))
    rng.shuffle(repeated)
    cut = rng.randint(0, len(repeated))
    assert merged(*repeated) == expected
    assert merge(merged(*repeated[:cut]), merged(*repeated[cut:])) == expected
    assert merge(expected, expected) == expected
