"""The list of services is complete, and the code, the topics, the docs and the deployment agree with it."""

import ast
import asyncio
import importlib
import re
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

from deploy.services import CALLERS, EVERY_SERVICE_READS, EVERY_SERVICE_WRITES, SERVICES, ServiceSpec, processes
from services.audit.domain import logged_topics
from shared.auth.clients import SCOPES
from shared.contracts import topics
from shared.http import server
from shared.kafka import topic_admin
from shared.service import Service
from tests.architecture.containers import load_dockerfile
from tests.conftest import project_root
from tests.contract.rest_corpus.cases import PROBES
from tools.asyncapi import CHANNELS

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: str(service.name))


def test_each_folder_of_services_is_in_the_list_once() -> None:
    folders = {path.parent.name for path in (project_root() / "services").glob("*/__init__.py")}
    assert {service.name for service in SERVICES} == folders
    assert len(SERVICES) == len(folders)


LITERAL_LISTS = {
    "tests/architecture/test_services.py": "names that are also common words",
    "tests/bench/__main__.py": "a stage of the benchmark is optional",
    "tests/chaos/operations.py": "the services that an operator's action concerns",
    "tests/contract/rest_corpus/cases.py": "the services of the recording",
    "tests/e2e/test_clients.py": "the test compares its paths with the processes that run",
    "tests/integration/intake/test_requests.py": "starts only the services of a business request",
    "tests/integration/shared/test_stop.py": "calls of two services that can be stuck",
    "tests/support/command.py": "a profile with some services",
    "tests/unit/piepowder/test_profile.py": "profiles with some services",
    "tests/unit/piepowder/test_reconcile.py": "a profile with some services",
}


