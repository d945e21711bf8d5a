"""A reader of a topic whose broker stops answering fails with its error, and is not cancelled (promise 9)."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from shared.contracts import topics
from shared.kafka.topic_tail import open_tail
from shared.runtime.errors import Transient

_REPETITIONS = 6  # the end of the client falls into the pause between two attempts in most of them
_ATTEMPTS_SECONDS = 0.35


async def test_the_error_of_a_reader_is_not_replaced_by_a_cancellation(kafka: str, region: str) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise KafkaConnectionError("a stopped broker")

    async def read() -> None:
        async with open_tail(kafka, topics.decisions(region), client_id="test-tail") as tail:
            consumer = tail._consumer
            [first, *_] = sorted(tail.ends)
            consumer.seek(first, 0)
            consumer._client.send = refuse
            consumer.resume(first)
            await asyncio.sleep(_ATTEMPTS_SECONDS)
            raise Transient("the topic cannot be read")

    for _ in range(_REPETITIONS):
        with pytest.raises(Transient, match="cannot be read"):
            await asyncio.create_task(read())
