"""A key whose record cannot be handled waits with all that follow it and comes back in order; everything else flows."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from piepowder.dead_letters import RegionDeadLetters, ReplayUnit, copies, replay_record
from shared.contracts import topics
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.dead_letters import unwrapped, wrapped
from shared.kafka.parking import REPLAY, Copy, Lane, Parked, encode_copy, unmarked
from shared.kafka.producer import Record
from shared.runtime import metrics
from shared.runtime.errors import Fatal, Poison
from tests.support.consuming import GROUP, LETTERS, PARKED, TOPIC, Broker, Crash, Kept, consume

Handle = Callable[[Sequence[Received[str]]], Any]


class Reader:
    """A handler that cannot handle some texts for now; `handled` has each one's first effect."""

    def __init__(self, *cursed: str) -> None:
        self.cursed = set(cursed)
        self.handled: list[str] = []
        self.met: list[str] = []

    async def __call__(self, batch: Sequence[Received[str]]) -> None:
        texts = [received.message for received in batch]
        if found := self.cursed & set(texts):
            raise Poison(f"cursed: {', '.join(sorted(found))}")
        self.met += texts
        self.handled += [text for n, text in enumerate(texts) if text not in self.handled and text not in texts[:n]]

    def of(self, key: str) -> list[str]:
        return [text for text in self.handled if text.startswith(key)]


async def post(broker: Broker, *texts: str, topic: str = TOPIC) -> None:
    """Records whose key is their text's first letter, or the one behind `bad` or `new`."""
    for text in texts:
        key = text.removeprefix("bad").removeprefix("new")[0]
        await broker.send([Record(topic, key.encode(), text.encode(), [("ce_id", text.encode())])])


def aside(broker: Broker) -> RegionDeadLetters:
    found = RegionDeadLetters()
    for record in broker.all(LETTERS):
        found.add_letter(record)
    for record in broker.all(PARKED):
        found.add_parked(record)
    return found


def held(broker: Broker) -> list[str]:
    """The texts that are set aside, by where they stood."""
    stored = {(TopicPartition(r.topic, r.partition), r.offset): r for r in broker.all(LETTERS)}
    return [(stored[letter.stored].value or b"").decode() for unit in aside(broker).units() for letter in unit.letters]


def parked(broker: Broker, group: str = GROUP) -> list[bytes]:
    return [lane.key for lane in aside(broker).parked(group)]


def plan(broker: Broker, *, leave: bool = False, only: Callable[[ReplayUnit], bool] = lambda _: True) -> list[Record]:
    """The copies of what is set aside."""
    stored = {(TopicPartition(r.topic, r.partition), r.offset): r for r in broker.all(LETTERS)}
    return [
        replay_record(letter, stored[letter.stored], mark)
        for unit in aside(broker).units()
        if only(unit)
        for letter, mark in zip(unit.letters, copies(unit, whole=True, leave=leave), strict=True)
    ]


def reason(letter: RawRecord) -> str:
    return str(dict(letter.headers)["dl_reason"], "utf-8")


async def test_what_follows_a_record_that_cannot_be_handled_waits_with_it_and_other_keys_flow() -> None:
    broker, reader = Broker(), Reader("a2")
    await post(broker, "a1", "b1", "a2", "a3", "b2", "c1", "a4")
    await consume(broker, reader)
    assert sorted(reader.handled) == ["a1", "b1", "b2", "c1"]
    assert held(broker) == ["a2", "a3", "a4"]
    first, second, third = broker.all(LETTERS)
    assert reason(first) == "cursed: a2"
    assert reason(second) == reason(third) == f"follows {TOPIC}[0]@2, which is parked: cursed: a2"
    assert dict(second.headers)["dl_offset"] == b"3"
    assert (second.key, second.value) == (b"a", b"a3")
    assert unwrapped(second.headers) == [("ce_id", b"a3")]


async def test_an_unforeseen_error_parks_like_a_known_one() -> None:
    broker, reader = Broker(), Reader()

    async def stumble(batch: Sequence[Received[str]]) -> None:
        if any(received.message == "a1" for received in batch):
            raise ValueError("a defect")
        await reader(batch)

    await post(broker, "a1", "a2", "b1")
    await consume(broker, stumble)
    assert reader.handled == ["b1"]
    assert held(broker) == ["a1", "a2"]
    assert "ValueError" in reason(broker.all(LETTERS)[0])


