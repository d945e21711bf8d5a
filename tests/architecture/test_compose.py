"""`docker-compose.yml` and the files of Prometheus conform to their specifications, and agree with the list of
services, their settings and each other."""

import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import promql_parser as promql
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

from deploy import services
from deploy.docker.jobs import main as job
from deploy.services import processes
from piepowder import cli as command
from piepowder.profile import resolve
from shared.contracts import topics
from shared.kafka import topic_admin
from shared.runtime.settings import CommonSettings
from tests.architecture.containers import ROOT, VERSION, image_environment, load_compose, load_dockerfile, seconds
from tests.support.servers import KAFKA_IMAGE, POSTGRES_IMAGE
from tools import metrics

COMPOSE = load_compose()
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVICES = {
    name: container
    for name, container in CONTAINERS.items()
    if container.get("command", [""])[0].startswith("services.")
}
JOBS = {name: container for name, container in CONTAINERS.items() if container.get("restart") == "no"}
OWN_CONTAINERS = SERVICES | JOBS
REGIONS: list[str] = SERVICES["intake"]["environment"]["PIEPOWDER_REGIONS"].split(",")
PROCESSES = {process.name: process for process in processes(REGIONS)}
PORT = int(image_environment()["PIEPOWDER_PORT"])
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


def settings_class(name: str) -> type[CommonSettings]:
    module = importlib.import_module(f"{SERVICES[name]['command'][0]}.settings")
    kind: type[CommonSettings] = module.Settings
    return kind


@pytest.fixture
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CommonSettings:
    """The settings of a service in its container."""
    for name in [name for name in os.environ if name.startswith("PIEPOWDER_")]:
        monkeypatch.delenv(name)
    for name, value in (image_environment() | SERVICES[request.param]["environment"]).items():
        if name.startswith("PIEPOWDER_"):
            monkeypatch.setenv(name, value)
    return settings_class(request.param)()


each_service = pytest.mark.parametrize("name", SERVICES)
each_services_settings = pytest.mark.parametrize(
    ("name", "settings"), [(name, name) for name in SERVICES], indirect=["settings"]
)


def test_the_file_conforms_to_the_compose_specification() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    validator = validator_for(schema)(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(COMPOSE)] == []
    assert not validator.is_valid(COMPOSE | {"services": {"intake": {"imagee": "x"}}})


def test_compose_runs_each_process_of_the_list_of_services_with_its_variables() -> None:
    assert SERVICES.keys() == PROCESSES.keys()
    for name, process in PROCESSES.items():
        environment = SERVICES[name]["environment"]
        expected = {f"PIEPOWDER_{variable}": value for variable, value in process.variables.items()}
        assert SERVICES[name]["command"] == [process.module]
        assert {variable: environment.get(variable) for variable in expected} == expected
        assert process.service.regional == ("region" in settings_class(name).model_fields)
        assert process.service.database == ("database_url" in settings_class(name).model_fields)


@each_service
def test_a_service_reads_every_variable_of_its_container(name: str) -> None:
    known = {f"PIEPOWDER_{field.upper()}" for field in settings_class(name).model_fields}
    given = {
        variable
        for variable in SERVICES[name]["environment"] | image_environment()
        if variable.startswith("PIEPOWDER_")
    }
    assert given - known == set()
    variables_without_effect = {variable for variable in SERVICES[name]["environment"] if variable not in known}
    assert variables_without_effect == set()


@each_services_settings
def test_the_settings_of_a_container_are_valid_and_none_points_to_the_container_itself(
    name: str, settings: CommonSettings
) -> None:
    assert [field for field, value in settings if "127.0.0.1" in str(value) or "localhost" in str(value)] == []
    assert settings.port == PORT
    assert settings.clients_file is not None


@each_services_settings
def test_the_grace_period_of_a_container_is_longer_than_the_stop_of_its_service(
    name: str, settings: CommonSettings
) -> None:
    cancelled_after = settings.drain_seconds + 2 + 2  # shared.runtime.lifecycle.supervise
    assert seconds(SERVICES[name]["stop_grace_period"]) > cancelled_after + 2


