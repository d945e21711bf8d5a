"""After any failures, crashes, resets and replays: the records of a key keep their order, and no record is lost."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from piepowder.dead_letters import DeadLetterId, RegionDeadLetters, ReplayUnit, copies, portion, replay_record
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Record
from shared.runtime.errors import Poison, TooNew
from tests.support.in_memory_kafka import GROUP, LETTERS, PARKED, TOPIC, Broker, Crash, consume

_POSTS = [("post", key, kind) for key in "aab" for kind in ("", "", "", "failing", "new", "bad")]
_COMPLETE = [("consume", None, batch) for batch in (1, 3, 1000, 1000)] * 2
_CRASHED = [("consume", steps, batch) for steps in range(10) for batch in (2, 1000)]
_PLANS = [("plan", limit, False) for limit in (1, 2, 5, 9)] + [("plan", 9, False), ("plan", 3, True)]
_SENDS = [("send", None), ("send", None), ("send", None), ("send", 1), ("send", 2)]
_STEPS = [*_POSTS, *_COMPLETE, *_CRASHED[::2], *_PLANS, *_SENDS, ("reset",), ("fix",)]


class Simulation:
    """Posts numbered records; `handled` has each handled record once, in the order of the first handling."""

    def __init__(self) -> None:
        self.broker = Broker(partitions=2)
        self.posted: defaultdict[str, list[str]] = defaultdict(list)
        self.handled: list[str] = []
        self.left_dead_lettered: set[str] = set()
        self.plan: list[Record] = []  # copies of the last planned replay, sent or not
        self.fixed = False

    async def do(self, step: tuple[Any, ...]) -> None:
        try:
            match step:
                case ("post", key, kind):
                    text = f"{kind}{len(self.posted[key])}-{key}"
                    self.posted[key].append(text)
                    await self.broker.send([Record(TOPIC, key.encode(), text.encode(), [])])
                case ("consume", steps, batch):
                    self.broker.steps_to_crash = steps
                    await consume(self.broker, self.handle, read=self.decode, batch=batch)
                case ("plan", limit, leave):
                    self.plan = self.planned(limit, leave=leave)
                case ("send", steps):
                    self.broker.steps_to_crash = steps
                    await self.broker.send(self.plan)
                case ("reset",):
                    self.broker.committed.clear()
                case ("fix",):
                    self.fixed = True
        except Crash:
            pass
        finally:
            self.broker.steps_to_crash = None

    def decode(self, record: RawRecord) -> str:
        text = (record.value or b"").decode()
        if text.startswith("bad"):
            raise Poison("not a message")
        if text.startswith("new") and not self.fixed:
            raise TooNew("a message of version 9")
        return text

    async def handle(self, batch: Sequence[Received[str]]) -> None:
        self.broker.step()
        texts = [received.message for received in batch]
        if not self.fixed and any(text.startswith("failing") for text in texts):
            raise Poison("failing")
        self.handled += [text for n, text in enumerate(texts) if text not in self.handled and text not in texts[:n]]
        self.broker.step()

    def dead_letters(self) -> RegionDeadLetters:
        found = RegionDeadLetters()
        for record in self.broker.all(LETTERS):
            found.add_letter(record)
        for record in self.broker.all(PARKED):
            found.add_parked(record)
        return found

    def planned(self, limit: int, *, leave: bool = False) -> list[Record]:
        """The copies that a replay of at most `limit` dead letters sends."""
        stored = {r.offset: r for r in self.broker.all(LETTERS) if r.partition == 0}
        other = {r.offset: r for r in self.broker.all(LETTERS) if r.partition == 1}
        records = []
        for unit, whole in portion(self.dead_letters().units(), limit, 1 << 20):
            marks = copies(unit, whole=whole, leave=leave)
            if leave and unit.parked is not None:
                self.left_dead_lettered.add(self.text(unit, stored, other))
            for letter, mark in zip(unit.letters, marks, strict=True):
                place, offset = letter.stored
                records.append(replay_record(letter, (other if place.partition else stored)[offset], mark))
        return records

    @staticmethod
    def text(unit: ReplayUnit, *partitions: dict[int, RawRecord]) -> str:
        place, offset = unit.letters[0].stored
        return (partitions[place.partition][offset].value or b"").decode()

    def check_order(self) -> None:
        """The handled records of a key are its first records, in order; ignores bad and left dead-lettered records."""
        for key, texts in self.posted.items():
            mine = [text for text in self.handled if text.endswith(f"-{key}") and text not in self.left_dead_lettered]
            due = [text for text in texts if not text.startswith("bad") and text not in self.left_dead_lettered]
            assert mine == due[: len(mine)]

    def check_nothing_lost(self) -> None:
        """Each record is handled, or has an open dead letter."""
        by_place = {(letter.stored[0].partition, letter.stored[1]) for letter in self.dead_letters().open.values()}
        dead_lettered = {
            (r.value or b"").decode() for r in self.broker.all(LETTERS) if (r.partition, r.offset) in by_place
        }
        for texts in self.posted.values():
            for text in texts:
                assert text in self.handled or text in dead_lettered, text


@settings(max_examples=250)
@given(st.lists(st.sampled_from(_STEPS), min_size=5, max_size=40))
def test_the_order_is_kept_and_no_record_is_lost(steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(_run(steps))


async def _run(steps: list[tuple[Any, ...]]) -> None:
    simulation = Simulation()
    for step in steps:
        await simulation.do(step)
        simulation.check_order()
    await simulation.do(("consume", None, 1000))
    simulation.check_order()
    simulation.check_nothing_lost()
    await simulation.do(("fix",))
    for _ in range(200):
        dead_letters = simulation.dead_letters()
        if not dead_letters.parked(GROUP) and _only_bad(simulation, dead_letters):
            break
        await simulation.do(("plan", 100, False))
        await simulation.do(("send", None))
        await simulation.do(("consume", None, 1000))
        simulation.check_order()
    dead_letters = simulation.dead_letters()
    assert dead_letters.parked(GROUP) == {}
    assert _only_bad(simulation, dead_letters)
    due = {text for texts in simulation.posted.values() for text in texts if not text.startswith("bad")}
    assert due - simulation.left_dead_lettered <= set(simulation.handled)
    await simulation.do(("reset",))
    before = list(simulation.handled)
    await simulation.do(("consume", None, 1000))
    assert simulation.handled == before
    assert simulation.dead_letters().parked(GROUP) == {}


def _only_bad(simulation: Simulation, dead_letters: RegionDeadLetters) -> bool:
    stored = {(r.partition, r.offset): r.value or b"" for r in simulation.broker.all(LETTERS)}
    texts = [stored[letter.stored[0].partition, letter.stored[1]].decode() for letter in dead_letters.open.values()]
    return all(text.startswith("bad") for text in texts)


def test_a_dead_letter_id_is_shown_as_topic_partition_and_offset() -> None:
    assert str(DeadLetterId("g", "t", 1, 2)) == "t[1]@2"
