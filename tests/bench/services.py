"""Services as processes, configured by their environment, on real Kafka and PostgreSQL."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import msgspec

from deploy.local.ports import free_ports
from deploy.local.process import Child
from deploy.local.stack import LocalStack
from deploy.services import SERVICES
from shared.auth.clients import SCOPES
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.kafka import topic_admin
from shared.runtime.clock import SystemClock

_ROOT: Final = Path(__file__).parents[2]
_READY_SECONDS: Final = 60.0
_WITH_DATABASE: Final = frozenset(service.name for service in SERVICES if service.database)
_clock = SystemClock()


class Service:
    """A running service: `pid`, `url`, and a key with all permissions."""

    def __init__(self, child: Child, url: str, key: str) -> None:
        self.child = child
        self.url = url
        self.key = key

    @property
    def pid(self) -> int:
        assert self.child.pid is not None
        return self.child.pid

    async def until_ready(self, unmet: str | None = None) -> None:
        """Wait until all conditions except `unmet` are met; raises AssertionError with the reason and the last lines of
        the log."""
        deadline, reason = _clock.monotonic() + _READY_SECONDS, "no response"
        async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
            while _clock.monotonic() < deadline:
                if not self.child.alive:
                    raise self._ended()
                try:
                    answer = await client.get(f"{self.url}/readyz")
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)
                    continue
                conditions = answer.json()["conditions"] if answer.content else {}
                if all(state == "ok" or name == unmet for name, state in conditions.items()):
                    return
                reason = answer.text
                await asyncio.sleep(0.05)
        raise AssertionError(f"{self.child.name} is not ready: {reason}\n" + "\n".join(self.child.tail()))

    async def while_alive(self, working: Awaitable[object]) -> None:
        """Wait for `working`; raises AssertionError with the last lines of the log if the process ends earlier."""
        task = asyncio.ensure_future(working)
        try:
            while not (await asyncio.wait([task], timeout=0.5))[0]:
                if not self.child.alive:
                    raise self._ended()
            await task
        finally:
            task.cancel()

    def _ended(self) -> AssertionError:
        return AssertionError(f"{self.child.name} has ended:\n" + "\n".join(self.child.tail()))


class Launcher:
    """Starts services on a stack, with a folder for logs and keys."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.key = ids.new_api_key("bench")
        folder.mkdir(parents=True, exist_ok=True)
        self._clients = folder / "clients.json"
        self._clients.write_bytes(msgspec.json.encode([ClientEntry("bench", ids.hash_api_key(self.key), SCOPES)]))

    @property
    def trees(self) -> dict[str, int]:
        """The processes of the local servers by name."""
        return {child.name.split("-")[0]: child.pid for child in self.stack.children() if child.pid is not None}

    @asynccontextmanager
    async def service(
        self, name: str, *, label: str = "", unmet: str | None = None, **environment: str
    ) -> AsyncIterator[Service]:
        """Run `python -m services.<name>` until the block ends; with a new database unless `DATABASE_URL` is given.

        It counts as ready when all conditions except `unmet` are met; `label` names a second process of the service.
        """
        if name in _WITH_DATABASE and "DATABASE_URL" not in environment:
            environment["DATABASE_URL"] = await self.database(f"bench_{name}")
        [port] = free_ports(1)
        own = {"KAFKA": self.stack.kafka, "CLIENTS_FILE": str(self._clients), "PORT": str(port), "LOG_LEVEL": "WARNING"}
        async with self.process(label or name, ["-m", f"services.{name}"], own | environment, port, unmet) as service:
            yield service

    @asynccontextmanager
    async def process(
        self, name: str, arguments: list[str], settings: Mapping[str, str], port: int, unmet: str | None = None
    ) -> AsyncIterator[Service]:
        """Run a Python process with these settings until the block ends; wait until it is ready."""
        async with self._running(name, arguments, settings) as child:
            service = Service(child, f"http://127.0.0.1:{port}", self.key)
            await service.until_ready(unmet)
            yield service

    @asynccontextmanager
    async def peer(self, name: str, *arguments: str) -> AsyncIterator[Service]:
        """Run `python -m tests.bench.peers.<name>` until the block ends; it has no REST API."""
        async with self._running(name, ["-m", f"tests.bench.peers.{name}", *arguments], {}) as child:
            yield Service(child, "", self.key)

    @asynccontextmanager
    async def _running(self, name: str, arguments: list[str], settings: Mapping[str, str]) -> AsyncIterator[Child]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PIEPOWDER_")}
        child = Child(
            name,
            [sys.executable, *arguments],
            log=self.folder / "logs" / f"{name}.log",
            env=inherited | {f"PIEPOWDER_{key}": value for key, value in settings.items()},
            cwd=_ROOT,
        )
        try:
            await asyncio.to_thread(child.start)
            yield child
        finally:
            child.resume()
            await asyncio.to_thread(child.stop, 20.0)

    async def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        admin = await asyncpg.connect(self.stack.database_url)
        try:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await admin.execute(f"CREATE DATABASE {name}")
        finally:
            await admin.close()
        return f"{self.stack.database_url.rpartition('/')[0]}/{name}"

    async def topics(self, *regions: str) -> None:
        """Create the topics of these regions."""
        await topic_admin.ensure(self.stack.kafka, topic_admin.expand(topic_admin.load(), regions))

    async def plain_topics(self, *names: str) -> None:
        """Create topics with the settings of `submissions`, for the floors: the services do not read them."""
        like = next(spec for spec in topic_admin.load() if "submissions" in spec.name)
        wanted = [msgspec.structs.replace(like, name=name) for name in names]
        await topic_admin.ensure(self.stack.kafka, wanted)
