"""Whatever order versions, withdrawals, notices and appeals come in, and however they are cut into batches: promises 2,
5 and 6."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.decision import domain
from services.decision.domain import Arrival, Latest, Standing, Withdrawal
from tests.support.decision_cases import NOON, appealed, noticed
from tests.unit.decision.test_domain import arrival, come_in, withdrawal

Post = tuple[str, int | None, str]
Come = list[Arrival | Withdrawal]

POSTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 6) | st.none(), st.sampled_from(["review", "approve", "reject"])),
    max_size=12,
    unique_by=lambda post: post[:2] if post[1] is not None else post,
)


def arrivals(posts: list[Post]) -> list[Arrival]:
    return [arrival(subject, version=version, content=verdict, verdict=verdict) for subject, version, verdict in posts]


def withdrawals(posts: list[Post]) -> list[Withdrawal]:
    return [withdrawal(subject, version=version, content=verdict) for subject, version, verdict in posts]


@st.composite
def lives(draw: st.DrawFn) -> Come:
    """Posts, withdrawals of some of them or of what nobody posts, notices about some subjects, and appeals about first
    and second decisions of any of these cases, in any order."""
    posts = draw(POSTS)
    taken_back = draw(st.lists(st.sampled_from(posts), unique=True)) if posts else []
    unknown: list[Post] = draw(st.sampled_from([[], [("a", 9, "review")]]))
    notices = [come_in(*noticed("eu", subject)) for subject in draw(st.sampled_from(["", "a", "bc"]))]
    cases = [*arrivals(posts), *notices]
    luck = random.Random(draw(st.integers(0, 2**32)))
    appeals = [
        come_in(*appealed("eu", luck.choice(cases).opened, n=luck.choice((1, 1, 2)), reference=str(number)))
        for number in range(draw(st.integers(0, 4)) if cases else 0)
    ]
    return draw(st.permutations([*cases, *appeals, *withdrawals(taken_back + unknown)]))


def items(come: Come) -> Come:
    """Versions and withdrawals alone."""
    return [one for one in come if isinstance(one, Withdrawal) or one.opened.case_type == domain.ITEM]


def about(one: Arrival | Withdrawal) -> str:
    """The case that an appeal is about, "" for what is none."""
    appeal = one.opened.appeal if isinstance(one, Arrival) else None
    return "" if appeal is None else appeal.decision.case_id


class Kept:
    """What the service keeps, batch after batch."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []
        self.latest: dict[str, Latest] = {}
        self.early: set[str] = set()
        self.appeals: dict[str, Arrival] = {}
        self.numbers: dict[str, int] = {}
        self._inbox: set[str] = set()

    def take_in(self, batch: Come) -> None:
        new = [one for one in batch if one.event_id not in self._inbox]
        self._inbox |= {one.event_id for one in new}
        taken = domain.take_in(
            "eu",
            new,
            dict(self.latest),
            NOON,
            stored=self.states.keys(),
            early=frozenset(self.early),
            standings={about(one): self.standing(about(one)) for one in new},
        )
        self.states |= {case.arrival.opened.case_id: case.state for case in taken.cases}
        self.states |= dict.fromkeys(taken.superseded, domain.SUPERSEDED)
        self.states |= dict.fromkeys(taken.withdrawn, domain.WITHDRAWN)
        self.told += [(event.attributes.id, event.attributes.subject) for event in taken.events]
        self.latest |= taken.latest
        self.early = (self.early | taken.early) - taken.met
        self.appeals |= {case.arrival.opened.case_id: case.arrival for case in taken.cases if about(case.arrival)}
        self.numbers |= {decision.case_id: decision.n for decision in taken.decisions}

    def standing(self, case_id: str) -> Standing:
        return Standing(self.numbers.get(case_id, 0), appealed=case_id in map(about, self.open_appeals()))

    def open_appeals(self) -> list[Arrival]:
        return [appeal for case_id, appeal in self.appeals.items() if self.states[case_id] == domain.WAITING]

    def hear(self, *, overturn: bool) -> None:
        """People decide whatever is appealed; a first decision about what waited is made when it is overturned."""
        for appeal in self.open_appeals():
            self.states[appeal.opened.case_id] = domain.DECIDED
            if overturn:
                self.numbers[about(appeal)] = max(self.numbers.get(about(appeal), 0), 1) + 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it changes


