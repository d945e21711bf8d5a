"""How far a group has read, on real Kafka: never said too early, whatever clocks say."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts import topics
from shared.kafka.offsets import OffsetClient
from shared.kafka.producer import KafkaProducer, Record
from shared.runtime.errors import Transient


@pytest.fixture
async def reach(kafka: str) -> AsyncIterator[OffsetClient]:
    asking = OffsetClient(kafka, client_id="test")
    yield asking
    await asking.stop()


async def commit(kafka: str, group: str, offsets: dict[TopicPartition, int]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(list(offsets))
        await consumer.commit(offsets)
    finally:
        await consumer.stop()


async def test_a_group_has_passed_what_it_has_committed_and_no_more(
    kafka: str, region: str, reach: OffsetClient
) -> None:
    topic, group = topics.submissions(region), f"test-{region}"
    producer = KafkaProducer(kafka, client_id="test")
    try:
        assert await reach.ends([topic]) == {}
        await producer.send([Record(topic, b"k", b"v", [], partition=n) for n in (0, 0, 1)])
        ends = await reach.ends([topic])
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        assert ends == {first: 2, second: 1}
        assert not await reach.has_passed(group, ends)
        await commit(kafka, group, {first: 1, second: 1})
        assert not await reach.has_passed(group, ends)
        await commit(kafka, group, {first: 2})
        assert await reach.has_passed(group, ends)
        await producer.send([Record(topic, b"k", b"v", [], partition=1)])
        assert await reach.has_passed(group, ends)
        assert not await reach.has_passed(group, await reach.ends([topic]))
    finally:
        await producer.stop()


async def test_a_topic_that_is_not_there_has_no_end_to_tell(reach: OffsetClient) -> None:
    with pytest.raises(Transient, match="nowhere"):
        await reach.ends(["piepowder.submissions.nowhere"])


async def test_without_kafka_nothing_is_said_and_it_may_be_asked_again() -> None:
    away = OffsetClient("127.0.0.1:1", client_id="test")
    for _ in range(2):
        with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
            await away.ends(["t"])
    await away.stop()
