"""A database that becomes read-only, is renamed, or is dropped and restored under running services: the services stay
up, are not ready, and afterwards have handled every record exactly once, without a dead letter (promises 1, 4, 5)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from shared.contracts import topics
from shared.kafka.producer import KafkaProducer, record
from tests.support.decision.cases import encoded
from tests.support.servers import Servers
from tests.support.service_process import Running, running, wait_until

ATTEMPTS = 3
"""The number of repetitions of a batch by each service while the database is broken."""


async def end_sessions(admin: Any, database: str) -> None:
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)


@asynccontextmanager
async def read_only(admin: Any, service: Running) -> AsyncIterator[None]:
    """Imitate a demoted primary: its sessions end, and new ones are read-only."""
    database = service.database
    await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    await end_sessions(admin, database)
    yield
    await admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")


@asynccontextmanager
async def renamed(admin: Any, service: Running) -> AsyncIterator[None]:
    database = service.database
    await admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false")
    await end_sessions(admin, database)
    await wait_until(lambda: reports(service, "not currently accepting connections"))
    await admin.execute(f"ALTER DATABASE {database} RENAME TO {database}_away")
    yield
    await admin.execute(f"ALTER DATABASE {database}_away RENAME TO {database}")
    await admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true")


@asynccontextmanager
async def dropped_and_restored(admin: Any, service: Running) -> AsyncIterator[None]:
    database = service.database
    await admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false")
    await end_sessions(admin, database)
    await admin.execute(f"CREATE DATABASE {database}_copy TEMPLATE {database}")
    await admin.execute(f"DROP DATABASE {database}")
    await wait_until(lambda: reports(service, "does not exist"))
    await admin.execute(f"CREATE DATABASE {database}")  # empty until the restore
    yield
    await admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
    await admin.execute(f"ALTER DATABASE {database}_copy RENAME TO {database}")


async def dead_letters(kafka: str, region: str) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        topic = topics.deadletters(region)
        while not (partitions := consumer.partitions_for_topic(topic)):
            await consumer._client.force_metadata_update()
        return sum((await consumer.end_offsets([TopicPartition(topic, n) for n in partitions])).values())
    finally:
        await consumer.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (read_only, "PostgreSQL is read-only"),
        (renamed, "does not exist"),
        (dropped_and_restored, "The database has lost its schema"),
    ],
    ids=["read-only", "renamed", "dropped and restored"],
)
async def test_services_wait_for_their_database_and_then_handle_every_record_once(
    fault: Callable[[Any, Running], Any],
    *,
    reason: str,
    servers: Servers,
    region: str,
    tmp_path: Path,
) -> None:
    kafka = servers.kafka
    admin = await asyncpg.connect(servers.database_url)
    producer, topic = KafkaProducer(kafka, client_id="test"), topics.cases(region)

    async def post(first: int, last: int) -> None:
        await producer.send([record(topic, encoded(region, f"s{n}", verdict="approve")) for n in range(first, last)])

    try:
        async with (
            running("decision", admin, servers, region, tmp_path) as decision,
            running("audit", admin, servers, region, tmp_path) as audit,
        ):
            await post(0, 30)
            await producer.send([record(topic, encoded(region, "waits"))])
            await wait_until(lambda: has(decision, "SELECT count(*) > 0 FROM decisions", True))
            async with fault(admin, decision), fault(admin, audit):
                await post(30, 60)
                for service in (decision, audit):
                    before = await retries(service, region)

                    async def met_it(service: Running = service, before: float = before) -> bool:
                        return await retries(service, region) >= before + ATTEMPTS and await reports(service, reason)

                    await wait_until(met_it)
                    assert service.process.returncode is None
                    assert await metric(service, "piepowder_database_responds") == 0
                await returns_503_with_retry_after(decision, audit, reads=fault is not read_only)
                await post(60, 90)
                assert await dead_letters(kafka, region) == 0
            for service in (decision, audit):
                await wait_until(service.is_ready)
            await wait_until(lambda: has(decision, "SELECT count(*) FROM decisions", 90))
            await wait_until(lambda: has(decision, "SELECT count(*) FROM outbox", 0))
            own = f"FROM log WHERE region = '{region}'"  # other systems write the control topic
            events = 181 + (fault is dropped_and_restored)  # decision.recovered: it is another database
            await wait_until(lambda: has(audit, f"SELECT count(DISTINCT event_id) {own}", events))
            assert await has(audit, f"SELECT count(*) {own}", events)
            assert await has(audit, "SELECT max(seq) - count(*) FROM log", 0)
            assert await has(decision, "SELECT count(*) FROM cases WHERE state = 'decided'", 90)
            assert await dead_letters(kafka, region) == 0
            assert decision.process.returncode is audit.process.returncode is None
    finally:
        await producer.stop()
        await admin.close()


FREEZE = """
CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the table is frozen'; END $$;
CREATE TRIGGER frozen BEFORE INSERT ON {0} FOR EACH STATEMENT EXECUTE FUNCTION frozen()"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("change", "undo", "reason"),
    [
        (
            "ALTER TABLE {0} ADD COLUMN newer text NOT NULL DEFAULT 'x'; ALTER TABLE {0} ALTER newer DROP DEFAULT",
            "ALTER TABLE {0} DROP COLUMN newer",
            "schema does not fit this version",
        ),
        (
            "ALTER TABLE {0} ADD CONSTRAINT newer CHECK (region_code IS NOT NULL) NOT VALID",
            "ALTER TABLE {0} DROP COLUMN region_code",
            "schema does not fit this version",
        ),
        (FREEZE, "DROP TRIGGER frozen ON {0}", "the table is frozen"),
    ],
    ids=["a column of a newer version", "a constraint of a newer version", "a trigger that freezes the table"],
)
async def test_a_changed_table_under_a_running_service_dead_letters_no_record(
    change: str, undo: str, reason: str, *, servers: Servers, region: str, tmp_path: Path
) -> None:
    admin = await asyncpg.connect(servers.database_url)
    producer, topic = KafkaProducer(servers.kafka, client_id="test"), topics.cases(region)
    own = f"FROM log WHERE region = '{region}'"
    if "region_code" in change:
        change = "ALTER TABLE {0} ADD COLUMN region_code text; " + change
    try:
        async with (
            running("decision", admin, servers, region, tmp_path) as decision,
            running("audit", admin, servers, region, tmp_path) as audit,
        ):
            tables = {decision: "cases", audit: "log"}
            for service, table in tables.items():
                await execute(service, change.format(table))
            await producer.send([record(topic, encoded(region, f"s{n}", verdict="approve")) for n in range(30)])
            for service in tables:
                before = await retries(service, region)

                async def met_it(service: Running = service, before: float = before) -> bool:
                    response = await service.http.get("/readyz")
                    named = response.status_code == 503 and reason in response.text
                    return named and await retries(service, region) >= before + ATTEMPTS

                await wait_until(met_it)
            assert await dead_letters(servers.kafka, region) == 0
            for service, table in tables.items():
                await execute(service, undo.format(table))
            for service in tables:
                await wait_until(service.is_ready)
            await wait_until(lambda: has(decision, "SELECT count(*) FROM decisions", 30))
            await wait_until(lambda: has(audit, f"SELECT count(*) {own}", 60))
            assert await dead_letters(servers.kafka, region) == 0
    finally:
        await producer.stop()
        await admin.close()