async def test_a_record_that_is_no_event_is_set_aside_alone() -> None:
    broker, reader = Broker(), Reader()
    await post(broker, "a1", "bada2", "a3")
    await consume(broker, reader)
    assert reader.handled == ["a1", "a3"]
    assert held(broker) == ["bada2"]
    assert parked(broker) == []


async def test_a_record_that_is_too_new_parks_its_key_and_a_newer_reader_takes_all_in_order() -> None:
    broker, reader = Broker(), Reader()
    await post(broker, "a1", "newa2", "a3", "b1")
    await consume(broker, reader)
    assert reader.handled == ["a1", "b1"]
    assert held(broker) == ["newa2", "a3"]
    await broker.send(plan(broker))
    await post(broker, "a4")
    await consume(broker, reader, read=lambda record: (record.value or b"").decode())
    assert reader.of("a") + reader.of("new") == ["a1", "a3", "a4", "newa2"]
    assert reader.handled == ["a1", "b1", "newa2", "a3", "a4"]
    assert (parked(broker), held(broker)) == ([], [])


async def test_it_outlives_the_process_and_a_reset_writes_no_letter_again() -> None:
    broker, reader = Broker(), Reader("a2")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    reader.cursed.clear()
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a1"]
    assert held(broker) == ["a2", "a3", "a4"]
    written = len(broker.all(LETTERS))
    broker.committed.clear()
    await consume(broker, reader)
    assert len(broker.all(LETTERS)) == written
    assert reader.met == ["a1", "a1"]


@pytest.mark.parametrize("size", [1, 2, 1000])
async def test_a_crash_at_any_step_ends_the_same(size: int) -> None:
    for fuse in range(40):
        broker, reader = Broker(), Reader("a2")
        await post(broker, "a1", "a2", "b1", "a3")
        await crash(broker, reader, fuse, size)
        await consume(broker, reader, batch=size)
        assert reader.of("a") == ["a1"]
        assert held(broker) == ["a2", "a3"]
        reader.cursed.clear()
        await broker.send(plan(broker))
        await post(broker, "a4")
        await crash(broker, reader, fuse, size)
        await consume(broker, reader, batch=size)
        assert reader.of("a") == ["a1", "a2", "a3", "a4"]
        assert (parked(broker), held(broker)) == ([], [])


async def crash(broker: Broker, reader: Reader, fuse: int, size: int) -> None:
    """Consume, and be gone at the step that `fuse` names, if there are so many."""
    broker.fuse = fuse
    with suppress(Crash):
        await consume(broker, reader, batch=size)
    broker.fuse = None


async def test_what_was_put_back_is_handled_in_order_and_then_the_key_flows_on() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2", "b1")
    await consume(broker, reader)
    reader.cursed.clear()
    returned = metrics.RETURNED.labels(GROUP, TOPIC)._value.get()
    await broker.send(plan(broker))
    await post(broker, "a3")
    await consume(broker, reader)
    assert reader.handled == ["b1", "a1", "a2", "a3"]
    assert (parked(broker), held(broker)) == ([], [])
    assert metrics.RETURNED.labels(GROUP, TOPIC)._value.get() == returned + 2


async def test_no_follower_overtakes_what_a_replay_has_not_seen() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.cursed.clear()
    first, second = plan(broker)
    await post(broker, "a3")
    await broker.send([first])
    await post(broker, "a4")
    await broker.send([second])
    await post(broker, "a5")
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2"]
    assert held(broker) == ["a3", "a4", "a5"]
    await broker.send(plan(broker))
    await post(broker, "a6")
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2", "a3", "a4", "a5", "a6"]
    assert (parked(broker), held(broker)) == ([], [])


async def test_a_part_of_what_is_set_aside_does_not_free_the_key() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    reader.cursed.clear()
    first, second, third = plan(broker)
    await broker.send([third, second])
    await consume(broker, reader)
    assert reader.handled == []
    assert held(broker) == ["a1", "a2", "a3"]
    await broker.send([first])
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a1"]
    assert held(broker) == ["a2", "a3", "a4"]


