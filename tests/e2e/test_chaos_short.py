"""All promises hold under the most informative faults (1 to 9): the short form of `make chaos`."""

import asyncio
import contextlib
import signal
import sys

import pytest

from tests.conftest import project_root
from tests.support.processes import start_process

SECONDS = 480  # less than 240 on a quiet machine
SEED = 20_260


@pytest.mark.timeout(SECONDS + 60)
async def test_the_most_informative_faults_break_no_promise() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--short", "--seed", str(SEED)]
    chaos = await start_process(
        *command,
        cwd=project_root(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        death_signal=signal.SIGTERM,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await chaos.communicate()
    finally:
        if chaos.returncode is None:
            chaos.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(50):
                    await chaos.wait()
    text = output.decode()
    assert chaos.returncode == 0, text
    assert "0 violations" in text
