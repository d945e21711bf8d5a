"""Every command that README.md and the pages of docs print runs as printed, in a folder like a new checkout, and leaves
no files there. `tests/support/documented_commands.py` lists the commands that are not run, with reasons."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from shared.contracts import topics
from tests.conftest import project_root
from tests.support import markdown
from tests.support.documented_commands import RUN_ELSEWHERE, reason
from tests.support.markdown import CodeBlock

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not all(map(shutil.which, ("bash", "curl", "jq", "make"))), reason="the documents use bash, curl, jq and make"
    ),
]

BIN: Final = Path(sys.executable).parent
CHECKOUT: Final = ("Makefile", "deploy", "docs")  # the parts of a checkout that the documents name
_STAYS: Final = re.compile(r"(?:make (?:run|up)(?!.*--exit)|\.venv/bin/python -m deploy\.local )")  # until Ctrl-C
_IS_UP: Final = re.compile(r"^(?:  \S*piepowder review$|For curl in another|Ctrl-C stops them)", re.MULTILINE)
_INTERRUPTED: Final = (0, 130, -signal.SIGINT)  # make ends with the signal that it got
_SYSTEM: Final = re.compile(r"make (?:run|up)")
_START_SECONDS: Final = 300
_BLOCK_SECONDS: Final = 300

_DEAD_LETTERS: Final = "docs/runbooks/dead-letters.md"
_DEADLINE_SECONDS: Final = 60

DOCUMENTS: Final = [
    document
    for document in markdown.documents()
    if markdown.commands(document) and markdown.name_of(document) not in RUN_ELSEWHERE
]


class Checkout:
    """A new checkout, and a terminal in which a system is started by the documents' commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(BIN.parent)
        for name in CHECKOUT:
            (folder / name).symlink_to(project_root() / name)
        self._variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "PIEPOWDER_"))
        }
        if "PIEPOWDER_CACHE" in os.environ:
            self._variables["PIEPOWDER_CACHE"] = os.environ["PIEPOWDER_CACHE"]
        self._system: subprocess.Popen[str] | None = None
        self._shown: list[str] = []
        self._reader: threading.Thread | None = None

    def start(self, command: str) -> None:
        """Run a command that stays until Ctrl-C, in a terminal of its own; returns when it says that all is up."""
        self.stop()
        self._shown = []
        self._system = subprocess.Popen(
            ["/usr/bin/env", "bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._collect, args=(self._system,), daemon=True)
        self._reader.start()
        deadline = time.monotonic() + _START_SECONDS
        while not _IS_UP.search("".join(self._shown)):
            assert self._system.poll() is None, f"{command}\n{''.join(self._shown)}"
            assert time.monotonic() < deadline, f"{command}\n{''.join(self._shown)}"
            time.sleep(0.1)

    def _collect(self, system: "subprocess.Popen[str]") -> None:
        assert system.stdout is not None
        for line in system.stdout:
            self._shown.append(line)

    def stop(self) -> None:
        """Ctrl-C in the terminal of the system, which must end without a failure."""
        if (system := self._system) is None:
            return
        self._system = None
        os.killpg(system.pid, signal.SIGINT)
        try:
            status = system.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(system.pid, signal.SIGKILL)
            raise
        finally:
            assert self._reader is not None
            self._reader.join(10)
            if system.stdout is not None:
                system.stdout.close()
        assert status in _INTERRUPTED, f"status {status}\n{''.join(self._shown)}"
        assert "Traceback" not in "".join(self._shown), "".join(self._shown)

    def run(self, document: str, commands: list[str]) -> str:
        """Run blocks of commands in one shell; each command must have the exit status 0. Returns the output."""
        if not commands:
            return ""
        script = "\n".join(["set -euo pipefail", *(f"{command}\necho" for command in commands)])
        done = subprocess.run(
            ["/usr/bin/env", "bash", "-c", script],
            cwd=self.folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{document}\n{script}\n{done.stdout[-8000:]}{done.stderr[-8000:]}"
        for problem in re.findall(r'"type": ?"urn:piepowder:problem:([a-z-]+)"', done.stdout):
            raise AssertionError(f"{document}: a call was refused with {problem}\n{done.stdout[-8000:]}")
        return done.stdout

    async def write_junk(self) -> None:
        """Write a record that is no event to a topic, and wait until its three readers have dead-lettered it."""
        profile = json.loads((self.folder / ".piepowder" / "profile.json").read_text())
        region = "eu"
        async with (
            AIOKafkaProducer(bootstrap_servers=profile["kafka"]) as producer,
            AIOKafkaConsumer(topics.deadletters(region), bootstrap_servers=profile["kafka"]) as letters,
        ):
            await letters.seek_to_end()
            await producer.send_and_wait(topics.submissions(region), b"junk", key=b"junk")
            async with asyncio.timeout(_DEADLINE_SECONDS):
                for _ in range(3):
                    await letters.getone()

    def ensure_system(self) -> None:
        if self._system is None or not _SYSTEM.search(str(self._system.args)):
            self.start("make up")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    try:
        yield checkout
    finally:
        checkout.stop()


def _parts(blocks: list[CodeBlock]) -> Iterator[tuple[str, list[str]]]:
    """The commands that start something, each followed by the blocks that are run while it stays."""
    start, others = "", list[str]()
    for block in blocks:
        if reason(block.document, block.first) is not None:
            continue
        if _STAYS.match(block.text) or _SYSTEM.match(block.text):
            yield start, others
            start, others = block.text.strip(), []
        else:
            others.append(block.text)
    yield start, others


@pytest.mark.parametrize("document", DOCUMENTS, ids=markdown.name_of)
def test_the_commands_of_a_document_run_as_they_are_printed(checkout: Checkout, document: Path) -> None:
    name = markdown.name_of(document)
    for start, commands in _parts(markdown.commands(document)):
        if _STAYS.match(start):
            checkout.start(start)
        elif start:
            checkout.stop()
            checkout.run(name, [start])
        if commands:
            checkout.ensure_system()
            if name == _DEAD_LETTERS:
                asyncio.run(checkout.write_junk())
            output = checkout.run(name, commands)
            assert name != _DEAD_LETTERS or "Discarded: 3" in output, output
    left = {path.name for path in checkout.folder.iterdir()}
    assert left == {*CHECKOUT, ".venv", ".piepowder"}, "the commands leave no files in the root folder"


def test_every_document_with_commands_is_run_here_or_elsewhere() -> None:
    with_commands = {markdown.name_of(document) for document in markdown.documents() if markdown.commands(document)}
    assert with_commands == {*map(markdown.name_of, DOCUMENTS), *RUN_ELSEWHERE}
