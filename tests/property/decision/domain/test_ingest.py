"""Ingest of versions, withdrawals, notices and appeals in any order and in any batches: promises 2, 5 and 6."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.decision.domain.appeals import AppealedCase
from services.decision.domain.cases import DECIDED, ITEM, NOTICE, SUPERSEDED, WAITING, WITHDRAWN
from services.decision.domain.ingest import CaseMessage, NewestVersion, ReceivedCase, ReceivedWithdrawal
from tests.support.decision.domain import (
    ingested,
    received_appeal,
    received_case,
    received_notice,
    received_withdrawal,
    under_other_rules,
)

Post = tuple[str, int | None, str]
Messages = list[CaseMessage]

POSTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 6) | st.none(), st.sampled_from(["review", "approve", "reject"])),
    max_size=12,
    unique_by=lambda post: post[:2] if post[1] is not None else post,
)


def cases_of(posts: list[Post]) -> list[ReceivedCase]:
    return [
        received_case(subject, version=version, content=verdict, verdict=verdict) for subject, version, verdict in posts
    ]


def withdrawals_of(posts: list[Post]) -> list[ReceivedWithdrawal]:
    return [received_withdrawal(subject, version=version, content=verdict) for subject, version, verdict in posts]


@st.composite
def topics(draw: st.DrawFn) -> Messages:
    """Cases of items, withdrawals of some of them or of an unknown case, notices about some subjects, and appeals about
    first and second decisions of any of these cases, in any order."""
    posts = draw(POSTS)
    withdrawn = draw(st.lists(st.sampled_from(posts), unique=True)) if posts else []
    unknown: list[Post] = draw(st.sampled_from([[], [("a", 9, "review")]]))
    notices = [received_notice(subject) for subject in draw(st.sampled_from(["", "a", "bc"]))]
    cases = [*cases_of(posts), *notices]
    rng = random.Random(draw(st.integers(0, 2**32)))
    appeals = [
        received_appeal(rng.choice(cases).opened, n=rng.choice((1, 1, 2)), reference=str(number), reviewer="")
        for number in range(draw(st.integers(0, 4)) if cases else 0)
    ]
    return draw(st.permutations([*cases, *appeals, *withdrawals_of(withdrawn + unknown)]))


def items(messages: Messages) -> Messages:
    """The cases of items and their withdrawals."""
    return [
        message for message in messages if isinstance(message, ReceivedWithdrawal) or message.opened.case_type == ITEM
    ]


def appealed_case(message: CaseMessage) -> str:
    """The case that an appeal is about; "" for any other message."""
    appeal = message.opened.appeal if isinstance(message, ReceivedCase) else None
    return "" if appeal is None else appeal.decision.case_id


class Stored:
    """The stored state after a number of batches."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.published: list[tuple[str, str]] = []
        self.newest: dict[str, NewestVersion] = {}
        self.early: set[str] = set()
        self.appeals: dict[str, ReceivedCase] = {}
        self.numbers: dict[str, int] = {}
        self.reopened = 0
        self._opened_by: dict[str, str] = {}

    def outcome(self) -> dict[str, object]:
        """Everything except the events that were received."""
        return {name: value for name, value in vars(self).items() if name != "reopened"}

    def ingest(self, batch: Messages) -> None:
        changes = ingested(
            *batch,
            newest=dict(self.newest),
            stored=dict(self._opened_by),
            withdrawn_early=frozenset(self.early),
            appealed_cases={appealed_case(message): self.appealed(appealed_case(message)) for message in batch},
        )
        self.states |= {case.received.opened.case_id: case.state for case in changes.cases}
        self._opened_by |= {case.received.opened.case_id: case.received.event_id for case in changes.cases}
        self.states |= dict.fromkeys(changes.superseded, SUPERSEDED)
        self.states |= dict.fromkeys(changes.withdrawn, WITHDRAWN)
        self.published += [(event.attributes.id, event.attributes.subject) for event in changes.events]
        self.newest |= changes.newest
        self.early = (self.early | changes.early) - changes.applied
        self.appeals |= {
            case.received.opened.case_id: case.received for case in changes.cases if appealed_case(case.received)
        }
        self.numbers |= {decision.case_id: decision.n for decision in changes.decisions}
        self.reopened += changes.reopened

    def appealed(self, case_id: str) -> AppealedCase:
        has_open_appeal = case_id in map(appealed_case, self.open_appeals())
        return AppealedCase(self.numbers.get(case_id, 0), has_open_appeal=has_open_appeal)

    def open_appeals(self) -> list[ReceivedCase]:
        return [appeal for case_id, appeal in self.appeals.items() if self.states[case_id] == WAITING]

    def decide_appeals(self, *, overturn: bool) -> None:
        """Decide all open appeals. An overturn also makes the first decision of a case that was still waiting."""
        for appeal in self.open_appeals():
            self.states[appeal.opened.case_id] = DECIDED
            if overturn:
                self.numbers[appealed_case(appeal)] = max(self.numbers.get(appealed_case(appeal), 0), 1) + 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # the object is mutable


def stored_after(batches: list[Messages]) -> Stored:
    stored = Stored()
    for batch in batches:
        stored.ingest(batch)
    return stored