def test_only_the_list_of_services_enumerates_services() -> None:
    """A tuple, list or set, or the keys of a dict, with the names of two services: a fifth would be forgotten there."""
    names = {service.name for service in SERVICES}
    found = {
        path.relative_to(project_root()).as_posix()
        for folder in ("deploy", "piepowder", "services", "shared", "tests", "tools")
        for path in sorted((project_root() / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if len(names & {*literals(node)}) > 1
    }
    assert found == LITERAL_LISTS.keys()


def literals(node: ast.AST) -> Iterator[str]:
    """The strings in a literal collection; of a pair such as `("intake", region)`, its first."""
    match node:
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            pass
        case ast.Dict(keys=keys):
            parts = [key for key in keys if key is not None]
        case _:
            return
    for part in parts:
        match part:
            case ast.Constant(value=str(text)) | ast.Tuple(elts=[ast.Constant(value=str(text)), *_]):
                yield text
            case _:
                pass


ALSO_COMMON_WORDS = {"router": r"the router\b", "decision": r"decision service\b"}
NO_SERVICE = re.compile(r"audit:read|audit log", re.IGNORECASE)  # an API scope, and the term of the glossary


@each_service
def test_shared_refers_to_no_service(service: ServiceSpec) -> None:
    """A name that is also a common word counts as the service's name only with the words around it."""
    name = ALSO_COMMON_WORDS.get(service.name, rf"{service.name}\b")
    reference = re.compile(rf"\b(services[./]{service.name}|piepowder[-/]{service.name}|{name})", re.IGNORECASE)
    found = [
        f"{path.relative_to(project_root())}:{number}"
        for path in sorted((project_root() / "shared").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if reference.search(NO_SERVICE.sub("", line))
    ]
    assert found == []


def test_the_recorded_services_exist() -> None:
    assert PROBES.keys() <= {service.name for service in SERVICES}


@each_service
def test_a_service_has_scopes_of_its_own_key_if_and_only_if_it_calls_another(service: ServiceSpec) -> None:
    assert bool(service.scopes) == bool(service.calls) == (service in CALLERS)
    assert service.scopes <= SCOPES
    assert {*service.calls} <= {other.name for other in SERVICES}


@each_service
def test_a_service_has_migrations_if_and_only_if_it_has_a_database(service: ServiceSpec) -> None:
    assert (project_root() / "services" / service.name / "migrations").is_dir() == service.database


def test_process_names_are_unique_and_a_regional_service_has_one_process_per_region() -> None:
    found = processes(["eu", "north-1"])
    assert len({process.name for process in found}) == len(found)
    for service in SERVICES:
        own = [process for process in found if process.service is service]
        regions = [process.region for process in own]
        assert regions == (["eu", "north-1"] if service.regional else [""] * len(own))
        assert all(process.name.partition("-")[0] == service.name for process in own)
        assert {bool(process.database) for process in own} == {service.database}


def test_the_services_write_every_topic_and_no_other() -> None:
    named = {name for service in SERVICES for name in service.writes} | {*EVERY_SERVICE_WRITES, "parked"}
    specified = {spec.name.removeprefix("piepowder.").removesuffix(".{region}") for spec in topic_admin.load()}
    assert named == specified == {"control"} | {topic.__name__ for topic in topics.REGIONAL}
    assert {topic("{region}") for topic in topics.REGIONAL} | {topics.CONTROL} == {
        spec.name for spec in topic_admin.load()
    }


def test_the_audit_log_records_every_topic_of_its_region_except_the_parked_keys() -> None:
    of_region = {spec.name for spec in topic_admin.expand(topic_admin.load(), ["eu"])}
    assert set(logged_topics("eu")) == of_region - {topics.parked("eu")}


def topic_names(service: ServiceSpec) -> Iterator[str]:
    """The names of `shared.contracts.topics` that the service's code uses."""
    for path in sorted((project_root() / "services" / service.name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "topics":
                yield node.attr.lower()
            elif isinstance(node, ast.ImportFrom) and node.module == topics.__name__:
                yield from (name.name.lower() for name in node.names)


@each_service
def test_a_service_uses_the_topics_that_it_writes_and_reads_and_no_other(service: ServiceSpec) -> None:
    used = set(topic_names(service)) - {"regional"}
    assert set(service.writes) <= used
    assert used <= {*service.writes, *service.reads, *EVERY_SERVICE_READS, *(["parked"] if service.parks else [])}


@each_service
async def test_a_service_reads_and_parks_as_the_list_states(
    service: ServiceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    parks: set[bool] = set()

    def consumer(_: Service, region: str, **given: Any) -> MagicMock:
        read.update(topic.removeprefix("piepowder.").removesuffix(f".{region}") for topic in given["reads"])
        parks.add(given.get("parks", True))
        return MagicMock()

    @asynccontextmanager
    async def database(*_: object) -> AsyncIterator[object]:
        yield object()  # its first use fails, after the consumers were created

    async def serve(_: object, __: object, loops: list[Any], ___: object) -> bool:
        stop = asyncio.Event()
        stop.set()
        await asyncio.gather(*(loop(stop) for loop in loops), return_exceptions=True)
        return True

    for variable in ("KAFKA", "DATABASE_URL", "CLIENTS_FILE", "REGION", "REGIONS"):
        monkeypatch.delenv(f"PIEPOWDER_{variable}", raising=False)
    monkeypatch.setattr(Service, "consumer", consumer)
    monkeypatch.setattr(Service, "database", database)
    monkeypatch.setattr(server, "serve", serve)
    settings = importlib.import_module(f"services.{service.name}.settings").Settings()
    await importlib.import_module(f"services.{service.name}.app").run(settings)
    assert read - {*EVERY_SERVICE_READS} == set(service.reads)
    assert parks == ({service.parks} if service.reads else set())


def test_the_page_of_contracts_names_the_writers_and_readers_of_each_topic() -> None:
    page = (project_root() / "docs/architecture/contracts.md").read_text()
    rows = re.findall(r"^\| `piepowder\.(\w+)[^|]*\|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$", page, re.MULTILINE)
    names = {service.name for service in SERVICES}

    def named(cell: str) -> set[str]:
        return names if "every" in cell else names & set(re.findall(r"\w+", cell))

    found = {
        topic: (named(written), named(f"{written} {read}" if "the same" in read else read))
        for topic, written, read in rows
    }
    assert found == {channel.name: (set(channel.writers), names & set(channel.readers)) for channel in CHANNELS}


@each_service
def test_the_import_contracts_cover_each_service(service: ServiceSpec) -> None:
    configuration = tomllib.loads((project_root() / "pyproject.toml").read_text())["tool"]["importlinter"]
    module = f"services.{service.name}"
    independent = [name for c in configuration["contracts"] if c["type"] == "independence" for name in c["modules"]]
    layered = [name for c in configuration["contracts"] if c["type"] == "layers" for name in c["containers"]]
    assert [name for name in independent if fnmatchcase(module, name)], (
        "no contract forbids that other services import this service"
    )
    assert module in layered, "add the service to the containers of a contract with layers (pyproject.toml)"


def test_the_dockerfile_copies_every_package_of_the_program() -> None:
    copied = {instruction.words[0] for instruction in load_dockerfile() if instruction.name == "COPY"}
    assert {"deploy", "services", "shared", "piepowder"} <= copied


@each_service
def test_a_service_that_calls_another_has_its_url_and_a_key(service: ServiceSpec) -> None:
    compose = yaml.safe_load((project_root() / "docker-compose.yml").read_text())["services"]
    for process in processes(["eu", "us"]):
        if process.service is service:
            variables = compose[process.name]["environment"]
            for called in service.calls:
                assert {f"PIEPOWDER_{called.upper()}", f"PIEPOWDER_{called.upper()}_BY_REGION"} & variables.keys()
                assert Path(variables[f"PIEPOWDER_{called.upper()}_KEY_FILE"]).name == "key"
