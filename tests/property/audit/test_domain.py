"""A timeline is ordered by time, but no effect precedes its cause. A dead letter of any bytes can be stored."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.audit.domain import LogPosition, TimelineEntry, in_causal_order, page, parse_dead_letter
from shared.contracts.envelope import RecordId
from shared.runtime.clock import from_text, to_text

START = datetime(2026, 5, 1, tzinfo=UTC)


@st.composite
def entries(draw: st.DrawFn, *, cycles: bool = False) -> list[TimelineEntry]:
    """Entries of a subject in the log's order; the cause of each is an entry, an absent event or nothing."""
    count = draw(st.integers(0, 30))
    ids = [f"event {n}" for n in range(count)]
    found: list[TimelineEntry] = []
    for n in draw(st.permutations(range(count))):
        causes = ids if cycles else ids[:n]
        cause = draw(st.sampled_from([None, "elsewhere", *causes]))
        is_letter = draw(st.integers(0, 4)) == 4
        time = to_text(START + timedelta(minutes=draw(st.integers(0, 5))))
        found.append(
            TimelineEntry(LogPosition(len(found), 1 if is_letter else 0), None if is_letter else ids[n], cause, time, 1)
        )
    return found


@given(entries())
def test_a_cause_precedes_its_effects_and_no_entry_is_lost(given_entries: list[TimelineEntry]) -> None:
    ordered = in_causal_order(given_entries)
    assert sorted(ordered) == sorted(given_entries)
    position = {entry.id: n for n, entry in enumerate(ordered) if entry.id is not None}
    for n, entry in enumerate(ordered):
        assert position.get(entry.cause or "", -1) < n


@given(entries(cycles=True), st.randoms(use_true_random=False))
def test_the_order_is_independent_of_the_input_order_also_with_cycles(
    given_entries: list[TimelineEntry], random: Random
) -> None:
    ordered = in_causal_order(given_entries)
    assert sorted(ordered) == sorted(given_entries)
    shuffled = list(given_entries)
    random.shuffle(shuffled)
    assert in_causal_order(shuffled) == ordered


@given(entries())
def test_without_causes_the_order_is_by_time_and_then_by_position(given_entries: list[TimelineEntry]) -> None:
    alone = [entry._replace(cause=None) for entry in given_entries]
    assert in_causal_order(alone) == sorted(alone, key=lambda entry: (from_text(entry.time), entry.position))


@given(entries(), st.integers(1, 7), st.integers(1, 5))
def test_all_pages_together_are_complete(given_entries: list[TimelineEntry], limit: int, max_bytes: int) -> None:
    offset = 0
    collected: list[TimelineEntry] = []
    while part := page(given_entries, offset, limit, max_bytes):
        assert len(part) <= limit
        collected += part
        offset += len(part)
    assert collected == given_entries


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
def test_postgresql_can_store_any_dead_letter(
    headers: list[tuple[str, bytes]], key: bytes | None, timestamp: int
) -> None:
    letter = parse_dead_letter(RecordId("piepowder.deadletters.eu", 3, 7), headers, key, timestamp)
    texts = [letter.source.topic, letter.group, letter.reason, letter.key, letter.subject]
    assert all("\0" not in text and len(text) <= 2000 for text in texts if text is not None)
    assert 0 <= letter.source.partition < 2**31
    assert 0 <= letter.source.offset < 2**63
    assert from_text(letter.time) >= datetime(1970, 1, 1, tzinfo=UTC)