def split(messages: Messages, size: int) -> list[Messages]:
    return [messages[n : n + size] for n in range(0, len(messages), size)]


@given(topics(), st.integers(1, 5))
def test_the_split_of_a_topic_into_batches_changes_nothing(messages: Messages, size: int) -> None:
    assert stored_after([messages]) == stored_after(split(messages, size))


@given(topics(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_repeat_of_the_batches_in_any_order_changes_nothing(
    messages: Messages, size: int, rng: random.Random
) -> None:
    again = split(messages, size) * 2
    rng.shuffle(again)
    assert stored_after([messages, *again]) == stored_after([messages])


@given(topics(), st.integers(1, 5), st.integers(1, 5))
def test_a_topic_that_is_read_from_an_earlier_position_after_each_batch_gives_the_same_result(
    messages: Messages, size: int, back: int
) -> None:
    again = [messages[max(0, n - back) : n + size] for n in range(0, len(messages), size)]
    assert stored_after(again) == stored_after([messages])


@given(topics(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_second_opening_of_a_case_under_other_rules_changes_nothing(
    messages: Messages, size: int, rng: random.Random
) -> None:
    opened = [message for message in messages if isinstance(message, ReceivedCase)]
    again: Messages = [under_other_rules(case, verdict=rng.choice(["review", "approve", "reject"])) for case in opened]
    rng.shuffle(again)
    expected = stored_after([messages])
    for batches in ([messages, *split(again, size)], split([*messages, *again], size), [[*messages, *again]]):
        stored = stored_after(batches)
        assert stored.outcome() == expected.outcome()
        assert stored.reopened == len(again)


@given(topics())
def test_a_subject_has_at_most_one_open_case_and_each_case_ends_once(messages: Messages) -> None:
    stored = stored_after([messages])
    subjects = {case.opened.case_id: case.subject for case in items(messages) if isinstance(case, ReceivedCase)}
    still_open = [case for case, state in stored.states.items() if state == WAITING and case in subjects]
    assert len(still_open) == len({subjects[case] for case in still_open})
    assert all(stored.newest[subjects[case]].case_id == case for case in still_open)
    ended = sum(state != WAITING for state in stored.states.values())
    assert len(stored.published) == len({event for event, _ in stored.published}) == ended


@given(topics())
def test_a_withdrawn_case_is_never_open_and_no_other_case_is_withdrawn(messages: Messages) -> None:
    stored = stored_after([messages])
    withdrawn = {message.case_id for message in messages if isinstance(message, ReceivedWithdrawal)}
    for case_id, state in stored.states.items():
        assert state != (WAITING if case_id in withdrawn else WITHDRAWN)
    assert stored.early == withdrawn - stored.states.keys()


@given(topics())
def test_a_decision_before_a_withdrawal_stays_in_force_and_no_decision_follows_a_withdrawal(messages: Messages) -> None:
    stored = stored_after([messages])
    before: set[str] = set()
    for message in messages:
        if isinstance(message, ReceivedWithdrawal):
            decided = stored.states.get(message.case_id) == DECIDED
            assert not decided or message.case_id in before
        else:
            before.add(message.opened.case_id)


@given(topics(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_notices_and_appeals_do_not_affect_items_and_ingest_never_ends_a_notice(
    messages: Messages, size: int, rng: random.Random
) -> None:
    stored, items_only = Stored(), stored_after([items(messages)])
    for batch in split(messages, size):
        stored.ingest(batch)
        stored.decide_appeals(overturn=rng.random() < 0.5)
    assert {case: stored.states[case] for case in items_only.states} == items_only.states
    assert (stored.newest, stored.early) == (items_only.newest, items_only.early)
    notices = [m.opened for m in messages if isinstance(m, ReceivedCase) and m.opened.case_type == NOTICE]
    assert all(stored.states[notice.case_id] == WAITING for notice in notices)


@given(topics(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_decision_has_at_most_one_open_appeal_and_a_replaced_decision_gets_no_new_appeal(
    messages: Messages, size: int, rng: random.Random
) -> None:
    stored = Stored()
    for batch in split(messages, size):
        before = dict(stored.numbers)
        stored.ingest(batch)
        contested = [appealed_case(appeal) for appeal in stored.open_appeals()]
        assert len(contested) == len(set(contested))
        for appeal in stored.open_appeals():
            assert appeal.opened.appeal is not None
            assert appeal not in batch or before.get(appealed_case(appeal), 0) <= appeal.opened.appeal.decision.n
        if rng.random() < 0.6:
            stored.decide_appeals(overturn=rng.random() < 0.7)
    event_ids = [event for event, _ in stored.published]
    assert len(event_ids) == len(set(event_ids))


@given(POSTS)
def test_an_older_version_number_never_supersedes_the_newest_version(posts: list[Post]) -> None:
    numbered = [post for post in posts if post[1] is not None]
    stored = stored_after([[*cases_of(numbered)]])
    for subject in {post[0] for post in numbered}:
        newest = max((post for post in numbered if post[0] == subject), key=lambda post: post[1] or 0)
        [case] = cases_of([newest])
        assert stored.states[case.opened.case_id] == (WAITING if newest[2] == "review" else DECIDED)
