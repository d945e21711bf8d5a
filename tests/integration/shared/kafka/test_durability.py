"""A record that was reported as sent survives the loss of a broker, and is in its topic exactly once (promise 1)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.memory_records import MemoryRecords

from shared.contracts import topics
from shared.kafka.producer import KafkaProducer, Record

ALL_IN_SYNC_REPLICAS = -1
NO_PRODUCER_ID = -1


@pytest.fixture
async def producer(kafka: str) -> AsyncIterator[KafkaProducer]:
    producer = KafkaProducer(kafka, client_id="test")
    yield producer
    await producer.stop()


async def values_of(kafka: str, topic: str) -> list[bytes]:
    """Every value in a topic, by partition and offset."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        places = sorted(consumer.assignment())
        ends = await consumer.end_offsets(places)
        found: dict[TopicPartition, list[bytes]] = {place: [] for place in places}
        for place in places:
            while len(found[place]) < ends[place]:
                found[place] += [record.value for record in (await consumer.getmany(place, timeout_ms=200))[place]]
    return [value for place in places for value in found[place]]


async def test_every_batch_asks_for_all_in_sync_replicas_and_carries_a_producer_id_and_sequence_number(
    region: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []
    send = AIOKafkaClient.send

    async def recorded(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
        if isinstance(request, ProduceRequest):
            requests.append(request.prepare({ProduceRequest.API_KEY: (7, 7)}))
        return await send(client, node, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", recorded)
    for part in range(2):
        await producer.send([Record(topics.cases(region), b"k%d" % n, b"%d" % part, []) for n in range(50)])

    assert {request.required_acks for request in requests} == {ALL_IN_SYNC_REPLICAS}
    sequences: dict[int, list[int]] = {}
    for request in requests:
        for _, partitions in request.topics:
            for partition, data in partitions:
                batch = MemoryRecords(bytes(data)).next_batch()
                assert batch.producer_id != NO_PRODUCER_ID
                sequences.setdefault(partition, []).append(batch.base_sequence)
    assert len(sequences) == 6
    for partition, found in sequences.items():
        first, second = sorted(set(found))  # a batch that is sent again keeps its number
        assert first == 0 < second, f"partition {partition}"


async def test_a_batch_whose_acknowledgement_is_lost_is_in_the_topic_exactly_once_and_in_order(
    kafka: str, region: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[object] = []
    send = AIOKafkaClient.send

    async def losing(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
        response = await send(client, node, request, **options)
        if isinstance(request, ProduceRequest) and len(lost) < 3:
            lost.append(response)
            raise KafkaConnectionError("the connection ended before the acknowledgement")
        return response

    values = [b"%03d" % n for n in range(100)]
    for part in range(0, 100, 25):
        await producer.send([Record(topics.cases(region), b"k", value, []) for value in values[part : part + 25]])
        monkeypatch.setattr(AIOKafkaClient, "send", losing)  # from now on: the new topic has its leader

    assert len(lost) == 3
    assert await values_of(kafka, topics.cases(region)) == values


async def test_a_send_returns_only_after_kafka_has_acknowledged_every_record(
    region: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()
    send = AIOKafkaClient.send

    async def held_back(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
        response = await send(client, node, request, **options)
        if isinstance(request, ProduceRequest):
            arrived.set()
            await released.wait()
        return response

    monkeypatch.setattr(AIOKafkaClient, "send", held_back)
    sending = asyncio.create_task(producer.send([Record(topics.cases(region), b"%d" % n, b"v", []) for n in range(60)]))
    await asyncio.wait_for(arrived.wait(), 20)
    await asyncio.sleep(0.2)
    assert not sending.done()
    released.set()
    await sending
