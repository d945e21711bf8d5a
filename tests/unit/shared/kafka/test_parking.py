"""Later records of a parked key are dead-lettered too, and all are replayed in order."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from piepowder.dead_letters import OpenLetter, RegionDeadLetters, ReplayUnit, copies, replay_record
from shared.contracts import topics
from shared.contracts.envelope import decode
from shared.contracts.events import DeadLetterDiscarded
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.dead_letters import escape_headers, original_headers
from shared.kafka.discards import Discard
from shared.kafka.parking import (
    REPLAY_HEADER,
    GroupState,
    KeyPartition,
    Parked,
    ReplayMark,
    encode_mark,
    parse_replayed,
)
from shared.kafka.producer import Record
from shared.runtime import metrics
from shared.runtime.errors import Poison
from tests.support.in_memory_kafka import (
    GROUP,
    LETTERS,
    PARKED,
    REGION,
    TOPIC,
    Broker,
    Crash,
    InMemoryParkedKeys,
    consume,
)

JUNK = Discard("ops", "junk of a test", "2026-05-01T10:00:00.000Z", "failing")
Handle = Callable[[Sequence[Received[str]]], Any]


class FailingHandler:
    """A handler that fails for `failing` texts; `handled` has each text once, in the order of the first effects."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.handled: list[str] = []
        self.received: list[str] = []

    async def __call__(self, batch: Sequence[Received[str]]) -> None:
        texts = [received.message for received in batch]
        if found := self.failing & set(texts):
            raise Poison(f"failing: {', '.join(sorted(found))}")
        self.received += texts
        self.handled += [text for n, text in enumerate(texts) if text not in self.handled and text not in texts[:n]]

    def of(self, key: str) -> list[str]:
        return [text for text in self.handled if text.startswith(key)]


async def post(broker: Broker, *texts: str, topic: str = TOPIC) -> None:
    """Send records; the key is the first letter of the text, after `bad` or `new`."""
    for text in texts:
        key = text.removeprefix("bad").removeprefix("new")[0]
        await broker.send([Record(topic, key.encode(), text.encode(), [("ce_id", text.encode())])])


def dead_letters(broker: Broker) -> RegionDeadLetters:
    found = RegionDeadLetters()
    for record in broker.all(LETTERS):
        found.add_letter(record)
    for record in broker.all(PARKED):
        found.add_parked(record)
    return found


def dead_lettered(broker: Broker) -> list[str]:
    """The dead-lettered texts, in their original order."""
    stored = {(TopicPartition(r.topic, r.partition), r.offset): r for r in broker.all(LETTERS)}
    return [
        (stored[letter.stored].value or b"").decode()
        for unit in dead_letters(broker).units()
        for letter in unit.letters
    ]


def parked(broker: Broker, group: str = GROUP) -> list[bytes]:
    return [lane.key for lane in dead_letters(broker).parked(group)]


def replay_records(
    broker: Broker,
    *,
    leave: bool = False,
    only: Callable[[ReplayUnit], bool] = lambda _: True,
    discards: Callable[[OpenLetter, int], bool] = lambda *_: False,
) -> list[Record]:
    """The copies that a replay sends. `discards` has a letter and its place in its unit."""
    stored = {(TopicPartition(r.topic, r.partition), r.offset): r for r in broker.all(LETTERS)}
    return [
        replay_record(letter, stored[letter.stored], mark)
        for unit in dead_letters(broker).units()
        if only(unit)
        for letter, mark in zip(
            unit.letters,
            copies(
                unit,
                whole=True,
                leave=leave,
                discards={each.id: JUNK for n, each in enumerate(unit.letters) if discards(each, n)},
            ),
            strict=True,
        )
    ]


def discard_records(broker: Broker, *, with_waiting: bool = False) -> list[Record]:
    """The copies that a discard of the first record of each chain sends, or of all records."""
    return replay_records(broker, discards=lambda _, n: with_waiting or n == 0)


def reason(letter: RawRecord) -> str:
    return str(dict(letter.headers)["dl_reason"], "utf-8")