async def execute(service: Running, statements: str) -> None:
    connection = await asyncpg.connect(service.url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def returns_503_with_retry_after(decision: Running, audit: Running, *, reads: bool) -> None:
    claim = {"reviewer": "r-1", "team": "in_house"}
    responses = [await decision.http.post("/v1/claims", json=claim)]
    if reads:
        responses += [await decision.http.get("/v1/queues"), await audit.http.get("/v1/totals")]
    for response in responses:
        assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
        assert int(response.headers["retry-after"]) > 0


async def reports(service: Running, reason: str) -> bool:
    """True if the service is not ready, and names this reason."""
    response = await service.http.get("/readyz")
    return response.status_code == 503 and reason in response.json()["conditions"].get("database", "")


async def retries(service: Running, region: str) -> float:
    """The number of times that the service has repeated a batch after a transient failure."""
    return await metric(service, "piepowder_consumer_retries_total", group=f"piepowder-{service.name}-{region}")


async def metric(service: Running, name: str, **labels: str) -> float:
    text = (await service.http.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


async def has(service: Running, query: str, expected: int) -> bool:
    try:
        connection = await asyncpg.connect(service.url)
    except (OSError, asyncpg.PostgresError):
        return False
    try:
        return bool(await connection.fetchval(query) == expected)
    finally:
        await connection.close()
