"""13,000 undecodable records on one region's submissions: its readers stop this topic only, no process ends, and an SRE
who runs the commands of docs/runbooks/record-storm.md word for word gets past the storm (promises 1, 4, 9)."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deploy.services import SERVICES
from piepowder.topic_reading import new_consumer, read_to_end
from shared.contracts import topics
from shared.kafka.producer import KafkaProducer, Record
from tests.conftest import project_root
from tests.e2e import steps
from tests.e2e.conftest import Cell

pytestmark = pytest.mark.timeout(240)

STORM = 13_000
READERS = [service.name for service in SERVICES if "submissions" in service.reads]


async def test_a_storm_on_one_topic_stops_only_this_topic_and_the_runbook_leads_past_it(
    cell: Cell, tmp_path: Path
) -> None:
    topic = topics.submissions(cell.eu)
    producer = KafkaProducer(cell.system.servers.kafka, client_id="storm")
    await producer.send([Record(topic, str(n).encode(), b"no event", []) for n in range(STORM)])
    await producer.stop()
    until_stopped(cell, topic)

    in_us = steps.post(cell, "items", steps.item(id="us-1", markets=["US"]))["item_id"]
    steps.until_status(cell, in_us, cell.us, "approved")
    in_eu = steps.post(cell, "items", steps.item(id="eu-1"))["item_id"]
    assert all(service.ready for service in cell.system.services.values())

    before = await dead_letters(cell, topic)
    assert len(before) < len(READERS) * 5000
    for name in ("router", "intake-projection", f"audit-{cell.eu}"):
        cell.system.services[name].kill()
        cell.system.services[name].start()
    cell.system.wait_ready()
    until_stopped(cell, topic)
    assert await dead_letters(cell, topic) == before, "a restart dead-letters no further part of the storm"

    commands = runbook_commands()
    assert [command.split()[1:3] for command in commands if command.startswith("piepowder")] == [
        ["stopped", "list"],
        ["replay"],
        ["stopped", "resume"],
        ["stopped", "dead-letter"],
        ["stopped", "dead-letter"],
        ["stopped", "list"],
    ]
    shell = Shell(cell, tmp_path)
    assert commands[0].startswith("export TOPIC=")
    shell.topic, output = topic, ""
    for command in commands[1:]:
        if " resume " in command:  # step 4 is for another cause
            continue
        output = shell.run(command)
        if command.endswith("--dry-run"):
            assert "nothing was changed" in output
            assert await dead_letters(cell, topic) == before
    assert "No topic is stopped." in output

    after = await dead_letters(cell, topic)
    assert len(after) == len(READERS) * STORM
    assert set(after.values()) == {1}
    steps.until_status(cell, in_eu, cell.eu, "approved")
    assert stopped(cell) == {}
    assert {service.restarts for service in cell.system.services.values()} == {0}


def stopped(cell: Cell) -> dict[str, str]:
    """The stopped topics by group, from the `/readyz` of every process."""
    found = {}
    for service in cell.system.services.values():
        response = cell.client.get(f"{service.url}/readyz")
        for group, names in response.json().get("stopped", {}).items():
            assert response.status_code == 200
            found[group] = ", ".join(names)
    return found


def until_stopped(cell: Cell, topic: str) -> None:
    """Wait until exactly the readers of the topic have stopped it."""
    expected = {f"piepowder-{name}-{cell.eu}": topic for name in READERS}
    deadline = time.monotonic() + 90
    while (found := stopped(cell)) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


async def dead_letters(cell: Cell, topic: str) -> Counter[tuple[Any, ...]]:
    """The places of the dead letters of a topic's records, each as often as it is written."""
    consumer = new_consumer(cell.system.servers.kafka, "test", topics.deadletters(cell.eu))
    await consumer.start()
    try:
        headers = [dict(record.headers) async for record in read_to_end(consumer)]
    finally:
        await consumer.stop()
    names = ("dl_group", "dl_partition", "dl_offset")
    return Counter(tuple(each[name] for name in names) for each in headers if each["dl_topic"] == topic.encode())


def runbook_commands() -> list[str]:
    """The commands of the runbook's code blocks, in their order."""
    text = (project_root() / "docs" / "runbooks" / "record-storm.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


class Shell:
    """A shell in which `piepowder` is on the PATH and uses the running system."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.topic = ""
        script = folder / "piepowder"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m piepowder "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        self._variables = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PIEPOWDER_FOLDER": str(cell.system.folder),
        }

    def run(self, command: str) -> str:
        """Run a command line; returns its output, and fails with it unless the exit status is 0."""
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=self._variables | {"TOPIC": self.topic},
            cwd=project_root(),
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout
