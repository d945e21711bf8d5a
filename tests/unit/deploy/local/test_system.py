"""The local system: a service that ends is started again, within limits; missing topics are a failure."""

import importlib
import sys
import time
from pathlib import Path

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from deploy.local import system
from deploy.local.process import Child
from deploy.local.system import NotReadyError, ServiceProcess, System
from deploy.services import SERVICES, STACK_SETTINGS, ServiceSpec, processes
from piepowder.cli import app
from shared.kafka import topic_admin


@pytest.mark.parametrize(("missing", "status"), [([], 0), (["piepowder.cases.eu"], 1)])
def test_a_missing_topic_is_status_1(monkeypatch: pytest.MonkeyPatch, missing: list[str], status: int) -> None:
    async def ensure(*_: object, **__: object) -> topic_admin.TopicsReport:
        return topic_admin.TopicsReport([], [], ["it is so"], missing)

    monkeypatch.setattr(topic_admin, "ensure", ensure)
    ended = CliRunner().invoke(app, ["topics", "--kafka", "somewhere:1", "--regions", "eu"])
    assert (ended.exit_code, ended.output) == (status, "it is so\n")


class NoServers:
    kafka = "127.0.0.1:1"
    database_url = "postgresql://127.0.0.1:1/postgres"


def test_a_service_calls_others_with_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = next(spec for spec in processes(["eu"]) if spec.service.calls)
    labels = msgspec.structs.replace(
        intake, name="labels", service=ServiceSpec(name="labels", calls=intake.service.calls)
    )
    monkeypatch.setattr(system, "processes", lambda regions: [*processes(regions), labels])
    prepared = System(NoServers(), ["eu"], tmp_path)
    prepared._prepare_processes(NoServers.database_url)
    key_files = {
        process.spec.service.name: Path(path).name
        for process in prepared.services.values()
        if process.child.env and (path := process.child.env.get("PIEPOWDER_ROUTER_KEY_FILE"))
    }
    assert key_files == {"intake": "intake.key", "labels": "labels.key"}


def service(tmp_path: Path, code: str) -> ServiceProcess:
    [spec, *_] = processes(["eu"])
    return ServiceProcess(spec, Child("one", [sys.executable, "-c", code], log=tmp_path / "one.log"), 1)


def watched(one: ServiceProcess) -> list[str]:
    """The messages until the service is given up."""
    messages: list[str] = []
    while one.given_up is None:
        one.child.wait(5.0)
        if (sentence := one.restart()) is not None:
            messages.append(sentence)
    return messages


def test_a_service_that_ends_is_started_again_and_given_up_after_several_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 3)
    one = service(tmp_path, "print('no room'); raise SystemExit(3)")
    one.start()

    messages = watched(one)

    assert one.restarts == 2
    assert len(messages) == 3
    assert "ended with code 3; it is started again" in messages[0]
    assert "no room" in messages[0]
    assert "3 times in a row" in messages[2]
    assert not one.ready


def test_a_service_that_becomes_ready_and_ends_each_time_is_given_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 3)
    one = service(tmp_path, "import time; time.sleep(0.2); raise SystemExit(1)")
    ready = httpx.MockTransport(lambda _: httpx.Response(200, json={"conditions": {"kafka": "ok"}}))
    one.start()

    with httpx.Client(transport=ready) as client:
        for _ in range(1000):
            if one.given_up is not None:
                break
            one.check(client)
            one.restart()
            time.sleep(0.02)

    assert one.restarts == 2
    assert "3 times in a row, each within 60 seconds of its start" in str(one.given_up)


def test_a_long_run_resets_the_count_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 2)
    monkeypatch.setattr(system, "_SHORT_RUN", 0.0)
    one = service(tmp_path, "raise SystemExit(1)")
    one.start()
    while one.restarts < 3:
        one.child.wait(5.0)
        one.restart()

    assert one.given_up is None
    one.kill()


