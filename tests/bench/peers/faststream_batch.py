"""FastStream's batch subscriber. Its batch publisher accepts only one set of headers and one partition per call, so
each record is published without waiting, and all are awaited before the batch is committed. FastStream's own JSON
parsing is not used: the decoder is the router's."""

import asyncio
import sys
from typing import Any

import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.message import StreamMessage

from shared.contracts.envelope import Event
from shared.contracts.events import ItemSubmitted
from tests.bench.floors import AT_A_TIME
from tests.bench.kafka import BATCH_BYTES, COMPRESSION
from tests.bench.peers.routing import Routing, partition


def app(bootstrap: str, source: str, target: str, group: str) -> FastStream:
    """The application: opens a case in `target` for each record in `source`, at least once."""
    routing = Routing()
    broker = KafkaBroker(
        bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type=COMPRESSION,
        max_batch_size=BATCH_BYTES,
        partitioner=partition,
        allow_auto_create_topics=False,
    )

    async def decode(message: StreamMessage[Any]) -> list[Event[ItemSubmitted]]:
        return [routing.read(record) for record in message.raw_message]

    @broker.subscriber(
        source,
        group_id=group,
        batch=True,
        max_records=AT_A_TIME,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=decode,
    )
    async def open_cases(submissions: list[Any]) -> None:
        published = []
        for submission in submissions:
            case = routing.case(submission)
            headers = {name: value.decode() for name, value in case.headers}
            published.append(await broker.publish(case.value, target, key=case.key, headers=headers, no_confirm=True))
        await asyncio.gather(*published)

    return FastStream(broker)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(app(*sys.argv[1:]).run())
