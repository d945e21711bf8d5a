"""Child processes end when they are stopped, and another process is never mistaken for a left-over child."""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import process
from deploy.local.process import Child, run, stop_all, wait_until
from shared.runtime.process_identity import start_time
from shared.runtime.user_errors import UserError

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = Child("sleeper", ["sleep", "60"], log=tmp_path / "sleeper.log")
    yield child
    child.kill()


def test_a_child_runs_until_it_is_stopped_and_a_stop_is_not_a_failure(sleeper: Child) -> None:
    sleeper.start()
    assert sleeper.alive
    assert sleeper.pid_file.exists()
    sleeper.stop()
    assert sleeper.returncode == -signal.SIGTERM
    assert not sleeper.failed
    assert not sleeper.pid_file.exists()


def test_a_child_outlives_the_thread_that_started_it(sleeper: Child) -> None:
    thread = threading.Thread(target=sleeper.start)
    thread.start()
    thread.join()
    assert sleeper.wait(0.3) is None


def test_a_child_that_ends_by_itself_has_failed_and_its_last_messages_are_shown(tmp_path: Path) -> None:
    child = Child("short", [sys.executable, "-c", "print('a\\nb'); raise SystemExit(3)"], log=tmp_path / "short.log")
    child.log.write_text("an earlier run\n")
    child.start()
    assert child.wait(10) == 3
    assert child.failed
    assert child.tail() == ["a", "b"]
    assert child.tail(1) == ["b"]
    child.stop()
    assert child.failed
    with pytest.raises(UserError, match="short ended with code 3") as caught:
        wait_until(child, lambda: False, timeout=5, cancelled=threading.Event())
    assert caught.value.lines == ("a", "b")


OUTPUTS = {
    "broker": (
        "2026-05-01 INFO  [Log] fine",
        "2026-05-01 ERROR the log directory is gone",
        "java.io.IOException: gone",
        "\tat kafka.log.LogManager.load",
        "2026-05-01 INFO  shut down",
    ),
    "database": ("LOG:  ready", "FATAL:  out of memory", "LOG:  shut down"),
    "routine messages only": ("INFO one", "INFO two", "INFO three"),
}
SHOWN = {
    "broker": ["2026-05-01 ERROR the log directory is gone", "java.io.IOException: gone"],
    "database": ["FATAL:  out of memory"],
    "routine messages only": ["INFO two", "INFO three"],
}


@pytest.mark.parametrize("program", OUTPUTS)
def test_a_failure_shows_warnings_and_errors(tmp_path: Path, program: str) -> None:
    code = f"print({chr(10).join(OUTPUTS[program])!r}, flush=True); import os; os.kill(os.getpid(), 9)"
    child = Child("server", [sys.executable, "-c", code], log=tmp_path / "server.log")
    child.start()
    child.wait(10)
    error = child.failure(f"{child.name} {child.end}.", "Correct the cause.")
    assert error.what == "server was ended by SIGKILL, perhaps because memory ran out."
    assert f"Its log is {child.log}. Correct the cause." in str(error)
    assert list(error.lines) == SHOWN[program]


def test_the_size_of_a_log_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LONGEST_LOG", 1000)
    monkeypatch.setattr(process, "_KEPT", 500)
    child = Child("writer", ["sleep", "60"], log=tmp_path / "writer.log")
    child.start()
    with child.log.open("ab", buffering=0) as writing:  # as the child itself does
        for number in range(300):
            writing.write(f"line {number}\n".encode())
            child.bound_log()
            assert child.log.stat().st_size <= 1000 + 20
        assert child.tail(2) == ["line 298", "line 299"]
        assert child.tail(1000)[0].startswith("line ")
    child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems, the start itself fails")
def test_a_missing_program_is_named_in_the_log(tmp_path: Path) -> None:
    child = Child("absent", ["no-such-program"], log=tmp_path / "absent.log")
    child.start()
    child.wait(10)
    assert "no-such-program" in child.tail()[0]


def test_a_child_that_ignores_a_stop_is_killed_after_the_timeout(tmp_path: Path) -> None:
    child = Child("stubborn", [sys.executable, "-c", STUBBORN], log=tmp_path / "stubborn.log")
    child.start()
    wait_until(child, lambda: child.tail() == ["ready"], timeout=10, cancelled=threading.Event())
    began = time.monotonic()
    stop_all([child], timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 3
    assert child.returncode == -signal.SIGKILL


def starts_another(own: str) -> str:
    """The code of a child that starts a child of its own and prints its process id."""
    return (
        "import subprocess, sys, time\n"
        f"own = subprocess.Popen([sys.executable, '-c', {own!r}], stdout=subprocess.PIPE)\n"
        "own.stdout.readline()\n"
        "print(own.pid, flush=True)\n"
        "time.sleep(60)"
    )


GENTLE = "import time; print('ready', flush=True); time.sleep(60)"


@pytest.mark.parametrize("own", [GENTLE, STUBBORN], ids=["gentle", "stubborn"])
def test_a_childs_own_children_end_when_it_is_stopped(tmp_path: Path, own: str) -> None:
    """Example: initdb starts a shell, which starts a server."""
    child = Child("parent", [sys.executable, "-c", starts_another(own)], log=tmp_path / "parent.log")
    child.start()
    wait_until(child, lambda: bool(child.tail()), timeout=10, cancelled=threading.Event())
    grandchild = int(child.tail()[0])
    assert start_time(grandchild) is not None
    stop_all([child], timeout=1)
    assert start_time(grandchild) is None
    assert not child.pid_file.exists()


def test_a_cancelled_run_ends_the_child_and_its_own_children(tmp_path: Path) -> None:
    child = Child("parent", [sys.executable, "-c", starts_another(GENTLE)], log=tmp_path / "parent.log")
    cancelled = threading.Event()

    def cancel_when_both_run() -> None:
        deadline = time.monotonic() + 10
        while not child.tail() and time.monotonic() < deadline:
            time.sleep(0.01)
        cancelled.set()

    other = threading.Thread(target=cancel_when_both_run)
    other.start()
    with pytest.raises(UserError, match="interrupted"):
        run(child, timeout=20, cancelled=cancelled)
    other.join()
    assert not child.alive
    assert start_time(int(child.tail()[0])) is None
    assert not child.pid_file.exists()


def test_a_paused_child_can_be_stopped(sleeper: Child) -> None:
    sleeper.start()
    sleeper.pause()
    sleeper.stop(5)
    assert sleeper.returncode == -signal.SIGTERM


def test_a_left_over_child_is_ended_by_the_next_start(sleeper: Child) -> None:
    sleeper.start()
    again = Child("sleeper", ["sleep", "60"], log=sleeper.log)
    again.start()
    assert sleeper.wait(10) == -signal.SIGTERM
    assert again.alive
    again.kill()


@pytest.mark.parametrize("content", ["", "7", "{}", '{"pid": "x"}', None])
def test_another_process_with_the_same_id_is_not_ended(sleeper: Child, tmp_path: Path, content: str | None) -> None:
    sleeper.start()
    pid_file = tmp_path / "other.pid"
    pid_file.write_text(json.dumps({"pid": sleeper.pid, "started": "1"}) if content is None else content)
    other = Child("other", ["sleep", "60"], log=tmp_path / "other.log")
    other.start()
    assert sleeper.alive
    other.kill()


def test_only_a_running_process_has_a_start_time(sleeper: Child) -> None:
    sleeper.start()
    assert sleeper.pid is not None
    assert start_time(sleeper.pid) == start_time(sleeper.pid) is not None
    sleeper.kill()
    assert start_time(sleeper.pid) is None
