"""Whatever order versions come in, and however they are cut into batches (promises 2, 5 and 6)."""

from hypothesis import given
from hypothesis import strategies as st

from services.decision import domain
from services.decision.domain import Arrival, Latest
from tests.decision_cases import NOON
from tests.unit.test_decision_domain import arrival

POSTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 6) | st.none(), st.sampled_from(["review", "approve", "reject"])),
    max_size=12,
    unique_by=lambda post: post[:2] if post[1] is not None else post,
)


def arrivals(posts: list[tuple[str, int | None, str]]) -> list[Arrival]:
    return [arrival(subject, version=version, content=verdict, verdict=verdict) for subject, version, verdict in posts]


def replay(batches: list[list[Arrival]]) -> tuple[dict[str, str], list[tuple[str, str]], dict[str, Latest]]:
    """What is stored after these batches: states by case, events in order, newest versions."""
    states: dict[str, str] = {}
    told: list[tuple[str, str]] = []
    latest: dict[str, Latest] = {}
    for batch in batches:
        taken = domain.take_in("eu", batch, dict(latest), NOON)
        states |= {case.arrival.opened.case_id: case.state for case in taken.cases}
        states |= dict.fromkeys(taken.superseded, domain.SUPERSEDED)
        told += [(event.attributes.id, event.attributes.subject) for event in taken.events]
        latest |= taken.latest
    return states, told, latest


@given(POSTS, st.integers(1, 5))
def test_how_a_topic_is_cut_into_batches_changes_nothing(posts: list[tuple[str, int | None, str]], size: int) -> None:
    come = arrivals(posts)
    assert replay([come]) == replay([come[n : n + size] for n in range(0, len(come), size)])


@given(POSTS)
def test_a_subject_has_one_open_case_at_most_and_each_case_ends_once(posts: list[tuple[str, int | None, str]]) -> None:
    come = arrivals(posts)
    states, told, latest = replay([come])
    subjects = {a.opened.case_id: a.subject for a in come}
    still_open = [subjects[case] for case, state in states.items() if state == domain.WAITING]
    assert len(still_open) == len(set(still_open))
    assert all(latest[subjects[case]].case_id == case for case, state in states.items() if state == domain.WAITING)
    assert len(told) == len({event for event, _ in told}) == sum(state != domain.WAITING for state in states.values())


@given(POSTS)
def test_the_newest_number_is_never_superseded_by_an_older_one(posts: list[tuple[str, int | None, str]]) -> None:
    numbered = [post for post in posts if post[1] is not None]
    states, _, _ = replay([arrivals(numbered)])
    for subject in {post[0] for post in numbered}:
        newest = max((post for post in numbered if post[0] == subject), key=lambda post: post[1] or 0)
        [case] = arrivals([newest])
        assert states[case.opened.case_id] == (domain.WAITING if newest[2] == "review" else domain.DECIDED)
