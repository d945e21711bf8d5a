"""Reads a topic from given offsets to the end offsets at the opening.

It returns when it has reached them and does not wait for new records. It joins no consumer group, and leaves out the
records of aborted transactions. A service reads its own topic this way after a start.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.kafka.client_protocol import partitions_of, topic_ids
from shared.kafka.closing import close
from shared.kafka.offsets import CommittedOffset
from shared.kafka.records import RawRecord
from shared.kafka.whole_topic import next_records, no_such_topic
from shared.runtime.errors import Transient
from shared.runtime.user_errors import cause

_READ_SECONDS: Final = 30.0  # for one step, also for the next records of a partition that has some


class Portion(NamedTuple):
    """Records of one partition, and the offset after them."""

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
        bootstrap: str,
        consumer: AIOKafkaConsumer,
        topic_id: str,
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        self._bootstrap = bootstrap
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

    async def handled(self, group: str) -> dict[TopicPartition, int]:
        """The offsets before which a group has handled every record of this topic, as far as its commits show."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        try:
            async with _errors_are_transient(f"the offsets of {group}", _READ_SECONDS):
                await admin.start()
                found = await admin.list_consumer_group_offsets(group)
        finally:
            await close(admin)
        known = {tp: CommittedOffset.of(offset) for tp, offset in found.items() if tp in self.ends}
        return {tp: at.highest for tp, at in known.items() if at.topic_id == self.topic_id}


@asynccontextmanager
async def open_tail(bootstrap: str, topic: str, *, client_id: str) -> AsyncIterator[TopicTail]:
    """Open an existing topic, and read its id and its end offsets."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id=client_id,
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
            partitions = await partitions_of(consumer, topic)
            consumer.assign(partitions)  # once: a replaced assignment ends the client's coordinator
            consumer.pause(*partitions)
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        yield TopicTail(bootstrap, consumer, found, starts, ends)
    finally:
        await close(consumer)


@asynccontextmanager
async def _errors_are_transient(what: str, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"{what} cannot be read from Kafka: {cause(error)}.") from error
