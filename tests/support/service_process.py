"""A service as a process: its start, its readiness, and a regional service with a database of its own."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

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
_WITH_CONTROL = """
import runpy, sys
from shared.contracts import topics
topics.CONTROL = sys.argv.pop(1)
runpy.run_module(sys.argv[1], run_name="__main__")
"""


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


async def start_service(
    name: str, environment: Mapping[str, str], log: Path, *, control: str | None = None
) -> asyncio.subprocess.Process:
    """Start a service; `control` is a control topic of the test's own, which it uses in place of the common one."""
    program = ["-m", f"services.{name}"] if control is None else ["-c", _WITH_CONTROL, control, f"services.{name}"]
    with log.open("ab") as out:
        return await start_process(
            sys.executable, *program, cwd=project_root(), env={**os.environ, **environment}, stderr=out
        )


async def readiness(http: httpx.AsyncClient, url: str = "") -> dict[str, Any]:
    """The response of `/readyz`; without conditions if the process does not respond."""
    try:
        response: dict[str, Any] = (await http.get(f"{url}/readyz")).json()
    except httpx.TransportError:
        return {"ready": False, "conditions": {}}
    return response


def is_unavailable(response: httpx.Response) -> bool:
    """True for the response to a call that a stop has interrupted: 503 with Retry-After."""
    return (
        response.status_code == 503
        and response.headers["content-type"] == "application/problem+json"
        and int(response.headers["retry-after"]) > 0
        and response.json()["type"] == "urn:piepowder:problem:unavailable"
    )


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
    process = await start_service(name, environment, log)
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


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float = 60, *, log: Path | None = None) -> None:
    """Wait until a condition holds, for a bounded time; fails with the end of the process's log."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - another process makes it true
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"the condition does not hold after {seconds:g} s{_end_of(log)}")


def _end_of(log: Path | None) -> str:
    return "" if log is None else f"; the log:\n{log.read_text()[-5000:]}"
