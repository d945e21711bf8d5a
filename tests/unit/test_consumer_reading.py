"""A batch is read in portions; partitions that move between two of them neither lose a record nor pass one over."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from shared.clock import SystemClock
from shared.kafka.consumer import _BATCH_BYTES, BatchConsumer, RawRecord, Received
from shared.kafka.deadletters import DeadLetters
from shared.kafka.producer import KafkaProducer
from shared.readiness import Readiness

LANE = TopicPartition("t", 0)
Portion = dict[TopicPartition, list[RawRecord]]


class Scripted:
    """A client that gives one portion after the other; before one of them the partitions move."""

    def __init__(self, portions: Sequence[Portion], *, moves_before: int | None = None) -> None:
        self._portions = portions
        self._moves_before = moves_before
        self.asked: list[int] = []
        self.member: BatchConsumer[int] | None = None

    def assignment(self) -> set[TopicPartition]:
        return {LANE}

    def last_poll_timestamp(self, _: TopicPartition) -> int:
        return 5

    async def getmany(self, *, max_records: int, **_: int) -> Portion:
        if len(self.asked) == self._moves_before and self.member is not None:
            await self.member.drain()
        self.asked.append(max_records)
        return self._portions[len(self.asked) - 1] if len(self.asked) <= len(self._portions) else {}


def lane(*offsets: int, size: int = 1) -> Portion:
    return {LANE: [SimpleNamespace(offset=n, value=b"x" * size, headers=()) for n in offsets]}


async def handle(_: Sequence[Received[int]]) -> None:
    raise AssertionError("nothing is handled here")


async def take(client: Scripted, *, batch_records: int = 250) -> Any:
    clock = SystemClock()
    client.member = BatchConsumer(
        bootstrap="nowhere",
        group="g",
        topics=["t"],
        decode=lambda record: record.offset,
        handle=handle,
        deadletters=DeadLetters(KafkaProducer("nowhere", client_id="test"), topic="d", group="g", clock=clock),
        readiness=Readiness("test"),
        clock=clock,
        batch_records=batch_records,
    )
    batch: Any = await client.member._take(client, asyncio.Event())
    assert [[one.message for one in part] for part in batch.parts] == [[r.offset for r in batch.fetched.get(LANE, [])]]
    return batch


async def test_a_batch_is_what_is_there() -> None:
    client = Scripted([lane(*range(100)), lane(*range(100, 130))])
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == list(range(130))
    assert client.asked == [100, 100, 100]
    assert batch.emptied == {}


async def test_a_batch_is_full_at_so_many_records() -> None:
    client = Scripted([lane(*range(n, n + 100)) for n in (0, 100)] + [lane(*range(200, 250)), lane(250)])
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == list(range(250))
    assert client.asked == [100, 100, 50]
    assert batch.emptied is None, "nobody knows what else there is"


async def test_a_batch_is_full_at_so_many_bytes() -> None:
    client = Scripted([lane(n, size=_BATCH_BYTES // 2) for n in range(5)])
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == [0, 1]
    assert batch.emptied is None


async def test_what_comes_after_partitions_moved_begins_the_batch_anew() -> None:
    client = Scripted([lane(7, 8), lane(3, 4), lane(5)], moves_before=1)
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == [3, 4, 5]
    assert client.member is not None
    assert batch.moves == client.member._moves == 1, "so it is handled"


async def test_what_came_before_partitions_moved_is_not_handled() -> None:
    client = Scripted([lane(7, 8)], moves_before=1)
    batch = await take(client)
    assert client.member is not None
    assert (batch.moves, client.member._moves) == (0, 1), "so it is dropped"


async def test_where_nothing_came_nothing_is_known_to_wait() -> None:
    batch = await take(Scripted([]))
    assert (batch.fetched, batch.emptied) == ({}, {LANE: 5})