async def test_later_records_of_a_key_wait_behind_a_failed_record_and_other_keys_continue() -> None:
    broker, reader = Broker(), FailingHandler("a2")
    await post(broker, "a1", "b1", "a2", "a3", "b2", "c1", "a4")
    await consume(broker, reader)
    assert sorted(reader.handled) == ["a1", "b1", "b2", "c1"]
    assert dead_lettered(broker) == ["a2", "a3", "a4"]
    first, second, third = broker.all(LETTERS)
    assert reason(first) == "failing: a2"
    assert reason(second) == reason(third) == f"follows {TOPIC}[0]@2, which is parked: failing: a2"
    assert dict(second.headers)["dl_offset"] == b"3"
    assert (second.key, second.value) == (b"a", b"a3")
    assert original_headers(second.headers) == [("ce_id", b"a3")]


async def test_an_unexpected_error_parks_the_key() -> None:
    broker, reader = Broker(), FailingHandler()

    async def fail_on_a1(batch: Sequence[Received[str]]) -> None:
        if any(received.message == "a1" for received in batch):
            raise ValueError("a defect")
        await reader(batch)

    await post(broker, "a1", "a2", "b1")
    await consume(broker, fail_on_a1)
    assert reader.handled == ["b1"]
    assert dead_lettered(broker) == ["a1", "a2"]
    assert "ValueError" in reason(broker.all(LETTERS)[0])


async def test_an_undecodable_record_is_dead_lettered_alone() -> None:
    broker, reader = Broker(), FailingHandler()
    await post(broker, "a1", "bada2", "a3")
    await consume(broker, reader)
    assert reader.handled == ["a1", "a3"]
    assert dead_lettered(broker) == ["bada2"]
    assert parked(broker) == []


async def test_a_record_that_is_too_new_parks_its_key_and_a_newer_version_handles_all_in_order() -> None:
    broker, reader = Broker(), FailingHandler()
    await post(broker, "a1", "newa2", "a3", "b1")
    await consume(broker, reader)
    assert reader.handled == ["a1", "b1"]
    assert dead_lettered(broker) == ["newa2", "a3"]
    await broker.send(replay_records(broker))
    await post(broker, "a4")
    await consume(broker, reader, read=lambda record: (record.value or b"").decode())
    assert reader.of("a") + reader.of("new") == ["a1", "a3", "a4", "newa2"]
    assert reader.handled == ["a1", "b1", "newa2", "a3", "a4"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])


async def test_a_key_stays_parked_after_a_restart_and_a_reset_writes_no_dead_letter_twice() -> None:
    broker, reader = Broker(), FailingHandler("a2")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    reader.failing.clear()
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a1"]
    assert dead_lettered(broker) == ["a2", "a3", "a4"]
    written = len(broker.all(LETTERS))
    broker.committed.clear()
    await consume(broker, reader)
    assert len(broker.all(LETTERS)) == written
    assert reader.received == ["a1", "a1"]


@pytest.mark.parametrize("size", [1, 2, 1000])
async def test_a_crash_at_any_step_gives_the_same_result(size: int) -> None:
    for steps in range(40):
        broker, reader = Broker(), FailingHandler("a2")
        await post(broker, "a1", "a2", "b1", "a3")
        await crash(broker, reader, steps, size)
        await consume(broker, reader, batch=size)
        assert reader.of("a") == ["a1"]
        assert dead_lettered(broker) == ["a2", "a3"]
        reader.failing.clear()
        await broker.send(replay_records(broker))
        await post(broker, "a4")
        await crash(broker, reader, steps, size)
        await consume(broker, reader, batch=size)
        assert reader.of("a") == ["a1", "a2", "a3", "a4"]
        assert (parked(broker), dead_lettered(broker)) == ([], [])


async def crash(broker: Broker, reader: FailingHandler, steps: int, size: int) -> None:
    """Consume, and crash after `steps` steps."""
    broker.steps_to_crash = steps
    with suppress(Crash):
        await consume(broker, reader, batch=size)
    broker.steps_to_crash = None


async def test_replayed_records_are_handled_in_order_and_then_the_key_is_not_parked() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "b1")
    await consume(broker, reader)
    reader.failing.clear()
    returned = metrics.RETURNED.labels(GROUP, TOPIC)._value.get()
    await broker.send(replay_records(broker))
    await post(broker, "a3")
    await consume(broker, reader)
    assert reader.handled == ["b1", "a1", "a2", "a3"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])
    assert metrics.RETURNED.labels(GROUP, TOPIC)._value.get() == returned + 2


