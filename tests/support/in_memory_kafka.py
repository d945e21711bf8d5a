"""A Kafka cluster in memory and a consumer of it, for tests of the consumer loop with crashes at any step.

It has the features of Kafka that the loop depends on: records in order, committed offsets, and an assignment that is
reported before its records are delivered. `Crash` is not an `Exception`, so no other code catches it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, Handler, RawRecord, TransactionalHandler
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.parking import GroupState, ParkedKeyStore
from shared.kafka.producer import Record, partition_of
from shared.kafka.stop_store import StopEntry, StopStore, stop_entries
from shared.kafka.stored_positions import Moves, PositionChangedError, StoredPosition
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison, TooNew
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff

REGION: Final = "eu"
GROUP: Final = "piepowder-router-eu"
TOPIC: Final = topics.submissions(REGION)
LETTERS: Final = topics.deadletters(REGION)
PARKED: Final = topics.parked(REGION)
_NO_DELAY: Final = Backoff(first=0.0, longest=0.0)


class Crash(BaseException):
    """The end of the process."""


class Broker:
    """Topics with `partitions` partitions, and committed offsets. After `steps_to_crash` steps, a step raises Crash."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.records: dict[TopicPartition, list[RawRecord]] = defaultdict(list)
        self.committed: dict[str, dict[TopicPartition, int]] = defaultdict(dict)
        self.steps_to_crash: int | None = None

    def step(self) -> None:
        """Count a step; raises Crash at the chosen one."""
        if self.steps_to_crash is not None:
            self.steps_to_crash -= 1
            if self.steps_to_crash < 0:
                raise Crash

    async def send(self, records: Sequence[Record]) -> None:
        """Append records, as a `Producer`; each record is one step."""
        for record in records:
            self.step()
            count = 1 if record.topic == PARKED else self.partitions
            partition = partition_of(record.key, count) if record.partition is None else record.partition
            log = self.records[TopicPartition(record.topic, partition)]
            headers = tuple(record.headers)
            log.append(
                ConsumerRecord(record.topic, partition, len(log), 0, 0, record.key, record.value, None, 0, 0, headers)
            )

    def all(self, topic: str) -> list[RawRecord]:
        """All records of a topic."""
        return [record for tp, log in self.records.items() if tp.topic == topic for record in log]

    def partitions_of(self, names: Collection[str]) -> list[TopicPartition]:
        return [TopicPartition(name, n) for name in names for n in range(self.partitions)]


class InMemoryParkedKeys(ParkedKeyStore):
    """A group's parked keys in a broker in memory."""

    def __init__(self, broker: Broker, group: str, limit: int = 10_000) -> None:
        super().__init__(broker, bootstrap="", topic=PARKED, group=group, limit=limit)
        self._broker = broker
        self._of_group = group

    async def read(self) -> GroupState:
        return GroupState.of(self._broker.all(PARKED), self._of_group)


class InMemoryStops(StopStore):
    """A group's stopped partitions in a broker in memory."""

    def __init__(self, broker: Broker, group: str) -> None:
        super().__init__(broker, bootstrap="", topic=PARKED, group=group)
        self._broker = broker
        self._of_group = group

    async def read(self) -> dict[TopicPartition, StopEntry]:
        return stop_entries(self._broker.all(PARKED)).get(self._of_group, {})


