"""The contents of the image run without anything else: the files are laid out as the Dockerfile copies them, and only
the packages of `requirements/run.txt` can be imported. The tests need no container engine."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from deploy.initial import ensure_key
from deploy.local.ports import free_ports
from deploy.services import processes
from tests.architecture.containers import ROOT, image_environment, load_compose, load_dockerfile, seconds

DOCKERFILE_STEPS = load_dockerfile()
LAST_STAGE = [step for step in DOCKERFILE_STEPS if step.stage == DOCKERFILE_STEPS[-1].stage]
REQUIREMENTS = (ROOT / "requirements" / "run.txt").read_text()
SITE = sysconfig.get_path("purelib")

# Runs a module as `python -m` does; the packages named in the first argument cannot be imported.
RUN = """
import json, runpy, sys
absent = set(json.loads(sys.argv.pop(1)))
class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, Absent)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def absent_packages() -> list[str]:
    """The packages that can be imported here, but not in the image."""
    inside = {normal(name) for name in re.findall(r"^([\w.-]+)==", REQUIREMENTS, re.MULTILINE)} | {"piepowder"}
    tops = importlib.metadata.packages_distributions()
    return [top for top, distributions in tops.items() if not inside & {normal(name) for name in distributions}]


class Image:
    """The image's files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        patterns = (ROOT / ".dockerignore").read_text().splitlines()
        self.context = {path for path in exclude_paths(str(ROOT), patterns) if (ROOT / path).is_file()}
        for step in LAST_STAGE:
            if step.name == "COPY" and "from" not in step.flags:
                *sources, target = step.words
                for source in sources:
                    self._copy(source, target)

    def _copy(self, source: str, target: str) -> None:
        copied = [path for path in self.context if path == source or path.startswith(f"{source}/")]
        assert copied, f"COPY {source} matches no file"
        for path in copied:
            place = self.folder / target / Path(path).relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, place)

    def command(self, *arguments: str) -> list[str]:
        """`python -m ARGUMENTS` as in a container; -S hides the checkout, which this environment has installed."""
        return [sys.executable, "-S", "-W", "error", "-c", RUN, json.dumps(absent_packages()), *arguments]

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        ours = {name: value for name, value in image_environment().items() if name != "PATH"}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": SITE} | ours | more

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


def test_the_image_has_one_pinned_python_and_only_hashed_wheels() -> None:
    bases = {step.text.split(" AS ")[0] for step in DOCKERFILE_STEPS if step.name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases.pop())
    [install] = [step.text for step in DOCKERFILE_STEPS if " install " in step.text and "pip" in step.text]
    assert {"--require-hashes", "--only-binary"} <= set(install.split())
    [lock] = [step.words[0] for step in DOCKERFILE_STEPS if step.name == "COPY" and step.stage == 0]
    assert lock == "requirements/run.txt"
    pins = re.split(r"\n(?=\S)", REQUIREMENTS.strip())
    assert [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


def test_the_image_runs_as_an_unprivileged_user_and_receives_the_stop_signal() -> None:
    steps = {step.name: step for step in LAST_STAGE}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", steps["USER"].text)
    assert steps["STOPSIGNAL"].text == "SIGTERM"
    assert steps["ENTRYPOINT"].exec_form == ["python", "-m"]
    assert steps["CMD"].exec_form is not None
    assert [step.name for step in LAST_STAGE if step.name in ("ADD", "VOLUME")] == []
    after_user = [step.name for step in LAST_STAGE[LAST_STAGE.index(steps["USER"]) :]]
    assert "COPY" not in after_user
    assert "RUN" not in after_user


def test_the_image_has_the_program_and_no_development_files(image: Image) -> None:
    files = {str(path.relative_to(image.folder)) for path in image.folder.rglob("*") if path.is_file()}
    assert {path.split("/")[0] for path in files} == {"deploy", "piepowder", "services", "shared"}
    assert {"deploy/kafka/topics.yaml", "shared/postgres/alembic/env.py"} <= files
    assert {path for path in files if "__pycache__" in path or path.endswith((".pyc", ".env", ".key"))} == set()
    assert image.context - files == {".dockerignore", "requirements/run.txt"}
    migrations = {str(path.relative_to(ROOT)) for path in (ROOT / "services").glob("*/migrations/*.py")}
    assert migrations
    assert migrations <= files


SERVICES = {  # the first process of each service
    name: load_compose()["services"][name]["environment"]
    for name in {process.service.name: process.name for process in reversed(processes(("eu", "us")))}.values()
}


@pytest.fixture(scope="module")
def containers(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Process"]]:
    """One process of each service, started as in its container, without Kafka and PostgreSQL."""
    place = tmp_path_factory.mktemp("containers")
    ensure_key(place / "key", place / "clients.json", "compose")
    with ExitStack() as stack:
        started = {}
        for (name, environment), port in zip(SERVICES.items(), free_ports(len(SERVICES)), strict=True):
            replaced = {
                variable: re.sub(r"(?<=@)postgres:5432|^kafka:19092$", "127.0.0.1:9", value)
                for variable, value in environment.items()
            }
            replaced |= {
                "PIEPOWDER_CLIENTS_FILE": str(place / "clients.json"),
                "PIEPOWDER_HOST": "127.0.0.1",
                "PIEPOWDER_PORT": str(port),
            }
            started[name] = Process(image, name.split("-")[0], replaced, place / f"{name}.log")
            stack.callback(started[name].kill)
        yield started


class Process:
    """A process of a service, from the image's files."""

    def __init__(self, image: Image, service: str, environment: dict[str, str], log: Path) -> None:
        self.image = image
        self.environment = environment
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                image.command(f"services.{service}"),
                cwd=image.folder,
                env=image.environment(environment),
                stdout=file,
                stderr=file,
            )

    def check_health(self, *path: str) -> subprocess.CompletedProcess[str]:
        """Run the image's health check, for another path if one is given."""
        command = next(step.text for step in LAST_STAGE if step.name == "HEALTHCHECK").partition("CMD ")[2]
        python, dash_m, *arguments = json.loads(command)
        assert (python, dash_m) == ("python", "-m")
        return self.image.run(*arguments, *path, PIEPOWDER_PORT=self.environment["PIEPOWDER_PORT"])

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + 30
        while (found := self.check_health()).returncode:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, found.stdout + self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_in_the_image_is_alive_names_its_missing_dependencies_and_stops(
    name: str, containers: dict[str, Process]
) -> None:
    container = containers[name]
    container.wait_healthy()
    ready = container.check_health("/readyz")
    assert ready.returncode == 1
    conditions = json.loads(ready.stdout)["conditions"]
    assert [state for state in conditions.values() if state != "ok"], conditions
    container.process.send_signal(signal.SIGTERM)
    grace = seconds(load_compose()["services"][name]["stop_grace_period"])
    assert container.process.wait(grace) == 0, container.log.read_text()


def test_a_health_check_without_a_service_fails(image: Image) -> None:
    [port] = free_ports(1)
    assert image.run("deploy.docker.health", PIEPOWDER_PORT=str(port)).returncode == 1


@pytest.mark.parametrize("arguments", [["piepowder", "--help"], ["deploy.docker.jobs", "--help"]], ids=lambda a: a[0])
def test_the_commands_in_the_image_run(image: Image, arguments: list[str]) -> None:
    result = image.run(*arguments)
    assert result.returncode == 0, result.stderr
    assert "help" in result.stdout.lower()
