"""Intake as a process on real Kafka and PostgreSQL."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from deploy.local.ports import free_ports
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids, topics
from shared.contracts.envelope import GLOBAL, Attributes, encode
from shared.contracts.events import (
    DECISION_MADE,
    OPERATING_MODEL_PUBLISHED,
    CaseOpened,
    DecisionMade,
    DecisionReplaced,
    Item,
    OperatingModelPublished,
    Queue,
    Region,
    Struct,
    Trace,
)
from shared.kafka import topic_admin
from shared.kafka.producer import KafkaProducer, Record, record
from shared.runtime.clock import SystemClock, to_text
from tests.support.servers import Servers
from tests.support.service_process import readiness, start_service, wait_until

_WRITES = frozenset({"items:write", "items:read", "notices:write", "notices:read", "appeals:write", "appeals:read"})


_KEYS = {
    "all": ClientEntry(name="shop", key_sha256="", scopes=_WRITES),
    "reader": ClientEntry(name="reader", key_sha256="", scopes=frozenset({"items:read"})),
    "nowhere": ClientEntry(
        name="nowhere",
        key_sha256="",
        scopes=_WRITES,
        regions=frozenset({"mars"}),
    ),
    "northern": ClientEntry(name="northern", key_sha256="", scopes=_WRITES),
    "shop-north": ClientEntry(name="shop", key_sha256="", scopes=_WRITES),
    "fair": ClientEntry(name="fair", key_sha256="", scopes=_WRITES, platforms=frozenset({"fair"})),
}


_NORTH_ONLY = ("northern", "shop-north")


NDJSON = "application/x-ndjson"


Raw: TypeAlias = ConsumerRecord


class Intake:
    """A running intake for the regions `north` and `south`."""

    def __init__(self, kafka: str, database_url: str, regions: tuple[str, str], control: str, folder: Path) -> None:
        self.kafka = kafka
        self.north, self.south = regions
        self.control = control
        self.producer = KafkaProducer(kafka, client_id="test")
        self.keys = {name: ids.new_api_key("test") for name in _KEYS}
        self.http = httpx.AsyncClient(timeout=30)
        self.port = 0
        self.database_url = database_url
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, **environment: str) -> None:
        clients = [
            msgspec.structs.replace(
                client,
                key_sha256=ids.hash_api_key(self.keys[name]),
                regions=frozenset({self.north}) if name in _NORTH_ONLY else client.regions,
            )
            for name, client in _KEYS.items()
        ]
        (self.folder / "clients.json").write_bytes(msgspec.json.encode(clients))
        [self.port] = free_ports(1)
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{self.port}")
        given = {
            "PIEPOWDER_KAFKA": self.kafka,
            "PIEPOWDER_DATABASE_URL": self.database_url,
            "PIEPOWDER_REGIONS": f"{self.north},{self.south}",
            "PIEPOWDER_CLIENTS_FILE": str(self.folder / "clients.json"),
            "PIEPOWDER_PORT": str(self.port),
            "PIEPOWDER_INSTANCE": "test",
        }
        self.process = await start_service("intake", given | environment, self.log, control=self.control)

        async def is_listening() -> bool:
            return bool((await self.readyz())["conditions"])

        await self.wait_until(is_listening)

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return bool((await self.readyz())["ready"])

        await self.wait_until(is_ready)

    async def readyz(self) -> dict[str, Any]:
        return await readiness(self.http)

    async def wait_until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        await wait_until(condition, log=self.log)

    @property
    def log(self) -> Path:
        return self.folder / "intake.log"

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)

    def post(self, **change: Any) -> dict[str, Any]:
        return {"platform": "shop", "kind": "product", "id": "B1", "version": 1, "markets": ["DE", "US"]} | change

    async def send(self, body: object, *, key: str = "all", kind: str = "application/json") -> httpx.Response:
        path = "/v1/items" if kind == "application/json" else "/v1/items/batch"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.keys[key]}", "Content-Type": kind}
        return await self.http.post(path, content=content, headers=headers)

    async def get(self, path: str, *, key: str = "all") -> httpx.Response:
        return await self.http.get(path, headers={"Authorization": f"Bearer {self.keys[key]}"})

    async def withdraw(self, item_id: str, *, key: str = "all", **params: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        return await self.http.delete(f"/v1/items/{item_id}", params=params, headers=headers)

    async def status(self, item_id: str, region: str) -> dict[str, Any]:
        response = await self.get(f"/v1/items/{item_id}")
        found: dict[str, Any] = response.json().get("regions", {}).get(region, {})
        return found

    async def wait_for_status(self, item_id: str, region: str, status: str) -> None:
        async def has() -> bool:
            return (await self.status(item_id, region)).get("status") == status

        await self.wait_until(has)

    async def records(self, topic: str) -> list[Raw]:
        """All records of a topic, as a plain consumer reads them."""
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=self.kafka, auto_offset_reset="earliest")
        await consumer.start()
        try:
            ends = await consumer.end_offsets(list(consumer.assignment()))
            found: list[Raw] = []
            while len(found) < sum(ends.values()):
                for partition in (await consumer.getmany(timeout_ms=200)).values():
                    found += partition
        finally:
            await consumer.stop()
        return found

    async def publish(self, topic: str, region: str, event_type: str, data: Struct, subject: str) -> Record:
        event_id = ids.event_id(getattr(data, "item_id", "x"), event_type, region)
        now = to_text(SystemClock().now())
        attributes = Attributes(event_id, event_type, "piepowder/test", now, subject, region, event_id)
        published = record(topic, encode(attributes, data))
        await self.producer.send([published])
        return published

    def resident_mib(self) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    async def publish_operating_model(self) -> None:
        queue = Queue(id="q", service_level_minutes=60)
        model = OperatingModelPublished(
            id="om-1",
            number=1,
            published_by="test",
            regions=[
                Region(id=self.north, markets=["DE", "FR"], queues=[queue], default_queue="q"),
                Region(id=self.south, markets=["US"], queues=[queue], default_queue="q"),
                Region(id="elsewhere", markets=["SG"], queues=[queue], default_queue="q"),
            ],
        )
        await self.publish(self.control, GLOBAL, OPERATING_MODEL_PUBLISHED, model, "operating-model")


@asynccontextmanager
async def running_intake(
    servers: Servers,
    name: str,
    folder: Path,
    prepare: Callable[[Intake], None] = lambda _: None,
    /,
    **environment: str,
) -> AsyncIterator[Intake]:
    """A running intake with its own regions, topics and database; calls `prepare` before it starts."""
    admin = await asyncpg.connect(servers.database_url)
    await admin.execute(f"CREATE DATABASE test_{name}")
    regions, control = await new_regions(servers.kafka, name)
    url = f"{servers.database_url.rpartition('/')[0]}/test_{name}"
    running = Intake(servers.kafka, url, regions, control, folder)
    await running.publish_operating_model()
    prepare(running)
    await running.start(**environment)
    await running.ready()
    yield running
    assert await running.stop() == 0
    await running.http.aclose()
    await running.producer.stop()
    await admin.execute(f"DROP DATABASE test_{name} WITH (FORCE)")
    await admin.close()


def case_of(item_id: str, verdict: str = "review") -> CaseOpened:
    now = to_text(SystemClock().now())
    return CaseOpened(
        case_id=ids.case_id(item_id, "north", "item"),
        item_id=item_id,
        platform="shop",
        kind="product",
        subject_id="x",
        queue="q",
        priority=5,
        received_at=now,
        due_at=now,
        verdict=verdict,
        trace=Trace(policy_set="ps-1", operating_model="om-1"),
        item=Item(markets=["DE"]),
    )


def decision_on(item_id: str) -> DecisionMade:
    now = to_text(SystemClock().now())
    case_id = ids.case_id(item_id, "north", "item")
    return DecisionMade(
        decision_id=ids.decision_id(case_id, 1),
        case_id=case_id,
        item_id=item_id,
        platform="shop",
        kind="product",
        subject_id="x",
        queue="q",
        n=1,
        action="reject",
        reasons=["WEAPONS"],
        policy_set="ps-1",
        automated=False,
        reviewer="r-1",
        team="t-1",
        received_at=now,
        due_at=now,
    )


async def post(intake: Intake, path: str, body: object, *, key: str = "all", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Authorization": f"Bearer {intake.keys[key]}", "Content-Type": "application/json"} | headers
    return await intake.http.post(f"/v1/{path}", content=content, headers=given)


async def publish_case_event(intake: Intake, region: str, kind: str, data: Struct, n: int = 1) -> None:
    """Publish an event of a case, as the decision service does."""
    about: Any = data
    subject = f"{about.platform}:{about.kind}:{about.subject_id}" if hasattr(about, "platform") else "shop:product:x"
    attributes = Attributes(
        ids.event_id(about.case_id, kind, n), kind, "piepowder/test", now(), subject, region, ids.derive(about.case_id)
    )
    await intake.producer.send([record(topics.decisions(region), encode(attributes, data))])


def now() -> str:
    return to_text(SystemClock().now())


def decision(
    about: str, region: str, subject_id: str, *, case_type: str = "item", action: str = "reject", n: int = 1
) -> DecisionMade:
    case_id = ids.case_id(about, region, case_type)
    made = DecisionMade(
        decision_id=ids.decision_id(case_id, n),
        case_id=case_id,
        case_type=case_type,
        item_id=about,
        platform="shop",
        kind="product",
        subject_id=subject_id,
        queue="q",
        n=n,
        action=action,
        reasons=["FAKE"] if action == "reject" else [],
        policy_set="ps-1",
        automated=False,
        reviewer="r-1",
        team="t-1",
        received_at=now(),
        due_at=now(),
    )
    if n == 1:
        return made
    first = ids.decision_id(case_id, 1)
    return DecisionReplaced(**msgspec.structs.asdict(made), replaces=first, why="appeal")


async def complaint_in_region(intake: Intake, path: str, id_: str, region: str) -> dict[str, Any]:
    response = await intake.get(f"/v1/{path}/{id_}")
    found: dict[str, Any] = response.json().get("regions", {}).get(region, {})
    return found


async def wait_for_complaint(intake: Intake, path: str, id_: str, region: str, status: str) -> dict[str, Any]:
    async def has() -> bool:
        return (await complaint_in_region(intake, path, id_, region)).get("status") == status

    await intake.wait_until(has)
    return await complaint_in_region(intake, path, id_, region)


async def rejected_item(intake: Intake, subject_id: str, *, markets: tuple[str, ...] = ("DE",)) -> str:
    """Post an item and reject it in the north as `r-1`. Returns the item id."""
    posted = await intake.send(intake.post(id=subject_id, markets=list(markets)))
    item_id: str = posted.json()["item_id"]
    await publish_case_event(intake, intake.north, DECISION_MADE, decision(item_id, intake.north, subject_id))
    return item_id


async def new_regions(kafka: str, name: str) -> tuple[tuple[str, str], str]:
    regions, control = (f"n{name}", f"s{name}"), f"test.control.{name}"
    specs = topic_admin.expand(topic_admin.load(), list(regions))
    specs += [msgspec.structs.replace(spec, name=control) for spec in specs if spec.name == topics.CONTROL]
    await topic_admin.ensure(kafka, specs)
    return regions, control
