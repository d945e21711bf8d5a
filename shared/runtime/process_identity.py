"""The identity of a process: its id together with its start time, because the operating system reuses ids."""

import platform
import subprocess
from pathlib import Path


def start_time(pid: int) -> str | None:
    """The start time of a process, in a platform-specific format; None if it does not exist or (Linux) is a zombie."""
    if platform.system() == "Linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
