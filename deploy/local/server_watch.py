"""Restart of servers that ended or hang: Kafka's nodes and PostgreSQL.

A process that was killed has ended; one that is stopped or deadlocked only stops to answer, and everything waits for
it. So each server is probed continuously. One that has ended, or has not answered several probes, is started again on
its data, at the same address. The number of restarts is limited."""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from deploy.local.process import Child, LocalServer
from shared.runtime.clock import SystemClock
from shared.runtime.user_errors import UserError

_INTERVAL_SECONDS: Final = 3.0
_UNANSWERED: Final = 5  # probes in a row; counted, because a machine that was suspended loses time but no probe
_RESTARTS: Final = 5  # in a row, each within `_LONG_RUN_SECONDS` of the one before
_LONG_RUN_SECONDS: Final = 600.0

_clock = SystemClock()


class ServerWatch:
    """Probes `servers` until `stop`; `report` is called with a message for each restart.

    A server counts as hung only after an answer since its start, and not while it is paused on purpose. One that was
    stopped on purpose is left alone. `silent` has the names of the processes that did not answer the last probe or are
    being started again; `failures` has a sentence for each one that was given up.
    """

    def __init__(self, servers: Sequence[LocalServer], report: Callable[[str], None]) -> None:
        self.silent: set[str] = set()
        self.failures: list[UserError] = []
        self._report = report
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(server,), name="server watch", daemon=True) for server in servers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """End the probes, within `timeout` seconds for each server."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout)

    def cancel(self) -> None:
        """Make the probes end soon."""
        self._stopping.set()

    def _watch(self, server: LocalServer) -> None:
        states: dict[str, _State] = {}
        while not self._stopping.wait(_INTERVAL_SECONDS):
            for child in server.children:
                state = states.setdefault(child.name, _State())
                self._probe(server, child, state)
                if (state.unanswered >= _UNANSWERED or child.failed) and not self._stopping.is_set():
                    try:
                        self._restart(server, child, state)
                    except UserError as error:
                        if not self._stopping.is_set():
                            self.failures.append(error)
                        return

    def _probe(self, server: LocalServer, child: Child, state: "_State") -> None:
        pid = child.pid
        if not child.alive or child.stopping or child.paused:
            state.unanswered = 0
            self.silent.discard(child.name)
        elif server.answers(child):
            state.answered, state.unanswered = pid, 0
            self.silent.discard(child.name)
        elif state.answered == pid and not child.paused:
            state.unanswered += 1
            self.silent.add(child.name)

    def _restart(self, server: LocalServer, child: Child, state: "_State") -> None:
        now = _clock.monotonic()
        state.restarts = state.restarts + 1 if now - state.restarted < _LONG_RUN_SECONDS else 1
        silence = f"{child.name} did not answer {state.unanswered} probes in a row"
        what, action = (f"{child.name} {child.end}", "it is") if child.failed else (silence, "it is ended and")
        if state.restarts > _RESTARTS:
            raise child.failure(f"{what}, and was started again {_RESTARTS} times already.", "Correct the cause.")
        self._report(f"{what}; {action} started again. Its log is {child.log}.")
        self.silent.add(child.name)
        server.restart(child)
        self.silent.discard(child.name)
        state.unanswered, state.restarted = 0, _clock.monotonic()
        self._report(f"{child.name} responds again.")


class _State:
    """`answered` is the process that answered a probe last."""

    def __init__(self) -> None:
        self.answered: int | None = None
        self.unanswered = 0
        self.restarts = 0
        self.restarted = float("-inf")
