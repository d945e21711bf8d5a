"""The router as a process on real Kafka."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from deploy.local.ports import free_ports
from services.router.control import ControlState
from services.router.handlers.routing import RouteSubmissions
from services.router.policies import compile_policy_set
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, Event, decode, encode
from shared.contracts.events import (
    ITEM_SUBMITTED,
    CaseOpened,
    Item,
    ItemSubmitted,
)
from shared.kafka import topic_admin
from shared.kafka.consumer import BatchConsumer, Received
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.producer import KafkaProducer, Record, record
from shared.kafka.topic_admin import TopicSpec
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness
from tests.support.router_samples import RECEIVED_AT
from tests.support.service_process import readiness, start_service, wait_until

_numbers = itertools.count(1)
_KEYS = {"all": {"control:read", "control:publish"}, "reader": {"control:read"}}


class Raw(NamedTuple):
    """A consumed record."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    offset: int


class RunningRouter:
    """A running router with its own region and control topic."""

    def __init__(self, kafka: str, region: str, control: str, folder: Path) -> None:
        self.kafka = kafka
        self.region = region
        self.control = control
        self.producer = KafkaProducer(kafka, client_id="test")
        self.keys = {name: ids.new_api_key("test") for name in _KEYS}
        self.http = httpx.AsyncClient(timeout=20)
        self._folder = folder
        self._log = folder / "router.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, until: Callable[[dict[str, Any]], bool], **more: str) -> None:
        """Start the process and wait until the state at `/readyz` satisfies `until`."""
        clients = [
            ClientEntry(name=name, key_sha256=ids.hash_api_key(key), scopes=frozenset(_KEYS[name]))
            for name, key in self.keys.items()
        ]
        (self._folder / "clients.json").write_bytes(msgspec.json.encode(clients))
        [port] = free_ports(1)
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        environment = {
            "PIEPOWDER_KAFKA": self.kafka,
            "PIEPOWDER_REGIONS": self.region,
            "PIEPOWDER_CLIENTS_FILE": str(self._folder / "clients.json"),
            "PIEPOWDER_PORT": str(port),
            **more,
        }
        self._process = await start_service("router", environment, self._log, control=self.control)
        await self.wait_until(until)

    async def wait_until(self, until: Callable[[dict[str, Any]], bool]) -> None:
        async def holds() -> bool:
            return until(await self.readyz())

        await wait_until(holds, log=self._log)

    async def readyz(self) -> dict[str, Any]:
        return await readiness(self.http)

    async def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None or self._process.returncode is not None:
            return 0
        self._process.send_signal(with_signal)
        return await asyncio.wait_for(self._process.wait(), 20)

    async def publish(self, body: object, key: str = "all") -> httpx.Response:
        return await self.http.post(
            "/v1/control",
            content=body if isinstance(body, bytes) else msgspec.json.encode(body),
            headers={"Authorization": f"Bearer {self.keys[key]}", "Content-Type": "application/json"},
        )

    async def in_force(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.keys['all']}"}
        found: dict[str, Any] = (await self.http.get("/v1/control", headers=headers)).json()
        return found

    async def submit(self, *items: ItemSubmitted) -> None:
        await self.producer.send([self.submission(item) for item in items])

    def submission(self, item: ItemSubmitted, *, regions: Sequence[str] = ()) -> Record:
        """The item's record; it names this region, unless it names other `regions`."""
        item = msgspec.structs.replace(item, regions=list(regions) or [self.region])
        event_id = ids.event_id(item.item_id, ITEM_SUBMITTED, self.region)
        subject = f"shop:product:{item.subject_id}"
        attributes = Attributes(
            event_id, ITEM_SUBMITTED, "piepowder/intake", RECEIVED_AT, subject, self.region, event_id
        )
        return record(topics.submissions(self.region), encode(attributes, item))

    async def read(self, topic: str, count: int) -> list[Raw]:
        """The first `count` records of a topic, from its first offset."""
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=self.kafka, auto_offset_reset="earliest", enable_auto_commit=False
        )
        found: list[Raw] = []
        await consumer.start()
        try:
            async with asyncio.timeout(60):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += [Raw(r.key, r.value, dict(r.headers), r.offset) for r in records]
        except TimeoutError:
            pytest.fail(f"{topic} has {len(found)} records, not {count}")
        finally:
            await consumer.stop()
        return found

    async def cases(self, count: int) -> list[Event[CaseOpened]]:
        found = await self.read(topics.cases(self.region), count)
        return [decode(list(r.headers.items()), r.key, r.value, region=self.region) for r in found]

    async def replay(self, count: int, *, publications: int = 2) -> None:
        """Route all submissions again, from the first offset, under the rules on the control topic."""
        control, clock, stop, seen = ControlState([self.region], compile_policy_set), SystemClock(), asyncio.Event(), 0
        for r in await self.read(self.control, publications):
            control.apply(decode(list(r.headers.items()), r.key, r.value))
        handlers = RouteSubmissions(
            region=self.region, rules=lambda: control.rules, producer=self.producer, clock=clock
        )

        async def handle(batch: Sequence[Received[Event[Any]]]) -> None:
            nonlocal seen
            await handlers.handle(batch)
            seen += len(batch)
            if seen >= count:
                stop.set()

        deadletters = DeadLetterWriter(
            self.producer, topic=topics.deadletters(self.region), group="replay", clock=clock
        )
        await BatchConsumer(
            bootstrap=self.kafka,
            group=f"replay-{self.region}",
            topics=[topics.submissions(self.region)],
            decode=handlers.decode,
            handle=handle,
            dead_letters=deadletters,
            readiness=Readiness("replay"),
            clock=clock,
        ).run(stop)