async def test_what_fails_again_is_set_aside_again_under_its_first_place_and_its_followers_stay() -> None:
    broker, reader = Broker(), Reader("a2")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1"]
    assert held(broker) == ["a2", "a3"]
    letters = broker.all(LETTERS)
    assert [dict(letter.headers)["dl_offset"] for letter in letters] == [b"1", b"2"] * 2
    assert [dict(letter.headers).get("dl_met") for letter in letters] == [None, None, b"3", b"4"]
    assert "before it was its turn" in reason(letters[3])
    reader.cursed.clear()
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2", "a3"]


async def test_copies_that_are_sent_twice_are_handled_once() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.cursed.clear()
    first, second = plan(broker)
    await post(broker, "a3")
    await broker.send([first, first, second, second])
    await consume(broker, reader)
    assert reader.met == ["a1", "a2"]
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert reader.met == ["a1", "a2", "a3"]
    assert (parked(broker), held(broker)) == ([], [])


async def test_copies_that_come_when_their_key_is_free_again_are_nothing() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.cursed.clear()
    records = plan(broker)
    await broker.send(records)
    await post(broker, "a3")
    await broker.send(records)
    await consume(broker, reader)
    assert reader.met == ["a1", "a2", "a3"]
    assert (parked(broker), held(broker)) == ([], [])


async def test_a_copy_in_a_chain_that_does_not_decode_any_more_holds_up_the_others() -> None:
    broker, reader = Broker(), Reader()
    await post(broker, "newa1", "a2")
    await consume(broker, reader)
    await broker.send(plan(broker))

    def refuse(record: RawRecord) -> str:
        raise Poison("not a message, after all")

    await consume(broker, reader, read=refuse)
    assert held(broker) == ["newa1", "a2"]
    [unit] = aside(broker).units()
    assert unit.reason == "not a message, after all"


class Stale(Kept):
    """Knows of a key what another process, which was thought dead, has overwritten since."""

    def __init__(self, broker: Broker, known: dict[Lane, Parked]) -> None:
        super().__init__(broker, GROUP)
        self._known = known

    async def read(self) -> dict[Lane, Parked]:
        return self._known


async def test_an_entry_that_fell_behind_frees_no_key_too_early_and_is_put_right() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2", "a3", "a4")
    await consume(broker, reader)
    [(lane, state)] = aside(broker).parked(GROUP).items()
    behind = msgspec.structs.replace(state, last=1)
    reader.cursed.clear()
    await broker.send(plan(broker)[:2])
    await post(broker, "a5")
    await consume(broker, reader, keys=Stale(broker, {lane: behind}))
    assert reader.handled == ["a1", "a2"]
    assert held(broker) == ["a3", "a4", "a5"]

    [(lane, state)] = aside(broker).parked(GROUP).items()
    await Kept(broker, GROUP).write({lane: msgspec.structs.replace(state, back=-1)})
    await broker.send(plan(broker))
    await consume(broker, reader, keys=Stale(broker, {lane: state}))
    assert reader.handled == ["a1", "a2"]
    assert aside(broker).parked(GROUP) == {lane: state}
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2", "a3", "a4", "a5"]


async def test_copies_of_an_earlier_time_do_not_move_a_key_that_is_parked_again() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.cursed = {"a3"}
    await broker.send(plan(broker))
    await post(broker, "a3", "a4")
    await consume(broker, reader)
    broker.committed.clear()
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2"]
    assert held(broker) == ["a3", "a4"]
    [state] = aside(broker).parked(GROUP).values()
    assert state.back == -1


async def test_a_letter_whose_key_was_not_seen_to_be_parked_finds_its_place_when_it_is() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2")
    await crash(broker, reader, 1, 1)  # the letter is written, that the key is parked is not
    assert (held(broker), parked(broker)) == (["a1"], [])
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert held(broker) == ["a1", "a2"]
    reader.cursed.clear()
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2"]
    assert (parked(broker), held(broker)) == ([], [])


async def test_the_record_that_holds_up_its_key_can_be_left_where_it_is() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    await broker.send(plan(broker, leave=True))
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a2", "a3", "a4"]
    assert parked(broker) == []
    assert held(broker) == ["a1"]
    assert "left behind" in reason(broker.all(LETTERS)[3])
    reader.cursed.clear()
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert reader.handled == ["a2", "a3", "a4", "a1"]
    assert held(broker) == []


