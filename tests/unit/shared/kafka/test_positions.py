"""A position passes no record whose effects or dead letter are not durable, after a crash at any step (promise 1)."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from hypothesis import given
from hypothesis import strategies as st

from shared.kafka.consumer import RawRecord, Received, TransactionalHandler
from shared.kafka.positions import Positions
from shared.kafka.producer import Record
from shared.kafka.stop_store import DeadLetterRange
from shared.kafka.stopped import StopCause, StoppedPartitions
from shared.kafka.stored_positions import BatchProgress, Moves, StoredPosition
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Poison
from shared.runtime.readiness import Readiness
from tests.support.in_memory_kafka import (
    GROUP,
    LETTERS,
    TOPIC,
    Broker,
    Crash,
    InMemoryPositions,
    InMemoryStops,
    consume,
)

TP = TopicPartition(TOPIC, 0)


def raw(partition: int, offset: int) -> RawRecord:
    return ConsumerRecord("t", partition, offset, 0, 0, None, None, None, 0, 0, ())


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=12), st.data())
def test_the_moves_of_any_runs_pass_no_record_that_is_still_open(
    records: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """Each record is handled, or rejected (False); rejected records are open until the end of the batch."""
    offsets = [count(10), count(20, 3)]
    batch = [(raw(partition, next(offsets[partition])), handled) for partition, handled in records]
    by_partition: dict[TopicPartition, list[RawRecord]] = {}
    for record, _ in batch:
        by_partition.setdefault(TopicPartition("t", record.partition), []).append(record)
    following = {tp: of[-1].offset + 5 for tp, of in by_partition.items()}
    first = {tp: of[0].offset for tp, of in by_partition.items()}
    progress = BatchProgress("g", by_partition, following, first)
    handled = [record for record, is_handled in batch if is_handled]
    closed: set[int] = set()
    while handled:
        size = data.draw(st.integers(1, len(handled)))
        run, handled = handled[:size], handled[size:]
        moves = progress.after(run)
        progress.done(run, moves)
        closed |= {id(record) for record in run}
        for tp, of in by_partition.items():
            still_open = [record.offset for record in of if id(record) not in closed]
            assert progress.positions[tp] == min(still_open, default=following[tp])
    rest = progress.rest()
    progress.done([], rest)
    assert progress.positions == following
    assert progress.rest().moves == []


class Service:
    """Effects and positions in one transaction; the process can crash at any step."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.positions = InMemoryPositions(self.broker)
        self.effects: list[str] = []

    async def post(self, *texts: str) -> None:
        await self.broker.send([Record(TOPIC, text.rstrip("0123456789").encode(), text.encode(), []) for text in texts])

    async def handle(self, batch: Sequence[Received[str]], moves: Moves) -> None:
        if any("poison" in received.message for received in batch):
            raise Poison("poison")
        self.broker.step()
        self.positions.move(moves)
        self.effects += [received.message for received in batch]
        self.broker.step()

    async def run(self, steps: int | None = None, **options: Any) -> None:
        self.broker.steps_to_crash = steps
        await consume(self.broker, TransactionalHandler(self.handle, self.positions), **options)
        self.broker.steps_to_crash = None


async def test_after_a_crash_at_any_step_no_record_is_lost_and_none_is_handled_out_of_order() -> None:
    texts = ["x1", "bad1", "y1", "poison1", "x2", "poison2", "y2", "x3"]
    crashes = 0
    for steps in range(40):
        crashes = 0
        service = Service()
        await service.post(*texts)
        try:
            await service.run(steps, batch=5)
        except Crash:
            crashes += 1
            await service.run(batch=5)
        letters = [(record.value or b"").decode() for record in service.broker.all(LETTERS)]
        assert set(letters) == {"bad1", "poison1", "poison2"}
        for key in "xy":
            effects = [text for text in service.effects if text.startswith(key)]
            assert list(dict.fromkeys(effects)) == [text for text in texts if text.startswith(key)]
        assert service.positions.stored[TP].position == len(texts)
    assert crashes == 0, "the last run has enough steps to end without a crash"


async def test_at_the_limit_of_parked_keys_the_position_stays_before_the_record_that_would_need_one_more() -> None:
    texts = ["x1", "poison1", "y1", "poisonx1", "x2", "y2"]
    for steps in range(40):
        service = Service()
        await service.post(*texts)
        try:
            await service.run(steps, limit=1, batch=5)
        except Crash:
            await service.run(limit=1, batch=5)
        assert service.positions.stored[TP].position == 3
        assert service.broker.committed[GROUP][TP] == 3
        assert set(service.effects) == {"x1", "y1"}
        await service.run(limit=2, batch=5)
        assert service.positions.stored[TP].position == len(texts)
        for key in "xy":
            effects = [text for text in service.effects if text.startswith(key)]
            assert list(dict.fromkeys(effects)) == [text for text in texts if text.startswith(key)]
        assert {record.value for record in service.broker.all(LETTERS)} == {b"poison1", b"poisonx1"}


