"""Shifts this process's wall clock by the seconds in `$CHAOS_CLOCKS/<pid>`, when the test writes that file.

Python imports this module at start from `PYTHONPATH`; only services of a chaos run have it there. Monotonic time does
not change.
"""

import os
import sys
import threading
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

_jump = 0.0


class _Datetime:
    """`datetime` for `shared.runtime.clock`, with another `now`."""

    fromisoformat = staticmethod(datetime.fromisoformat)
    fromtimestamp = staticmethod(datetime.fromtimestamp)

    @staticmethod
    def now(zone: tzinfo) -> datetime:
        return datetime.now(zone) + timedelta(seconds=_jump)


def _follow(path: Path) -> None:
    global _jump  # noqa: PLW0603 - the process has one clock
    while True:
        time.sleep(0.2)
        try:
            _jump = float(path.read_text())
        except (OSError, ValueError):
            _jump = 0.0


def _install(folder: str) -> None:
    true_time = time.time
    time.time = lambda: true_time() + _jump
    sys.path.insert(0, str(Path.cwd()))  # the tree of the services, even if another version is installed
    from shared.runtime import clock  # noqa: PLC0415 - only in a chaos run

    vars(clock)["datetime"] = _Datetime
    del sys.path[0]
    threading.Thread(target=_follow, args=(Path(folder) / str(os.getpid()),), daemon=True, name="clock").start()


if os.environ.get("CHAOS_CLOCKS"):
    _install(os.environ["CHAOS_CLOCKS"])
