"""The launcher: one key for good, no dead system taken for a living one, and a service that dies is started again."""

import os
import stat
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.local import system
from deploy.local.errors import StackError
from deploy.local.process import Child, start_time
from deploy.local.system import Place, Running, Service, find_running, keep_key
from shared import ids
from shared.auth import Client


def test_the_key_is_made_once_kept_from_others_eyes_and_only_its_hash_is_told(tmp_path: Path) -> None:
    key = keep_key(tmp_path)

    assert keep_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    clients = (tmp_path / "clients.json").read_text()
    assert key not in clients
    assert ids.hash_api_key(key) in clients


def test_other_clients_in_the_file_stay(tmp_path: Path) -> None:
    other = Client("vendor", "0" * 64, frozenset({"reviews:read"}), frozenset({"eu"}))
    (tmp_path / "clients.json").write_bytes(msgspec.json.encode([other]))

    keep_key(tmp_path)

    clients = msgspec.json.decode((tmp_path / "clients.json").read_bytes(), type=list[Client])
    assert other in clients
    assert [client.name for client in clients] == ["local", "vendor"]


def test_where_nothing_runs_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"Nothing runs .*`piepowder up`"):
        find_running(tmp_path)


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