async def test_no_later_record_overtakes_a_record_that_the_replay_did_not_include() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.failing.clear()
    first, second = replay_records(broker)
    await post(broker, "a3")
    await broker.send([first])
    await post(broker, "a4")
    await broker.send([second])
    await post(broker, "a5")
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2"]
    assert dead_lettered(broker) == ["a3", "a4", "a5"]
    await broker.send(replay_records(broker))
    await post(broker, "a6")
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2", "a3", "a4", "a5", "a6"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])


async def test_a_partial_replay_does_not_free_the_key() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    reader.failing.clear()
    first, second, third = replay_records(broker)
    await broker.send([third, second])
    await consume(broker, reader)
    assert reader.handled == []
    assert dead_lettered(broker) == ["a1", "a2", "a3"]
    await broker.send([first])
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a1"]
    assert dead_lettered(broker) == ["a2", "a3", "a4"]


async def test_a_replayed_record_that_fails_again_keeps_its_original_offset_and_the_others_stay_parked() -> None:
    broker, reader = Broker(), FailingHandler("a2")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1"]
    assert dead_lettered(broker) == ["a2", "a3"]
    letters = broker.all(LETTERS)
    assert [dict(letter.headers)["dl_offset"] for letter in letters] == [b"1", b"2"] * 2
    assert [dict(letter.headers).get("dl_met") for letter in letters] == [None, None, b"3", b"4"]
    assert "before its turn" in reason(letters[3])
    reader.failing.clear()
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2", "a3"]


async def test_a_copy_that_is_sent_twice_is_handled_once() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.failing.clear()
    first, second = replay_records(broker)
    await post(broker, "a3")
    await broker.send([first, first, second, second])
    await consume(broker, reader)
    assert reader.received == ["a1", "a2"]
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert reader.received == ["a1", "a2", "a3"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])


async def test_a_copy_that_arrives_after_its_key_is_free_is_ignored() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.failing.clear()
    records = replay_records(broker)
    await broker.send(records)
    await post(broker, "a3")
    await broker.send(records)
    await consume(broker, reader)
    assert reader.received == ["a1", "a2", "a3"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])


async def test_a_copy_in_a_chain_that_no_longer_decodes_keeps_the_key_parked() -> None:
    broker, reader = Broker(), FailingHandler()
    await post(broker, "newa1", "a2")
    await consume(broker, reader)
    await broker.send(replay_records(broker))

    def refuse(record: RawRecord) -> str:
        raise Poison("not a message, after all")

    await consume(broker, reader, read=refuse)
    assert dead_lettered(broker) == ["newa1", "a2"]
    [unit] = dead_letters(broker).units()
    assert unit.reason == "not a message, after all"


class OutdatedParkedKeys(InMemoryParkedKeys):
    """An old state of the parked keys, which another process has overwritten."""

    def __init__(self, broker: Broker, known: dict[KeyPartition, Parked]) -> None:
        super().__init__(broker, GROUP)
        self._known = known

    async def read(self) -> GroupState:
        return GroupState(self._known, {})


async def test_an_outdated_entry_frees_no_key_too_early_and_is_corrected() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "a3", "a4")
    await consume(broker, reader)
    [(lane, state)] = dead_letters(broker).parked(GROUP).items()
    behind = msgspec.structs.replace(state, last=1)
    reader.failing.clear()
    await broker.send(replay_records(broker)[:2])
    await post(broker, "a5")
    await consume(broker, reader, store=OutdatedParkedKeys(broker, {lane: behind}))
    assert reader.handled == ["a1", "a2"]
    assert dead_lettered(broker) == ["a3", "a4", "a5"]

    [(lane, state)] = dead_letters(broker).parked(GROUP).items()
    await InMemoryParkedKeys(broker, GROUP).write({lane: msgspec.structs.replace(state, back=-1)})
    await broker.send(replay_records(broker))
    await consume(broker, reader, store=OutdatedParkedKeys(broker, {lane: state}))
    assert reader.handled == ["a1", "a2"]
    assert dead_letters(broker).parked(GROUP) == {lane: state}
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2", "a3", "a4", "a5"]


async def test_copies_of_an_earlier_replay_do_not_change_a_key_that_is_parked_again() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.failing = {"a3"}
    await broker.send(replay_records(broker))
    await post(broker, "a3", "a4")
    await consume(broker, reader)
    broker.committed.clear()
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2"]
    assert dead_lettered(broker) == ["a3", "a4"]
    [state] = dead_letters(broker).parked(GROUP).values()
    assert state.back == -1


