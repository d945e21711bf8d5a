"""The local stack: data survives a stop and a kill, no process outlives its parent, and each expected failure is one
sentence. Real Kafka, real PostgreSQL, real signals."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from deploy.local.process import Child, child_command
from deploy.local.stack import LocalStack
from shared.runtime.process_identity import start_time
from shared.runtime.user_errors import UserError

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("own_servers")]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIEPOWDER_KAFKA", "PIEPOWDER_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A separate process with a stack in `tmp_path / "stack"`."""
    command = [sys.executable, "-m", "deploy.local", "--folder", str(tmp_path / "stack")]
    bound = child_command(command, "same", signal.SIGTERM)
    with subprocess.Popen(bound, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def write(kafka: str, database_url: str, value: str) -> None:
    async def both() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.create_topics([NewTopic("kept", 1, 1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
            await producer.send_and_wait("kept", value.encode(), partition=0)
        connection = await asyncpg.connect(database_url)
        await connection.execute("CREATE TABLE kept (value text)")
        await connection.execute("INSERT INTO kept VALUES ($1)", value)
        await connection.close()

    asyncio.run(both())


def read(kafka: str, database_url: str) -> list[str]:
    async def both() -> list[str]:
        async with AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
            consumer.assign([TopicPartition("kept", 0)])
            record = await asyncio.wait_for(consumer.getone(), 20)
        connection = await asyncpg.connect(database_url)
        row = await connection.fetchval("SELECT value FROM kept")
        await connection.close()
        return [record.value.decode(), row]

    return asyncio.run(both())


def addresses(parent: subprocess.Popen[str]) -> tuple[str, str]:
    assert parent.stdout is not None
    found = {}
    for line in parent.stdout:
        name, *rest = line.split()
        found[name] = rest
        if name == "Ctrl-C":
            return found["Kafka"][0], found["PostgreSQL"][0]
    raise AssertionError("the stack did not start")


def processes_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and start_time(int(entry.name)) is not None:
            try:
                traces = (entry / "cmdline").read_bytes() + os.fsencode((entry / "cwd").readlink())
            except OSError:
                continue
            if str(folder).encode() in traces and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def all_end(folder: Path, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while processes_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed parent")
def test_after_a_kill_of_the_parent_nothing_is_left_and_the_next_start_finds_the_data(
    tmp_path: Path, parent: subprocess.Popen[str]
) -> None:
    write(*addresses(parent), "before the kill")
    assert len(processes_of(tmp_path / "stack")) >= 3
    parent.kill()
    parent.wait()
    assert all_end(tmp_path / "stack")
    for _ in ("after the kill", "after an orderly stop"):
        with LocalStack(tmp_path / "stack") as stack:
            assert read(stack.kafka, stack.database_url) == ["before the kill", "before the kill"]
    assert all_end(tmp_path / "stack")


def test_a_terminated_parent_stops_its_stack_in_order(tmp_path: Path, parent: subprocess.Popen[str]) -> None:
    addresses(parent)
    parent.terminate()
    assert parent.wait(30) == 0
    assert all_end(tmp_path / "stack", within=0)
    assert "database system is shut down" in (tmp_path / "stack" / "postgres" / "postgres.log").read_text()


def test_a_parent_interrupted_while_it_starts_leaves_nothing(tmp_path: Path, parent: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while len(processes_of(tmp_path / "stack")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) == 0
    assert all_end(tmp_path / "stack", within=0)


def test_two_stacks_run_side_by_side_and_a_folder_in_use_is_reported(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "one") as one, LocalStack(tmp_path / "zwei, größer als eins") as two:
        assert one.kafka != two.kafka
        write(one.kafka, one.database_url, "one")
        write(two.kafka, two.database_url, "two")
        assert read(one.kafka, one.database_url) == ["one", "one"]
        assert read(two.kafka, two.database_url) == ["two", "two"]
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            LocalStack(tmp_path / "one").start()
        assert one.failures() == two.failures() == []


def test_servers_that_are_killed_are_started_again_with_their_data(tmp_path: Path) -> None:
    messages: list[str] = []
    with LocalStack(tmp_path / "stack", report=messages.append) as stack:
        write(stack.kafka, stack.database_url, "kept")
        before = {child.name: child.pid for child in stack.children()}
        for pid in before.values():
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 90
        while sum(text.endswith("responds again.") for text in messages) < len(before):
            assert time.monotonic() < deadline, messages
            time.sleep(0.1)
        assert read(stack.kafka, stack.database_url) == ["kept", "kept"]
        assert stack.failures() == []
        assert {child.name for child in stack.children() if child.pid != before[child.name]} == {"Kafka", "PostgreSQL"}


def test_an_external_server_is_used_and_a_silent_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalPostgres(tmp_path / "elsewhere") as postgres:
        monkeypatch.setenv("PIEPOWDER_DATABASE_URL", postgres.url.replace("postgresql", "postgresql+asyncpg"))
        monkeypatch.setenv("PIEPOWDER_KAFKA", "127.0.0.1:1")
        with pytest.raises(UserError, match=r"No Kafka responds at 127\.0\.0\.1:1"):
            LocalStack(tmp_path / "stack").start()
        wrong = postgres.url.replace("piepowder:", "piepowder:wrong")
        monkeypatch.setenv("PIEPOWDER_DATABASE_URL", wrong)
        with pytest.raises(UserError, match=r"No (PostgreSQL|Kafka) responds"):
            LocalStack(tmp_path / "stack").start()


def test_postgres_starts_although_another_process_has_its_old_pid(tmp_path: Path) -> None:
    postgres = LocalPostgres(tmp_path)
    postgres.start()
    assert postgres.child is not None
    postgres.child.kill()
    stranger = Child("stranger", ["sleep", "60"], log=tmp_path / "stranger.log")
    stranger.start()
    try:
        lock = tmp_path / "data" / "postmaster.pid"
        _, *others = lock.read_text().splitlines()
        lock.write_text("\n".join([str(stranger.pid), *others, ""]))
        (tmp_path / "postgres.pid").write_text(json.dumps({"pid": stranger.pid, "started": "1"}))
        with postgres:
            assert stranger.alive
    finally:
        stranger.kill()


def test_a_broker_that_cannot_start_shows_its_last_lines(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        assert kafka.bootstrap
    (tmp_path / "data-1" / "meta.properties").write_text("version=1\nnode.id=5\ncluster.id=another\n")
    with pytest.raises(UserError, match="Kafka ended with code") as caught:
        LocalKafka(tmp_path).start()
    assert any("node" in line for line in caught.value.lines)
    assert all_end(tmp_path)


def test_a_folder_of_one_node_is_not_started_with_three(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps({"id": "cluster", "ports": [[1, 2]]}))
    with pytest.raises(UserError, match="cluster of 1 nodes, not of 3"):
        LocalKafka(tmp_path, nodes=3).start()
