"""The router as a process on real Kafka: submissions in, cases out; a record that cannot be routed is dead-lettered."""

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from services.router.control import ControlState
from services.router.handlers.routing import RouteSubmissions
from services.router.policies import compile_policy_set
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, Event, decode, encode
from shared.contracts.events import CASE_OPENED, ITEM_SUBMITTED, CaseOpened, Item, ItemSubmitted
from shared.kafka import topic_admin
from shared.kafka.consumer import BatchConsumer, Received
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.producer import KafkaProducer, Record, record
from shared.kafka.topic_admin import TopicSpec
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness
from tests.conftest import project_root
from tests.support.processes import start_process
from tests.support.router_samples import RECEIVED_AT

_numbers = itertools.count(1)
_PROGRAM = """
import runpy, sys
from shared.contracts import topics
from shared.kafka import topic_admin
topics.CONTROL = sys.argv.pop(1)  # the control topic of this test
runpy.run_module("services.router", run_name="__main__")
"""
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
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, until: Callable[[dict[str, Any]], bool]) -> None:
        """Start the process and wait until the state at `/readyz` satisfies `until`."""
        clients = [
            ClientEntry(name=name, key_sha256=ids.hash_api_key(key), scopes=frozenset(_KEYS[name]))
            for name, key in self.keys.items()
        ]
        (self._folder / "clients.json").write_bytes(msgspec.json.encode(clients))
        port = _free_port()
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        environment = {
            "PIEPOWDER_KAFKA": self.kafka,
            "PIEPOWDER_REGIONS": self.region,
            "PIEPOWDER_CLIENTS_FILE": str(self._folder / "clients.json"),
            "PIEPOWDER_PORT": str(port),
        }
        with (self._folder / "router.log").open("ab") as log:
            self._process = await start_process(
                sys.executable,
                "-c",
                _PROGRAM,
                self.control,
                cwd=project_root(),
                env={**os.environ, **environment},
                stderr=log,
            )
        await self.wait_until(until)

    async def wait_until(self, until: Callable[[dict[str, Any]], bool]) -> None:
        try:
            async with asyncio.timeout(60):
                while not until(await self.readyz()):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(
                f"the router did not reach the expected state; its log:\n{(self._folder / 'router.log').read_text()}"
            )

    async def readyz(self) -> dict[str, Any]:
        try:
            response: dict[str, Any] = (await self.http.get("/readyz")).json()
        except httpx.TransportError:
            return {"ready": False, "conditions": {}}
        return response

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

    async def submit(self, *items: ItemSubmitted) -> None:
        await self.producer.send([self.submission(item) for item in items])

    def submission(self, item: ItemSubmitted) -> Record:
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

    async def replay(self, count: int) -> None:
        """Route all submissions again, from the first offset, under the rules on the control topic."""
        control, clock, stop, seen = ControlState([self.region], compile_policy_set), SystemClock(), asyncio.Event(), 0
        for r in await self.read(self.control, 2):
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


@pytest.fixture
async def router(kafka: str, region: str, tmp_path: Path) -> AsyncIterator[RunningRouter]:
    """A router in its own region, waiting for its first publication."""
    control = f"piepowder.control.t{os.getpid()}-s{next(_numbers)}"
    await topic_admin.ensure(kafka, [TopicSpec(control, 1, 1, {"cleanup.policy": "compact"})])
    router = RunningRouter(kafka, region, control, tmp_path)
    await router.producer.start()
    try:
        await router.start(lambda state: "in force" in state["conditions"].get("control", ""))
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
        regions=["x"],
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


async def test_submissions_are_routed_when_a_policy_set_is_in_force(router: RunningRouter) -> None:
    """Promise 8, and readiness that names the missing condition."""
    state = await router.readyz()
    assert not state["ready"]
    assert "control publish`" in state["conditions"]["control"]
    await router.submit(item(1), item(2, title="Assault rifle"), item(3, title="trap"))
    response = await router.publish(publication(router.region))
    assert response.status_code == 200, response.text
    named = response.json()
    await router.wait_until(ready)

    by_subject = {event.data.subject_id: event for event in await router.cases(3)}
    assert {subject: event.data.verdict for subject, event in by_subject.items()} == {
        "1": "approve",
        "2": "review",
        "3": "review",
    }
    event = by_subject["2"]
    cause = ids.event_id(event.data.item_id, ITEM_SUBMITTED, router.region)
    assert event.attributes.id == ids.event_id(cause, CASE_OPENED)
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (cause, cause)
    assert event.attributes.source == f"piepowder/router/{router.region}"
    assert event.data.case_id == ids.case_id(event.data.item_id, router.region, "item")
    assert (event.data.queue, event.data.due_at) == ("safety", "2026-05-01T10:30:00.125Z")
    assert (event.data.trace.matched, event.data.trace.held) == (["weapons"], ["weapons/0"])
    assert event.data.trace.policy_set == named["policy_set"]["id"]
    assert event.data.trace.operating_model == named["operating_model"]["id"]
    assert by_subject["3"].data.reasons == ["POLICY_ERROR"]
    metrics = (await router.http.get("/metrics")).text
    assert 'piepowder_router_policy_errors_total{policy="colour"} 1.0' in metrics
    assert f'piepowder_router_cases_total{{queue="safety",region="{router.region}",verdict="review"}} 1.0' in metrics
    assert await router.stop() == 0