async def test_a_replayed_dead_letter_joins_the_chain_if_its_key_was_parked_only_afterwards() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await crash(broker, reader, 1, 1)  # after the dead letter, before the entry of the parked key
    assert (dead_lettered(broker), parked(broker)) == (["a1"], [])
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert dead_lettered(broker) == ["a1", "a2"]
    reader.failing.clear()
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert reader.handled == ["a1", "a2"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])


async def test_a_replay_can_leave_the_failing_record_behind() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    await broker.send(replay_records(broker, leave=True))
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a2", "a3", "a4"]
    assert parked(broker) == []
    assert dead_lettered(broker) == ["a1"]
    assert "left behind" in reason(broker.all(LETTERS)[3])
    reader.failing.clear()
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert reader.handled == ["a2", "a3", "a4", "a1"]
    assert dead_lettered(broker) == []


def discard_events(broker: Broker) -> list[DeadLetterDiscarded]:
    found = [decode(each.headers, each.key, each.value, region=REGION) for each in broker.all(topics.access(REGION))]
    unique = {event.attributes.id: event.data for event in found}
    return sorted(unique.values(), key=lambda event: event.offset)


async def test_a_discarded_record_frees_its_key_and_the_records_behind_it_are_handled_in_order() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    await broker.send(discard_records(broker))
    await post(broker, "a4")
    await consume(broker, reader)
    assert reader.handled == ["a2", "a3", "a4"]
    assert (parked(broker), dead_lettered(broker)) == ([], [])
    [letter] = dead_letters(broker).discarded.values()
    assert (letter.letter.id.offset, letter.by, letter.why) == (0, "ops", "junk of a test")
    [event] = discard_events(broker)
    assert (event.group, event.topic, event.partition, event.offset) == (GROUP, TOPIC, 0, 0)
    assert (event.by, event.why, event.reason) == ("ops", "junk of a test", "failing")


async def test_a_whole_chain_can_be_discarded_at_once() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "b1", "a3")
    await consume(broker, reader)
    copies = discard_records(broker, with_waiting=True)
    await post(broker, "a4")
    await consume(broker, reader)  # waits behind the chain, and was not selected
    await broker.send(copies)
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == (["b1"], [b"a"], ["a4"])
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == (["b1", "a4"], [], [])
    assert [event.offset for event in discard_events(broker)] == [0, 1, 3]


@pytest.mark.parametrize("is_corrected", [False, True])
@pytest.mark.parametrize("with_waiting", [False, True])
async def test_a_reset_of_the_group_neither_reopens_a_discarded_record_nor_handles_it(
    is_corrected: bool, with_waiting: bool
) -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", "b1")
    await consume(broker, reader)
    await broker.send(discard_records(broker, with_waiting=with_waiting))
    await consume(broker, reader)
    before = len(broker.all(LETTERS))
    if is_corrected:
        reader.failing.clear()
    broker.committed.clear()
    again = FailingHandler(*reader.failing)
    await consume(broker, again)
    assert sorted(again.handled) == sorted(reader.handled) == (["b1"] if with_waiting else ["a2", "b1"])
    assert (parked(broker), dead_lettered(broker)) == ([], [])
    assert len(broker.all(LETTERS)) == before


async def test_a_record_at_the_place_of_a_discarded_one_in_a_new_topic_is_handled() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    await broker.send(discard_records(broker))
    await consume(broker, reader)
    del broker.records[TopicPartition(TOPIC, 0)]
    broker.committed.clear()
    await post(broker, "a7", "a8")
    await consume(broker, reader)
    assert reader.handled == ["a2", "a7", "a8"]


