"""A batch is read in portions; partitions that move between two of them neither lose a record nor pass one over."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from shared.kafka.consumer import _BATCH_BYTES, BatchConsumer, RawRecord, Received
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.producer import Producer, Record
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness

LANE = TopicPartition("t", 0)
Portion = dict[TopicPartition, list[RawRecord]]


class Scripted:
    """A client that gives one portion after the other; before one of them the partitions move."""

    def __init__(
        self,
        portions: Sequence[Portion],
        *,
        moves_before: int | None = None,
        fails_before: int | None = None,
        unreadable: bool = False,
    ) -> None:
        self._portions = portions
        self._moves_before = moves_before
        self._fails_before = fails_before
        self._unreadable = unreadable
        self.sought: list[tuple[TopicPartition, int]] = []
        self.asked: list[int] = []
        self.member: BatchConsumer[int] | None = None

    def assignment(self) -> set[TopicPartition]:
        return {LANE}

    def last_poll_timestamp(self, _: TopicPartition) -> int:
        return 5

    async def position(self, _: TopicPartition) -> int:
        return 7

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought.append((tp, offset))

    async def getmany(self, *_: TopicPartition, max_records: int, **__: int) -> Portion:
        if self._unreadable:
            raise ValueError("no UTF-8")
        if len(self.asked) == self._moves_before and self.member is not None:
            await self.member.drain()
        if len(self.asked) == self._fails_before:
            raise TopicAuthorizationFailedError("t")
        self.asked.append(max_records)
        return self._portions[len(self.asked) - 1] if len(self.asked) <= len(self._portions) else {}


class Letters:
    """Takes a dead letter; the partitions may move meanwhile."""

    def __init__(self, client: Scripted, *, moves: bool) -> None:
        self._client = client
        self._moves = moves
        self.sent = 0

    async def send(self, records: Sequence[Record]) -> None:
        self.sent += len(records)
        if self._moves and self._client.member is not None:
            await self._client.member.drain()


def lane(*offsets: int, size: int = 1) -> Portion:
    return {LANE: [SimpleNamespace(offset=n, value=b"x" * size, headers=()) for n in offsets]}


async def handle(_: Sequence[Received[int]]) -> None:
    raise AssertionError("nothing is handled here")


async def take(client: Scripted, *, one_by_one: bool = False, producer: Producer | None = None) -> Any:
    clock = SystemClock()
    client.member = BatchConsumer(
        bootstrap="nowhere",
        group="g",
        topics=["t"],
        decode=lambda record: record.offset,
        handle=handle,
        deadletters=DeadLetters(producer or Letters(client, moves=False), topic="d", group="g", clock=clock),
        readiness=Readiness("test"),
        clock=clock,
        batch_records=250,
    )
    client.member._one_by_one = one_by_one
    batch: Any = await client.member._take(client, asyncio.Event())
    assert [[one.message for one in part] for part in batch.parts] == [[r.offset for r in batch.fetched.get(LANE, [])]]
    return batch


async def test_a_batch_is_what_is_there() -> None:
    client = Scripted([lane(*range(10)), lane(*range(10, 110)), lane(*range(110, 130))])
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == list(range(130))
    assert client.asked == [10, 100, 100, 100]
    assert batch.emptied == {}


async def test_a_batch_is_full_at_so_many_records() -> None:
    client = Scripted([lane(*range(*some)) for some in ((0, 10), (10, 110), (110, 210), (210, 250), (250, 251))])
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == list(range(250))
    assert client.asked == [10, 100, 100, 40]
    assert batch.emptied is None, "nobody knows what else there is"


async def test_a_batch_is_full_at_so_many_bytes() -> None:
    large = _BATCH_BYTES // 13
    client = Scripted([lane(*some, size=large) for some in (range(10), (10, 11, 12), (13,), (14,))])
    batch = await take(client)
    assert client.asked == [10, 3, 1], "no more than there is room for, if they are as large"
    assert len(batch.fetched[LANE]) == 14
    client = Scripted([lane(0, size=_BATCH_BYTES), lane(1)])
    batch = await take(client)
    assert (client.asked, len(batch.fetched[LANE]), batch.emptied) == ([10], 1, None)


async def test_what_comes_after_partitions_moved_begins_the_batch_anew() -> None:
    client = Scripted([lane(7, 8), lane(3, 4), lane(5)], moves_before=1)
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == [3, 4, 5]
    assert client.member is not None
    assert batch.moves == client.member._moves == 1, "so it is handled"
    assert batch.emptied is None, "what was polled, and when, was of other partitions"


async def test_what_came_before_partitions_moved_is_not_handled() -> None:
    client = Scripted([lane(7, 8)], moves_before=1)
    batch = await take(client)
    assert client.member is not None
    assert (batch.moves, client.member._moves) == (0, 1), "so it is dropped"


async def test_where_nothing_came_nothing_is_known_to_wait() -> None:
    batch = await take(Scripted([]))
    assert (batch.fetched, batch.emptied) == ({}, {LANE: 5})


async def test_how_far_all_is_handled_is_not_told_while_it_is_not_known_of_one_partition() -> None:
    client, other = Scripted([]), TopicPartition("t", 1)
    await take(client)
    member = client.member
    assert member is not None
    assert member.handled_until() == {}
    member.assigned({LANE, other})
    member._lag.handled_until[LANE] = 5
    assert member.handled_until() == {}
    member._lag.handled_until[other] = 7
    assert member.handled_until() == {LANE: 5, other: 7}
    member.assigned({other})
    assert member.handled_until() == {other: 7}


async def test_when_partitions_move_while_the_first_records_are_waited_for_nobody_knows_what_there_is() -> None:
    client = Scripted([lane(3)], moves_before=0)
    batch = await take(client)
    assert client.member is not None
    assert (batch.moves, client.member._moves) == (1, 1), "what came is held now"
    assert batch.emptied is None
    client.member.assigned({LANE})
    client.asked.clear()
    batch = await client.member._take(client, asyncio.Event())
    assert batch.emptied is None, "in its script they move again"


async def test_what_the_others_gave_is_handled_before_a_failure_of_one_is_raised() -> None:
    client = Scripted([lane(3, 4)], fails_before=1)
    batch = await take(client)
    assert [record.offset for record in batch.fetched[LANE]] == [3, 4]
    assert isinstance(batch.failure, TopicAuthorizationFailedError)
    with pytest.raises(TopicAuthorizationFailedError):
        await take(Scripted([lane(3)], fails_before=0))


async def test_one_by_one_what_comes_after_partitions_moved_begins_the_look_anew() -> None:
    client = Scripted([lane(3)], moves_before=0)
    batch = await take(client, one_by_one=True)
    assert client.member is not None
    assert (batch.moves, client.member._moves, batch.emptied) == (1, 1, None)
    client = Scripted([], moves_before=0)
    batch = await take(client, one_by_one=True)
    assert client.member is not None
    assert (batch.moves, client.member._moves, batch.fetched) == (0, 1, {})


async def test_a_position_that_is_anew_since_partitions_moved_is_left_where_it_is() -> None:
    for moves in (False, True):
        client = Scripted([], unreadable=True)
        producer = Letters(client, moves=moves)
        await take(client, one_by_one=True, producer=producer)
        assert producer.sent == 1
        assert client.sought == ([] if moves else [(LANE, 8)])
