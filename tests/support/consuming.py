"""A cluster in memory and a consumer on it, for tests of the consumer loop that want every crash and every order.

It keeps what matters of Kafka: records in their order, offsets that a group commits, an assignment that is told before
anything of it is given out. A `Crash` is no Exception, so nothing between the test and the crash can handle it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka import ConsumerRecord, TopicPartition

from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, Handler, RawRecord
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.parking import KeyPartition, Parked, ParkedKeyStore, parked_keys
from shared.kafka.producer import Record, partition_of
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison, TooNew
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff

REGION: Final = "eu"
GROUP: Final = "piepowder-router-eu"
TOPIC: Final = topics.submissions(REGION)
LETTERS: Final = topics.deadletters(REGION)
PARKED: Final = topics.parked(REGION)
_AT_ONCE: Final = Backoff(first=0.0, longest=0.0, bound=5.0)


class Crash(BaseException):
    """The process is gone."""


class Broker:
    """Topics of `partitions` each, and what groups have committed. `fuse` crashes at the n-th thing that is done."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.records: dict[TopicPartition, list[RawRecord]] = defaultdict(list)
        self.committed: dict[str, dict[TopicPartition, int]] = defaultdict(dict)
        self.fuse: int | None = None

    def step(self) -> None:
        """Something is about to be done."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Crash

    async def send(self, records: Sequence[Record]) -> None:
        """As a `Producer`; records are written one by one, so that a crash may come between two."""
        for one in records:
            self.step()
            count = 1 if one.topic == PARKED else self.partitions
            partition = partition_of(one.key, count) if one.partition is None else one.partition
            lane = self.records[TopicPartition(one.topic, partition)]
            lane.append(
                ConsumerRecord(
                    one.topic, partition, len(lane), 0, 0, one.key, one.value, None, 0, 0, tuple(one.headers)
                )
            )

    def all(self, topic: str) -> list[RawRecord]:
        """Every record of a topic."""
        return [record for place, lane in self.records.items() if place.topic == topic for record in lane]

    def places(self, names: Collection[str]) -> list[TopicPartition]:
        return [TopicPartition(name, n) for name in names for n in range(self.partitions)]


class Kept(ParkedKeyStore):
    """Parked keys of a broker in memory."""

    def __init__(self, broker: Broker, group: str, limit: int = 10_000) -> None:
        super().__init__(broker, bootstrap="", topic=PARKED, group=group, limit=limit)
        self._broker = broker
        self._of = group

    async def read(self) -> dict[KeyPartition, Parked]:
        return parked_keys(self._broker.all(PARKED), self._of)


class _Client:
    """What the loop uses of aiokafka's consumer; it stops the loop when there is nothing left to read."""

    def __init__(self, broker: Broker, group: str, stop: asyncio.Event, held: Collection[int]) -> None:
        self._broker = broker
        self._held = held
        self._group = group
        self._stop = stop
        self._positions: dict[TopicPartition, int] = {}
        self._topics: list[str] = []
        self._listener: Any = None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def subscribe(self, names: list[str], listener: Any) -> None:
        self._topics, self._listener = names, listener

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def last_poll_timestamp(self, _: TopicPartition) -> int | None:
        return 0

    def highwater(self, place: TopicPartition) -> int:
        return len(self._broker.records[place])

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[RawRecord]]:
        await asyncio.sleep(timeout_ms / 1e9)
        if not self._positions:
            known = self._broker.committed[self._group]
            places = [place for place in self._broker.places(self._topics) if place.partition in self._held]
            self._positions = {place: known.get(place, 0) for place in places}
            await self._listener.on_partitions_assigned(self.assignment())
            return {}
        found: dict[TopicPartition, list[RawRecord]] = {}
        for place, position in self._positions.items():
            lane = self._broker.records[place][position : position + max_records]
            max_records -= len(lane)
            if lane:
                found[place] = lane
                self._positions[place] += len(lane)
        if not found and timeout_ms:
            self._stop.set()
        return found

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._broker.step()
        self._broker.committed[self._group].update(offsets)
        self._broker.step()


class _Consumer(BatchConsumer[Any]):
    def __init__(self, broker: Broker, stop: asyncio.Event, held: Collection[int], **parts: Any) -> None:
        super().__init__(bootstrap="", backoff=_AT_ONCE, **parts)
        self._broker = broker
        self._until = stop
        self._held = held

    def _client(self) -> Any:
        return _Client(self._broker, self._group, self._until, self._held)


def decode(record: RawRecord) -> str:
    """A text; `bad…` is none, and `new…` is one that only a newer reader knows."""
    text = (record.value or b"").decode()
    if text.startswith("bad"):
        raise Poison("not a message")
    if text.startswith("new"):
        raise TooNew("a message of version 9")
    return text


async def consume(
    broker: Broker,
    handle: Handler[Any],
    *,
    read: Callable[[RawRecord], Any] = decode,
    names: Sequence[str] = (TOPIC,),
    group: str = GROUP,
    parks: bool = True,
    limit: int = 10_000,
    batch: int = 1000,
    keys: ParkedKeyStore | None = None,
    held: Collection[int] = range(8),
) -> None:
    """Start a process that reads everything there is in the partitions `held`, and ends; raises Crash when it was
    broken off."""
    stop, clock = asyncio.Event(), ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    consumer = _Consumer(
        broker,
        stop,
        held,
        group=group,
        topics=names,
        decode=read,
        handle=handle,
        dead_letters=DeadLetterWriter(broker, topic=LETTERS, group=group, clock=clock),
        parked=(keys or Kept(broker, group, limit)) if parks else None,
        readiness=Readiness("test"),
        clock=clock,
        batch_records=batch,
    )
    await consumer.run(stop)
