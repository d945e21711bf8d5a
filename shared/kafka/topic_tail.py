"""Reads the end of a topic, from given offsets to its end at this moment, without joining a consumer group.

A service reads its own topic this way after a start, so it never waits for new records. The records of aborted
transactions are left out.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.kafka.client_protocol import committed_offsets, topic_ids
from shared.kafka.records import RawRecord
from shared.kafka.whole_topic import next_records, no_such_topic
from shared.runtime.errors import Transient

_CALL_SECONDS: Final = 10.0
_READ_SECONDS: Final = 30.0  # for the next records of a partition that has some


class Portion(NamedTuple):
    """Records of one partition, and the position behind them."""

    partition: TopicPartition
    records: Sequence[RawRecord]
    end: int


class TopicTail:
    """A topic on a cluster, while `open_tail` holds a connection; every method raises Transient.

    `topic_id` identifies the topic: another topic of the same name has another id. `starts` and `ends` are the first
    and the next offset of each partition when the tail was opened.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topic_id: str,
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        self._consumer = consumer
        self.topic_id = topic_id
        self.starts = starts
        self.ends = ends

    async def read(self, positions: Mapping[TopicPartition, int]) -> AsyncIterator[Portion]:
        """The records of each partition from its position to its end."""
        for tp, end in sorted(self.ends.items()):
            at = positions[tp]
            if at >= end:
                continue
            self._consumer.seek(tp, at)
            self._consumer.pause(*(other for other in self.ends if other != tp))
            self._consumer.resume(tp)
            while at < end:
                async with _errors_are_transient(tp.topic, _READ_SECONDS):
                    records = await self._next(tp, at)
                    at = await self._consumer.position(tp)
                yield Portion(tp, [record for record in records if record.offset < end], min(at, end))

    async def _next(self, tp: TopicPartition, at: int) -> list[RawRecord]:
        while True:
            records = await next_records(self._consumer, tp)
            if records or await self._consumer.position(tp) > at:
                return records

    async def committed(self) -> dict[TopicPartition, int]:
        """The offsets that the group has committed together with the id of this topic."""
        async with _errors_are_transient("committed offsets", _CALL_SECONDS):
            found = await committed_offsets(self._consumer, list(self.ends))
        return {tp: offset.offset for tp, offset in found.items() if offset.metadata == self.topic_id}


@asynccontextmanager
async def open_tail(
    bootstrap: str, topic: str, *, client_id: str, group: str | None = None
) -> AsyncIterator[TopicTail]:
    """The end of an existing topic. `group` is a consumer group whose committed offsets are read, if any."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id=client_id,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        isolation_level="read_committed",
    )
    try:
        async with _errors_are_transient(topic, _READ_SECONDS):
            await consumer.start()
            found = (await topic_ids(consumer, [topic])).get(topic)
            if found is None:
                raise Transient(no_such_topic(topic))
            consumer.assign([TopicPartition(topic, 0)])  # the client learns the partitions of assigned topics only
            await consumer.end_offsets([TopicPartition(topic, 0)])
            partitions = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            consumer.pause(*partitions)
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        yield TopicTail(consumer, found, starts, ends)
    finally:
        await consumer.stop()


@asynccontextmanager
async def _errors_are_transient(what: str, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"{what} cannot be read from Kafka: {error!r}") from error
