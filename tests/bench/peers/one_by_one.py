"""The usual loop of tutorials: `async for`, `send_and_wait`, `commit`; one record at a time."""

import asyncio
import sys

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.bench.kafka import COMPRESSION
from tests.bench.peers.routing import Routing, partition


async def run(bootstrap: str, source: str, target: str, group: str) -> None:
    """Open a case for every record of `source`, at least once, until the process is ended."""
    routing = Routing()
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type=COMPRESSION,
        partitioner=partition,
    )
    consumer = AIOKafkaConsumer(
        source, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    async with producer, consumer:
        async for record in consumer:
            case = routing.case(routing.read(record))
            await producer.send_and_wait(target, case.value, key=case.key, headers=case.headers)
            await consumer.commit()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*sys.argv[1:]))
