"""Unexpected errors that the services have logged. No fault of a server or a network may cause one."""

import json
from pathlib import Path
from typing import Final

from tests.chaos.checker.violation import Violation

_OWN_LOGGERS: Final = ("services.", "shared.")


def logged_defects(logs: Path) -> list[Violation]:
    """A violation for each error with a traceback in the log files of this folder, except those of libraries."""
    found = []
    for path in sorted(logs.glob("*.log")):
        with path.open(errors="replace") as lines:
            for line in lines:
                if '"level": "ERROR"' not in line or '"exc_info"' not in line:
                    continue
                entry = json.loads(line)
                if entry["logger"].startswith(_OWN_LOGGERS):
                    title = f"an unexpected error in {path.stem}: {entry['message']}"
                    found.append(Violation(9, title, (f"at {entry['time']}", *entry["exc_info"].splitlines())))
    return found