async def test_a_letter_alone_comes_back_as_a_record_of_its_own() -> None:
    broker, reader = Broker(), Reader()
    await post(broker, "bada1", "a2")
    await consume(broker, reader)
    await broker.send(plan(broker))
    await consume(broker, reader)
    assert held(broker) == ["bada1"]
    [letter] = aside(broker).open.values()
    assert letter.id.offset == 2
    await broker.send(plan(broker))
    await consume(broker, reader, read=lambda record: (record.value or b"").decode())
    assert reader.handled == ["a2", "bada1"]
    assert held(broker) == []


async def test_a_letter_alone_that_meets_a_parked_key_waits_behind_it() -> None:
    broker, reader = Broker(), Reader("a2")
    await post(broker, "bada1", "a2")
    await consume(broker, reader)
    await broker.send(plan(broker, only=lambda unit: unit.parked is None))
    await consume(broker, reader, read=lambda record: (record.value or b"").decode())
    assert reader.handled == []
    assert held(broker) == ["a2", "bada1"]
    assert len(aside(broker).units()) == 1


async def test_a_copy_for_another_group_is_a_record_like_any_and_carries_no_mark() -> None:
    broker, reader = Broker(), Reader("a1")
    seen: list[RawRecord] = []

    async def see(batch: Sequence[Received[str]]) -> None:
        seen.extend(received.record for received in batch)

    await post(broker, "a1")
    await consume(broker, reader)
    await broker.send(plan(broker))
    await consume(broker, see, group="piepowder-audit-eu")
    assert [(record.offset, record.headers) for record in seen] == [(0, (("ce_id", b"a1"),)), (1, (("ce_id", b"a1"),))]
    assert len(broker.all(LETTERS)) == 1


async def test_no_group_sets_aside_what_was_put_back_for_another() -> None:
    """Each has met the original: it is handled there, or in its own letters already."""
    broker, router, audit = Broker(), Reader("a1"), Reader("a1", "b1")
    await post(broker, "bada0", "newc1", "a1", "b1", "b2")
    for _ in range(3):
        await consume(broker, router)
        await consume(broker, audit, group="piepowder-audit-eu")
        await broker.send(plan(broker, only=lambda unit: unit.lane.key != b"b"))
    places = [letter.id for letter in aside(broker).open.values()]
    assert len(places) == len(set(places)) == 3 + 5
    audit.cursed.clear()
    await consume(broker, audit, group="piepowder-audit-eu")
    assert audit.handled == ["a1"]


def test_a_mark_that_is_none_stays_a_header() -> None:
    record = _record((REPLAY, b"\xff"))
    assert unmarked(record, GROUP) is record
    marked = _record(("x", b"1"), (REPLAY, encode_copy(Copy(GROUP, 4))))
    assert unmarked(marked, GROUP).headers == (("x", b"1"),)


def _record(*headers: tuple[str, bytes]) -> RawRecord:
    return RawRecord(TOPIC, 0, 7, 0, 0, b"a", b"", None, 0, 0, headers)


async def test_a_reset_handles_again_what_stands_before_the_parked_record() -> None:
    broker, reader = Broker(), Reader("a2")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    broker.committed.clear()
    await consume(broker, reader)
    assert reader.met == ["a1", "a1"]


async def test_a_copy_is_handled_by_itself_so_that_what_stands_beside_it_does_not_decide_its_fate() -> None:
    broker, reader = Broker(), Reader("a1", "b9")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.cursed.remove("a1")
    first, second = plan(broker)
    await post(broker, "b1")
    await broker.send([first])
    await post(broker, "b9")
    await broker.send([second])
    await consume(broker, reader)
    assert (reader.of("a"), reader.of("b")) == (["a1", "a2"], ["b1"])
    assert (parked(broker), held(broker)) == ([b"b"], ["b9"])


async def test_past_the_bound_the_service_stops_and_nothing_has_advanced() -> None:
    broker, reader = Broker(), Reader("a1", "b1", "c1")
    await post(broker, "a1", "b1", "c1")
    with pytest.raises(Fatal, match=r"2 keys of piepowder-router-eu are parked.*PIEPOWDER_PARKED_KEYS"):
        await consume(broker, reader, limit=2)
    assert not broker.committed[GROUP]
    reader.cursed.clear()
    await consume(broker, reader, limit=2)
    assert reader.handled == ["a1", "b1", "c1"]


