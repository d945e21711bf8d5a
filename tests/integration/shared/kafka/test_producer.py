"""A send returns after all in-sync replicas have every record, in order per key, or raises."""

import asyncio
import random
import time

import pytest
from aiokafka import AIOKafkaConsumer

from shared.contracts import topics
from shared.kafka.producer import KafkaProducer, Record, partition_of
from shared.runtime.errors import Poison, Transient


async def test_sent_records_arrive_in_order_per_key_for_any_batch_size(kafka: str, region: str) -> None:
    producer = KafkaProducer(kafka, client_id="test")
    sent = [Record(topics.cases(region), f"k{n % 7}".encode(), f"{n:05d}".encode() * 100, []) for n in range(5000)]
    await producer.send(sent)
    await producer.stop()
    found: dict[bytes, list[bytes]] = {}
    async with AIOKafkaConsumer(
        topics.cases(region), bootstrap_servers=kafka, group_id=None, auto_offset_reset="earliest"
    ) as consumer:
        async with asyncio.timeout(60):
            while sum(len(records) for records in found.values()) < len(sent):
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    for record in records:
                        found.setdefault(record.key, []).append(record.value)
                        assert tp.partition == partition_of(record.key, 6)
    expected: dict[bytes, list[bytes]] = {}
    for record in sent:
        expected.setdefault(record.key or b"", []).append(record.value or b"")
    assert found == expected


async def test_a_cluster_that_is_down_is_a_transient_error_within_the_timeout() -> None:
    producer = KafkaProducer("127.0.0.1:1", client_id="test", timeout=1)
    started = time.monotonic()
    with pytest.raises(Transient):
        await producer.send([Record("t", b"k", b"v", [])])
    assert time.monotonic() - started < 10
    await producer.stop()


async def test_a_record_that_is_too_large_is_poison_and_the_producer_still_works(kafka: str, region: str) -> None:
    producer = KafkaProducer(kafka, client_id="test")
    incompressible = random.Random(1).randbytes(6_000_000)
    with pytest.raises(Poison, match="larger"):
        await producer.send([Record(topics.cases(region), b"k", incompressible, [])])
    await producer.send([Record(topics.cases(region), b"k", b"fits", [])])
    await producer.stop()
