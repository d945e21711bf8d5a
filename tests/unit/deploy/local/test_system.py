"""The launcher: one key for good, no dead system taken for a living one, and a service that dies is started again."""

import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deploy.local import system
from deploy.local.process import Child
from deploy.local.system import ServiceProcess
from deploy.services import processes
from piepowder.cli import app
from shared.kafka import topic_admin


@pytest.mark.parametrize(("missing", "status"), [([], 0), (["piepowder.cases.eu"], 1)])
def test_topics_that_could_not_be_made_are_no_success(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], status: int
) -> None:
    async def ensure(*_: object, **__: object) -> topic_admin.Report:
        return topic_admin.Report([], [], ["it is so"], missing)

    monkeypatch.setattr(topic_admin, "ensure", ensure)
    ended = CliRunner().invoke(app, ["topics", "--kafka", "somewhere:1", "--regions", "eu"])
    assert (ended.exit_code, ended.output) == (status, "it is so\n")


def service(tmp_path: Path, code: str) -> ServiceProcess:
    [spec, *_] = processes(["eu"])
    return ServiceProcess(spec, Child("one", [sys.executable, "-c", code], log=tmp_path / "one.log"), 1)


def watched(one: ServiceProcess) -> list[str]:
    """The messages until the service is given up."""
    said: list[str] = []
    while one.given_up is None:
        one.child.wait(5.0)
        if (sentence := one.restart()) is not None:
            said.append(sentence)
    return said


def test_a_service_that_dies_is_started_again_and_given_up_when_it_cannot_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 3)
    one = service(tmp_path, "print('no room'); raise SystemExit(3)")
    one.start()

    said = watched(one)

    assert one.restarts == 2
    assert len(said) == 3
    assert "ended with code 3; it is started again" in said[0]
    assert "no room" in said[0]
    assert "3 times in a row" in said[2]
    assert not one.ready


def test_a_service_that_looks_ready_and_dies_each_time_is_given_up_too(
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


def test_a_service_that_has_lived_long_begins_to_be_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 2)
    monkeypatch.setattr(system, "_SHORT_RUN", 0.0)
    one = service(tmp_path, "raise SystemExit(1)")
    one.start()
    while one.restarts < 3:
        one.child.wait(5.0)
        one.restart()

    assert one.given_up is None
    one.kill()


def test_settings_that_do_not_fit_are_not_tried_again(tmp_path: Path) -> None:
    one = service(tmp_path, "print('PIEPOWDER_PORT is not usable'); raise SystemExit(2)")
    one.start()

    assert len(watched(one)) == 1
    assert one.restarts == 0
    assert "PIEPOWDER_PORT" in str(one.given_up)


def test_a_service_that_was_killed_on_purpose_stays_down(tmp_path: Path) -> None:
    one = service(tmp_path, "import time; time.sleep(60)")
    one.start()
    one.kill()

    assert one.restart() is None
    assert not one.child.alive
    assert one.missing == "killed"
