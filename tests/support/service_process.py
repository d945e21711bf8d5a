"""A regional service (decision, audit) as a process with a database of its own, on real Kafka and PostgreSQL."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from deploy.local.ports import free_ports
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from tests.conftest import project_root
from tests.support.processes import start_process
from tests.support.servers import Servers

KEY = ids.new_api_key("test")
CLIENT = ClientEntry(
    name="test",
    key_sha256=ids.hash_api_key(KEY),
    scopes=frozenset({"reviews:read", "reviews:write", "audit:read"}),
)

_numbers = itertools.count(1)


class Running:
    """A service as a process, with a database of its own."""

    def __init__(self, name: str, url: str, port: int, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.url = url
        self.database = url.rpartition("/")[2]
        self.process = process
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        )

    async def is_ready(self) -> bool:
        try:
            return (await self.http.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False


@asynccontextmanager
async def running(
    name: str, admin: Any, servers: Servers, region: str, folder: Path, **more: str
) -> AsyncIterator[Running]:
    """A ready service; fails if the process does not end with status 0."""
    database = f"test_{os.getpid()}_{name}_{next(_numbers)}"
    await admin.execute(f"CREATE DATABASE {database}")
    (folder / "clients.json").write_bytes(msgspec.json.encode([CLIENT]))
    [port] = free_ports(1)
    environment = {
        "PIEPOWDER_KAFKA": servers.kafka,
        "PIEPOWDER_DATABASE_URL": f"{servers.database_url.rpartition('/')[0]}/{database}",
        "PIEPOWDER_REGION": region,
        "PIEPOWDER_CLIENTS_FILE": str(folder / "clients.json"),
        "PIEPOWDER_PORT": str(port),
        "PIEPOWDER_INSTANCE": "test",
        "PIEPOWDER_BATCH_RECORDS": "50",
        **more,
    }
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = await start_process(
            sys.executable, "-m", f"services.{name}", cwd=project_root(), env={**os.environ, **environment}, stderr=out
        )
    service = Running(name, environment["PIEPOWDER_DATABASE_URL"], port, process)
    try:
        await wait_until(service.is_ready)
        yield service
    finally:
        await service.http.aclose()
        if process.returncode is None:
            process.terminate()
        status = await asyncio.wait_for(process.wait(), 30)
        print(log.read_text()[-4000:])
        await admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
    assert status == 0


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.1)