async def test_a_reader_to_whom_order_means_nothing_parks_nothing() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "newa2", "a3")
    await consume(broker, reader, parks=False)
    assert reader.handled == ["a3"]
    assert held(broker) == ["a1", "newa2"]
    reader.cursed.clear()
    await broker.send(plan(broker))
    await consume(broker, reader, parks=False, read=lambda record: (record.value or b"").decode())
    assert reader.handled == ["a3", "a1", "newa2"]
    assert held(broker) == []


@pytest.mark.parametrize("topic", [topics.CONTROL, LETTERS])
async def test_state_and_letters_have_no_order_to_keep(topic: str) -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2", topic=topic)
    await consume(broker, reader, names=[topic], read=lambda record: (record.value or b"").decode())
    assert reader.handled[:1] == ["a2"]
    assert parked(broker) == []


async def test_a_letter_that_cannot_be_handled_is_set_aside_once_and_comes_back_whole() -> None:
    broker, router, audit = Broker(), Reader("a1"), Reader("a1")
    await post(broker, "a1")
    await consume(broker, router)
    await consume(broker, audit, names=[LETTERS], group="piepowder-audit-eu")
    await consume(broker, audit, names=[LETTERS], group="piepowder-audit-eu")
    first, second = broker.all(LETTERS)
    assert dict(second.headers)["dl_topic"] == LETTERS.encode()
    assert unwrapped(second.headers) == list(first.headers)
    audit.cursed.clear()
    await broker.send(plan(broker, only=lambda unit: unit.group == "piepowder-audit-eu"))
    await consume(broker, audit, names=[LETTERS], group="piepowder-audit-eu")
    assert audit.met == ["a1", ""]  # the letter, and the receipt for the letter about it
    assert [unit.group for unit in aside(broker).units()] == [GROUP]


def test_headers_survive_any_number_of_letters() -> None:
    headers = [("x", b"1"), ("dl_reason", b"mine"), ("dl_dl_reason", b"older")]
    assert unwrapped([*wrapped(wrapped(headers)), ("dl_reason", b"new")])[:3] == wrapped(headers)
    assert unwrapped(wrapped(headers)) == headers


async def test_many_followers_of_one_key_are_no_sign_that_the_service_is_wrong() -> None:
    broker, reader = Broker(), Reader("a0")
    await post(broker, *(f"a{n}" for n in range(3000)))
    await consume(broker, reader)
    assert len(held(broker)) == 3000


async def test_how_many_keys_are_parked_is_a_metric() -> None:
    broker, reader = Broker(), Reader("a1", "b1")
    await post(broker, "a1", "b1", "b2")
    gauges: list[float] = []

    async def watch(batch: Sequence[Received[str]]) -> None:
        gauges.append(metrics.PARKED_KEYS.labels(GROUP)._value.get())
        await reader(batch)

    await consume(broker, watch)
    await post(broker, "c1")
    await consume(broker, watch)
    assert gauges[-1] == 2


async def test_a_process_counts_what_is_parked_in_its_own_partitions() -> None:
    broker, reader = Broker(partitions=2), Reader(*(f"{key}1" for key in "abcdef"))
    await post(broker, *(f"{key}1" for key in "abcdef"))
    await consume(broker, reader)
    gauges: list[float] = []

    async def watch(batch: Sequence[Received[str]]) -> None:
        gauges.append(metrics.PARKED_KEYS.labels(GROUP)._value.get())

    await post(broker, *(f"{key}1" for key in "ghijklmnopqrst"))
    for partition in (0, 1):
        await consume(broker, watch, held=[partition])
    assert sum(gauges) == 6
    assert all(0 < n < 6 for n in gauges)


async def test_an_entry_that_says_nothing_stops_the_service_for_what_it_stood_for_is_unknown() -> None:
    broker, reader = Broker(), Reader()
    await broker.send([Record(PARKED, f"{GROUP}/t/0/a".encode(), b"?", []), Record(PARKED, b"other/x", b"?", [])])
    with pytest.raises(Fatal, match=rf"{PARKED}\[0\]@0 does not say what {GROUP} has parked"):
        await consume(broker, reader)


async def test_what_is_parked_reads_as_people_can_read_it() -> None:
    broker, reader = Broker(), Reader("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    *_, last = broker.all(PARKED)
    assert last.key == f"{GROUP}/{TOPIC}/0/a".encode()
    assert msgspec.json.decode(last.value or b"") == {
        "since": 0,
        "last": 1,
        "reason": "cursed: a1",
        "at": "2026-05-01T00:00:00.000Z",
        "back": -1,
    }
