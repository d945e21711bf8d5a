"""Supervision of the local servers: a process that ended or hangs is started again, within limits; others are left
alone."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from deploy.local import server_watch
from deploy.local.process import Child, LocalServer
from deploy.local.server_watch import ServerWatch

pytestmark = pytest.mark.timeout(30)


class Server(LocalServer):
    """A process that answers while `answering`; `stays_silent`: also its successors do not answer for long."""

    def __init__(self, folder: Path, *, stays_silent: bool = False) -> None:
        super().__init__(folder, print)
        self.child = Child("server", [sys.executable, "-c", "import time; time.sleep(60)"], log=folder / "server.log")
        self.answering = True
        self.restarts = 0
        self._stays_silent = stays_silent

    @property
    def children(self) -> list[Child]:
        return [self.child]

    def start(self) -> None:
        self.child.start()

    def answers(self, child: Child) -> bool:  # noqa: ARG002 - it has one
        answered, self.answering = self.answering, self.answering and not (self._stays_silent and self.restarts)
        return answered

    def restart(self, child: Child) -> None:
        child.kill()
        self.restarts += 1
        self.answering = True
        child.start()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_watch, "_INTERVAL_SECONDS", 0.01)


def pause(seconds: float) -> None:
    time.sleep(seconds)


def test_a_server_that_stops_answering_is_started_again(tmp_path: Path) -> None:
    messages: list[str] = []
    with Server(tmp_path) as server:
        watch = ServerWatch([server], messages.append)
        watch.start()
        pause(0.2)
        assert server.restarts == 0
        server.answering = False
        while not any("responds again" in message for message in messages):
            pause(0.01)
        watch.stop(5)
    assert server.restarts == 1
    assert "server did not answer 5 probes in a row; it is ended and started again" in messages[0]
    assert watch.failures == []
    assert watch.silent == set()


def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    messages: list[str] = []
    with Server(tmp_path) as server:
        watch = ServerWatch([server], messages.append)
        watch.start()
        pause(0.1)
        assert server.child.pid is not None
        os.kill(server.child.pid, signal.SIGKILL)
        while not any("responds again" in message for message in messages):
            pause(0.01)
        watch.stop(5)
    assert server.restarts == 1
    end = "server was ended by SIGKILL, perhaps because memory ran out"
    assert messages == [f"{end}; it is started again. Its log is {server.child.log}.", "server responds again."]
    assert watch.failures == []


def test_a_server_that_does_not_start_again_is_given_up(tmp_path: Path) -> None:
    class Broken(Server):
        def restart(self, child: Child) -> None:
            raise child.failure("server ended with code 1.")

    with Broken(tmp_path) as server:
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        assert server.child.pid is not None
        os.kill(server.child.pid, signal.SIGKILL)
        while not watch.failures:
            pause(0.01)
        watch.stop(5)
    assert [error.what for error in watch.failures] == ["server ended with code 1."]


def test_a_server_that_misses_single_probes_is_left_alone(tmp_path: Path) -> None:
    class Slow(Server):
        probes = 0

        def answers(self, child: Child) -> bool:  # noqa: ARG002 - it has one
            self.probes += 1
            return self.probes % 4 == 1

    with Slow(tmp_path) as server:
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        while server.probes < 40:
            pause(0.01)
        watch.stop(5)
    assert server.restarts == 0
    assert watch.failures == []


def test_a_server_that_hangs_again_and_again_is_given_up(tmp_path: Path) -> None:
    with Server(tmp_path, stays_silent=True) as server:
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        pause(0.1)
        server.answering = False
        while not watch.failures:
            pause(0.01)
        watch.stop(5)
    assert server.restarts == 5
    assert "and was started again 5 times already" in str(watch.failures[0])


def test_a_long_run_resets_the_count_of_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_watch, "_LONG_RUN_SECONDS", 0.0)
    with Server(tmp_path, stays_silent=True) as server:
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        pause(0.1)
        server.answering = False
        while server.restarts <= 6 and not watch.failures:
            pause(0.01)
        watch.stop(5)
    assert server.restarts > 6
    assert watch.failures == []


def test_a_server_that_has_not_answered_yet_or_is_paused_or_stopped_is_left_alone(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.answering = False
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        pause(0.3)
        assert server.restarts == 0, "it still starts"
        server.answering = True
        pause(0.1)
        server.child.pause()
        server.answering = False
        pause(0.3)
        assert server.restarts == 0, "it is paused on purpose"
        server.child.resume()
        server.answering = True
        pause(0.1)
        server.child.kill()
        server.answering = False
        pause(0.3)
        watch.stop(5)
    assert server.restarts == 0
    assert watch.failures == []


def test_a_server_that_is_paused_during_a_probe_or_slow_to_stop_is_left_alone(tmp_path: Path) -> None:
    class Paused(Server):
        silent = 0

        def answers(self, child: Child) -> bool:
            answered = super().answers(child)
            self.silent = 0 if answered else self.silent + 1
            if self.silent == 5:
                child.pause()
            return answered

    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with Paused(tmp_path) as server:
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        pause(0.1)
        server.answering = False
        pause(0.3)
        watch.stop(5)
        assert (server.child.paused, server.restarts) == (True, 0)
    slow = Server(tmp_path)
    slow.child.argv = [sys.executable, "-c", ignore]
    with slow:
        while not slow.child.tail():
            pause(0.01)
        watch = ServerWatch([slow], lambda _: None)
        watch.start()
        pause(0.1)
        slow.child.ask_to_stop()
        slow.answering = False
        pause(0.3)
        watch.stop(5)
        assert (slow.child.stopping, slow.restarts) == (True, 0)


def test_a_server_that_was_started_again_may_take_its_time_until_it_answers(tmp_path: Path) -> None:
    class Slow(Server):
        def restart(self, child: Child) -> None:
            super().restart(child)
            self.answering = False

    with Slow(tmp_path) as server:
        watch = ServerWatch([server], lambda _: None)
        watch.start()
        pause(0.1)
        server.answering = False
        pause(0.5)
        watch.stop(5)
    assert server.restarts == 1
