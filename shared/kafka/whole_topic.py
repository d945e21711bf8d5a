"""Reads a small topic as a whole, without a consumer group."""

import asyncio
import logging
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.kafka.closing import close
from shared.kafka.records import RawRecord
from shared.runtime.errors import Transient
from shared.runtime.user_errors import cause

log = logging.getLogger(__name__)

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
                for tp, end in ends.items():
                    if await consumer.position(tp) < end:
                        found += await next_records(consumer, tp)
            return found
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"the topic {topic} cannot be read from Kafka at {bootstrap}: {cause(error)}.") from error
    finally:
        await close(consumer)


async def next_records(
    consumer: AIOKafkaConsumer, tp: TopicPartition, limit: int = 500, *, wait_ms: int = 100
) -> list[RawRecord]:
    """The next records of one partition; waits at most `wait_ms` for the first one.

    Skips a record that the Kafka client cannot parse (a header's name that is not UTF-8). The client does not report
    which one it is, so the records are then read one at a time.
    """
    reason = ""
    for size in (limit, 1):
        try:
            found: list[RawRecord] = (await consumer.getmany(tp, timeout_ms=wait_ms, max_records=size)).get(tp, [])
        except ValueError as error:
            reason = repr(error)
        else:
            return found
    offset = await consumer.position(tp)
    place = {"topic": tp.topic, "partition": tp.partition, "offset": offset}
    log.error("the Kafka client cannot read a record; it is skipped", extra=place | {"reason": reason})
    consumer.seek(tp, offset + 1)
    return []


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
