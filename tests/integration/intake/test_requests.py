"""Business requests on real Kafka and PostgreSQL.

The router checks their changes, each step is published in each region once and in order, even after a kill, and the
audit log has all steps.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from deploy.local.ports import free_ports
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids, topics
from shared.contracts.envelope import Event, decode
from shared.kafka import topic_admin
from shared.kafka.topic_admin import TopicSpec
from tests.support.intake_requests import body
from tests.support.servers import Servers
from tests.support.service_process import readiness, start_service, wait_until

pytestmark = pytest.mark.timeout(120)

_REQUESTS = frozenset({"requests:read", "requests:write", "requests:decide", "requests:deploy"})
_AT_ONCE = 14  # fewer than the calls that intake handles at a time
_SCOPES = {
    "author": _REQUESTS,
    "lead-a": _REQUESTS,
    "lead-b": _REQUESTS,
    "admin": frozenset({"control:read", "control:publish", "audit:read"}),
    "intake": frozenset({"control:read"}),
    "mute": frozenset({"requests:read"}),
}


class RequestServices:
    """Intake and the router of two regions, and the audit of the first region."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        name = f"q{os.getpid()}"
        self.servers = servers
        self.folder = folder
        self.regions = [f"{name}-north", f"{name}-south"]
        self.control = f"piepowder.control.{name}"
        self.keys = {name: ids.new_api_key("test") for name in _SCOPES}
        self.ports = dict(zip(("intake", "router", "audit"), free_ports(3), strict=True))
        self.databases = {kind: f"{name}_{kind}" for kind in ("intake", "audit")}
        self.http = httpx.AsyncClient(timeout=60)
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def prepare(self) -> None:
        wanted = topic_admin.expand(topic_admin.load(), self.regions)
        await topic_admin.ensure(
            self.servers.kafka, [*wanted, TopicSpec(self.control, 1, 1, {"cleanup.policy": "compact"})]
        )
        admin = await asyncpg.connect(self.servers.database_url)
        for database in self.databases.values():
            await admin.execute(f"CREATE DATABASE {database}")
        await admin.close()
        clients = [ClientEntry(name, ids.hash_api_key(key), _SCOPES[name]) for name, key in self.keys.items()]
        (self.folder / "clients.json").write_bytes(msgspec.json.encode(clients))
        (self.folder / "intake.key").write_text(self.keys["intake"] + "\n")

    async def start(self, kind: str) -> None:
        environment = {
            "PIEPOWDER_KAFKA": self.servers.kafka,
            "PIEPOWDER_CLIENTS_FILE": str(self.folder / "clients.json"),
            "PIEPOWDER_PORT": str(self.ports[kind]),
            "PIEPOWDER_INSTANCE": "test",
            "PIEPOWDER_REGIONS": ",".join(self.regions),
            "PIEPOWDER_REGION": self.regions[0],
            "PIEPOWDER_ROUTER": f"http://127.0.0.1:{self.ports['router']}",
            "PIEPOWDER_ROUTER_KEY_FILE": str(self.folder / "intake.key"),
            "PIEPOWDER_PROJECTION": "false",
        }
        if kind in self.databases:
            environment["PIEPOWDER_DATABASE_URL"] = self.database_url(kind)
        self.processes[kind] = await start_service(kind, environment, self._log(kind), control=self.control)

    def _log(self, kind: str) -> Path:
        return self.folder / f"{kind}.log"

    def database_url(self, kind: str) -> str:
        return f"{self.servers.database_url.rpartition('/')[0]}/{self.databases[kind]}"

    async def end(self, kind: str, with_signal: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes[kind]
        if process.returncode is None:
            process.send_signal(with_signal)
        await asyncio.wait_for(process.wait(), 30)

    async def wait_until(self, kind: str, until: Callable[[dict[str, Any]], bool]) -> None:
        async def holds() -> bool:
            return until(await readiness(self.http, self.url(kind)))

        await wait_until(holds, log=self._log(kind))

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.ports[kind]}"

    async def call(
        self, method: str, path: str, given: object = None, *, by: str = "author", to: str = "intake", **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["Authorization"] = f"Bearer {self.keys[by]}"
        return await self.http.request(method, f"{self.url(to)}/v1{path}", headers=named, json=given)

    async def draft(self, key: str, **change: Any) -> httpx.Response:
        given = body(**{"regions": self.regions, "markets": ["DE", "US"]} | change)
        return await self.call("POST", "/requests", given, idempotency_key=f'"{key}"')

    async def events_of(self, region: str, request_id: str, wanted: int) -> list[Event[Any]]:
        """The events of a request in a region, from the first one to version `wanted`."""
        consumer = AIOKafkaConsumer(
            topics.requests(region), bootstrap_servers=self.servers.kafka, auto_offset_reset="earliest"
        )
        found: list[Event[Any]] = []
        await consumer.start()
        try:
            async with asyncio.timeout(30):
                while not any(event.data.version == wanted for event in found):
                    for partition in (await consumer.getmany(timeout_ms=200)).values():
                        events = [decode(r.headers, r.key, r.value, region=region) for r in partition]
                        found += [event for event in events if event.data.request_id == request_id]
        finally:
            await consumer.stop()
        return found


@pytest.fixture(scope="module")
async def services(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RequestServices]:
    services = RequestServices(servers, tmp_path_factory.mktemp("services"))
    await services.prepare()
    for kind in ("router", "intake", "audit"):
        await services.start(kind)
    try:
        await services.wait_until("router", lambda state: "in force" in state["conditions"].get("control", ""))
        queues = [{"id": "general", "service_level_minutes": 60}, {"id": "brands", "service_level_minutes": 60}]
        markets = zip(services.regions, (["DE", "FR"], ["US"]), strict=True)
        regions = [{"id": r, "markets": m, "queues": queues, "default_queue": "general"} for r, m in markets]
        published = {
            "operating_model": {"regions": regions},
            "policy_set": {"policies": [], "default_verdict": "approve"},
        }
        answer = await services.call("POST", "/control", published, by="admin", to="router")
        assert answer.status_code == 200, answer.text
        await services.wait_until("intake", lambda state: bool(state["ready"]))
        yield services
    finally:
        for kind in services.processes:
            await services.end(kind, signal.SIGKILL)
        await services.http.aclose()


async def test_every_step_of_a_request_is_published_in_its_regions_and_in_the_audit_log(
    services: RequestServices,
) -> None:
    """Promises 4 and 6: every state change is an event, in order, and in the log exactly once."""
    drafted = await services.draft("life")
    assert drafted.status_code == 201, drafted.text
    check = drafted.json()["check"]
    assert (check["verdict"], check["differences"]) == ("fits", [{"what": "policies/a", "how": "added"}])
    assert check["policy_set"].startswith("ps-1-")
    path = f"/requests/{drafted.json()['request_id']}"
    changed = await services.call("PATCH", path, {"title": "Look at all lamps"}, if_match=drafted.headers["etag"])
    assert changed.headers["etag"] == '"2"'
    said = await services.call("POST", f"{path}/comments", {"text": "Why?"}, by="lead-a", idempotency_key='"1"')
    assert said.status_code == 201
    for command, by, state in [
        ("submit", "author", "submitted"),
        ("approve", "lead-a", "submitted"),
        ("approve", "lead-b", "approved"),
    ]:
        answer = await services.call("POST", f"{path}/{command}", {"reason": f"{command} it"}, by=by)
        assert (answer.status_code, answer.json().get("state")) == (200, state), answer.text

    deploy = await services.call("POST", f"{path}/deploy", by="lead-b")
    assert (deploy.status_code, deploy.json()["type"].rpartition(":")[2]) == (409, "change-by-hand")
    assert (await services.call("GET", path, by="mute")).json()["state"] == "approved"

    life = ["drafted", "changed", "commented", "submitted", "endorsed", "approved"]
    shown = (await services.call("GET", path, by="mute")).json()
    assert [step["kind"] for step in shown["history"]] == life
    for region in services.regions:
        events = await services.events_of(region, shown["request_id"], len(life))
        assert [event.attributes.type for event in events] == [f"piepowder.request.{name}.v1" for name in life]
        assert [event.attributes.causation_id for event in events] == [None, *(e.attributes.id for e in events[:-1])]
        submitted = events[3].data
        assert (submitted.request.title, submitted.approvals_needed) == ("Look at all lamps", 2)
        assert submitted.change.policy_set.policies[0].id == "a"
        assert ids.content_hash(msgspec.json.encode(submitted.change)) == submitted.request.change_hash
        assert events[5].data.approved_by == ["lead-a", "lead-b"]

    subject = shown["subject"].replace(":", "/")
    timeline: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len(timeline) < len(life):
            answer = await services.call("GET", f"/subjects/{subject}/timeline", by="admin", to="audit")
            timeline = answer.json().get("events", [])
            await asyncio.sleep(0.1)
    assert [event["type"] for event in timeline] == [f"piepowder.request.{name}.v1" for name in life]
    assert {event["topic"] for event in timeline} == {topics.requests(services.regions[0])}


async def test_a_change_that_the_router_rejects_is_reported_with_pointers_below_change(
    services: RequestServices,
) -> None:
    policy_set = {
        "policies": [
            {"id": "a", "when": ["true", 'titel == "x"'], "verdict": "review"},
            {"id": "b", "when": ["true"], "verdict": "reviews", "queue": "gone"},
        ],
        "default_verdict": "approve",
    }
    answer = await services.draft("unfit", change={"policy_set": policy_set})
    assert answer.status_code == 422
    faults = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
    assert faults.keys() == {
        "/change/policy_set/policies/1/verdict",
        "/change/policy_set/policies/0/when/1",
        "/change/policy_set/policies/1/queue",
    }
    assert "undeclared reference to 'titel'" in faults["/change/policy_set/policies/0/when/1"]
    region = {"id": services.regions[0], "markets": ["DE", "US"], "queues": [], "default_queue": "x"}
    taken = await services.draft("taken", kind="queue_change", change={"operating_model_diff": {"regions": [region]}})
    assert {error["pointer"] for error in taken.json()["errors"]} == {
        "/change/operating_model_diff/regions/0/markets/1",
        "/change/operating_model_diff/regions/0/default_queue",
    }


async def test_a_draft_is_stored_while_the_router_is_stopped_and_can_be_submitted_later(
    services: RequestServices,
) -> None:
    await services.end("router")
    drafted = await services.draft("away")
    assert (drafted.status_code, drafted.json()["check"]["verdict"]) == (201, "unchecked")
    path = f"/requests/{drafted.json()['request_id']}"
    away = await services.call("POST", f"{path}/submit")
    assert (away.status_code, away.headers["retry-after"]) == (503, "2")
    await services.start("router")
    await services.wait_until("router", lambda state: bool(state["ready"]))
    submitted = await services.call("POST", f"{path}/submit")
    assert (submitted.status_code, submitted.json()["check"]["verdict"]) == (200, "fits"), submitted.text


async def test_a_step_acknowledged_before_a_kill_is_published_and_a_repeated_call_finds_it(
    services: RequestServices,
) -> None:
    """Promises 1 and 5: an acknowledged step survives a kill, and a repeated call creates nothing."""
    plain = {"kind": "capacity", "change": None}
    answered: dict[str, httpx.Response] = {}

    async def write(n: int) -> None:
        try:
            answered[f"kill-{n}"] = await services.draft(f"kill-{n}", **plain)
        except httpx.TransportError:
            return

    writing = [asyncio.ensure_future(write(n)) for n in range(_AT_ONCE)]
    while len(answered) < 3:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.001)
    await services.end("intake", signal.SIGKILL)
    await asyncio.gather(*writing)
    await services.start("intake")
    await services.wait_until("intake", lambda state: bool(state["ready"]))
    kept = {key: answer for key, answer in answered.items() if answer.status_code == 201}
    assert kept
    for n in range(_AT_ONCE):
        again = await services.draft(f"kill-{n}", **plain)
        assert again.status_code == 201
        if f"kill-{n}" in kept:
            assert again.content == kept[f"kill-{n}"].content
        for region in services.regions if f"kill-{n}" in list(kept)[:3] else []:
            events = await services.events_of(region, again.json()["request_id"], 1)
            assert len({event.attributes.id for event in events}) == 1
    found = (await services.call("GET", "/requests?kind=capacity&limit=200")).json()["requests"]
    assert len(found) == _AT_ONCE
    inside = await asyncpg.connect(services.database_url("intake"))
    try:
        async with asyncio.timeout(30):
            while await inside.fetchval("SELECT count(*) FROM outbox"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        assert await inside.fetchval("SELECT count(*) FROM request_steps WHERE kind = 'drafted'") >= _AT_ONCE
    finally:
        await inside.close()


async def test_a_check_by_the_router_publishes_nothing(services: RequestServices) -> None:
    before = (await services.call("GET", "/control", by="admin", to="router")).json()
    given = {"policy_set": {"policies": [], "default_verdict": "reject"}}
    checked = await services.call("POST", "/control/check", given, by="intake", to="router")
    assert checked.json()["policy_set"]["differences"] == [{"what": "default_verdict", "how": "changed"}]
    assert (await services.call("POST", "/control/check", {}, by="intake", to="router")).status_code == 422
    both: dict[str, Any] = {"operating_model": {"regions": []}, "operating_model_diff": {"regions": []}}
    assert (await services.call("POST", "/control/check", both, by="intake", to="router")).status_code == 422
    assert (await services.call("POST", "/control/check", given, by="author", to="router")).status_code == 403
    assert (await services.call("POST", "/control", given, by="intake", to="router")).status_code == 403
    assert (await services.call("GET", "/control", by="admin", to="router")).json() == before
    described = (await services.http.get(f"{services.url('router')}/openapi.json")).json()["paths"][
        "/v1/control/check"
    ]["post"]
    assert {"200", "401", "403", "413", "415", "422", "429", "503"} <= described["responses"].keys()
