"""The command's view of a running system, and of one with a silent service."""

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from rich.console import Console

from deploy.local.account import account
from deploy.services import SERVICES
from piepowder.client import Api
from piepowder.imports.file_options import FileOptions
from piepowder.profile import read_local
from piepowder.status import status
from piepowder.submission_files import journals, open_listings, submit_listings
from shared.contracts import topics
from tests.e2e.conftest import Cell

pytestmark = pytest.mark.timeout(120)


async def shown_status(cell: Cell) -> tuple[str, bool]:
    """The output of `status`, and True if everything is ready."""
    shown = io.StringIO()
    console = Console(file=shown, width=300)
    async with Api(read_local(cell.system.folder)) as api:
        parts, ready = await status(api)
    for part in parts:
        console.print(part)
    return shown.getvalue(), ready


def lines(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


async def test_dead_letters_are_counted_by_region(cell: Cell) -> None:
    async with AIOKafkaProducer(bootstrap_servers=cell.system.servers.kafka) as producer:
        await producer.send_and_wait(topics.submissions(cell.us), b"no event", key=b"x")
    deadline = time.monotonic() + 60
    while not await dead_letters(cell, cell.us):  # one from each service that reads the topic
        assert time.monotonic() < deadline
        await asyncio.sleep(0.3)
    assert await dead_letters(cell, cell.eu) == 0


async def dead_letters(cell: Cell, region: str) -> int:
    """The count in the region's row; 0 also when Kafka did not respond in time."""
    shown, _ = await shown_status(cell)
    found = re.search(rf"^region +dead letters.*?^{region} +(\d+) ", shown, re.MULTILINE | re.DOTALL)
    return 0 if found is None else int(found[1])


async def test_a_silent_service_is_named_and_does_not_delay_the_others(cell: Cell) -> None:
    frozen = cell.system.services[f"decision-{cell.eu}"]
    frozen.pause()
    try:
        began = time.monotonic()
        shown, ready = await shown_status(cell)
        took = time.monotonic() - began
    finally:
        frozen.resume()
    assert not ready
    assert lines(shown, frozen.name, "does not respond", frozen.url)
    assert lines(shown, f"No counts from {frozen.name}.")
    assert took < 20, "a busy machine is slow, but a repeated call would take a minute"


async def test_each_submission_has_its_own_journal_and_the_account_reads_all(cell: Cell, tmp_path: Path) -> None:
    options = FileOptions(platform="twice", markets=["DE"])
    kept = []
    async with Api(read_local(cell.system.folder)) as api:
        for folder, ids in (("a", "12"), ("b", "345")):
            file = tmp_path / folder / "listings.csv"
            file.parent.mkdir()
            file.write_text("id,title\n" + "".join(f"{name},Lamp\n" for name in ids))
            with open_listings(str(file), options) as listings:
                kept.append((await submit_listings(api, listings, cell.system.folder))[1])
        found = journals(cell.system.folder)
        result = await account(api, found)
    assert found == [record.journal for record in kept]
    assert [len(record.journal.read_bytes().splitlines()) for record in kept] == [2, 3]
    assert result.total == 5


def test_each_command_works_on_a_deployment_that_only_a_profile_describes(cell: Cell, tmp_path: Path) -> None:
    single = {spec.name: cell.url(spec.name) for spec in SERVICES if not spec.regional}
    regional = {
        spec.name: {region: cell.url(spec.name, region) for region in (cell.eu, cell.us)}
        for spec in SERVICES
        if spec.regional
    }
    profile = {"services": {**single, **regional}, "kafka": cell.system.servers.kafka}
    (tmp_path / "cluster.yaml").write_bytes(msgspec.yaml.encode(profile))
    (tmp_path / "items.csv").write_text("id,title\n1,Lamp\n")
    others = {name: value for name, value in os.environ.items() if not name.startswith("PIEPOWDER_")}
    variables = {"PIEPOWDER_PROFILE": "./cluster.yaml", "PIEPOWDER_KEY": cell.system.key()}

    def run(*arguments: str, attempts: int = 1) -> str:
        output = ""
        for _ in range(attempts):
            done = subprocess.run(
                [sys.executable, "-m", "piepowder", *arguments],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=others | variables,
                timeout=60,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout
            output = done.stdout + done.stderr
        raise AssertionError(f"{arguments}: {output}")

    assert "Accepted 1 lines" in run("submit", "items.csv", "--platform", "profiled", "--market", "DE")
    assert f"decision-{cell.us}" in run("status", attempts=20)
    assert "item.submitted" in run("timeline", "profiled:product:1", attempts=10)
    assert "present  piepowder.control" in run("topics")
    assert "policy_set" in run("control", "show")
    assert "live keys" in run("clients", "list")
    run("request", "list")
    run("replay", "--region", cell.eu)
    assert "Done: " in run("review", "--simulate", "1", "--for", "1")
    assert "every accepted item is accounted for" in run("account", attempts=10)
    assert f"export PIEPOWDER_ROUTER_URL={cell.url('router')}" in run("env")