@pytest.mark.parametrize("size", [1, 2000])
async def test_a_crash_at_any_step_of_a_discard_gives_the_same_result(size: int) -> None:
    steps = 0
    while True:
        broker, reader = Broker(), FailingHandler("a1")
        await post(broker, "a1", "a2", "a3")
        await consume(broker, reader, batch=size)
        await broker.send(discard_records(broker))
        broker.steps_to_crash = steps
        with suppress(Crash):
            await consume(broker, reader, batch=size)
        is_done, broker.steps_to_crash = broker.steps_to_crash >= 0, None
        await consume(broker, reader, batch=size)
        assert (reader.handled, parked(broker), dead_lettered(broker)) == (["a2", "a3"], [], []), steps
        assert [event.offset for event in discard_events(broker)] == [0], steps
        broker.committed.clear()
        again = FailingHandler("a1")
        await consume(broker, again, batch=size)
        assert (again.handled, parked(broker), dead_lettered(broker)) == (["a2", "a3"], [], []), steps
        if is_done:
            return
        steps += 1


async def test_a_discard_that_is_sent_twice_or_after_a_replay_changes_nothing_more() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    discards, replays = discard_records(broker), replay_records(broker)
    await broker.send([*discards, *discards, *replays])
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == (["a2"], [], [])

    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    discards, replays = discard_records(broker), replay_records(broker)
    reader.failing.clear()
    await broker.send([*replays, *discards])
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == (["a1", "a2"], [], [])
    assert discard_events(broker) == []  # no event says that a handled record was discarded


async def test_a_record_behind_a_discarded_one_that_fails_too_keeps_the_key_parked() -> None:
    broker, reader = Broker(), FailingHandler("a1", "a2")
    await post(broker, "a1", "a2", "a3")
    await consume(broker, reader)
    await broker.send(discard_records(broker))
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == ([], [b"a"], ["a2", "a3"])
    await broker.send(discard_records(broker))
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == (["a3"], [], [])


async def test_an_undecodable_record_in_a_chain_can_be_discarded() -> None:
    broker, reader = Broker(), FailingHandler()
    await post(broker, "newa1", "a2")
    await consume(broker, reader)
    await broker.send(discard_records(broker))
    await consume(broker, reader)
    assert (reader.handled, parked(broker), dead_lettered(broker)) == (["a2"], [], [])


async def test_a_discard_for_one_group_does_not_concern_another() -> None:
    broker, reader, other = Broker(), FailingHandler("a1"), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    await consume(broker, other, group="piepowder-decision-eu")
    await broker.send(replay_records(broker, only=lambda unit: unit.group == GROUP, discards=lambda _, n: n == 0))
    await consume(broker, reader)
    await consume(broker, other, group="piepowder-decision-eu")
    assert (reader.handled, other.handled) == (["a2"], [])
    assert (parked(broker), parked(broker, "piepowder-decision-eu")) == ([], [b"a"])


async def test_a_dead_letter_outside_of_a_chain_is_replayed_as_a_new_record() -> None:
    broker, reader = Broker(), FailingHandler()
    await post(broker, "bada1", "a2")
    await consume(broker, reader)
    await broker.send(replay_records(broker))
    await consume(broker, reader)
    assert dead_lettered(broker) == ["bada1"]
    [letter] = dead_letters(broker).open.values()
    assert letter.id.offset == 2
    await broker.send(replay_records(broker))
    await consume(broker, reader, read=lambda record: (record.value or b"").decode())
    assert reader.handled == ["a2", "bada1"]
    assert dead_lettered(broker) == []


async def test_a_dead_letter_outside_of_a_chain_joins_one_if_its_key_is_parked_at_the_replay() -> None:
    broker, reader = Broker(), FailingHandler("a2")
    await post(broker, "bada1", "a2")
    await consume(broker, reader)
    await broker.send(replay_records(broker, only=lambda unit: unit.parked is None))
    await consume(broker, reader, read=lambda record: (record.value or b"").decode())
    assert reader.handled == []
    assert dead_lettered(broker) == ["a2", "bada1"]
    assert len(dead_letters(broker).units()) == 1


async def test_a_copy_for_another_group_is_an_ordinary_record_without_the_replay_header() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    seen: list[RawRecord] = []

    async def see(batch: Sequence[Received[str]]) -> None:
        seen.extend(received.record for received in batch)

    await post(broker, "a1")
    await consume(broker, reader)
    await broker.send(replay_records(broker))
    await consume(broker, see, group="piepowder-audit-eu")
    assert [(record.offset, record.headers) for record in seen] == [(0, (("ce_id", b"a1"),)), (1, (("ce_id", b"a1"),))]
    assert len(broker.all(LETTERS)) == 1


async def test_no_group_dead_letters_a_copy_that_was_replayed_for_another_group() -> None:
    """Each group has received the original, and has handled it or dead-lettered it."""
    broker, router, audit = Broker(), FailingHandler("a1"), FailingHandler("a1", "b1")
    await post(broker, "bada0", "newc1", "a1", "b1", "b2")
    for _ in range(3):
        await consume(broker, router)
        await consume(broker, audit, group="piepowder-audit-eu")
        await broker.send(replay_records(broker, only=lambda unit: unit.lane.key != b"b"))
    places = [letter.id for letter in dead_letters(broker).open.values()]
    assert len(places) == len(set(places)) == 3 + 5
    audit.failing.clear()
    await consume(broker, audit, group="piepowder-audit-eu")
    assert audit.handled == ["a1"]


def test_an_invalid_replay_header_stays_a_header() -> None:
    record = _record((REPLAY_HEADER, b"\xff"))
    assert parse_replayed(record, GROUP) is record
    marked = _record(("x", b"1"), (REPLAY_HEADER, encode_mark(ReplayMark(GROUP, 4))))
    assert parse_replayed(marked, GROUP).headers == (("x", b"1"),)


def _record(*headers: tuple[str, bytes]) -> RawRecord:
    return RawRecord(TOPIC, 0, 7, 0, 0, b"a", b"", None, 0, 0, headers)


async def test_after_a_reset_the_records_before_the_parked_one_are_handled_again() -> None:
    broker, reader = Broker(), FailingHandler("a2")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    broker.committed.clear()
    await consume(broker, reader)
    assert reader.received == ["a1", "a1"]


async def test_a_copy_is_handled_alone_so_that_no_other_record_of_the_batch_makes_it_fail() -> None:
    broker, reader = Broker(), FailingHandler("a1", "b9")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    reader.failing.remove("a1")
    first, second = replay_records(broker)
    await post(broker, "b1")
    await broker.send([first])
    await post(broker, "b9")
    await broker.send([second])
    await consume(broker, reader)
    assert (reader.of("a"), reader.of("b")) == (["a1", "a2"], ["b1"])
    assert (parked(broker), dead_lettered(broker)) == ([b"b"], ["b9"])


async def test_above_the_limit_of_parked_keys_the_partition_stops_at_the_record_and_the_service_continues() -> None:
    broker, reader = Broker(), FailingHandler("a1", "b1", "c1")
    await post(broker, "a1", "b1", "ok1", "c1", "d1")
    await consume(broker, reader, limit=2)
    assert (sorted(parked(broker)), dead_lettered(broker)) == ([b"a", b"b"], ["a1", "b1"])
    assert broker.committed[GROUP] == {TopicPartition(TOPIC, 0): 3}
    await consume(broker, reader, limit=2)
    assert dead_lettered(broker) == ["a1", "b1"], "a restart repeats nothing"
    await consume(broker, reader, limit=3)
    assert (sorted(parked(broker)), dead_lettered(broker)) == ([b"a", b"b", b"c"], ["a1", "b1", "c1"])
    assert reader.handled == ["ok1", "d1"]


async def test_a_consumer_that_ignores_order_parks_no_key() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "newa2", "a3")
    await consume(broker, reader, parks=False)
    assert reader.handled == ["a3"]
    assert dead_lettered(broker) == ["a1", "newa2"]
    reader.failing.clear()
    await broker.send(replay_records(broker))
    await consume(broker, reader, parks=False, read=lambda record: (record.value or b"").decode())
    assert reader.handled == ["a3", "a1", "newa2"]
    assert dead_lettered(broker) == []


@pytest.mark.parametrize("topic", [topics.CONTROL, LETTERS])
async def test_no_key_is_parked_on_the_control_and_dead_letter_topics(topic: str) -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2", topic=topic)
    await consume(broker, reader, names=[topic], read=lambda record: (record.value or b"").decode())
    assert reader.handled[:1] == ["a2"]
    assert parked(broker) == []