@asynccontextmanager
async def running_router(kafka: str, region: str, folder: Path, **more: str) -> AsyncIterator[RunningRouter]:
    """A router in its own region, waiting for its first publication; `more` are environment variables."""
    control = f"piepowder.control.t{os.getpid()}-s{next(_numbers)}"
    await topic_admin.ensure(kafka, [TopicSpec(control, 1, 1, {"cleanup.policy": "compact"})])
    router = RunningRouter(kafka, region, control, folder)
    await router.producer.start()
    try:
        await router.start(lambda state: "in force" in state["conditions"].get("control", ""), **more)
        yield router
    finally:
        await router.stop(signal.SIGKILL)
        await router.http.aclose()
        await router.producer.stop()


def ready(state: dict[str, Any]) -> bool:
    return bool(state["ready"])


def item(n: int, *, market: str = "DE", title: str = "Koss EQ50", version: int = 1) -> ItemSubmitted:
    return ItemSubmitted(
        item_id=ids.item_id("shop", "product", str(n), str(version)),
        platform="shop",
        kind="product",
        subject_id=str(n),
        version=version,
        content_hash="0" * 64,
        client="test",
        received_at=RECEIVED_AT,
        regions=[],
        item=Item(markets=[market], title=title),
    )


def publication(region: str, *, condition: str = '"weapons" in terms') -> dict[str, Any]:
    queues = [
        {"id": "general", "service_level_minutes": 1440},
        {"id": "safety", "service_level_minutes": 60},
    ]
    return {
        "operating_model": {
            "regions": [{"id": region, "markets": ["DE", "FR"], "queues": queues, "default_queue": "general"}]
        },
        "policy_set": {
            "terms": {"weapons": ["assault rifle"]},
            "policies": [
                {"id": "weapons", "when": [condition], "verdict": "review", "reasons": ["WEAPONS"], "queue": "safety"},
                {"id": "colour", "when": ['title == "trap" && attributes["colour"] == "red"'], "verdict": "reject"},
            ],
            "default_verdict": "approve",
        },
    }
