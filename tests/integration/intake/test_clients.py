"""Clients on real Kafka and PostgreSQL.

A change applies in every service soon after its response, and after a restart. Only existing rights can be granted. The
audit log has refused accesses and used keys.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from deploy.local.ports import free_ports
from shared.auth.clients import SCOPES
from shared.auth.clients_file import ClientEntry
from shared.contracts import envelope, ids
from shared.contracts.events import CLIENT_CHANGED
from shared.runtime.clock import SystemClock, to_text
from tests.conftest import project_root
from tests.support.intake_process import Intake, running_intake
from tests.support.processes import start_process
from tests.support.servers import Servers
from tests.support.service_process import readiness, start_service, wait_until

pytestmark = pytest.mark.timeout(90)

ADMIN, EU_LEAD, CLERK = (ids.new_api_key("test") for _ in range(3))


class IntakeAndAudit:
    """Intake and the audit of its first region, with clients that may administer them."""

    def __init__(self, intake: Intake, audit_database: str) -> None:
        self.intake = intake
        self.region = intake.north
        self.http = httpx.AsyncClient(timeout=30)
        self._audit_database = audit_database
        self._audit: asyncio.subprocess.Process | None = None
        self._audit_port = 0

    def write_file(self) -> None:
        known = [
            ClientEntry("admin", ids.hash_api_key(ADMIN), SCOPES),
            ClientEntry("eu-lead", ids.hash_api_key(EU_LEAD), SCOPES - {"audit:read"}, frozenset({self.region})),
            ClientEntry("clerk", ids.hash_api_key(CLERK), frozenset({"clients:read", "clients:write"})),
        ]
        (self.intake.folder / "admins.json").write_bytes(msgspec.json.encode(known))

    async def start_audit(self) -> None:
        [self._audit_port] = free_ports(1)
        given = {
            "PIEPOWDER_KAFKA": self.intake.kafka,
            "PIEPOWDER_DATABASE_URL": self._audit_database,
            "PIEPOWDER_REGION": self.region,
            "PIEPOWDER_CLIENTS_FILE": str(self.intake.folder / "admins.json"),
            "PIEPOWDER_PORT": str(self._audit_port),
            "PIEPOWDER_INSTANCE": "test",
        }
        log = self.intake.folder / "audit.log"
        self._audit = await start_service("audit", given, log, control=self.intake.control)

        async def is_ready() -> bool:
            return bool((await readiness(self.http, f"http://127.0.0.1:{self._audit_port}"))["ready"])

        await wait_until(is_ready, log=log)

    async def end_audit(self, number: signal.Signals) -> None:
        assert self._audit is not None
        self._audit.send_signal(number)
        await asyncio.wait_for(self._audit.wait(), 30)

    async def restart(self) -> None:
        """Kill both services, and start them again."""
        assert self.intake.process is not None
        await self.end_audit(signal.SIGKILL)
        self.intake.process.kill()
        await self.intake.process.wait()
        await asyncio.gather(self.start_audit(), self.start_intake())

    async def start_intake(self) -> None:
        await self.intake.start(PIEPOWDER_CLIENTS_FILE=str(self.intake.folder / "admins.json"))
        await self.intake.ready()

    async def wait_until(self, true: Callable[[], Awaitable[bool]]) -> None:
        await self.intake.wait_until(true)

    async def call(
        self, method: str, path: str, body: object = None, *, key: str | None = ADMIN, **headers: str
    ) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        return await self.intake.http.request(method, path, headers=given, json=body)

    async def create_client(self, name: str, **change: Any) -> dict[str, Any]:
        body = (
            {"name": name, "scopes": ["items:read", "audit:read"], "regions": [self.region]}
            | {"platforms": ["*"]}
            | change
        )
        answer = await self.call("POST", "/v1/clients", body)
        assert answer.status_code == 201, answer.text
        client: dict[str, Any] = answer.json()["client"]
        return client

    async def create_key(self, name: str, **body: Any) -> dict[str, Any]:
        answer = await self.call("POST", f"/v1/clients/{name}/keys", body)
        assert answer.status_code == 201, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def status_at_intake(self, key: str) -> int:
        return (await self.call("GET", "/v1/totals", key=key)).status_code

    async def status_at_audit(self, key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return (await self.http.get(f"http://127.0.0.1:{self._audit_port}/v1/totals", headers=headers)).status_code

    async def audited(self) -> list[dict[str, Any]]:
        """All events in the audit log, oldest first."""
        headers, after, found = {"Authorization": f"Bearer {ADMIN}"}, 0, []
        while True:
            url = f"http://127.0.0.1:{self._audit_port}/v1/events"
            page = (await self.http.get(url, params={"after": after, "limit": 1000}, headers=headers)).json()
            found += page["events"]
            if page["next"] is None:
                return found
            after = page["next"]


@pytest.fixture(scope="module")
async def services(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[IntakeAndAudit]:
    name = f"clients{os.getpid()}"
    admin = await asyncpg.connect(servers.database_url)
    await admin.execute(f"CREATE DATABASE test_audit_{name}")
    folder: Path = tmp_path_factory.mktemp("clients")
    url = f"{servers.database_url.rpartition('/')[0]}/test_audit_{name}"
    async with running_intake(
        servers, name, folder, _write_admins, PIEPOWDER_CLIENTS_FILE=str(folder / "admins.json")
    ) as intake:
        services = IntakeAndAudit(intake, url)
        await services.start_audit()
        yield services
        await services.end_audit(signal.SIGTERM)
        await services.http.aclose()
    await admin.execute(f"DROP DATABASE test_audit_{name} WITH (FORCE)")
    await admin.close()


def _write_admins(intake: Intake) -> None:
    IntakeAndAudit(intake, "").write_file()


async def test_a_key_works_in_every_service_soon_after_its_creation_and_not_after_its_revocation(
    services: IntakeAndAudit,
) -> None:
    await services.create_client("roving")
    first = await services.create_key("roving")
    assert first["in_force"] is True
    assert first["key"].startswith("pp_local_")
    assert await services.status_at_intake(first["key"]) == 200

    async def is_accepted() -> bool:
        return await services.status_at_audit(first["key"]) == 200

    await services.wait_until(is_accepted)
    second = await services.create_key("roving")
    revoked = await services.call("DELETE", f"/v1/clients/roving/keys/{first['key_id']}")
    assert revoked.json()["in_force"] is True
    assert [key["state"] for key in revoked.json()["client"]["keys"]] == ["revoked", "live"]
    assert await services.status_at_intake(first["key"]) == 401
    began = SystemClock().monotonic()
    while await services.status_at_audit(first["key"]) == 200:
        assert SystemClock().monotonic() - began < 5.0  # usually much faster; the machine may be busy
        await asyncio.sleep(0.02)
    again = await services.call("DELETE", f"/v1/clients/roving/keys/{first['key_id']}")
    assert again.json()["client"]["revision"] == revoked.json()["client"]["revision"]

    await services.restart()
    assert [await services.status_at_intake(shown["key"]) for shown in (first, second)] == [401, 200]
    assert [await services.status_at_audit(shown["key"]) for shown in (first, second)] == [401, 200]


async def test_the_event_of_a_new_client_is_complete_and_its_key_is_stored_nowhere(services: IntakeAndAudit) -> None:
    limit = {"requests_per_second": 5, "burst": 7, "items_per_second": 0}
    await services.create_client("described", description="for the tour", limit=limit)
    shown = await services.create_key("described")
    records = [r for r in await services.intake.records(services.intake.control) if r.key == b"client:described"]
    events = [envelope.decode(record.headers, record.key, record.value) for record in records]
    assert [event.attributes.type for event in events] == [CLIENT_CHANGED] * 2
    assert [event.data.change for event in events] == ["created", "key_added"]
    assert [key.sha256 for key in events[-1].data.keys] == [ids.hash_api_key(shown["key"])]
    assert b"for the tour" not in records[-1].value
    connection = await asyncpg.connect(services.intake.database_url)
    rows = str(await connection.fetch("SELECT * FROM client_keys, clients"))
    outbox = await connection.fetchval("SELECT count(*) FROM outbox")
    await connection.close()
    everything = rows + str(records) + services.intake.log.read_text()
    assert shown["key"] not in everything
    assert shown["key"][10:] not in everything
    assert outbox == 0
    called = await services.call("GET", "/v1/totals", key=shown["key"])
    assert called.headers["ratelimit-policy"] == '"requests";q=7;w=2'


async def test_a_repeated_creation_finds_the_client_and_another_client_of_that_name_is_rejected(
    services: IntakeAndAudit,
) -> None:
    body = {"name": "twice", "scopes": ["items:read"], "regions": [services.region], "platforms": ["*"]}
    first, second = [await services.call("POST", "/v1/clients", body) for _ in range(2)]
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["client"] == second.json()["client"]
    other = await services.call("POST", "/v1/clients", body | {"scopes": ["items:write"]})
    assert (other.status_code, other.json()["type"]) == (409, "urn:piepowder:problem:client-exists")
    taken = await services.call("POST", "/v1/clients", body | {"name": "admin"})
    assert (taken.status_code, "file" in taken.json()["detail"]) == (409, True)


async def test_concurrent_creations_of_the_same_client_create_one(services: IntakeAndAudit) -> None:
    body = {"name": "rush", "scopes": ["items:read"], "regions": ["*"], "platforms": ["*"]}
    answers = await asyncio.gather(*(services.call("POST", "/v1/clients", body) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    keys = await asyncio.gather(*(services.call("POST", "/v1/clients/rush/keys", {}) for _ in range(8)))
    assert sorted(answer.status_code for answer in keys) == [201] * 2 + [409] * 6


async def test_a_repeated_idempotency_key_creates_one_key_and_returns_409(services: IntakeAndAudit) -> None:
    await services.create_client("named")
    named = {"idempotency_key": '"first"'}
    made = await services.call("POST", "/v1/clients/named/keys", {}, **named)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    again = await services.call("POST", "/v1/clients/named/keys", {}, **named)
    assert (again.status_code, again.json()["type"]) == (409, "urn:piepowder:problem:key-shown-already")
    assert made.json()["key_id"] in again.json()["detail"]
    other = await services.call("POST", "/v1/clients/named/keys", {"expires_at": "2099-01-01T00:00:00Z"}, **named)
    assert (other.status_code, other.json()["type"]) == (422, "urn:piepowder:problem:idempotency-key-reused")
    soon = {"expires_at": to_text(SystemClock().now() + timedelta(seconds=1))}
    brief = await services.call("POST", "/v1/clients/named/keys", soon, idempotency_key='"brief"')
    assert brief.status_code == 201

    async def has_expired() -> bool:
        keys = (await services.call("GET", "/v1/clients/named/keys")).json()["keys"]
        return [key["state"] for key in keys] == ["live", "expired"]

    await services.wait_until(has_expired)  # a late repetition, as after a lost response
    late = await services.call("POST", "/v1/clients/named/keys", soon, idempotency_key='"brief"')
    assert (late.status_code, late.json()["type"]) == (409, "urn:piepowder:problem:key-shown-already")
    assert brief.json()["key_id"] in late.json()["detail"]
    bad = await services.call("POST", "/v1/clients/named/keys", {}, idempotency_key="unquoted")
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "/header/idempotency-key")
    assert len((await services.call("GET", "/v1/clients/named/keys")).json()["keys"]) == 2


async def test_a_new_key_can_set_the_expiry_of_the_previous_one(services: IntakeAndAudit) -> None:
    await services.create_client("rotated")
    first = await services.create_key("rotated", expires_at="2099-01-01T00:00:00Z")
    soon = to_text(SystemClock().now() + timedelta(seconds=2))
    second = await services.create_key("rotated", others_expire_at=soon)
    assert [await services.status_at_intake(shown["key"]) for shown in (first, second)] == [200, 200]
    keys = (await services.call("GET", "/v1/clients/rotated/keys")).json()["keys"]
    assert [key["expires_at"] for key in keys] == [soon, None]

    async def has_expired() -> bool:
        return await services.status_at_intake(first["key"]) == 401

    await services.wait_until(has_expired)
    assert (await services.call("GET", "/v1/clients/rotated")).json()["keys"][0]["state"] == "expired"
    assert (await services.create_key("rotated"))["key_id"] != second["key_id"]  # an expired key does not count


async def test_a_change_applies_at_once_unless_another_change_came_first(services: IntakeAndAudit) -> None:
    client = await services.create_client("changing", scopes=["items:read"])
    key = (await services.create_key("changing"))["key"]
    now = (await services.call("GET", "/v1/clients/changing")).json()
    assert now["revision"] > client["revision"]
    stale = await services.call("PATCH", "/v1/clients/changing", {"regions": ["*"], "revision": client["revision"]})
    assert (stale.status_code, stale.json()["type"]) == (409, "urn:piepowder:problem:changed-meanwhile")
    disabled = await services.call("PATCH", "/v1/clients/changing", {"state": "disabled", "revision": now["revision"]})
    assert disabled.json()["client"]["state"] == "disabled"
    assert await services.status_at_intake(key) == 401
    changed = await services.call(
        "PATCH", "/v1/clients/changing", {"state": "active", "scopes": ["audit:read"], "limit": None}
    )
    assert changed.json()["client"]["scopes"] == ["audit:read"]
    assert await services.status_at_intake(key) == 403
    same = await services.call("PATCH", "/v1/clients/changing", {"scopes": ["audit:read"]})
    assert same.json()["client"]["revision"] == changed.json()["client"]["revision"]


async def test_rights_that_a_client_does_not_have_cannot_be_granted_and_every_visible_key_can_be_revoked(
    services: IntakeAndAudit,
) -> None:
    await services.create_client("rich", scopes=["audit:read", "items:write"])
    key_id = (await services.create_key("rich"))["key_id"]
    body = {"name": "mine", "scopes": ["items:read"], "regions": [services.region], "platforms": ["*"]}
    beyond = [
        ("POST", "/v1/clients", body | {"scopes": ["audit:read"]}, EU_LEAD, "/scopes"),
        ("POST", "/v1/clients", body | {"regions": ["*"]}, EU_LEAD, "/regions"),
        ("POST", "/v1/clients", body | {"regions": [services.intake.south]}, EU_LEAD, "/regions"),
        ("POST", "/v1/clients/rich/keys", {}, EU_LEAD, "/scopes"),
        ("POST", "/v1/clients/rich/keys", {}, CLERK, "/scopes"),
        ("PATCH", "/v1/clients/rich", {"scopes": ["audit:read", "control:publish"]}, CLERK, "/scopes"),
        ("PATCH", "/v1/clients/rich", {"regions": ["*"]}, EU_LEAD, "/regions"),
    ]
    for method, path, sent, key, pointer in beyond:
        answer = await services.call(method, path, sent, key=key)
        found = answer.status_code, answer.json()["type"], answer.json()["errors"][0]["pointer"]
        assert found == (403, "urn:piepowder:problem:beyond-own-rights", pointer), (method, path, sent)
    assert (await services.call("PATCH", "/v1/clients/rich", {"scopes": ["items:write"]}, key=CLERK)).status_code == 200
    assert (await services.call("DELETE", f"/v1/clients/rich/keys/{key_id}", key=CLERK)).status_code == 200
    assert (await services.call("PATCH", "/v1/clients/rich", {"state": "disabled"}, key=CLERK)).status_code == 200
    slow = {"limit": {"requests_per_second": 1, "burst": 1}}
    assert (await services.call("PATCH", "/v1/clients/rich", slow, key=CLERK)).status_code == 200
    for more in ({"state": "active"}, {"limit": None}, {"limit": {"requests_per_second": 1, "burst": 2}}):
        refused = await services.call("PATCH", "/v1/clients/rich", more, key=CLERK)
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:piepowder:problem:beyond-own-rights"), more
    again = await services.call("PATCH", "/v1/clients/rich", {"state": "active", "limit": None})
    assert (again.status_code, again.json()["client"]["state"]) == (200, "active")


async def test_a_key_of_a_region_sees_only_clients_of_the_region(services: IntakeAndAudit) -> None:
    await services.create_client("everywhere", regions=["*"])
    await services.create_client("southern", regions=[services.intake.south])
    await services.create_client("northern", regions=[services.region])
    listed = (await services.call("GET", "/v1/clients?limit=200", key=EU_LEAD)).json()["clients"]
    assert {"everywhere", "southern"}.isdisjoint(client["name"] for client in listed)
    assert "northern" in [client["name"] for client in listed]
    for name in ("everywhere", "southern", "nobody"):
        for method, path, body in (
            ("GET", f"/v1/clients/{name}", None),
            ("GET", f"/v1/clients/{name}/keys", None),
            ("PATCH", f"/v1/clients/{name}", {"state": "disabled"}),
            ("POST", f"/v1/clients/{name}/keys", {}),
            ("DELETE", f"/v1/clients/{name}/keys/9f86d081884c", None),
        ):
            answer = await services.call(method, path, body, key=EU_LEAD)
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:piepowder:problem:unknown-client")


async def test_clients_are_listed_in_pages_by_name(services: IntakeAndAudit) -> None:
    for name in ("page-a", "page-b", "page-c"):
        await services.create_client(name)
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await services.call("GET", f"/v1/clients?limit=2&cursor={cursor}")).json()
        names += [client["name"] for client in page["clients"]]
        cursor = page["next"]
    assert names == sorted(set(names))
    assert {"page-a", "page-b", "page-c"} <= set(names)
    assert (await services.call("GET", "/v1/clients?state=disabled")).json()["clients"] == [
        client for client in (await services.call("GET", "/v1/clients?limit=200")).json()["clients"]
        if client["state"] == "disabled"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "pointer"),
    [
        ("POST", "/v1/clients", {"name": "Shop"}, 422, "/name"),
        ("POST", "/v1/clients", {"name": "person-1"}, 422, "/name"),
        ("POST", "/v1/clients", {"name": 7}, 422, "/name"),
        ("POST", "/v1/clients", {"name": None}, 422, "/name"),
        ("POST", "/v1/clients", {"scopes": []}, 422, "/scopes"),
        ("POST", "/v1/clients", {"scopes": ["items:all"]}, 422, "/scopes/0"),
        ("POST", "/v1/clients", {"scopes": "items:read"}, 422, "/scopes"),
        ("POST", "/v1/clients", {"regions": []}, 422, "/regions"),
        ("POST", "/v1/clients", {"regions": ["EU"]}, 422, "/regions/0"),
        ("POST", "/v1/clients", {"platforms": []}, 422, "/platforms"),
        ("POST", "/v1/clients", {"platforms": ["Shop"]}, 422, "/platforms/0"),
        ("POST", "/v1/clients", {"platforms": ["shop"], "scopes": ["audit:read"]}, 422, "/platforms"),
        ("PATCH", "/v1/clients/bad", {"platforms": ["shop"], "scopes": ["clients:read"]}, 422, "/platforms"),
        ("PATCH", "/v1/clients/tied", {"scopes": ["clients:read"]}, 422, "/scopes"),
        ("POST", "/v1/clients", {"description": "a\0b"}, 422, "/description"),
        ("POST", "/v1/clients", {"description": "x" * 501}, 422, "/description"),
        ("POST", "/v1/clients", {"limit": {}}, 422, "/limit/requests_per_second"),
        ("POST", "/v1/clients", {"limit": {"requests_per_second": 0, "burst": 1}}, 422, "/limit/requests_per_second"),
        ("POST", "/v1/clients", {"limit": {"requests_per_second": 1, "burst": 0}}, 422, "/limit/burst"),
        ("POST", "/v1/clients", {"colour": "red"}, 422, "/colour"),
        ("POST", "/v1/clients", [], 422, ""),
        ("PATCH", "/v1/clients/bad", {"state": "gone"}, 422, "/state"),
        ("PATCH", "/v1/clients/bad", {"scopes": []}, 422, "/scopes"),
        ("PATCH", "/v1/clients/bad", {"name": "other"}, 422, "/name"),
        ("PATCH", "/v1/clients/bad", {"revision": 0}, 422, "/revision"),
        ("POST", "/v1/clients/bad/keys", {"expires_at": "tomorrow"}, 422, "/expires_at"),
        ("POST", "/v1/clients/bad/keys", {"expires_at": "2099-01-01T00:00:00"}, 422, "/expires_at"),
        ("POST", "/v1/clients/bad/keys", {"expires_at": "2020-01-01T00:00:00Z"}, 422, "/expires_at"),
        ("POST", "/v1/clients/bad/keys", {"others_expire_at": "2020-01-01T00:00:00Z"}, 422, "/others_expire_at"),
        ("DELETE", "/v1/clients/bad/keys/nothing", None, 404, None),
        ("GET", "/v1/clients?limit=0", None, 422, "/query/limit"),
        ("GET", "/v1/clients?cursor=%27", None, 422, "/query/cursor"),
        ("GET", "/v1/clients?state=gone", None, 422, "/query/state"),
        ("GET", "/v1/clients?colour=red", None, 422, "/query/colour"),
        ("GET", "/v1/clients?limit=1&limit=2", None, 422, "/query/limit"),
        ("GET", "/v1/clients/bad?limit=1", None, 422, "/query/limit"),
        ("GET", "/v1/clients/%00", None, 422, "/path/name"),
        ("PATCH", "/v1/clients/%00", {}, 422, "/path/name"),
        ("GET", "/v1/clients/%00/keys", None, 422, "/path/name"),
        ("POST", "/v1/clients/%00/keys", {}, 422, "/path/name"),
        ("DELETE", "/v1/clients/%00/keys/9f86d081884c", None, 422, "/path/name"),
        ("DELETE", "/v1/clients/bad/keys/%00", None, 404, None),
        ("DELETE", "/v1/clients/bad", None, 405, None),
        ("POST", "/v1/clients", {"description": "x" * 70_000}, 413, None),
    ],
)
async def test_invalid_input_is_rejected_with_pointers_and_changes_nothing(  # noqa: PLR0917 - the table's columns
    services: IntakeAndAudit, method: str, path: str, body: Any, status: int, pointer: str | None
) -> None:
    sound = {"scopes": ["items:read"], "regions": ["*"], "platforms": ["*"]}
    await services.call("POST", "/v1/clients", {"name": "bad"} | sound)
    await services.call("POST", "/v1/clients", {"name": "tied"} | sound | {"platforms": ["shop"]})
    if path == "/v1/clients" and isinstance(body, dict):
        body = {"name": "worse"} | sound | body
    answer = await services.call(method, path, body)
    assert answer.status_code == status, answer.text
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await services.call("GET", "/v1/clients/worse")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "text", "status", "pointer"),
    [
        ("POST", "/v1/clients", b'{"name": "one", "name": "two", "scopes": ["items:read"]}', 422, "/name"),
        ("PATCH", "/v1/clients/bad", b'{"limit": {"burst": 1, "burst": 2}}', 422, "/limit/burst"),
        ("POST", "/v1/clients/bad/keys", b'{"expires_at": null, "expires_at": null}', 422, "/expires_at"),
        ("POST", "/v1/clients", b'{"name": "two"', 400, ""),
        ("POST", "/v1/clients", b"[" * 20_000, 400, ""),
    ],
)
async def test_duplicate_names_and_truncated_bodies_are_rejected_with_pointers(  # noqa: PLR0917 - the table's columns
    services: IntakeAndAudit, method: str, path: str, text: bytes, status: int, pointer: str
) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
    answer = await services.intake.http.request(method, path, content=text, headers=headers)
    problem = answer.json()
    assert (answer.status_code, [error["pointer"] for error in problem["errors"]]) == (status, [pointer])
    assert problem["detail"] != problem["title"]
    assert (await services.call("GET", "/v1/clients/two")).status_code == 404


async def test_every_response_has_the_rate_limit_and_a_batch_is_charged_afterwards(services: IntakeAndAudit) -> None:
    limit = {"requests_per_second": 1, "burst": 30, "items_per_second": 5}
    await services.create_client("poster", scopes=["items:write"], limit=limit)
    headers = {"Authorization": f"Bearer {(await services.create_key('poster'))['key']}"}
    item = services.intake.post(markets=["DE"])
    posted = await services.intake.http.post("/v1/items", json=item, headers=headers)
    assert posted.status_code == 202, posted.text
    assert posted.headers["ratelimit-policy"] == '"requests";q=30;w=30, "items";q=5;w=1'
    assert posted.headers["ratelimit"].startswith('"requests";r=29;t=1, "items";r=4')
    lines = "\n".join(json.dumps(item | {"id": f"B{n}"}) for n in range(40))
    kind = {"Content-Type": "application/x-ndjson"}
    batch = await services.intake.http.post("/v1/items/batch", content=lines, headers=headers | kind)
    assert {json.loads(line)["status"] for line in batch.text.splitlines()} == {202}
    refused = await services.intake.http.post("/v1/items", json=item, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:piepowder:problem:rate-limited")
    assert 5 <= int(refused.headers["retry-after"]) <= 8
    assert refused.headers["ratelimit"].startswith('"requests";r=2')


async def test_rejected_lines_of_a_batch_count_as_refused_accesses(services: IntakeAndAudit) -> None:
    await services.create_client("near", scopes=["items:write"])
    headers = {
        "Authorization": f"Bearer {(await services.create_key('near'))['key']}",
        "Content-Type": "application/x-ndjson",
    }
    lines = "\n".join(
        json.dumps(services.intake.post(id=f"N{n}", markets=[m])) for n, m in enumerate(["DE", "US", "US"])
    )
    batch = await services.intake.http.post("/v1/items/batch", content=lines, headers=headers)
    assert [json.loads(line)["status"] for line in batch.text.splitlines()] == [202, 403, 403]

    async def is_logged() -> bool:
        refused = [
            event["data"] for event in await services.audited() if event["type"] == "piepowder.access.refused.v1"
        ]
        return [(one["route"], one["count"]) for one in refused if one.get("client") == "near"] == [
            ("/v1/items/batch", 2)
        ]

    await services.wait_until(is_logged)


async def test_the_audit_log_has_every_content_that_was_posted_under_a_used_version(services: IntakeAndAudit) -> None:
    await services.create_client("author", scopes=["items:write"], regions=["*"])
    key = (await services.create_key("author"))["key"]

    async def post(**fields: Any) -> dict[str, Any]:
        response = await services.call("POST", "/v1/items", services.intake.post(id="audited", **fields), key=key)
        assert response.status_code == 202, response.text
        receipt: dict[str, Any] = response.json()
        return receipt

    receipts = [await post(title=title) for title in ("One", "Two", "Two", "One")]
    assert [receipt.get("conflict", False) for receipt in receipts] == [False, True, True, False]
    marker = (await post(version=2))["regions"][services.region]["event_id"]

    async def has_marker() -> bool:
        return marker in [event["id"] for event in await services.audited()]

    await services.wait_until(has_marker)
    logged = [e for e in await services.audited() if e["subject"] == "shop:product:audited" and e["id"] != marker]
    assert [(e["data"]["item"]["title"], e["conflict"]) for e in logged] == [("One", True), ("Two", True)]


async def test_the_audit_log_has_refused_accesses_and_used_keys_and_a_key_has_its_last_use(
    services: IntakeAndAudit,
) -> None:
    await services.create_client("watched")
    shown = await services.create_key("watched")
    assert await services.status_at_intake(shown["key"]) == 200
    for _ in range(3):
        assert (await services.call("GET", "/v1/clients", key=shown["key"])).status_code == 403
    assert (await services.call("GET", "/v1/clients/secret-path", key=ids.new_api_key("test"))).status_code == 401
    assert await services.status_at_audit("pp_nonsense") == 401

    async def is_logged() -> bool:
        found = [event["data"] for event in await services.audited() if event["type"] == "piepowder.access.refused.v1"]
        kinds = {(one["service"], one["reason"], one.get("client", ""), one["route"]): one for one in found}
        refused = kinds.get(("intake", "missing-scope", "watched", "/v1/clients"), {})
        return (
            refused.get("count") == 3
            and refused["key"] == shown["key_id"]
            and ("intake", "unknown-key", "", "/v1/clients/{name}") in kinds
            and ("audit", "mistyped-key", "", "/v1/totals") in kinds
        )

    await services.wait_until(is_logged)
    assert await services.intake.stop() == 0  # a stop publishes the remaining access events
    await services.start_intake()

    async def noted() -> bool:
        key = (await services.call("GET", "/v1/clients/watched")).json()["keys"][0]
        return key["last_used_at"] is not None

    await services.wait_until(noted)
    uses = [event["data"] for event in await services.audited() if event["type"] == "piepowder.access.used.v1"]
    calls = [use for event in uses for use in event["keys"] if use["key"] == shown["key_id"]]
    assert sum(use["calls"] for use in calls) == 4


async def test_the_commands_of_the_documented_tour_work(services: IntakeAndAudit) -> None:
    """Each `curl` of docs/architecture/clients.md, in order, with the sample's names."""
    page = (project_root() / "docs" / "architecture" / "clients.md").read_text()
    lines = page.partition("## A tour\n")[2].partition("\n## ")[0]
    block = lines.partition("```sh\n")[2].partition("```")[0]
    script = f"set -eu\nPIEPOWDER_INTAKE_URL={str(services.intake.http.base_url).rstrip('/')}\nKEY={ADMIN}\n{block}"
    process = await start_process("bash", "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"problem" not in output
