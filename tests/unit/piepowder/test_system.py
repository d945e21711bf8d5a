"""The launcher: one key for good, no dead system taken for a living one, and a service that dies is started again."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from deploy.local import system
from deploy.local.errors import StackError
from deploy.local.process import Child, start_time
from deploy.local.system import Place, Running, Service, find_running
from piepowder.cli import app
from piepowder.hints import runnable
from shared.kafka import topic_admin


def test_where_nothing_runs_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"Nothing runs .*`(.*)`") as raised:
        find_running(tmp_path)
    advised = runnable(str(raised.value)).split("`")[1]
    assert subprocess.run([*shlex.split(advised), "--help"], capture_output=True, check=False).returncode == 0


def test_a_system_whose_keeper_was_killed_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    def note(started: str | None) -> None:
        services = [Place("intake", "http://127.0.0.1:1", 1, "log")]
        running = Running(os.getpid(), started, ["eu"], "kafka", [], str(tmp_path / "key"), services, [])
        (tmp_path / "stack.json").write_bytes(msgspec.json.encode(running))

    note("long ago")
    with pytest.raises(StackError, match="without being stopped"):
        find_running(tmp_path)

    note(start_time(os.getpid()))
    assert find_running(tmp_path).url("intake") == "http://127.0.0.1:1"
    with pytest.raises(StackError, match="No service named decision-uk"):
        find_running(tmp_path).url("decision-uk")
    assert find_running(tmp_path).chosen(None) == find_running(tmp_path).chosen("eu") == ["eu"]
    with pytest.raises(StackError, match=r"There is no region 'uk' here. The regions are eu"):
        find_running(tmp_path).chosen("uk")


@pytest.mark.parametrize(("missing", "status"), [([], 0), (["piepowder.cases.eu"], 1)])
def test_topics_that_could_not_be_made_are_no_success(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], status: int
) -> None:
    async def ensure(*_: object, **__: object) -> topic_admin.TopicsReport:
        return topic_admin.TopicsReport([], [], ["it is so"], missing)

    monkeypatch.setattr(topic_admin, "ensure", ensure)
    ended = CliRunner().invoke(app, ["topics", "--kafka", "somewhere:1", "--regions", "eu"])
    assert (ended.exit_code, ended.output) == (status, "it is so\n")


def service(tmp_path: Path, code: str) -> Service:
    return Service("one", Child("one", [sys.executable, "-c", code], log=tmp_path / "one.log"), 1)


def watched(one: Service) -> list[str]:
    """What is said until the service is given up."""
    said: list[str] = []
    while one.given_up is None:
        one.child.wait(5.0)
        if (sentence := one.revive()) is not None:
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
            one.look(client)
            one.revive()
            time.sleep(0.02)

    assert one.restarts == 2
    assert "3 times in a row, each within 60 seconds of its start" in str(one.given_up)


def test_a_service_that_has_lived_long_begins_to_be_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_ATTEMPTS", 2)
    monkeypatch.setattr(system, "_SHORT_LIFE", 0.0)
    one = service(tmp_path, "raise SystemExit(1)")
    one.start()
    while one.restarts < 3:
        one.child.wait(5.0)
        one.revive()

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

    assert one.revive() is None
    assert not one.child.alive
    assert one.lacking == "killed"