@each_services_settings
def test_kafka_listens_at_the_address_in_the_settings(name: str, settings: CommonSettings) -> None:
    host, port = settings.kafka.split(":")
    listeners = CONTAINERS[host]["environment"]
    assert f"://{host}:{port}" in listeners["KAFKA_ADVERTISED_LISTENERS"]
    assert f"://:{port}" in listeners["KAFKA_LISTENERS"]


def test_kafkas_listeners_agree_with_each_other_and_with_the_published_port() -> None:
    compose = load_compose({"KAFKA_PORT": "19999"})["services"]["kafka"]
    environment = compose["environment"]

    def listeners(variable: str) -> dict[str, tuple[str | None, int | None]]:
        pairs = (listener.split("://") for listener in environment[variable].split(","))
        return {name: (urlsplit(f"//{place}").hostname, urlsplit(f"//{place}").port) for name, place in pairs}

    bound, advertised = listeners("KAFKA_LISTENERS"), listeners("KAFKA_ADVERTISED_LISTENERS")
    protocols = dict(pair.split(":") for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert protocols.keys() == bound.keys() == advertised.keys() | {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert advertised["HOST"] == ("127.0.0.1", 19999)
    assert compose["ports"] == [f"127.0.0.1:19999:{bound['HOST'][1]}"]
    voter, _, place = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    assert (voter, place) == (environment["KAFKA_NODE_ID"], f"kafka:{bound['CONTROLLER'][1]}")
    assert any(volume.endswith(f":{environment['KAFKA_LOG_DIRS']}") for volume in compose["volumes"])


@pytest.mark.parametrize("password", [None, "of-my-own"])
def test_the_database_of_each_service_is_created(password: str | None) -> None:
    containers = load_compose({} if password is None else {"SERVICES_PASSWORD": password})["services"]
    statements = (ROOT / "deploy/docker/databases.sql").read_text()
    [(role, rights)] = re.findall(r"CREATE ROLE (\w+) (.*) PASSWORD :'password';", statements)
    assert rights == "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE"
    created = re.findall(rf"CREATE DATABASE (\w+) OWNER {role};", statements)
    server = containers["postgres"]["environment"]
    with_database = [process for process in PROCESSES.values() if process.database]
    for process in with_database:
        url = urlsplit(containers[process.name]["environment"]["PIEPOWDER_DATABASE_URL"])
        assert (url.scheme, url.hostname, url.port) == ("postgresql", "postgres", 5432)
        assert (url.username, url.password) == (role, server["SERVICES_PASSWORD"])
        assert role != server["POSTGRES_USER"]
        assert url.path == f"/piepowder_{process.database}"
        assert "postgres" in containers[process.name]["depends_on"]
    assert {f"piepowder_{process.database}" for process in with_database} == set(created)


def test_a_separate_process_runs_the_projection() -> None:
    projecting = {
        name: container["environment"].get("PIEPOWDER_PROJECTION", "true")
        for name, container in SERVICES.items()
        if container["command"] == ["services.intake"]
    }
    assert projecting == {"intake": "false", "intake-projection": "true"}


def test_the_topics_of_every_region_are_created() -> None:
    words = JOBS["topics"]["command"]
    assert words[:2] == ["piepowder", "topics"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--kafka"] == SERVICES["intake"]["environment"]["PIEPOWDER_KAFKA"]
    created = {spec.name for spec in topic_admin.expand(topic_admin.load(), options["--regions"].split(","))}
    assert created == {topics.CONTROL} | {topic(region) for topic in topics.REGIONAL for region in REGIONS}


@pytest.mark.parametrize("name", JOBS)
def test_each_job_runs_an_existing_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = JOBS[name]["command"]
    assert arguments[0] == name
    programs: dict[str, Callable[[list[str]], object]] = {"piepowder": command.app, "deploy.docker.jobs": job}
    for added, status in (["--help"], 0), (["--no-such-option"], 2):
        with pytest.raises(SystemExit) as ended:
            programs[module]([*arguments, *added])
        assert ended.value.code == status
    capsys.readouterr()


def test_a_service_can_read_a_key_only_if_it_calls_another_and_only_its_own() -> None:
    key_file, clients_file, *service_key_files = JOBS["keys"]["command"][2:]
    assert JOBS["control"]["command"][3] == key_file
    own = dict(zip((service.name for service in services.CALLERS), service_key_files, strict=True))
    assert mounted(JOBS["keys"]) == {str(Path(file).parent) for file in (key_file, clients_file, *own.values())}
    assert mounted(JOBS["control"]) == {str(Path(key_file).parent)}
    for name, container in SERVICES.items():
        service = PROCESSES[name].service
        files = {f"PIEPOWDER_{called.upper()}_KEY_FILE": own[service.name] for called in service.calls}
        variables = {key: value for key, value in container["environment"].items() if key.endswith("_KEY_FILE")}
        assert variables == files
        assert container["environment"]["PIEPOWDER_CLIENTS_FILE"] == clients_file
        assert mounted(container) == {str(Path(file).parent) for file in (clients_file, *files.values())}
    owned = next(i.text for i in load_dockerfile() if i.name == "RUN" and "useradd" in i.text)
    assert mounted(JOBS["keys"]) <= set(owned.split())


def mounted(container: dict[str, Any]) -> set[str]:
    return {volume.split(":")[1] for volume in container.get("volumes", [])}


def test_the_routers_url_has_the_host_and_port_of_the_router() -> None:
    urls = [c["environment"]["PIEPOWDER_ROUTER"] for c in SERVICES.values() if c["command"] == ["services.intake"]]
    for text in (JOBS["control"]["command"][2], *urls):
        url = urlsplit(text)
        assert (url.scheme, url.hostname, url.port) == ("http", "router", PORT)


def test_the_profile_of_compose_has_every_published_address_for_clients() -> None:
    profile = resolve(profile=str(ROOT / "deploy/docker/profile.yaml"), variables={})
    published = {name: f"http://{c['ports'][0].rpartition(':')[0]}" for name, c in SERVICES.items()}
    del published["intake-projection"]  # clients call the process `intake`
    assert {f"{service}-{region}".rstrip("-"): url for (service, region), url in profile.services.items()} == published
    assert [f"{profile.kafka}:9092"] == CONTAINERS["kafka"]["ports"]


def test_ports_are_published_on_the_loopback_only_and_once_each() -> None:
    published = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert len({port.split(":")[1] for port in published}) == len(published)
    assert {name for name in SERVICES if SERVICES[name]["ports"][0].endswith(f":{PORT}")} == SERVICES.keys()


def test_images_are_pinned_and_kafka_and_postgresql_are_the_versions_of_the_tests() -> None:
    for name, container in CONTAINERS.items():
        image, _, tag = container["image"].rpartition(":")
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z]+[\d.]*)*", tag), f"{name}: {image}:{tag}"
    assert {container["image"] for container in OWN_CONTAINERS.values()} == {f"piepowder:{VERSION}"}
    assert [name for name, container in CONTAINERS.items() if "build" in container] == ["keys"]
    assert CONTAINERS["kafka"]["image"] == KAFKA_IMAGE
    assert CONTAINERS["postgres"]["image"].split(".")[0] == POSTGRES_IMAGE.split("-")[0]


def test_every_container_has_a_memory_limit_and_the_projects_own_have_no_capabilities() -> None:
    assert [name for name, container in CONTAINERS.items() if not container.get("mem_limit")] == []
    for container in OWN_CONTAINERS.values():
        assert container["mem_limit"] == "300m"
        assert container["read_only"]
        assert container["init"]
        assert container["cap_drop"] == ["ALL"]
    for name, container in CONTAINERS.items():
        assert container["restart"] == ("no" if name in JOBS else "unless-stopped")
        assert "test" in container["healthcheck"] or name in JOBS


def test_every_start_condition_of_a_container_can_become_true() -> None:
    for container in CONTAINERS.values():
        for needed, how in container.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert needed in JOBS
            elif how["condition"] == "service_healthy":
                assert "test" in CONTAINERS[needed]["healthcheck"]
                assert needed not in SERVICES, "a service is ready only when the control job is done"
            else:
                assert how["condition"] == "service_started"
    order: list[str] = []
    while len(order) < len(CONTAINERS):
        ready = [n for n in CONTAINERS if n not in order and CONTAINERS[n].get("depends_on", {}).keys() <= set(order)]
        assert ready, f"a cycle among {CONTAINERS.keys() - set(order)}"
        order += ready


def test_every_mounted_source_exists() -> None:
    sources = [v.split(":")[0] for container in CONTAINERS.values() for v in container.get("volumes", [])]
    assert {source for source in sources if not source.startswith(".")} == COMPOSE["volumes"].keys()
    assert [source for source in sources if source.startswith(".") and not (ROOT / source).exists()] == []


def test_prometheus_scrapes_every_service_and_reads_the_rules() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    scraped = {
        (scrape["job_name"], target)
        for scrape in config["scrape_configs"]
        for group in scrape["static_configs"]
        for target in group["targets"]
        if scrape["job_name"] != "prometheus"
    }
    assert scraped == {(process.service.name, f"{name}:{PORT}") for name, process in PROCESSES.items()}
    assert config["rule_files"] == ["rules.yml"]
    assert "./deploy/prometheus:/etc/prometheus:ro" in CONTAINERS["prometheus"]["volumes"]


def exposed() -> dict[str, set[str]]:
    """Every series of the metrics catalogue, with its labels."""
    found = [metric for module in metrics.modules() for metric in metrics.catalogue(module)]
    return {name: labels for metric in found for name, labels in metric.series.items()}


def test_the_alerts_service_down_and_service_absent_name_every_service() -> None:
    names = {service.name for service in services.SERVICES}
    down, absent = (
        next(rule["expr"] for rule in RULES if rule["alert"] == alert) for alert in ("ServiceDown", "ServiceAbsent")
    )
    assert set(re.findall(r"[a-z]+", re.findall(r'job=~"([^"]*)"', down)[0])) == names
    assert set(re.findall(r'absent\(piepowder_ready\{service="(\w+)"\}\)', absent)) == names
    named = {rule["alert"]: names & set(re.findall(r"\w+", rule["expr"])) for rule in RULES}
    assert {alert: some for alert, some in named.items() if some not in (set(), names)} == {}


def test_every_service_is_ready_in_the_alert_test_of_a_working_system() -> None:
    working = yaml.safe_load((ROOT / "deploy/prometheus/rules_test.yml").read_text())["tests"][0]
    series = " ".join(given["series"] for given in working["input_series"])
    ready = set(re.findall(r'piepowder_ready\{service="(\w+)"', series))
    assert ready == {service.name for service in services.SERVICES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_uses_existing_metrics_and_names_an_action(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\b(?:piepowder_\w+|up)\b", rule["expr"]))
    assert named
    assert named - exposed().keys() - {"up"} == set()
    mentioned = set(re.findall(r"piepowder_\w+", json.dumps(rule["annotations"])))
    assert mentioned - exposed().keys() == set()
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "action", "runbook_url"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_the_runbook_of_an_alert_exists_and_explains_it(rule: dict[str, Any]) -> None:
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page.parent == ROOT / "docs/runbooks"
    assert f"**{rule['alert']}**" in page.read_text()
    [row] = [
        line
        for line in (page.parent / "README.md").read_text().splitlines()
        if re.search(rf"\b{rule['alert']}\b", line)
    ]
    assert f"]({page.name})" in row


INHIBITIONS = yaml.safe_load((ROOT / "deploy/prometheus/alertmanager.yml").read_text())["inhibit_rules"]


def matches(matchers: list[str], labels: dict[str, str]) -> bool:
    """True if an alert has labels that fit Alertmanager's matchers."""
    for matcher in matchers:
        name, operator, value = re.fullmatch(r"(\w+)\s*(=~|=)\s*\"?([^\"]*)\"?", matcher).groups()  # type: ignore[union-attr]  # else it fails
        given = labels.get(name, "")
        if not (re.fullmatch(value, given) if operator == "=~" else value == given):
            return False
    return True


def shown(firing: list[dict[str, str]]) -> list[dict[str, str]]:
    """The alerts that Alertmanager does not inhibit."""
    return [
        target
        for target in firing
        if not any(
            matches(rule["target_matchers"], target)
            and any(
                matches(rule["source_matchers"], source)
                and all(source.get(label) == target.get(label) for label in rule["equal"])
                for source in firing
                if source is not target
            )
            for rule in INHIBITIONS
        )
    ]


@pytest.mark.parametrize(
    ("cause", "consequences"),
    [
        (
            {"alertname": "KafkaBrokerDown", "broker": "kafka:19092"},
            [
                "ServiceNotReady",
                "ConsumerLag",
                "ItemsStaySubmitted",
                "RecordsNotAcknowledged",
                "OutboxStuck",
                "OutboxDeep",
            ],
        ),
        (
            {"alertname": "DatabaseDown", "server": "postgres:5432"},
            ["ServiceNotReady", "ConsumerLag", "ItemsStaySubmitted", "OutboxStuck", "OutboxDeep"],
        ),
    ],
)
def test_one_alert_names_the_server_that_does_not_respond_and_its_consequences_are_suppressed(
    cause: dict[str, str], consequences: list[str]
) -> None:
    independent = [{"alertname": "DeadLettersGrow", "group": "g"}, {"alertname": "ServiceDown", "job": "intake"}]
    firing = [
        cause,
        *({"alertname": name, "instance": str(n)} for name in consequences for n in range(7)),
        *independent,
    ]
    assert shown(firing) == [cause, *independent]
    assert shown(firing[1:]) == firing[1:], "without the cause, every alert is shown"
    elsewhere = [{**alert, "cell": "us"} for alert in firing[1:]]
    assert shown([cause, *elsewhere]) == [cause, *elsewhere], "another region's Kafka is not the cause"


def test_every_inhibition_names_existing_alerts() -> None:
    names = {rule["alert"] for rule in RULES}
    for rule in INHIBITIONS:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            assert set(re.findall(r"\b[A-Z]\w+", matcher)) <= names


def test_a_group_that_is_behind_raises_one_alert() -> None:
    [rule] = [rule for rule in RULES if rule["alert"] == "ConsumerLag"]
    [aggregation] = [node for node in walk(promql.parse(rule["expr"])) if isinstance(node, promql.AggregateExpr)]
    assert aggregation.modifier is not None
    assert list(aggregation.modifier.labels) == ["group"]


def test_prometheus_sends_its_alerts_to_alertmanager_which_reads_its_file() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    [target] = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    container = CONTAINERS[name]
    [option] = [word for word in container["command"] if word.startswith("--config.file=")]
    assert f"./deploy/prometheus/alertmanager.yml:{option.partition('=')[2]}:ro" in container["volumes"]
    assert container["ports"] == [f"127.0.0.1:{port}:{port}"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_well_formed_and_uses_labels_of_its_metrics(rule: dict[str, Any]) -> None:
    tree = promql.parse(rule["expr"])
    selectors = [node for node in walk(tree) if isinstance(node, promql.VectorSelector)]
    assert selectors
    target = {"job", "instance"}
    labels: set[str] = set(target)
    for selector in selectors:
        own = exposed().get(str(selector.name), set()) | target
        assert {matcher.name for matcher in selector.matchers.matchers} <= own
        labels |= own
    for node in walk(tree):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels
    assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= labels


def walk(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "args", "vector_selector"):
        inner = getattr(node, name, None)
        for child in inner if isinstance(inner, list) else [inner]:
            if child is not None:
                yield from walk(child)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed; no Python package has it")
def test_the_tests_of_the_alerts_pass() -> None:
    command = ["promtool", "test", "rules", str(ROOT / "deploy/prometheus/rules_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load((ROOT / "deploy/prometheus/rules_test.yml").read_text())["tests"]
    quiet, *noisy = (
        {case["alertname"] for case in test["alert_rule_test"] if "exp_alerts" in case or test is cases[0]}
        for test in cases
    )
    names = {rule["alert"] for rule in RULES}
    assert len(names) == len(RULES)
    assert quiet == names
    assert set.union(*noisy) == names
