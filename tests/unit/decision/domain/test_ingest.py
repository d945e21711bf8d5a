"""Ingest of cases and withdrawals of items (promises 2 and 6)."""

import pytest

from services.decision.domain.ingest import BatchChanges, CaseMessage, NewestVersion
from shared.contracts import events, ids
from tests.support.decision.domain import event_types, ingested, newest, received_case, received_withdrawal, states


def test_a_case_for_review_waits_without_an_event() -> None:
    changes = ingested(received_case())
    assert states(changes) == ["waiting"]
    assert (changes.decisions, changes.events) == ([], [])


@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_a_policys_verdict_decides_the_case_at_once(verdict: str) -> None:
    case = received_case(verdict=verdict)
    changes = ingested(case)
    [decision] = changes.decisions
    [event] = changes.events
    assert states(changes) == ["decided"]
    assert (decision.action, decision.automated, decision.policy_set, decision.n) == (
        verdict,
        True,
        "1-5f70bf18a086",
        1,
    )
    assert decision.decision_id == ids.decision_id(case.opened.case_id, 1)
    assert (event.attributes.type, event.attributes.causation_id) == (events.DECISION_MADE, case.event_id)
    assert (event.attributes.correlation_id, event.data.reasons) == (case.correlation_id, case.opened.reasons)


def test_a_newer_version_supersedes_the_open_case() -> None:
    old, new = received_case(version=1), received_case(version=2)
    changes = ingested(new, newest=newest(old, is_open=True))
    assert changes.superseded == {old.opened.case_id: new.opened.item_id}
    [event] = changes.events
    assert event.data == events.CaseSuperseded(
        case_id=old.opened.case_id, item_id=old.opened.item_id, superseded_by=new.opened.item_id
    )
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (new.event_id, old.correlation_id)


def test_a_newer_version_leaves_a_decided_case_decided() -> None:
    changes = ingested(received_case(version=2), newest=newest(received_case(version=1), is_open=False))
    assert (changes.superseded, changes.events) == ({}, [])
    assert states(changes) == ["waiting"]


def test_an_older_version_that_arrives_late_is_superseded_whatever_its_verdict() -> None:
    new, late = received_case(version=5), received_case(version=4, verdict="reject")
    changes = ingested(late, newest=newest(new, is_open=True))
    assert [(case.state, case.superseded_by) for case in changes.cases] == [("superseded", new.opened.item_id)]
    assert (changes.decisions, changes.newest, event_types(changes)) == ([], {}, [events.CASE_SUPERSEDED])


def test_the_later_record_is_newer_unless_a_higher_version_number_was_accepted_before() -> None:
    numbered, hashed = received_case(version=7), received_case(version=None, content="x")
    changes = ingested(numbered, hashed, received_case(version=1))
    assert states(changes) == ["superseded", "waiting", "superseded"]


def test_versions_of_one_batch_supersede_each_other_in_order() -> None:
    first, second, third = (
        received_case(version=1),
        received_case(version=2),
        received_case(version=3, verdict="approve"),
    )
    changes = ingested(first, second, third)
    assert [(case.state, case.superseded_by) for case in changes.cases] == [
        ("superseded", second.opened.item_id),
        ("superseded", third.opened.item_id),
        ("decided", None),
    ]
    assert event_types(changes) == [events.CASE_SUPERSEDED, events.CASE_SUPERSEDED, events.DECISION_MADE]
    assert changes.superseded == {}
    assert changes.newest[first.subject].case_id == third.opened.case_id


def test_a_withdrawal_closes_the_open_case() -> None:
    case, withdrawal = received_case(), received_withdrawal()
    changes = ingested(withdrawal, newest=newest(case, is_open=True), stored={case.opened.case_id: case.event_id})
    [event] = changes.events
    assert (changes.withdrawn, changes.superseded, changes.early) == ([case.opened.case_id], {}, set())
    assert event.data == events.CaseClosed(case_id=case.opened.case_id, item_id=case.opened.item_id, reason="withdrawn")
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (
        withdrawal.event_id,
        case.correlation_id,
    )
    assert event.attributes.id == ids.event_id(case.opened.case_id, events.CASE_CLOSED)