async def test_a_new_policy_set_applies_to_later_submissions(router: RunningRouter) -> None:
    await router.publish(publication(router.region))
    await router.submit(item(1, title="a toaster"))
    (before,) = await router.cases(1)
    response = await router.publish(
        {"policy_set": publication(router.region, condition='title == "a toaster"')["policy_set"]}
    )
    assert response.json()["operating_model"] is None
    await router.submit(item(1, title="a toaster", version=2))
    *_, after = await router.cases(2)
    assert (before.data.verdict, after.data.verdict) == ("approve", "review")
    assert after.data.trace.policy_set == response.json()["policy_set"]["id"]


async def test_poison_is_dead_lettered_as_a_whole_and_other_records_are_routed(router: RunningRouter) -> None:
    """Promise 1: a record that cannot be routed is dead-lettered with its reason."""
    await router.publish(publication(router.region))
    good = router.submission(item(1))
    torn = router.submission(item(2))._replace(value=b'{"item_id": "x", "platf')
    bare = Record(good.topic, b"key", b"value", [("x-own", b"1")])
    elsewhere = router.submission(item(3, market="US"))
    astray = router.submission(item(4))._replace(key=b"shop:product:5")
    await router.producer.send([torn, bare, elsewhere, good, astray, router.submission(item(6))])

    cases = await router.cases(2)
    assert {event.data.subject_id for event in cases} == {"1", "6"}
    letters = {letter.value: letter for letter in await router.read(topics.deadletters(router.region), 4)}
    for sent, reason in (
        (torn, b"truncated"),
        (bare, b"not an event of Piepowder"),
        (elsewhere, b"do not belong to region"),
        (astray, b"is not its subject"),
    ):
        letter = letters[sent.value]
        assert letter.key == sent.key
        assert dict(sent.headers).items() <= letter.headers.items()
        assert reason in letter.headers["dl_reason"]
        assert letter.headers["dl_group"] == f"piepowder-router-{router.region}".encode()
        assert letter.headers["dl_topic"] == topics.submissions(router.region).encode()


async def test_a_replay_from_the_first_offset_produces_the_same_cases_with_the_same_ids(router: RunningRouter) -> None:
    """Promise 5: replays are harmless."""
    await router.publish(publication(router.region))
    await router.submit(*(item(n, title="Assault rifle" if n % 3 else "Koss") for n in range(50)))
    first = await router.cases(50)
    await router.replay(50)
    both = await router.cases(100)
    assert {event.attributes.id for event in both} == {event.attributes.id for event in first}
    assert len({msgspec.json.encode(event.data) for event in both}) == 50


async def test_an_invalid_publication_is_rejected_with_pointers(router: RunningRouter) -> None:
    sound = publication(router.region)
    broken = publication(router.region, condition='titel == "x"')
    broken["operating_model"]["regions"][0]["default_queue"] = "gone"
    response = await router.publish(broken)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    errors = {error["pointer"]: error["detail"] for error in response.json()["errors"]}
    assert set(errors) == {"/operating_model/regions/0/default_queue", "/policy_set/policies/0/when/0"}
    assert "undeclared reference to 'titel'" in errors["/policy_set/policies/0/when/0"]
    assert errors["/policy_set/policies/0/when/0"].endswith("^")

    misspelt = publication(router.region)
    misspelt["policy_set"]["policies"][1]["prioritty"] = 3
    misspelt["operating_model"]["regions"][0]["queues"][0]["service_level_minutes"] = "soon"
    assert {error["pointer"] for error in (await router.publish(misspelt)).json()["errors"]} == {
        "/policy_set/policies/1/prioritty",
        "/operating_model/regions/0/queues/0/service_level_minutes",
    }

    assert (await router.publish(b'{"operating_model": {"regi')).status_code == 400
    assert (await router.publish({})).status_code == 422
    assert (await router.publish([])).status_code == 422
    assert (await router.publish(b" " * (3 * 1024 * 1024))).status_code == 413
    assert (await router.http.post("/v1/control", content=b"{}")).status_code == 401
    assert (await router.publish(sound, key="reader")).status_code == 403
    headers = {"Authorization": f"Bearer {router.keys['all']}"}
    assert (await router.http.post("/v1/control", content=b"{}", headers=headers)).status_code == 415
    assert (await router.http.get("/v1/control", headers=headers)).json() == {
        "operating_model": None,
        "policy_set": None,
    }
    document = (await router.http.get("/openapi.json")).json()
    described = document["paths"]["/v1/control"]
    assert {"200", "401", "403", "413", "415", "422", "503"} <= described["post"]["responses"].keys()
    [example] = document["components"]["schemas"]["PublicationBody"]["examples"]
    example["operating_model"]["regions"][0]["id"] = router.region
    assert (await router.publish(example)).status_code == 200


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
