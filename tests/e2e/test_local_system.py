"""A system with servers of its own, as `make up` starts it: its files are private, its services have few rights in
PostgreSQL, and a process that hangs (SIGSTOP) is reported by readiness within 15 seconds, in every service, and started
again, without giving anything up."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.stack import LocalStack
from deploy.local.system import System
from shared.runtime.clock import SystemClock

READINESS_SECONDS: Final = 15.0
RESTARTED_SECONDS: Final = 120.0
_clock = SystemClock()

pytestmark = [
    pytest.mark.timeout(230),
    pytest.mark.skipif(sys.platform != "linux", reason="it finds the children of a process in /proc"),
]


class Hanging:
    """The system, its servers, and the messages of their supervision."""

    def __init__(self, system: System, stack: LocalStack, messages: list[str]) -> None:
        self.system = system
        self.stack = stack
        self.messages = messages

    async def until(self, reached: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None:
        deadline = _clock.monotonic() + seconds
        while not await asyncio.to_thread(reached):
            assert _clock.monotonic() < deadline, what()
            await asyncio.sleep(0.2)

    @property
    def databases(self) -> list[str]:
        return self.system.databases()

    def conditions(self) -> dict[str, dict[str, str]]:
        """The conditions of every service that are not met."""
        found = {}
        with httpx.Client(timeout=3, trust_env=False) as client:
            for name, service in self.system.services.items():
                response = client.get(f"{service.url}/readyz")
                missing = {key: text for key, text in response.json()["conditions"].items() if text != "ok"}
                assert response.status_code == (503 if missing else 200)
                found[name] = missing
        return found

    async def recovered(self) -> None:
        await asyncio.to_thread(self.system.wait_ready)
        assert self.system.failures() == self.stack.failures() == []


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hanging]:
    messages: list[str] = []
    names = ("PIEPOWDER_KAFKA", "PIEPOWDER_DATABASE_URL")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    folder = tmp_path_factory.mktemp("hanging")
    try:
        stack = LocalStack(folder, report=messages.append)
        with stack, System(stack, ("eu", "us"), folder, report=messages.append) as system:
            yield Hanging(system, stack, messages)
    finally:
        os.environ.update(kept)


def tree(pid: int) -> list[int]:
    """A process and its children (Linux)."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def freeze(pid: int | None) -> int:
    assert pid is not None
    for one in tree(pid):
        os.kill(one, signal.SIGSTOP)
    return pid


def pid_of(hanging: Hanging, name: str) -> int | None:
    return next((child.pid for child in hanging.stack.children() if child.name == name), None)


def test_only_the_owner_can_read_the_files_of_the_stack(hanging: Hanging) -> None:
    names = {path.relative_to(hanging.stack.folder).parts[0] for path in hanging.stack.folder.rglob("*")}
    assert names >= {"kafka", "postgres", "logs", "key", "profile.json", "clients.json", "database.password", "lock"}
    segments = list(hanging.stack.folder.glob("kafka/data-1/piepowder.control-0/*.log"))
    assert segments
    readable = [path for path in hanging.stack.folder.rglob("*") if path.lstat().st_mode & 0o077]
    assert readable == []


async def test_the_services_use_a_role_without_rights_on_the_server(hanging: Hanging) -> None:
    admin = await asyncpg.connect(hanging.stack.database_url)
    used = await admin.fetch(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = ANY ($1)", hanging.databases
    )
    await admin.close()
    assert [row[0] for row in used] == ["piepowder_services"]
    environment = hanging.system.services["intake"].child.env
    assert environment is not None
    connection = await asyncpg.connect(environment["PIEPOWDER_DATABASE_URL"])
    try:
        row = await connection.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        )
        assert set(row or [True]) == {False}
        for statement in ("CREATE DATABASE other", "CREATE ROLE other", "SELECT pg_read_file('/etc/passwd')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_frozen_service_is_started_again(hanging: Hanging) -> None:
    service = hanging.system.services["decision-eu"]
    frozen = freeze(service.child.pid)

    await hanging.until(lambda: service.child.pid != frozen, RESTARTED_SECONDS, lambda: hanging.messages)

    await hanging.recovered()
    assert any("decision-eu did not answer its liveness probe and was ended" in text for text in hanging.messages)


async def test_a_frozen_kafka_is_named_by_every_service_and_started_again(hanging: Hanging) -> None:
    address = hanging.stack.kafka
    frozen = freeze(pid_of(hanging, "Kafka"))

    expected = f"Kafka at {address} does not respond: {address}"

    def named() -> bool:
        return all(missing.get(f"Kafka {address}") == expected for missing in hanging.conditions().values())

    await hanging.until(named, READINESS_SECONDS, hanging.conditions)

    def responds() -> dict[tuple[str, ...], float]:
        return samples(hanging, "piepowder_kafka_broker_responds")

    services = [(name, address) for name in hanging.system.services]
    assert responds() == dict.fromkeys(services, 0.0)
    await hanging.until(lambda: pid_of(hanging, "Kafka") != frozen, RESTARTED_SECONDS, lambda: hanging.messages)
    await hanging.recovered()
    assert any(text.startswith("Kafka did not answer") for text in hanging.messages)
    # A broker that has just started may still be silent for one of the watches after every service was ready once.
    await hanging.until(lambda: responds() == dict.fromkeys(services, 1.0), READINESS_SECONDS, responds)


async def test_a_frozen_postgresql_is_named_by_every_service_with_a_database_and_started_again(
    hanging: Hanging,
) -> None:
    with_database = {name for name, service in hanging.system.services.items() if service.spec.database}
    frozen = freeze(pid_of(hanging, "PostgreSQL"))

    def named() -> bool:
        return {name for name, missing in hanging.conditions().items() if "database" in missing} == with_database

    await hanging.until(named, READINESS_SECONDS, hanging.conditions)
    responding = samples(hanging, "piepowder_database_responds")
    assert {name for (name, _), value in responding.items() if value == 0.0} == with_database
    await hanging.until(lambda: pid_of(hanging, "PostgreSQL") != frozen, RESTARTED_SECONDS, lambda: hanging.messages)
    await hanging.recovered()
    assert any(text.startswith("PostgreSQL did not answer") for text in hanging.messages)


def samples(hanging: Hanging, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric, by process and values of the labels."""
    found: dict[tuple[str, ...], float] = {}
    with httpx.Client(timeout=5, trust_env=False) as client:
        for service in hanging.system.services.values():
            for family in text_string_to_metric_families(client.get(f"{service.url}/metrics").text):
                found |= {
                    (service.name, *sample.labels.values()): sample.value
                    for sample in family.samples
                    if sample.name == name
                }
    return found
