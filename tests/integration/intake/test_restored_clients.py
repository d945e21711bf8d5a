"""Clients after a restore of intake's database from a backup, on real Kafka and PostgreSQL.

The control topic has precedence: no revocation or restriction is undone, no change is lost, no revision is used twice.
"""

import os
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from shared.auth.clients import SCOPES, subject
from shared.auth.clients_file import ClientEntry
from shared.contracts import envelope, ids
from shared.contracts.events import ClientChanged
from tests.support.intake_process import Intake, running_intake
from tests.support.servers import Servers

pytestmark = pytest.mark.timeout(180)

ADMIN = ids.new_api_key("test")


class RestorableIntake:
    """Intake with an administrator, whose database is saved and restored."""

    def __init__(self, intake: Intake, admin: asyncpg.Connection) -> None:
        self.intake = intake
        self.database = intake.database_url.rpartition("/")[2]
        self._admin = admin

    async def call(self, method: str, path: str, body: object = None, *, key: str = ADMIN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return await self.intake.http.request(method, path, headers=headers, json=body)

    async def change(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        response = await self.call(method, path, body)
        assert response.is_success, response.text
        changed: dict[str, Any] = response.json()
        return changed

    async def create(self, name: str, **fields: Any) -> str:
        """Create a client with a key; returns the key."""
        valid = {"scopes": ["items:read"], "regions": ["*"], "platforms": ["*"], "description": f"about {name}"}
        await self.change("POST", "/v1/clients", {"name": name} | valid | fields)
        return await self.add_key(name)

    async def add_key(self, name: str) -> str:
        key: str = (await self.change("POST", f"/v1/clients/{name}/keys", {}))["key"]
        return key

    async def client(self, name: str) -> dict[str, Any]:
        response = await self.call("GET", f"/v1/clients/{name}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def status(self, key: str) -> int:
        return (await self.call("GET", "/v1/totals", key=key)).status_code

    async def save(self) -> None:
        """Copy the database while intake is stopped."""
        await self.intake.stop()
        await self._admin.execute(f"DROP DATABASE IF EXISTS {self.database}_backup")
        await self._admin.execute(f"CREATE DATABASE {self.database}_backup TEMPLATE {self.database}")
        await self.start()

    async def restore(self) -> None:
        """Replace the database by its copy while intake is stopped."""
        await self.intake.stop()
        await self._admin.execute(f"DROP DATABASE {self.database}")
        await self._admin.execute(f"ALTER DATABASE {self.database}_backup RENAME TO {self.database}")
        await self.start()

    async def start(self) -> None:
        await self.intake.start(PIEPOWDER_CLIENTS_FILE=str(self.intake.folder / "admins.json"))
        await self.intake.ready()

    async def changes(self, name: str) -> list[ClientChanged]:
        """The published changes of a client, oldest first."""
        records = await self.intake.records(self.intake.control)
        values = defaultdict(set)
        for record in records:
            values[envelope.decode_attributes(record.headers).id].add(record.value)
        assert max(map(len, values.values())) == 1, "an event id has two values"
        key = subject(name).encode()
        return [envelope.decode(r.headers, r.key, r.value).data for r in records if r.key == key]


@pytest.fixture(scope="module")
async def restorable(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RestorableIntake]:
    folder: Path = tmp_path_factory.mktemp("restored")
    path = folder / "admins.json"
    path.write_bytes(msgspec.json.encode([ClientEntry("admin", ids.hash_api_key(ADMIN), SCOPES)]))
    admin = await asyncpg.connect(servers.database_url)
    name = f"restored{os.getpid()}"
    async with running_intake(servers, name, folder, PIEPOWDER_CLIENTS_FILE=str(path)) as intake:
        yield RestorableIntake(intake, admin)
    await admin.execute(f"DROP DATABASE IF EXISTS test_{name}_backup")
    await admin.close()


async def test_a_restored_database_undoes_no_revocation_restriction_or_creation(restorable: RestorableIntake) -> None:
    leaked = await restorable.create("leaked")
    slow = {"requests_per_second": 50, "burst": 50, "items_per_second": 0}
    keys = {name: await restorable.create(name) for name in ("suspended", "limited", "narrowed", "rotated", "quiet")}
    await restorable.save()

    key_id = (await restorable.client("leaked"))["keys"][0]["key_id"]
    await restorable.change("DELETE", f"/v1/clients/leaked/keys/{key_id}")
    await restorable.change("PATCH", "/v1/clients/suspended", {"state": "disabled"})
    await restorable.change("PATCH", "/v1/clients/limited", {"limit": slow})
    await restorable.change("PATCH", "/v1/clients/narrowed", {"regions": [restorable.intake.north]})
    keys["successor"] = await restorable.add_key("rotated")
    keys["created"] = await restorable.create("created")
    names = ("leaked", "suspended", "limited", "narrowed", "rotated", "created", "quiet")
    before = {name: await restorable.client(name) for name in names}
    await restorable.restore()

    after = {name: await restorable.client(name) for name in names}
    lost = {"description": "", "created_at": after["created"]["created_at"]}  # the event does not have them
    assert after == before | {"created": before["created"] | lost}
    listed = (await restorable.call("GET", "/v1/clients?limit=200")).json()["clients"]
    assert {client["name"]: client for client in listed if client["name"] in names} == after
    for name in names:
        changed = await restorable.change("PATCH", f"/v1/clients/{name}", {"description": "harmless"})
        kept = {field: before[name][field] for field in ("state", "scopes", "regions", "limit", "keys")}
        assert {field: changed["client"][field] for field in kept} == kept
        assert changed["client"]["revision"] > before[name]["revision"]
        assert changed["in_force"] is True
    assert await restorable.status(leaked) == 401
    assert await restorable.status(keys["suspended"]) == 401
    accepted = ("limited", "narrowed", "rotated", "successor", "created", "quiet")
    assert [await restorable.status(keys[name]) for name in accepted] == [200] * 6
    third = await restorable.call("POST", "/v1/clients/rotated/keys", {})
    assert (third.status_code, third.json()["type"]) == (409, "urn:piepowder:problem:too-many-keys")
    assert [change.change for change in await restorable.changes("leaked")] == [
        *("created", "key_added", "key_revoked", "changed")
    ]


async def test_a_restored_row_of_the_outbox_that_was_published_again_is_followed_by_the_newest_state(
    restorable: RestorableIntake,
) -> None:
    """The database is restored under a running process: its relay publishes the restored row before any call."""
    key = await restorable.create("replayed")
    key_id = (await restorable.client("replayed"))["keys"][0]["key_id"]
    connection = await asyncpg.connect(restorable.intake.database_url)
    revision = await connection.fetchval("SELECT revision FROM clients WHERE name = 'replayed'")
    await restorable.change("DELETE", f"/v1/clients/replayed/keys/{key_id}")
    records = await restorable.intake.records(restorable.intake.control)
    old = [record for record in records if record.key == b"client:replayed"][1]
    async with connection.transaction():
        await connection.execute("UPDATE clients SET revision = $1 WHERE name = 'replayed'", revision)
        await connection.execute("UPDATE client_keys SET revoked_at = NULL WHERE client = 'replayed'")
        await connection.execute(
            "INSERT INTO outbox (shard, topic, key, value, headers) VALUES (0, $1, $2, $3, $4)",
            restorable.intake.control,
            old.key,
            old.value,
            msgspec.msgpack.encode(old.headers),
        )
    await connection.close()

    async def is_published_again() -> bool:
        changes = await restorable.changes("replayed")
        return "restored" in [change.change for change in changes]

    await restorable.intake.wait_until(is_published_again)
    changes = await restorable.changes("replayed")
    assert [change.change for change in changes] == ["created", "key_added", "key_revoked", "key_added", "restored"]
    assert [bool(key.revoked_at) for key in changes[-1].keys] == [True]
    assert changes[-1].revision == max(change.revision for change in changes)
    assert await restorable.status(key) == 401
    assert (await restorable.client("replayed"))["keys"][0]["state"] == "revoked"


async def test_a_later_record_that_undoes_a_revocation_is_not_accepted_and_is_corrected(
    restorable: RestorableIntake,
) -> None:
    """An earlier release publishes such a record after a restore and a harmless change."""
    key = await restorable.create("revived")
    key_id = (await restorable.client("revived"))["keys"][0]["key_id"]
    revoked = await restorable.change("DELETE", f"/v1/clients/revived/keys/{key_id}")
    [_, added, _] = await restorable.changes("revived")
    undone = msgspec.structs.replace(added, revision=revoked["client"]["revision"] + 1, change="changed")
    await restorable.intake.publish(
        restorable.intake.control, envelope.GLOBAL, "piepowder.client.changed.v1", undone, "client:revived"
    )

    async def is_corrected() -> bool:
        return [change.change for change in await restorable.changes("revived")][-1] == "restored"

    await restorable.intake.wait_until(is_corrected)
    last = (await restorable.changes("revived"))[-1]
    assert (last.revision > undone.revision, bool(last.keys[0].revoked_at)) == (True, True)
    assert await restorable.status(key) == 401