async def test_the_position_passes_the_records_that_an_operator_dead_letters() -> None:
    for steps in range(30):
        service = Service()
        await service.post("x1", "y1", "bad1", "y2", "z1")
        stops = InMemoryStops(service.broker, GROUP)
        await stops.write({TP: DeadLetterRange(1, 2, "by an operator", "")})
        try:
            await service.run(steps, batch=2)
        except Crash:
            await service.run(batch=2)
        assert set(service.effects) == {"x1", "z1"}
        assert {record.value for record in service.broker.all(LETTERS)} == {b"y1", b"bad1", b"y2"}
        assert (service.positions.stored[TP].position, service.broker.committed[GROUP][TP]) == (5, 5)
        assert await stops.read() == {}


async def test_a_stopped_topic_keeps_its_position_until_an_operator_lets_it_continue() -> None:
    service = Service()
    await service.post(*(f"bad{n}" for n in range(2500)), "x1")
    stops = InMemoryStops(service.broker, GROUP)
    for _ in range(2):
        await service.run(batch=500)
        assert list(await stops.read()) == [TP]
        assert service.positions.stored[TP].position == service.broker.committed[GROUP][TP] == 2000
        assert len(service.broker.all(LETTERS)) == 2000
        assert service.effects == []
    await stops.write({TP: None})
    await service.run(batch=500)
    assert (service.effects, service.positions.stored[TP].position) == (["x1"], 2501)
    assert len(service.broker.all(LETTERS)) == 2500


async def test_a_partition_that_stops_continues_at_its_position_when_this_was_changed_meanwhile() -> None:
    service = Service()
    await service.post("x1", "x2", "poison1", "poisonx1", "y1")
    handle = service.handle
    restored = False

    async def restored_at_the_limit(batch: Sequence[Received[str]], moves: Moves) -> None:
        nonlocal restored
        if not restored and [received.message for received in batch] == ["poisonx1"]:
            restored = True
            service.positions.stored[TP] = service.positions.stored[TP]._replace(position=0)
        await handle(batch, moves)

    service.handle = restored_at_the_limit  # type: ignore[method-assign]  # a restore while the loop runs
    await service.run(limit=1, batch=2)
    assert service.effects == ["x1", "x2", "x1", "x2"]
    assert service.positions.stored[TP].position == 3
    await service.run(limit=2, batch=2)
    assert service.effects[4:] == ["y1"]
    assert service.positions.stored[TP].position == 5


class PlacedClient:
    """A Kafka client with one assigned partition, which may be paused, and no committed offset."""

    is_paused = False
    at: int | None = None
    start = 0

    def assignment(self) -> set[TopicPartition]:
        return {TP}

    def partitions_for_topic(self, _: str) -> set[int]:
        return {TP.partition}

    def pause(self, *partitions: TopicPartition) -> None:
        self.is_paused = self.is_paused or TP in partitions

    def resume(self, _: TopicPartition) -> None:
        self.is_paused = False

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.at = offset

    async def beginning_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.start)

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 9)

    async def commit(self, _: object) -> None: ...