class InMemoryPositions:
    """A `PositionStore` in memory; a transaction of `advance` alone is one step."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.stored: dict[TopicPartition, StoredPosition] = {}

    async def read(self, _: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, StoredPosition]:
        return {tp: self.stored[tp] for tp in partitions if tp in self.stored}

    async def save(self, _: str, changed: Mapping[TopicPartition, StoredPosition]) -> None:
        for tp, new in changed.items():
            position = self.stored[tp].position if tp in self.stored else new.position
            self.stored[tp] = new._replace(position=position)

    async def advance(self, moves: Moves) -> None:
        self._broker.step()
        self.move(moves)

    def move(self, moves: Moves) -> None:
        """Store moves in the transaction of the caller."""
        changed = {TopicPartition(move.topic, move.partition): move for move in moves.moves}
        if any(self.stored[tp].position != move.expected for tp, move in changed.items()):
            raise PositionChangedError("another position")
        self.stored |= {tp: self.stored[tp]._replace(position=move.next) for tp, move in changed.items()}


class _Client:
    """The part of aiokafka's consumer that the loop uses; stops the loop after the last record."""

    def __init__(self, broker: Broker, group: str, stop: asyncio.Event, assigned: Collection[int]) -> None:
        self._broker = broker
        self._assigned = assigned
        self._group = group
        self._stop = stop
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._topics: list[str] = []
        self._listener: Any = None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def subscribe(self, names: list[str], listener: Any) -> None:
        self._topics, self._listener = names, listener

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._paused -= set(partitions)

    def paused(self) -> set[TopicPartition]:
        return self._paused

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp] = offset

    async def position(self, tp: TopicPartition) -> int:
        return self._positions[tp]

    async def beginning_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: len(self._broker.records[tp]) for tp in partitions}

    def last_poll_timestamp(self, _: TopicPartition) -> int | None:
        return 0

    def highwater(self, tp: TopicPartition) -> int:
        return len(self._broker.records[tp])

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[RawRecord]]:
        await asyncio.sleep(timeout_ms / 1e9)
        if not self._positions:
            assigned = [tp for tp in self._broker.partitions_of(self._topics) if tp.partition in self._assigned]
            self._positions = dict.fromkeys(assigned, 0)
            await self._listener.on_partitions_assigned(self.assignment())
            return {}
        found: dict[TopicPartition, list[RawRecord]] = {}
        for tp, position in self._positions.items():
            if tp in self._paused:
                continue
            records = self._broker.records[tp][position : position + max_records]
            max_records -= len(records)
            if records:
                found[tp] = records
                self._positions[tp] += len(records)
        if not found and timeout_ms:
            self._stop.set()
        return found

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self._broker.step()
        self._broker.committed[self._group].update({tp: position.offset for tp, position in offsets.items()})
        self._broker.step()


class _Consumer(BatchConsumer[Any]):
    def __init__(self, broker: Broker, stop: asyncio.Event, assigned: Collection[int], **parts: Any) -> None:
        super().__init__(bootstrap="", backoff=_NO_DELAY, **parts)
        self._broker = broker
        self._until = stop
        self._assigned = assigned

    def _client(self) -> Any:
        return _Client(self._broker, self.group, self._until, self._assigned)

    async def _topic_ids(self, _: Any, names: Collection[str]) -> dict[str, str]:
        return dict.fromkeys(names, "id")

    async def _committed(
        self, _: Any, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        committed = self._broker.committed[self.group]
        return {tp: OffsetAndMetadata(committed[tp], "id") for tp in partitions if tp in committed}


def decode(record: RawRecord) -> str:
    """The text of a record; raises Poison for `bad…` and TooNew for `new…`."""
    text = (record.value or b"").decode()
    if text.startswith("bad"):
        raise Poison("not a message")
    if text.startswith("new"):
        raise TooNew("a message of version 9")
    return text


async def consume(
    broker: Broker,
    handle: Handler[Any] | TransactionalHandler[Any],
    *,
    read: Callable[[RawRecord], Any] = decode,
    names: Sequence[str] = (TOPIC,),
    group: str = GROUP,
    parks: bool = True,
    limit: int = 10_000,
    batch: int = 1000,
    store: ParkedKeyStore | None = None,
    assigned: Collection[int] = range(8),
) -> None:
    """Run a consumer until it has read all records of its assigned partitions; raises Crash."""
    stop, clock = asyncio.Event(), ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    consumer = _Consumer(
        broker,
        stop,
        assigned,
        group=group,
        topics=names,
        decode=read,
        handle=handle,
        dead_letters=DeadLetterWriter(broker, topic=LETTERS, group=group, clock=clock),
        parked=(store or InMemoryParkedKeys(broker, group, limit)) if parks else None,
        stops=InMemoryStops(broker, group),
        readiness=Readiness("test"),
        clock=clock,
        batch_records=batch,
    )
    await consumer.run(stop)