def test_a_withdrawal_does_not_change_a_case_that_has_ended() -> None:
    old, new = received_case(version=1), received_case(version=2)
    cases = {case.opened.case_id: case.event_id for case in (old, new)}
    for version in (1, 2):
        changes = ingested(received_withdrawal(version=version), newest=newest(new, is_open=False), stored=cases)
        assert changes == BatchChanges()


def test_the_withdrawal_of_a_superseded_version_leaves_the_newer_one_open() -> None:
    old, new = received_case(version=1), received_case(version=2)
    changes = ingested(old, new, received_withdrawal(version=1))
    assert states(changes) == ["superseded", "waiting"]
    assert event_types(changes) == [events.CASE_SUPERSEDED]


def test_a_case_and_its_withdrawal_in_one_batch_end_withdrawn_in_either_order() -> None:
    batches: list[list[CaseMessage]] = [
        [received_case(), received_withdrawal()],
        [received_withdrawal(), received_case()],
    ]
    for batch in batches:
        changes = ingested(*batch)
        assert states(changes) == ["withdrawn"]
        assert event_types(changes) == [events.CASE_CLOSED]
        assert (changes.withdrawn, changes.early, changes.applied, changes.decisions) == ([], set(), set(), [])


def test_a_withdrawal_that_arrives_before_its_case_is_kept_until_the_case_arrives() -> None:
    case = received_case(verdict="reject")
    kept = ingested(received_withdrawal())
    assert (kept.early, kept.events, kept.newest) == ({case.opened.case_id}, [], {})
    changes = ingested(case, withdrawn_early=kept.early)
    assert states(changes) == ["withdrawn"]
    assert (event_types(changes), changes.decisions, changes.applied) == ([events.CASE_CLOSED], [], kept.early)
    assert changes.events[0].attributes.causation_id == case.event_id


def test_a_policys_decision_before_the_withdrawal_stands() -> None:
    changes = ingested(received_case(verdict="approve"), received_withdrawal())
    assert states(changes) == ["decided"]
    assert event_types(changes) == [events.DECISION_MADE]


def test_after_a_withdrawal_a_newer_version_opens_a_case_and_an_older_one_is_superseded() -> None:
    old, gone, new = received_case(version=1), received_case(version=2), received_case(version=3)
    changes = ingested(gone, received_withdrawal(version=2), old, new)
    assert [(case.state, case.superseded_by) for case in changes.cases] == [
        ("withdrawn", None),
        ("superseded", gone.opened.item_id),
        ("waiting", None),
    ]
    assert event_types(changes) == [events.CASE_CLOSED, events.CASE_SUPERSEDED]


def test_an_older_version_that_was_withdrawn_before_it_arrived_is_superseded() -> None:
    late, new = received_case(version=1), received_case(version=2)
    changes = ingested(late, newest=newest(new, is_open=True), withdrawn_early={late.opened.case_id})
    assert [(case.state, case.superseded_by) for case in changes.cases] == [("superseded", new.opened.item_id)]
    assert changes.applied == {late.opened.case_id}


def at(minute: int) -> str:
    return f"2026-05-01T12:{minute:02}:00.000Z"


