"""Two replicas of the service on Kafka and PostgreSQL, one of them killed (promises 1, 2, 4, 5 and 6)."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer

from shared.contracts import events, topics
from shared.contracts.envelope import Event, decode
from shared.kafka.producer import KafkaProducer, Record, record
from tests.support.decision.cases import encoded, opened
from tests.support.service_process import start_service

SUBJECTS, VERSIONS = 60, 5


@asynccontextmanager
async def replica(number: int, environment: dict[str, str], logs: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    log = logs / f"decision-{number}.log"
    process = await start_service("decision", environment | {"PIEPOWDER_INSTANCE": str(number)}, log)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 20)
        print(log.read_text()[-2000:])


async def decisions(kafka: str, region: str, *, wanted: int, seconds: float = 40) -> list[Event[events.DecisionMade]]:
    """The region's decision events from the beginning of the topic, until `wanted` different events have arrived."""
    consumer = AIOKafkaConsumer(
        topics.decisions(region), bootstrap_servers=kafka, auto_offset_reset="earliest", fetch_max_wait_ms=50
    )
    await consumer.start()
    found: list[Event[events.DecisionMade]] = []
    try:
        async with asyncio.timeout(seconds):
            while len({event.attributes.id for event in found}) < wanted:
                for partition in (await consumer.getmany(timeout_ms=200)).values():
                    found += [decode(r.headers, r.key, r.value, region=region) for r in partition]
    finally:
        await consumer.stop()
    return found


async def test_a_killed_replica_loses_and_duplicates_no_decision(
    kafka: str, database_url: str, region: str, tmp_path: Path
) -> None:
    environment = {
        "PIEPOWDER_KAFKA": kafka,
        "PIEPOWDER_DATABASE_URL": database_url,
        "PIEPOWDER_REGION": region,
        "PIEPOWDER_BATCH_RECORDS": "20",
    }
    producer, topic = KafkaProducer(kafka, client_id="test"), topics.cases(region)
    posts = [
        encoded(region, f"s{n}", version=version, verdict="approve")
        for version in range(1, VERSIONS + 1)
        for n in range(SUBJECTS)
    ]
    poison = [Record(topic, b"k", b"{", []), record(topic, encoded(region, "bad", priority=0))]
    try:
        async with replica(0, environment, tmp_path) as first, replica(1, environment, tmp_path):
            await producer.send([record(topic, post) for post in posts[: len(posts) // 2]] + poison)
            await decisions(kafka, region, wanted=40)
            first.send_signal(signal.SIGKILL)
            await first.wait()
            await producer.send([record(topic, post) for post in posts[len(posts) // 2 :]])
            async with replica(0, environment, tmp_path):
                published = await decisions(kafka, region, wanted=len(posts))
    finally:
        await producer.stop()

    order: dict[str, list[int]] = defaultdict(list)
    for event in {event.attributes.id: event for event in published}.values():  # in the order of their first appearance
        order[event.attributes.subject].append(event.data.version or 0)
    assert order == {f"shop:product:s{n}": list(range(1, VERSIONS + 1)) for n in range(SUBJECTS)}
    database = await asyncpg.connect(database_url)
    try:
        assert await database.fetchval("SELECT count(*) FROM decisions") == len(posts)
        assert await database.fetchval("SELECT count(*) FROM cases WHERE state = 'decided'") == len(posts)
        assert await database.fetchval("SELECT sum(n) FROM tallies WHERE name = 'decided'") == len(posts)
        assert await database.fetchval("SELECT count(*) FROM outbox") == 0
    finally:
        await database.close()
    assert {event.data.case_id for event in published} == {
        opened(region, f"s{n}", version=v, verdict="approve")[1].case_id
        for v in range(1, VERSIONS + 1)
        for n in range(SUBJECTS)
    }