async def test_a_stop_for_one_reason_does_not_end_with_the_stop_for_another() -> None:
    async def topic_ids(_: Any, names: Collection[str]) -> dict[str, str]:
        return dict.fromkeys(names, "id")

    async def committed(_: Any, __: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {}

    def is_placed(tp: TopicPartition) -> bool:
        return positions.is_placed(tp)

    readiness, store, client = Readiness("test"), InMemoryPositions(Broker()), PlacedClient()
    stopped = StoppedPartitions("g", readiness, is_placed)
    positions = Positions(
        group="g",
        topics=[TOPIC],
        store=store,
        readiness=readiness,
        clock=SystemClock(),
        topic_ids=topic_ids,
        committed=committed,
        stopped=stopped,
    )
    kafka: Any = client
    for first_to_end in ("missing records", "rejected records"):
        store.stored[TP] = StoredPosition(2, "id")
        client.start = 5
        positions.assigned(kafka, [TP])
        await positions.place(kafka)
        stopped.stop(kafka, [TP], StopCause.REJECTED, "Too many.")
        assert (client.is_paused, positions.is_placed(TP), readiness.ready) == (True, False, False)
        if first_to_end == "rejected records":
            stopped.resume(kafka, [TP], StopCause.REJECTED)
            assert client.is_paused
        store.stored[TP] = StoredPosition(5, "id")
        positions.assigned(kafka, [TP])
        await positions.place(kafka)
        assert (client.is_paused, readiness.ready) == (first_to_end == "missing records", True)
        stopped.resume(kafka, [TP], StopCause.REJECTED)
        assert (client.is_paused, client.at) == (False, 5)


class RebalancedStore(InMemoryPositions):
    """A store during whose `call` the partitions are assigned again, once."""

    def __init__(self, call: str) -> None:
        super().__init__(Broker())
        self.call = call
        self.positions: Positions | None = None
        self.client: Any = PlacedClient()

    async def read(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, StoredPosition]:
        found = await super().read(group, partitions)
        self._rebalance("read")
        return found

    async def save(self, group: str, changed: Mapping[TopicPartition, StoredPosition]) -> None:
        await super().save(group, changed)
        self._rebalance("save")

    def _rebalance(self, call: str) -> None:
        if call == self.call and self.positions is not None:
            self.call = ""
            self.positions.assigned(self.client, [TP])


def rebalanced(call: str) -> tuple[Positions, RebalancedStore]:
    """The positions of a member that is assigned again during a call of its store."""

    async def topic_ids(_: Any, names: Collection[str]) -> dict[str, str]:
        return dict.fromkeys(names, "id")

    async def committed(_: Any, __: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {}

    store = RebalancedStore(call)
    store.positions = Positions(
        group="g",
        topics=[TOPIC],
        store=store,
        readiness=Readiness("test"),
        clock=SystemClock(),
        topic_ids=topic_ids,
        committed=committed,
    )
    store.positions.assigned(store.client, [TP])
    return store.positions, store


@pytest.mark.parametrize("call", ["read", "save"])
async def test_what_was_read_before_a_new_assignment_places_no_partition_of_it(call: str) -> None:
    positions, store = rebalanced(call)
    await positions.place(store.client)
    assert not positions.is_placed(TP)
    assert (TP in store.stored) == (call == "save"), "nothing that is outdated is stored"
    assert store.client.is_paused
    store.stored[TP] = StoredPosition(4, "id")  # by the member that had the partition meanwhile
    await positions.place(store.client)
    assert (positions.is_placed(TP), store.client.at, store.client.is_paused) == (True, 4, False)


async def test_an_offset_of_a_deleted_topic_says_nothing_about_the_new_one() -> None:
    positions, store = rebalanced("")
    committed = OffsetAndMetadata(8, "id")

    async def offsets(_: Any, __: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {TP: committed}

    positions._committed = offsets
    store.stored[TP] = StoredPosition(2, "id")
    await positions.place(store.client)
    assert positions.to_commit({TP: 2}) == {TP: OffsetAndMetadata(2, "id 8")}
    committed = OffsetAndMetadata(8, "deleted")
    store.stored[TP] = StoredPosition(2, "id")
    positions.assigned(store.client, [TP])
    await positions.place(store.client)
    assert positions.to_commit({TP: 2}) == {TP: OffsetAndMetadata(2, "id")}


async def test_a_group_is_behind_at_most_until_the_end_of_the_log() -> None:
    positions, store = rebalanced("")

    async def offsets(_: Any, __: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {TP: OffsetAndMetadata(2, "id 50")}

    positions._committed = offsets
    store.stored[TP] = StoredPosition(2, "id")
    await positions.place(store.client)
    assert store.stored[TP].behind_until == 9, "the end of the log"
    assert positions.to_commit({TP: 2}) == {TP: OffsetAndMetadata(2, "id 9")}
    positions.moved({TP: 9})
    assert positions.are_current


async def test_a_batch_of_a_partition_that_is_not_placed_is_dropped() -> None:
    positions, store = rebalanced("")
    assert positions.batch({TP: [raw(0, 0)]}, {TP: 1}) is None
    await positions.place(store.client)
    assert positions.batch({TP: [raw(0, 0)]}, {TP: 1}) is not None
    positions.displace(store.client)
    assert positions.batch({TP: [raw(0, 0)]}, {TP: 1}) is None


async def test_a_check_that_a_new_assignment_overtakes_does_not_displace_it() -> None:
    positions, store = rebalanced("")
    await positions.place(store.client)
    assert not await positions.check(store.client)  # requests the ids of the topics
    await asyncio.sleep(0)
    store.call = "read"
    store.stored[TP] = StoredPosition(4, "id")
    assert not await positions.check(store.client)
    await positions.place(store.client)
    assert (positions.is_placed(TP), store.client.at) == (True, 4)


async def test_without_rejected_records_every_effect_is_stored_exactly_once_after_a_crash_at_any_step() -> None:
    texts = [f"k{n}" for n in range(6)]
    for steps in range(30):
        service = Service()
        await service.post(*texts)
        try:
            await service.run(steps, batch=2)
        except Crash:
            await service.run(batch=2)
        assert service.effects == texts


async def test_a_batch_that_starts_from_another_position_has_no_effect_and_is_read_again() -> None:
    service = Service()
    await service.post("k0", "k1", "k2", "k3")
    moved = False
    handle = service.handle

    async def other_member_first(batch: Sequence[Received[str]], moves: Moves) -> None:
        nonlocal moved
        if not moved:
            moved = True
            service.positions.stored[TP] = service.positions.stored[TP]._replace(position=1)
        await handle(batch, moves)

    service.handle = other_member_first  # type: ignore[method-assign]  # the other member acts before this one
    await service.run(batch=3)
    assert service.effects == ["k1", "k2", "k3"]
