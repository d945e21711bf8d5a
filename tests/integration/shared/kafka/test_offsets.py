"""The progress of a group on real Kafka is never reported too early, with any clocks."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

from shared.contracts import topics
from shared.kafka.client_protocol import topic_ids
from shared.kafka.offsets import LogRange, OffsetClient, ReadUntil
from shared.kafka.producer import KafkaProducer, Record
from shared.runtime.errors import Transient


@pytest.fixture
async def offsets(kafka: str) -> AsyncIterator[OffsetClient]:
    client = OffsetClient(kafka, client_id="test")
    yield client
    await client.stop()


@asynccontextmanager
async def admin(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def id_of(kafka: str, topic: str) -> str:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        return (await topic_ids(consumer, [topic]))[topic]
    finally:
        await consumer.stop()


async def commit(kafka: str, group: str, to: Mapping[TopicPartition, int | OffsetAndMetadata]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(list(to))
        await consumer.commit(dict(to))
    finally:
        await consumer.stop()


async def behind(offsets: OffsetClient, group: str, topic: str) -> int:
    """The records that the group has not committed; waits for the first coordinator of a new cluster."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await offsets.behind(group, topic)
            except Transient:
                await asyncio.sleep(0.1)


async def test_a_group_has_passed_exactly_the_offsets_that_it_has_committed(
    kafka: str, region: str, offsets: OffsetClient
) -> None:
    topic, group = topics.submissions(region), f"test-{region}"
    producer = KafkaProducer(kafka, client_id="test")
    try:
        topic_id = await id_of(kafka, topic)
        empty = await offsets.ends([topic])
        assert set(empty.values()) == {LogRange(0, 0, topic_id)}
        assert await offsets.has_passed(group, empty)
        await producer.send([Record(topic, b"k", b"v", [], partition=n) for n in (0, 0, 1)])
        ends = await offsets.ends([topic])
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        assert ends == empty | {first: LogRange(0, 2, topic_id), second: LogRange(0, 1, topic_id)}
        assert not await offsets.has_passed(group, ends)
        assert await behind(offsets, group, topic) == 3
        await commit(kafka, group, {first: 1, second: 1})
        assert not await offsets.has_passed(group, ends)
        assert await offsets.behind(group, topic) == 1
        await commit(kafka, group, {first: 2})
        assert await offsets.has_passed(group, ends)
        assert await offsets.behind(group, topic) == 0
        await producer.send([Record(topic, b"k", b"v", [], partition=1)])
        assert await offsets.has_passed(group, ends)
        assert not await offsets.has_passed(group, await offsets.ends([topic]))
        assert await offsets.behind(group, topic) == 1
    finally:
        await producer.stop()


async def test_offsets_of_another_log_and_deleted_records_do_not_count_as_read(
    kafka: str, region: str, offsets: OffsetClient
) -> None:
    topic, group = topics.submissions(region), f"test-{region}"
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    topic_id = await id_of(kafka, topic)
    producer = KafkaProducer(kafka, client_id="test")
    try:
        await producer.send([Record(topic, b"k", b"v", [], partition=n) for n in (0, 0, 0, 1, 1)])
        ends = await offsets.ends([topic])
        assert await behind(offsets, group, topic) == 5

        await commit(kafka, group, {first: OffsetAndMetadata(3, topic_id), second: OffsetAndMetadata(2, topic_id)})
        assert await offsets.behind(group, topic) == 0
        assert await offsets.has_passed(group, ends)

        await commit(kafka, group, {first: OffsetAndMetadata(7, topic_id)})  # behind the end: the log lost records
        assert await offsets.behind(group, topic) == 3

        await commit(kafka, group, {first: OffsetAndMetadata(3, "the-id-of-a-deleted-topic")})
        assert await offsets.behind(group, topic) == 3
        assert not await offsets.has_passed(group, ends)

        await commit(kafka, group, {first: OffsetAndMetadata(1, topic_id)})
        async with admin(kafka) as client:
            await client.delete_records({first: RecordsToDelete(before_offset=3)})
        assert await offsets.behind(group, topic) == 2, "deleted before they were read"
        assert await offsets.unread(topic, {0: ReadUntil(3, topic_id), 1: ReadUntil(2, topic_id)}) == 0
        assert await offsets.unread(topic, {0: ReadUntil(3, topic_id)}) == 2, "a partition without a position"
    finally:
        await producer.stop()


async def test_the_end_of_a_topic_that_does_not_exist_is_a_transient_error(offsets: OffsetClient) -> None:
    with pytest.raises(Transient, match="nowhere"):
        await offsets.ends(["piepowder.submissions.nowhere"])
    with pytest.raises(Transient, match="nowhere"):
        await offsets.behind("g", "piepowder.submissions.nowhere")


async def test_without_kafka_every_call_is_a_transient_error() -> None:
    unreachable = OffsetClient("127.0.0.1:1", client_id="test")
    for _ in range(2):
        with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
            await unreachable.ends(["t"])
        with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
            await unreachable.behind("g", "t")
    await unreachable.stop()