def test_a_service_with_invalid_settings_is_not_started_again(tmp_path: Path) -> None:
    one = service(tmp_path, "print('PIEPOWDER_PORT is not usable'); raise SystemExit(2)")
    one.start()

    assert len(watched(one)) == 1
    assert one.restarts == 0
    assert "PIEPOWDER_PORT" in str(one.given_up)


def test_a_service_that_was_killed_on_purpose_stays_stopped(tmp_path: Path) -> None:
    one = service(tmp_path, "import time; time.sleep(60)")
    one.start()
    one.kill()

    assert one.restart() is None
    assert not one.child.alive
    assert one.missing == "killed"


def test_a_service_gets_every_documented_setting_that_the_stack_does_not_determine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {
        service.name: importlib.import_module(f"services.{service.name}.settings").Settings for service in SERVICES
    }
    fields = {name for kind in kinds.values() for name in kind.model_fields}
    assert fields > STACK_SETTINGS
    for name in fields:
        monkeypatch.setenv(f"PIEPOWDER_{name.upper()}", "from outside")
    (tmp_path / "logs").mkdir()
    local = System(NoServers(), ("eu", "us"), tmp_path)
    local._prepare_processes(NoServers.database_url)
    for service in local.services.values():
        assert service.child.env is not None
        for name in kinds[service.spec.service.name].model_fields:
            value = service.child.env.get(f"PIEPOWDER_{name.upper()}")
            assert (value == "from outside") == (name not in STACK_SETTINGS), (service.name, name, value)


