"""Child processes of tests; they end with the test process."""

import asyncio
import signal
from typing import Any

from deploy.local.process import child_command


async def start_process(
    *command: str, death_signal: signal.Signals = signal.SIGKILL, **options: Any
) -> asyncio.subprocess.Process:
    """As `asyncio.create_subprocess_exec`; on Linux the child receives `death_signal` when this process ends."""
    return await asyncio.create_subprocess_exec(*child_command(command, "same", death_signal), **options)
