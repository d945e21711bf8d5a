"""Reads topics from their first offset, with a plain consumer that has no group and commits nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from piepowder.progress import counting

PATIENCE: Final = 30.0  # seconds without a record before the cluster counts as unavailable


def new_consumer(bootstrap: str, client_id: str, *names: str) -> AIOKafkaConsumer:
    """A consumer of these topics, from their first offset."""
    return AIOKafkaConsumer(
        *names,
        bootstrap_servers=bootstrap,
        client_id=client_id,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=8 * 2**20,
    )


async def read_to_end(consumer: AIOKafkaConsumer) -> AsyncIterator[ConsumerRecord[Any, Any]]:
    """The records up to the present end of the consumer's topics, with a counter of the offsets that are read; raises
    `TimeoutError` after `PATIENCE`."""
    ends = await consumer.end_offsets(consumer.assignment())
    left = {tp: end - await consumer.position(tp) for tp, end in ends.items()}
    total = sum(max(0, count) for count in left.values())
    names = ", ".join(sorted({tp.topic for tp, count in left.items() if count > 0}))
    with counting(f"Reading {names}", "records", total=total) as count:
        while behind := [tp for tp, end in ends.items() if await consumer.position(tp) < end]:
            batches: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = {}
            async with asyncio.timeout(PATIENCE):
                while not batches:
                    batches = await consumer.getmany(*behind, timeout_ms=500, max_records=5000)
            for records in batches.values():
                for record in records:
                    yield record
            count(total - sum([max(0, ends[tp] - await consumer.position(tp)) for tp in behind]))
            await asyncio.sleep(0)
