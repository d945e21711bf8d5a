"""A region is drained by what its services have stored, not by the offsets that they have committed (promise 1)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from services.router.drain import RegionDrain
from shared.contracts import topics
from shared.kafka.producer import KafkaProducer, record
from tests.support.decision.cases import encoded
from tests.support.servers import Servers
from tests.support.service_process import KEY, Running, running, wait_until

CASES = 6


@asynccontextmanager
async def draining(kafka: str, region: str, decision: Running, folder: Path) -> AsyncIterator[RegionDrain]:
    (folder / "key").write_text(KEY)
    urls = {region: str(decision.http.base_url).rstrip("/")}
    drain = RegionDrain(lambda _: kafka, urls, folder / "key", client_id="test")
    try:
        yield drain
    finally:
        await drain.stop()


@asynccontextmanager
async def without_writes(database: asyncpg.Connection) -> AsyncIterator[None]:
    """The service reads its tables, and stores no case."""
    async with database.transaction():
        await database.execute("LOCK TABLE cases IN EXCLUSIVE MODE")
        yield


@pytest.mark.timeout(120)
async def test_a_region_is_not_drained_while_its_decision_service_is_behind_the_offsets_that_it_has_committed(
    servers: Servers, region: str, tmp_path: Path
) -> None:
    topic = topics.cases(region)
    server = await asyncpg.connect(servers.database_url)
    producer = KafkaProducer(servers.kafka, client_id="test")
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka)
    await admin.start()
    try:
        async with (
            running("decision", server, servers, region, tmp_path) as decision,
            draining(servers.kafka, region, decision, tmp_path) as drain,
        ):
            locking, database = await asyncpg.connect(decision.url), await asyncpg.connect(decision.url)

            async def is_drained() -> bool:
                return await drain.unfinished(region) == []

            async def is_missing_records() -> bool:
                return any("are missing; they were deleted before they were read" in r for r in await unfinished())

            async def unfinished() -> list[str]:
                return await drain.unfinished(region)

            assert await is_drained()
            async with without_writes(locking):
                await producer.send([record(topic, encoded(region, f"s{n}", verdict="approve")) for n in range(CASES)])
                assert await unfinished() == [
                    f"{CASES} records of {topic} are not stored by decision; its positions show it"
                ]
            await wait_until(is_drained)

            async with without_writes(locking):  # the state after the restore of an older backup
                await database.execute("DELETE FROM positions WHERE expected >= 0")
                assert await unfinished() == [
                    f"{CASES} records of {topic} are not stored by decision; its positions show it"
                ]
            await wait_until(is_drained)

            [first, *_] = await database.fetch(
                "SELECT partition, max(position) FROM positions GROUP BY 1 ORDER BY 2 DESC"
            )
            async with without_writes(locking):
                await database.execute("DELETE FROM positions WHERE expected >= 0")
                place = TopicPartition(topic, first["partition"])
                await admin.delete_records({place: RecordsToDelete(before_offset=first["max"])})
                await wait_until(is_missing_records)
            await wait_until(is_missing_records)
            assert not await is_drained()
            await locking.close()
            await database.close()
    finally:
        await admin.close()
        await producer.stop()
        await server.close()
