"""A timeline goes by time, yet no effect stands before its cause; and a dead letter can hold anything at all."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.audit.domain import Place, Source, Step, dead_letter, in_causal_order, page
from shared.runtime.clock import from_text, to_text

START = datetime(2026, 5, 1, tzinfo=UTC)


@st.composite
def steps(draw: st.DrawFn, *, circles: bool = False) -> list[Step]:
    """Events of a subject in the log's order; each may be caused by any other, or by one that is not among them."""
    count = draw(st.integers(0, 30))
    ids = [f"event {n}" for n in range(count)]
    found: list[Step] = []
    for n in draw(st.permutations(range(count))):
        causes = ids if circles else ids[:n]
        cause = draw(st.sampled_from([None, "elsewhere", *causes]))
        is_letter = draw(st.integers(0, 4)) == 4
        time = to_text(START + timedelta(minutes=draw(st.integers(0, 5))))
        found.append(Step(Place(len(found), 1 if is_letter else 0), None if is_letter else ids[n], cause, time, 1))
    return found


@given(steps())
def test_a_cause_comes_before_its_effects_and_nothing_is_lost(given_steps: list[Step]) -> None:
    ordered = in_causal_order(given_steps)
    assert sorted(ordered) == sorted(given_steps)
    position = {step.id: n for n, step in enumerate(ordered) if step.id is not None}
    for n, step in enumerate(ordered):
        assert position.get(step.cause or "", -1) < n


@given(steps(circles=True), st.randoms(use_true_random=False))
def test_the_order_is_one_whatever_order_the_steps_are_read_in_and_circles_do_not_stop_it(
    given_steps: list[Step], random: Random
) -> None:
    ordered = in_causal_order(given_steps)
    assert sorted(ordered) == sorted(given_steps)
    shuffled = list(given_steps)
    random.shuffle(shuffled)
    assert in_causal_order(shuffled) == ordered


@given(steps())
def test_where_causes_are_silent_time_decides_and_then_the_log(given_steps: list[Step]) -> None:
    alone = [step._replace(cause=None) for step in given_steps]
    assert in_causal_order(alone) == sorted(alone, key=lambda step: (from_text(step.time), step.place))


@given(steps(), st.integers(1, 7), st.integers(1, 5))
def test_pages_put_together_are_the_whole(given_steps: list[Step], limit: int, weight: int) -> None:
    offset = 0
    told: list[Step] = []
    while part := page(given_steps, offset, limit, weight):
        assert len(part) <= limit
        told += part
        offset += len(part)
    assert told == given_steps


names = st.sampled_from(
    ["dl_topic", "dl_partition", "dl_offset", "dl_group", "dl_reason", "dl_time", "ce_id", "ce_subject", "ce_time"]
)
values = st.one_of(
    st.binary(max_size=40),
    st.none(),
    st.sampled_from(
        [b"9" * 5000, b"-1", b"12", b"\x00", b"2026-05-01T00:00:00Z", b"0001-01-01T00:00:00+14:00", b"x" * 9000]
    ),
    st.integers(0, 2**70).map(lambda n: str(n).encode()),
)


@given(st.lists(st.tuples(names, values)), st.one_of(st.none(), st.binary()), st.integers(-(2**63), 2**63 - 1))
def test_whatever_a_dead_letter_holds_postgresql_can_keep_it(
    headers: list[tuple[str, bytes]], key: bytes | None, timestamp: int
) -> None:
    letter = dead_letter(Source("piepowder.deadletters.eu", 3, 7), headers, key, timestamp)
    texts = [letter.source.topic, letter.group, letter.reason, letter.key, letter.subject]
    assert all("\0" not in text and len(text) <= 2000 for text in texts if text is not None)
    assert 0 <= letter.source.partition < 2**31
    assert 0 <= letter.source.offset < 2**63
    assert from_text(letter.time) >= datetime(1970, 1, 1, tzinfo=UTC)