@pytest.mark.parametrize(
    ("posts", "current"),
    [
        # (version, client, minute of the Request-Time or None)
        ([(5, "a", None), (None, "a", None), (3, "a", None)], 1),
        ([(5, "a", None), (None, "a", None), (None, "b", None), (3, "a", None), (4, "b", None)], 2),
        ([(5, "a", None), (None, "a", None), (6, "a", None)], 2),
        ([(5, "a", None), (3, "a", None), (None, "a", None), (4, "a", None)], 2),
        ([(None, "a", 10), (None, "b", None), (None, "a", 5)], 1),
        ([(None, "a", 10), (None, "b", 1), (None, "a", 5)], 1),
        ([(None, "a", 10), (None, "b", 1), (None, "a", 11), (None, "b", 0)], 2),
        ([(None, "a", 10), (None, "a", None), (None, "a", 5)], 1),
        ([(1, "a", 10), (None, "b", None), (None, "a", 5)], 1),
        ([(1, "a", 10), (None, "b", None), (2, "a", 5)], 2),
        ([(None, "a", 10), (1, "b", None), (2, "a", 5)], 1),
        ([(None, "a", 10), (7, "a", 11), (None, "b", None), (8, "a", 9)], 2),
        ([(None, "a", 10), (7, "a", 12), (8, "a", 11)], 2),
        ([(1, "a", 10), (2, "a", 5), (None, "a", 7)], 1),
        ([(None, "", 10), (None, "b", None), (None, "", 5)], 1),
    ],
)
def test_an_older_version_stays_older_whatever_was_posted_in_between(
    posts: list[tuple[int | None, str, int | None]], current: int
) -> None:
    received = [
        received_case(
            version=version, content=f"text {n}", client=client, requested_at="" if minute is None else at(minute)
        )
        for n, (version, client, minute) in enumerate(posts)
    ]
    expected = ["waiting" if n == current else "superseded" for n in range(len(posts))]
    assert states(ingested(*received)) == expected
    stored: dict[str, NewestVersion] = {}
    seen: dict[str, str] = {}
    for post in received:
        changes = ingested(post, newest=stored)
        seen |= dict.fromkeys(changes.superseded, "superseded")
        seen |= {case.received.opened.case_id: case.state for case in changes.cases}
        stored |= changes.newest
    assert [seen[post.opened.case_id] for post in received] == expected


def test_the_times_of_at_most_twenty_clients_are_kept_and_none_if_the_newest_version_says_all() -> None:
    posts = [received_case(version=None, content=f"{n}", client=f"c{n}", requested_at=at(n)) for n in range(30)]
    [newest] = ingested(*posts).newest.values()
    assert sorted(newest.times) == sorted(f"c{n}" for n in range(10, 30))
    for post in (posts[0], received_case(version=3), received_case(version=3, client="c", requested_at=at(1))):
        [newest] = ingested(post).newest.values()
        assert newest.times == {}


EARLY, LATE = "2026-05-01T09:30:00.000Z", "2026-05-01T09:30:00.001Z"


@pytest.mark.parametrize(
    ("first", "second", "is_older"),
    [
        ((None, "shop", LATE), (None, "shop", EARLY), True),
        ((None, "shop", EARLY), (None, "shop", LATE), False),
        ((None, "shop", EARLY), (None, "shop", EARLY), False),
        ((None, "shop", LATE), (None, "other", EARLY), False),
        ((None, "shop", LATE), (None, "", ""), False),
        ((None, "", ""), (None, "shop", EARLY), False),
        ((None, "", ""), (None, "", ""), False),
        ((1, "shop", LATE), (2, "shop", EARLY), False),
        ((2, "shop", EARLY), (1, "shop", LATE), True),
        ((2, "shop", LATE), (None, "shop", EARLY), True),
        ((None, "shop", LATE), (2, "shop", EARLY), True),
    ],
)
def test_without_two_version_numbers_the_times_that_one_client_stated_are_compared(
    first: tuple[int | None, str, str], second: tuple[int | None, str, str], is_older: bool
) -> None:
    a, b = (
        received_case(version=version, content=name, client=client, requested_at=time)
        for name, (version, client, time) in (("a", first), ("b", second))
    )
    assert states(ingested(a, b)) == (["waiting", "superseded"] if is_older else ["superseded", "waiting"])
    stored = ingested(b, newest=newest(a, is_open=True))
    assert states(stored) == (["superseded"] if is_older else ["waiting"])
    assert (stored.superseded == {}) is is_older
