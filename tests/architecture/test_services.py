"""The list of services is complete, and everything that has to know each service agrees with it."""

from pathlib import Path

import pytest
import yaml

from deploy.services import EVERY_SERVICE_WRITES, SERVICES, ServiceSpec, processes
from shared.contracts import topics
from shared.kafka import topic_admin
from tests.architecture.containers import load_dockerfile
from tests.conftest import project_root

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: str(service.name))


def test_each_folder_of_services_is_in_the_list_once() -> None:
    folders = {path.parent.name for path in (project_root() / "services").glob("*/__init__.py")}
    assert {service.name for service in SERVICES} == folders
    assert len(SERVICES) == len(folders)


@each_service
def test_a_service_has_migrations_if_and_only_if_it_has_a_database(service: ServiceSpec) -> None:
    assert (project_root() / "services" / service.name / "migrations").is_dir() == service.database


def test_each_process_has_a_name_of_its_own_and_a_regional_service_one_process_in_each_region() -> None:
    found = processes(["eu", "north-1"])
    assert len({process.name for process in found}) == len(found)
    for service in SERVICES:
        own = [process for process in found if process.service is service]
        regions = [process.region for process in own]
        assert regions == (["eu", "north-1"] if service.regional else [""] * len(own))
        assert all(process.name.partition("-")[0] == service.name for process in own)
        assert {bool(process.database) for process in own} == {service.database}


def test_the_services_write_every_topic_and_no_other() -> None:
    named = {name for service in SERVICES for name in service.writes} | set(EVERY_SERVICE_WRITES)
    specified = {spec.name.removeprefix("piepowder.").removesuffix(".{region}") for spec in topic_admin.load()}
    assert named == specified == {"control"} | {topic.__name__ for topic in topics.REGIONAL}
    assert {topic("{region}") for topic in topics.REGIONAL} | {topics.CONTROL} == {
        spec.name for spec in topic_admin.load()
    }


def test_the_audit_log_records_every_topic_of_its_region_but_the_consumers_own_state() -> None:
    of_region = {spec.name for spec in topic_admin.expand(topic_admin.load(), ["eu"])}
    assert set(topics.audited("eu")) == of_region - {topics.parked("eu")}
    app = project_root() / "services" / "audit" / "app.py"
    assert "topics.audited(" in app.read_text()


def test_the_image_has_every_package_that_runs() -> None:
    copied = {instruction.words[0] for instruction in load_dockerfile() if instruction.name == "COPY"}
    assert {"deploy", "services", "shared", "piepowder"} <= copied


@each_service
def test_a_service_that_calls_another_is_told_where_it_is(service: ServiceSpec) -> None:
    compose = yaml.safe_load((project_root() / "docker-compose.yml").read_text())["services"]
    for process in processes(["eu", "us"]):
        if process.service is service:
            variables = compose[process.name]["environment"]
            for called in service.calls:
                assert f"PIEPOWDER_{called.upper()}" in variables
                assert Path(variables[f"PIEPOWDER_{called.upper()}_KEY_FILE"]).name == "key"