def test_a_service_that_calls_another_gets_its_addresses_and_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    local = System(NoServers(), ("eu", "us"), tmp_path)
    local._prepare_processes(NoServers.database_url)
    router = local.services["router"].child.env or {}
    urls = {region: local.url("decision", region) for region in ("eu", "us")}
    assert msgspec.json.decode(router["PIEPOWDER_DECISION_BY_REGION"]) == urls
    assert router["PIEPOWDER_DECISION_KEY_FILE"] == str(tmp_path / "router.key")
    intake = local.services["intake"].child.env or {}
    assert intake["PIEPOWDER_ROUTER"] == local.url("router")
    assert intake["PIEPOWDER_ROUTER_KEY_FILE"] == str(tmp_path / "intake.key")


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unanswered probe counts."""
    monkeypatch.setattr(system, "_CALM_SECONDS", 0.0)


def silent(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("no answer")


def checked(one: ServiceProcess, transport: httpx.MockTransport, times: int) -> None:
    with httpx.Client(transport=transport) as client:
        for _ in range(times):
            one.check(client, soon=True)


def hung(tmp_path: Path) -> ServiceProcess:
    """A service that answered once and then no probe, until it was ended."""
    one = service(tmp_path, "import time; time.sleep(60)")
    one.start()
    checked(one, httpx.MockTransport(lambda _: httpx.Response(200, json={"conditions": {}})), 1)
    assert one.ready
    checked(one, httpx.MockTransport(silent), system._UNANSWERED)
    return one


@pytest.mark.usefixtures("without_pauses")
def test_a_service_that_answers_no_liveness_probe_is_ended_and_started_again(tmp_path: Path) -> None:
    one = hung(tmp_path)
    first = one.child.pid

    message = one.restart()
    while not one.child.alive:
        one.restart()

    assert message is not None
    assert "one did not answer its liveness probe and was ended" in message.replace(one.name, "one")
    assert one.child.pid != first
    one.kill()


@pytest.mark.usefixtures("without_pauses")
def test_a_service_that_was_paused_on_purpose_or_still_starts_is_not_ended(tmp_path: Path) -> None:
    one = service(tmp_path, "import time; time.sleep(60)")
    one.start()
    checked(one, httpx.MockTransport(silent), 2 * system._UNANSWERED)
    assert one.child.alive
    checked(one, httpx.MockTransport(lambda _: httpx.Response(200, json={"conditions": {}})), 1)
    one.pause()
    checked(one, httpx.MockTransport(silent), 2 * system._UNANSWERED)
    one.resume()

    assert one.child.alive
    one.kill()


@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
@pytest.mark.usefixtures("without_pauses")
def test_a_service_that_misses_single_probes_is_not_ended(tmp_path: Path, path: str) -> None:
    one = service(tmp_path, "import time; time.sleep(60)")
    one.start()
    answer = httpx.Response(200, json={"conditions": {}})
    in_between = httpx.MockTransport(lambda r: answer if r.url.path == path else silent(r))
    checked(one, httpx.MockTransport(lambda _: answer), 1)
    for _ in range(3):
        checked(one, httpx.MockTransport(silent), system._UNANSWERED - 1)
        checked(one, in_between, 1)

    assert one.child.alive
    one.kill()


@pytest.mark.usefixtures("without_pauses")
def test_a_service_that_is_alive_but_not_ready_is_not_ended(tmp_path: Path) -> None:
    one = service(tmp_path, "import time; time.sleep(60)")
    one.start()
    busy = httpx.MockTransport(lambda r: httpx.Response(200, json={}) if r.url.path == "/healthz" else silent(r))
    checked(one, httpx.MockTransport(lambda _: httpx.Response(200, json={"conditions": {}})), 1)
    checked(one, busy, 2 * system._UNANSWERED)

    assert one.child.alive
    assert one.missing == "does not respond"
    one.kill()


def test_a_service_is_not_given_up_while_a_server_does_not_respond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 2)
    monkeypatch.setattr(system, "_SILENT_PAUSE_SECONDS", 0.0)
    one = service(tmp_path, "raise SystemExit(1)")
    one.start()
    messages = []
    while one.restarts < 4 and one.given_up is None:
        one.child.wait(5.0)
        messages.append(one.restart(lambda: ["Kafka"]))

    assert one.given_up is None
    assert "Kafka does not respond" in str(messages[0])
    one.kill()


def test_a_service_that_has_started_is_checked_at_a_calm_interval(tmp_path: Path) -> None:
    one = service(tmp_path, "import time; time.sleep(60)")
    requests = 0

    def ready(_: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        return httpx.Response(200, json={"conditions": {}})

    one.start()
    with httpx.Client(transport=httpx.MockTransport(ready)) as client:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            one.check(client)
            time.sleep(0.01)

    assert requests in (1, 2)  # the first one while it started
    one.kill()


def test_a_service_that_drains_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = service(tmp_path, "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); time.sleep(60)")
    one.start()
    checked(one, httpx.MockTransport(lambda _: httpx.Response(200, json={"conditions": {}})), 1)
    checked(one, httpx.MockTransport(silent), 5 * system._UNANSWERED)
    assert one.child.alive, "unanswered probes in quick succession are one"

    monkeypatch.setattr(system, "_CALM_SECONDS", 0.0)
    one.child.ask_to_stop()
    checked(one, httpx.MockTransport(silent), 5 * system._UNANSWERED)

    assert one.child.alive
    one.kill()


class LateSystem(System):
    """A system whose services run and are not ready in time."""

    async def _prepare_databases(self) -> str:
        return NoServers.database_url

    def _prepare_processes(self, database_url: str) -> None: ...

    def _create_topics(self) -> None: ...

    def wait_ready(self, timeout: float = 0.0) -> None:
        raise NotReadyError(f"The system is not ready after {timeout:.0f} seconds.", "What is missing:", ["audit-eu"])


def test_a_system_that_is_not_ready_in_time_keeps_running_only_if_it_may_wait_for_an_operator(tmp_path: Path) -> None:
    messages: list[str] = []
    with pytest.raises(NotReadyError):
        LateSystem(NoServers(), ["eu"], tmp_path, control=None, report=messages.append).start()
    assert not (tmp_path / "profile.json").exists()

    late = LateSystem(NoServers(), ["eu"], tmp_path, control=None, report=messages.append)
    late.start(stay=True)
    assert (tmp_path / "profile.json").exists()
    late.stop()
    assert messages == [
        "The system is not ready after 0 seconds. What is missing:\n  | audit-eu\n  | It keeps running."
    ]
