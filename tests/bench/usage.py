"""The cost of processes: processor time and memory, from Linux's /proc."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from shared.runtime.clock import SystemClock

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_clock = SystemClock()


def cpu_seconds(pid: int) -> float:
    """User + system time of a process's own threads in seconds; 0 if it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def tree_cpu_seconds(pid: int) -> float:
    """Like `cpu_seconds`, with all descendants, including the ones that have ended."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        if fields := _stat(one):
            total += sum(map(int, fields[11:15])) / _TICKS
        waiting += parents.get(one, [])
    return total


def peak_mb(pid: int) -> float:
    """The largest resident size of a process so far, in MB (10^6 bytes); 0 if it has ended."""
    return _megabytes(pid, "VmHWM:")


def resident_mb(pid: int) -> float:
    """The current resident size of a process in MB (10^6 bytes); 0 if it has ended."""
    return _megabytes(pid, "VmRSS:")


def _megabytes(pid: int, name: str) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    kilobytes = next((line.split()[1] for line in status.splitlines() if line.startswith(name)), "0")
    return int(kilobytes) * 1024 / 1e6


class Stretch:
    """A time span and the processor time of some processes, by name; `trees` include their descendants.

    `with Stretch(...) as stretch: ...`, then `seconds` and `cpu`.
    """

    def __init__(self, pids: Mapping[str, int], trees: Mapping[str, int]) -> None:
        self._pids = pids
        self._trees = trees
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = self._read()
        self._started = _clock.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = _clock.monotonic() - self._started
        self.cpu = {name: after - self._before[name] for name, after in self._read().items()}

    def _read(self) -> dict[str, float]:
        own = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        return own | {name: tree_cpu_seconds(pid) for name, pid in self._trees.items()}


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the command's name: 0 is the state, 1 the parent, 11 and 12 the times."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
