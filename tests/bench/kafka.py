"""Kafka for the bench: fill topics, read them completely, and watch the progress of a group."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError

from shared.contracts.envelope import Encoded
from shared.kafka.producer import KafkaProducer, Record, record

Lanes: TypeAlias = dict[TopicPartition, list[Record]]
BATCH_BYTES: Final = 512 * 1024  # this and the next one as in shared.kafka.producer
COMPRESSION: Final = "zstd"
_POLL_SECONDS: Final = 0.1
_AT_A_TIME: Final = 5_000


async def fill(producer: KafkaProducer, topic: str, events: Sequence[Encoded]) -> None:
    """Write the events to a topic, in their order."""
    for at in range(0, len(events), _AT_A_TIME):
        await producer.send([record(topic, event) for event in events[at : at + _AT_A_TIME]])


def bare_producer(bootstrap: str, codec: str = COMPRESSION) -> AIOKafkaProducer:
    """A plain aiokafka producer with the settings of `shared.kafka.producer` except the codec."""
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        compression_type=codec,
    )


def bare_consumer(bootstrap: str, group: str | None, *names: str) -> AIOKafkaConsumer:
    """A plain aiokafka consumer with the fetch settings of `shared.kafka.consumer`."""
    return AIOKafkaConsumer(
        *names,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=100,
        isolation_level="read_committed",
    )


class Watch:
    """The progress of topics and groups."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._consumer = bare_consumer(bootstrap, None)
        self._partitions: dict[str, int] = {}

    @classmethod
    @asynccontextmanager
    async def on(cls, bootstrap: str) -> AsyncIterator["Watch"]:
        """A watch with its connections, which are closed at the end of the block."""
        watch = cls(bootstrap)
        await watch._admin.start()
        await watch._consumer.start()
        try:
            yield watch
        finally:
            await watch._consumer.stop()
            await watch._admin.close()

    async def ends(self, names: Collection[str]) -> dict[TopicPartition, int]:
        """The end offset of every partition of these topics."""
        if unknown := [name for name in names if name not in self._partitions]:
            for topic in await self._admin.describe_topics(unknown):
                self._partitions[topic["topic"]] = len(topic["partitions"])
        wanted = [TopicPartition(name, partition) for name in names for partition in range(self._partitions[name])]
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(wanted)
        return ends

    async def size(self, *names: str) -> int:
        """The number of records in these topics (no record has expired)."""
        return sum((await self.ends(names)).values())

    async def until_size(self, size: int, *names: str) -> None:
        """Wait until these topics have `size` records in total."""
        while await self.size(*names) < size:  # noqa: ASYNC110 - Kafka must be polled
            await asyncio.sleep(_POLL_SECONDS)

    async def until_committed(self, group: str, names: Collection[str]) -> None:
        """Wait until a group has committed all current records of these topics."""
        ends = {tp: end for tp, end in (await self.ends(names)).items() if end > 0}
        while ends:
            with suppress(
                GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError
            ):  # the topic of the first group is new
                committed = await self._admin.list_consumer_group_offsets(group)
                ends = {tp: end for tp, end in ends.items() if tp not in committed or committed[tp].offset < end}
            if ends:
                await asyncio.sleep(_POLL_SECONDS)

    async def read(self, names: Collection[str], *, since: dict[TopicPartition, int] | None = None) -> Lanes:
        """The current records of these topics by partition, from the offsets `since` (or the first)."""
        ends = await self.ends(names)
        consumer = bare_consumer(self._bootstrap, None)
        await consumer.start()
        try:
            consumer.assign(list(ends))
            for tp in ends:
                consumer.seek(tp, (since or {}).get(tp, 0))
            lanes: Lanes = {tp: [] for tp in ends}
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for tp, found in (await consumer.getmany(timeout_ms=200)).items():
                    lanes[tp] += [_record(tp, one) for one in found]
            return lanes
        finally:
            await consumer.stop()


def _record(tp: TopicPartition, one: "ConsumerRecord[bytes, bytes]") -> Record:
    return Record(tp.topic, one.key, one.value, list(one.headers), tp.partition)
