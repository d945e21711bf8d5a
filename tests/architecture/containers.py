"""Readers of the deployment files: the Compose file as Compose evaluates it, the Dockerfile as instructions."""

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import yaml

from tests.conftest import project_root

ROOT: Final = project_root()
DOCKERFILE: Final = ROOT / "deploy" / "docker" / "Dockerfile"
VERSION: Final[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+):-([^}]*)\}|(.))")


class Instruction(NamedTuple):
    """One instruction of the Dockerfile; `words` are split as in its exec form or by a shell."""

    name: str
    flags: dict[str, str]
    text: str
    stage: int

    @property
    def exec_form(self) -> list[str] | None:
        return json.loads(self.text) if self.text.startswith("[") else None

    @property
    def words(self) -> list[str]:
        return self.exec_form or shlex.split(self.text)


def load_compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The evaluated `docker-compose.yml`: each variable has its value in `environment`, or its default."""
    compose: dict[str, Any] = _interpolated(
        yaml.safe_load((ROOT / "docker-compose.yml").read_text()), environment or {}
    )
    return compose


def _interpolated(node: Any, environment: Mapping[str, str]) -> Any:
    def value(match: re.Match[str]) -> str:
        if match[3] is not None:
            raise ValueError(f"expected a variable of the form ${{NAME:-default}}, got {match.string!r}")
        return "$" if match[1] is None else environment.get(match[1]) or match[2]

    if isinstance(node, dict):
        return {key: _interpolated(inner, environment) for key, inner in node.items()}
    if isinstance(node, list):
        return [_interpolated(inner, environment) for inner in node]
    return _VARIABLE.sub(value, node) if isinstance(node, str) else node


def load_dockerfile() -> list[Instruction]:
    """The Dockerfile's instructions, in order; `stage` counts from 0."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found: list[Instruction] = []
    stage = -1
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        flags: dict[str, str] = {}
        while match := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        stage += name == "FROM"
        found.append(Instruction(name, flags, rest.strip(), stage))
    return found


def image_environment() -> dict[str, str]:
    """The environment variables of the image."""
    last = max(instruction.stage for instruction in load_dockerfile())
    return dict(
        word.split("=", 1)
        for instruction in load_dockerfile()
        if instruction.name == "ENV" and instruction.stage == last
        for word in instruction.words
    )


def seconds(duration: str | int) -> float:
    """Convert a duration of Compose, such as `1m30s`, to seconds."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", str(duration)))
