"""Fixtures of the tests of the consumer loop."""

from collections.abc import AsyncIterator

import pytest

from shared.kafka.producer import KafkaProducer
from tests.support.consumer_group import ConsumerGroup


@pytest.fixture
async def group(kafka: str, region: str) -> AsyncIterator[ConsumerGroup]:
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    group = ConsumerGroup(kafka, region, producer)
    yield group
    await group.stop()
    await producer.stop()