async def test_a_dead_letter_that_cannot_be_handled_is_dead_lettered_once_and_replayed_whole() -> None:
    broker, router, audit = Broker(), FailingHandler("a1"), FailingHandler("a1")
    await post(broker, "a1")
    await consume(broker, router)
    await consume(broker, audit, names=[LETTERS], group="piepowder-audit-eu")
    await consume(broker, audit, names=[LETTERS], group="piepowder-audit-eu")
    first, second = broker.all(LETTERS)
    assert dict(second.headers)["dl_topic"] == LETTERS.encode()
    assert original_headers(second.headers) == list(first.headers)
    audit.failing.clear()
    await broker.send(replay_records(broker, only=lambda unit: unit.group == "piepowder-audit-eu"))
    await consume(broker, audit, names=[LETTERS], group="piepowder-audit-eu")
    assert audit.received == ["a1", ""]  # the dead letter, and the receipt for the dead letter about it
    assert [unit.group for unit in dead_letters(broker).units()] == [GROUP]


def test_headers_survive_repeated_dead_lettering() -> None:
    headers = [("x", b"1"), ("dl_reason", b"mine"), ("dl_dl_reason", b"older")]
    assert original_headers([*escape_headers(escape_headers(headers)), ("dl_reason", b"new")])[:3] == escape_headers(
        headers
    )
    assert original_headers(escape_headers(headers)) == headers


async def test_many_records_of_one_parked_key_do_not_open_the_circuit_breaker() -> None:
    broker, reader = Broker(), FailingHandler("a0")
    await post(broker, *(f"a{n}" for n in range(3000)))
    await consume(broker, reader)
    assert len(dead_lettered(broker)) == 3000


async def test_the_number_of_parked_keys_is_a_metric() -> None:
    broker, reader = Broker(), FailingHandler("a1", "b1")
    await post(broker, "a1", "b1", "b2")
    gauges: list[float] = []

    async def watch(batch: Sequence[Received[str]]) -> None:
        gauges.append(metrics.PARKED_KEYS.labels(GROUP)._value.get())
        await reader(batch)

    await consume(broker, watch)
    await post(broker, "c1")
    await consume(broker, watch)
    assert gauges[-1] == 2


async def test_a_process_counts_the_parked_keys_of_its_own_partitions() -> None:
    broker, reader = Broker(partitions=2), FailingHandler(*(f"{key}1" for key in "abcdef"))
    await post(broker, *(f"{key}1" for key in "abcdef"))
    await consume(broker, reader)
    gauges: list[float] = []

    async def watch(batch: Sequence[Received[str]]) -> None:
        gauges.append(metrics.PARKED_KEYS.labels(GROUP)._value.get())

    await post(broker, *(f"{key}1" for key in "ghijklmnopqrst"))
    for partition in (0, 1):
        await consume(broker, watch, assigned=[partition])
    assert sum(gauges) == 6
    assert all(0 < n < 6 for n in gauges)


async def test_invalid_entries_are_ignored_reported_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    def invalid() -> float | None:
        return REGISTRY.get_sample_value("piepowder_invalid_parked_entries", {"group": GROUP})

    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1")
    await consume(broker, reader)
    lane = f"{GROUP}/{TOPIC}/0/a".encode()
    junk = [b"?", b"\xff", b'{"since": "x"}', b'{"since":' + b"[" * 100_000]
    keys = [lane, f"{GROUP}/oops".encode(), f"{GROUP}/t/x/a".encode(), f"{GROUP}/\xff/0/a".encode("latin-1")]
    await broker.send([Record(PARKED, key, value, []) for key in keys for value in junk])
    await broker.send([Record(PARKED, b"other/x", b"?", []), Record(PARKED, None, b"?", [])])
    await post(broker, "a2", "b1")
    await consume(broker, reader)
    assert reader.handled == ["b1"]  # a is still parked: the junk is as if it were not there
    await consume(broker, reader)
    assert invalid() == 3  # a2 has written the entry of a again
    assert "an entry of the parked keys is invalid, and is ignored" in caplog.text
    await broker.send([Record(PARKED, key, None, []) for key in keys[1:]])
    await consume(broker, reader)
    assert invalid() == 0


async def test_a_parked_keys_entry_is_readable_json() -> None:
    broker, reader = Broker(), FailingHandler("a1")
    await post(broker, "a1", "a2")
    await consume(broker, reader)
    *_, last = broker.all(PARKED)
    assert last.key == f"{GROUP}/{TOPIC}/0/a".encode()
    assert msgspec.json.decode(last.value or b"") == {
        "since": 0,
        "last": 1,
        "reason": "failing: a1",
        "at": "2026-05-01T00:00:00.000Z",
        "back": -1,
    }
