"""Reads a small topic as a whole, without a consumer group."""

import asyncio
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.kafka.records import RawRecord
from shared.runtime.errors import Transient

_READ_SECONDS: Final = 30.0


async def read_whole(bootstrap: str, topic: str, client_id: str) -> list[RawRecord]:
    """All records of a topic, up to its end at this moment; raises Transient when it cannot be read."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, client_id=client_id, enable_auto_commit=False, fetch_max_wait_ms=100
    )
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await consumer.start()
            if topic not in await consumer.topics():
                raise Transient(no_such_topic(topic))
            ends = await assign_from_beginning(consumer, topic)
            found: list[RawRecord] = []
            while not await has_reached(consumer, ends):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
            return found
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"the topic {topic} cannot be read from Kafka at {bootstrap}: {error!r}") from error
    finally:
        await consumer.stop()


async def assign_from_beginning(consumer: AIOKafkaConsumer, topic: str) -> dict[TopicPartition, int]:
    """Assign all partitions of an existing topic, from their first record; returns their end offsets."""
    consumer.assign([TopicPartition(topic, 0)])  # the client learns the partitions of assigned topics only
    await consumer.end_offsets([TopicPartition(topic, 0)])
    partitions = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    return ends


async def has_reached(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    """True if the consumer has read all records before these offsets."""
    return all([await consumer.position(tp) >= end for tp, end in ends.items()])


def no_such_topic(topic: str) -> str:
    """The error message for a topic that does not exist."""
    return f"the topic {topic} does not exist: create it with `piepowder topics`"