def replay(batches: list[Come]) -> Kept:
    kept = Kept()
    for batch in batches:
        kept.take_in(batch)
    return kept


def cut(come: Come, size: int) -> list[Come]:
    return [come[n : n + size] for n in range(0, len(come), size)]


@given(lives(), st.integers(1, 5))
def test_how_a_topic_is_cut_into_batches_changes_nothing(come: Come, size: int) -> None:
    assert replay([come]) == replay(cut(come, size))


@given(lives(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_what_is_met_again_in_any_order_of_batches_changes_nothing(come: Come, size: int, luck: random.Random) -> None:
    again = cut(come, size) * 2
    luck.shuffle(again)
    assert replay([come, *again]) == replay([come])


@given(lives())
def test_a_subject_has_one_open_case_at_most_and_each_case_ends_once(come: Come) -> None:
    kept = replay([come])
    subjects = {a.opened.case_id: a.subject for a in items(come) if isinstance(a, Arrival)}
    still_open = [case for case, state in kept.states.items() if state == domain.WAITING and case in subjects]
    assert len(still_open) == len({subjects[case] for case in still_open})
    assert all(kept.latest[subjects[case]].case_id == case for case in still_open)
    ended = sum(state != domain.WAITING for state in kept.states.values())
    assert len(kept.told) == len({event for event, _ in kept.told}) == ended


@given(lives())
def test_what_was_withdrawn_is_open_in_no_order_and_nothing_else_is_withdrawn(come: Come) -> None:
    kept = replay([come])
    taken_back = {one.case_id for one in come if isinstance(one, Withdrawal)}
    for case_id, state in kept.states.items():
        assert state != (domain.WAITING if case_id in taken_back else domain.WITHDRAWN)
    assert kept.early == taken_back - kept.states.keys()


@given(lives())
def test_a_decision_before_the_withdrawal_stays_and_there_is_none_after_it(come: Come) -> None:
    kept = replay([come])
    before: set[str] = set()
    for one in come:
        if isinstance(one, Withdrawal):
            decided = kept.states.get(one.case_id) == domain.DECIDED
            assert not decided or one.case_id in before
        else:
            before.add(one.opened.case_id)


@given(lives(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_notices_and_appeals_change_nothing_for_items_and_nothing_ends_a_notice(
    come: Come, size: int, luck: random.Random
) -> None:
    kept, alone = Kept(), replay([items(come)])
    for batch in cut(come, size):
        kept.take_in(batch)
        kept.hear(overturn=luck.random() < 0.5)
    assert {case: kept.states[case] for case in alone.states} == alone.states
    assert (kept.latest, kept.early) == (alone.latest, alone.early)
    notices = [one.opened for one in come if isinstance(one, Arrival) and one.opened.case_type == domain.NOTICE]
    assert all(kept.states[notice.case_id] == domain.WAITING for notice in notices)


@given(lives(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_decision_has_one_open_appeal_at_most_and_one_that_was_replaced_has_none_that_came_later(
    come: Come, size: int, luck: random.Random
) -> None:
    kept = Kept()
    for batch in cut(come, size):
        before = dict(kept.numbers)
        kept.take_in(batch)
        contested = [about(appeal) for appeal in kept.open_appeals()]
        assert len(contested) == len(set(contested))
        for appeal in kept.open_appeals():
            assert appeal.opened.appeal is not None
            assert appeal not in batch or before.get(about(appeal), 0) <= appeal.opened.appeal.decision.n
        if luck.random() < 0.6:
            kept.hear(overturn=luck.random() < 0.7)
    told = [event for event, _ in kept.told]
    assert len(told) == len(set(told))


@given(POSTS)
def test_the_newest_number_is_never_superseded_by_an_older_one(posts: list[Post]) -> None:
    numbered = [post for post in posts if post[1] is not None]
    kept = replay([[*arrivals(numbered)]])
    for subject in {post[0] for post in numbered}:
        newest = max((post for post in numbered if post[0] == subject), key=lambda post: post[1] or 0)
        [case] = arrivals([newest])
        assert kept.states[case.opened.case_id] == (domain.WAITING if newest[2] == "review" else domain.DECIDED)
