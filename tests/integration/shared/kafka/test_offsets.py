"""The ends of topics on real Kafka."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition

from shared.contracts import topics
from shared.kafka.offsets import OffsetClient
from shared.kafka.producer import KafkaProducer, Record
from shared.runtime.errors import Transient


@pytest.fixture
async def offsets(kafka: str) -> AsyncIterator[OffsetClient]:
    client = OffsetClient(kafka, client_id="test")
    yield client
    await client.stop()


async def test_the_ends_of_a_topic_have_its_partitions_with_records(
    kafka: str, region: str, offsets: OffsetClient
) -> None:
    topic = topics.submissions(region)
    producer = KafkaProducer(kafka, client_id="test")
    try:
        assert await offsets.ends([topic]) == {}
        await producer.send([Record(topic, b"k", b"v", [], partition=n) for n in (0, 0, 1)])
        assert await offsets.ends([topic]) == {TopicPartition(topic, 0): 2, TopicPartition(topic, 1): 1}
    finally:
        await producer.stop()


async def test_the_end_of_a_topic_that_does_not_exist_is_a_transient_error(offsets: OffsetClient) -> None:
    with pytest.raises(Transient, match="nowhere"):
        await offsets.ends(["piepowder.submissions.nowhere"])


async def test_without_kafka_every_call_is_a_transient_error() -> None:
    unreachable = OffsetClient("127.0.0.1:1", client_id="test")
    for _ in range(2):
        with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
            await unreachable.ends(["t"])
    await unreachable.stop()
