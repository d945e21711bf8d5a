"""The whole system on this machine: every service of `deploy/services.py` as a child process, on a stack's servers.

A service that ends is started again after a growing pause, and so is one that does not answer its liveness probe. A
service that ends repeatedly is given up and shown with its last log lines, unless Kafka or PostgreSQL did not respond:
then it is not the cause. The system writes its profile, `profile.json`, with its own process id and start time, so that
another command never mistakes a dead system for a running one. It starts services by name and imports none.
"""

import asyncio
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import msgspec

from deploy.initial import CONTROL, ensure_key, publish_sample
from deploy.local.databases import PASSWORD_FILE, plain_url, prepare_databases, role_of, sibling_url
from deploy.local.files import write_whole
from deploy.local.kafka_probe import a_broker_responds
from deploy.local.ports import free_ports, is_free
from deploy.local.postgres import responds
from deploy.local.process import Child, Startable, stop_all
from deploy.local.stack import LocalStack
from deploy.services import CALLERS, STACK_SETTINGS, ProcessSpec, ServiceSpec, processes
from piepowder.profile import DEFAULT_FOLDER, FILE_NAME, Process, ProfileFile, StackProcesses
from piepowder.progress import ProgressReport, counting
from shared.kafka import topic_admin
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from shared.runtime.private_files import make_private_folder
from shared.runtime.process_identity import start_time
from shared.runtime.user_errors import UserError, file_errors

_ROOT: Final = Path(__file__).parents[2]
_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 180.0
_STOP_SECONDS: Final = 24.0
_DRAIN_SECONDS: Final = 5
_POLL_SECONDS: Final = 0.15
_ROUND_SECONDS: Final = 0.5  # between the looks at the processes while all are ready
_CALM_SECONDS: Final = 2.0  # between the checks of a service that has started
_PROBE_SECONDS: Final = 2.0
_UNANSWERED: Final = 6  # liveness probes in a row, before a service counts as hung
_SILENT_PAUSE_SECONDS: Final = 10.0  # before a service is started again while a server does not respond
_ATTEMPTS: Final = 5  # ends in a row, each within `_SHORT_RUN` seconds of its start, before a service is given up
_SHORT_RUN: Final = 60.0
_GIVEN_UP: Final = "It is not started again: correct the cause, and start the system again."

_clock = SystemClock()


class NotReadyError(UserError):
    """The services run, and something that they need is missing."""


class Servers(Protocol):
    """The servers that a system needs: Kafka's bootstrap servers, and a URL of the PostgreSQL server."""

    @property
    def kafka(self) -> str: ...

    @property
    def database_url(self) -> str: ...


class ServiceProcess:
    """One service process. `missing` says why it is not ready, and is empty when it is ready."""

    def __init__(self, spec: ProcessSpec, child: Child, port: int) -> None:
        self.name = spec.name
        self.spec = spec
        self.child = child
        self.port = port
        self.missing = "not started"
        self.restarts = 0
        self.given_up: UserError | None = None
        self._started = 0.0
        self._short_runs = 0
        self._restart_at = 0.0
        self._checked = self._next_check = 0.0
        self._answered = False
        self._unanswered = 0
        self._counted = float("-inf")
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return _url(self.port)

    @property
    def ready(self) -> bool:
        return self.missing == "" and self.child.alive

    def was_ready(self, since: float) -> bool:
        """True if it is ready by a check that began after a moment."""
        return self.ready and self._checked >= since

    def start(self) -> None:
        """Start the process unless it runs; `System.wait_ready` waits for it."""
        with self._lock:
            if self.child.alive:
                return
            self.missing = "starting"
            self.given_up = None
            self._started = _clock.monotonic()
            self._next_check, self._answered, self._unanswered = 0.0, False, 0
            self.child.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Send SIGTERM, and SIGKILL after `timeout` seconds. It stays stopped until `start`."""
        self.missing = "stopped"
        self.child.stop(timeout)

    def kill(self) -> None:
        """Send SIGKILL. It stays stopped until `start`."""
        self.missing = "killed"
        self.child.kill()

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def check(self, client: httpx.Client, *, soon: bool = False) -> None:
        """Update `missing` from its readiness; end the process if it does not answer its liveness probe repeatedly.

        The next check is due soon while the service starts, or if `soon` is set; else after a calm interval.
        """
        now = _clock.monotonic()
        if not self.child.alive or self.child.stopping or (now < self._next_check and not soon):
            return
        starting = not self.ready and now - self._started < _SHORT_RUN
        self._checked, self._next_check = now, now + (_POLL_SECONDS if soon or starting else _CALM_SECONDS)
        try:
            response = client.get(f"{self.url}/readyz")
            conditions: Mapping[str, str] = response.json()["conditions"]
        except (httpx.HTTPError, ValueError, KeyError):
            if self.missing in ("", "does not respond"):
                self.missing = "does not respond"
            self._end_if_hung(client)
            return
        self._answered, self._unanswered = True, 0
        self.missing = "; ".join(
            text if name in text else f"{name}: {text}" for name, text in conditions.items() if text != "ok"
        )

    def _end_if_hung(self, client: httpx.Client) -> None:
        """Count an unanswered liveness probe, at most one per calm interval: a process that drains after a SIGTERM
        refuses connections. A process that has not answered yet has a minute to start."""
        now = _clock.monotonic()
        try:
            client.get(f"{self.url}/healthz")
        except httpx.HTTPError:
            starting = not self._answered and now - self._started < _SHORT_RUN
            if self.child.paused or starting or now - self._counted < _CALM_SECONDS:
                return
            self._unanswered, self._counted = self._unanswered + 1, now
            if self._unanswered >= _UNANSWERED:
                self.child.end_hung()
        else:
            self._unanswered = 0

    def restart(self, silent_servers: Callable[[], Sequence[str]] = tuple) -> str | None:
        """Start it again if it ended by itself and its pause is over; returns a message to report, if any.

        `silent_servers` returns the servers that do not respond: while there are any, an end does not count.
        """
        if not self.child.failed or self.given_up is not None:
            return None
        now = _clock.monotonic()
        if self._restart_at == 0.0:
            hung = self._unanswered >= _UNANSWERED
            ended = (
                f"{self.name} did not answer its liveness probe and was ended"
                if hung
                else (f"{self.name} {self.child.end}")
            )
            if silent := silent_servers():
                self._restart_at = now + _SILENT_PAUSE_SECONDS
                self.missing = f"{ended}; {' and '.join(silent)} does not respond"
                return (
                    f"{self.missing}; it is started again in {_SILENT_PAUSE_SECONDS:g} s. Its log is {self.child.log}."
                )
            short = now - self._started < _SHORT_RUN
            self._short_runs = self._short_runs + 1 if short else 1
            runs = self._short_runs
            if self.child.returncode == 2 or runs >= _ATTEMPTS:
                often = f", {runs} times in a row, each within {_SHORT_RUN:.0f} seconds of its start"
                self.given_up = self.child.failure(f"{ended}{often if runs > 1 else ''}.", _GIVEN_UP)
                self.missing = f"{ended} and is given up"
                return str(self.given_up)
            pause = min(10.0, 0.25 * 2.0 ** (runs - 1))
            self._restart_at = now + pause
            self.missing = f"{ended}; starting again in {pause:g} s"
            again = f"{ended}; it is started again. Its log is {self.child.log}."
            return "\n  | ".join([again, *self.child.last_messages()])
        if now >= self._restart_at:
            self._restart_at = 0.0
            self.restarts += 1
            self.start()
        return None


class System(Startable):
    """The services of `regions` on `servers`, with keys, logs and profile in `folder`.

    `control` is the folder of the operating model and the policies to publish when none are in force (None publishes
    nothing); `databases` is the prefix of the databases' names, for systems that share a server. `report` is called
    with each message.
    """

    def __init__(
        self,
        servers: Servers,
        regions: Sequence[str] = ("eu", "us"),
        folder: Path = DEFAULT_FOLDER,
        *,
        control: Path | None = CONTROL,
        databases: str = "piepowder",
        report: Callable[[str], None] = print,
    ) -> None:
        self.servers = servers
        self.regions = list(regions)
        self.folder = folder.absolute()
        self.services: dict[str, ServiceProcess] = {}
        self._control = control
        self._prefix = databases
        self._report = report
        self._key = ""
        self._written: bytes = b""
        self._stopping = threading.Event()
        self._awaited = False
        self._supervisor: threading.Thread | None = None

    def start(self, *, stay: bool = False) -> None:
        """Prepare what the services need, start them, and wait until all are ready.

        Raises `UserError` for an expected failure; then, and when interrupted, everything is stopped. With `stay`,
        services that are not ready in time are reported and keep running: they may wait for an operator.
        """
        self._stopping.clear()
        try:
            with file_errors(self.folder):
                make_private_folder(self.folder / "logs")
                self._key = ensure_key(self.folder / "key", self.folder / "clients.json", "local")
                for caller in CALLERS:
                    ensure_key(self._key_file(caller), self.folder / "clients.json", caller.name, caller.scopes)
            database_url = self._in_a_loop(self._prepare_databases)
            with file_errors(self.folder):
                self._prepare_processes(database_url)
            self._create_topics()
            for service in self.services.values():
                service.start()
            self._write_profile()
            self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
            self._supervisor.start()
            self._publish_sample()
            try:
                self.wait_ready()
            except NotReadyError as late:
                if not stay:
                    raise
                self._report(f"{late}\n  | It keeps running.")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all within half a minute, service by service in the order of the list."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join(5.0)
            self._supervisor = None
        deadline = _clock.monotonic() + _STOP_SECONDS
        for _, group in groupby(self.services.values(), key=lambda service: service.spec.service.name):
            children = [service.child for service in group]
            stop_all(children, max(1.0, min(_DRAIN_SECONDS + 4.0, deadline - _clock.monotonic())))
        if self._written:  # only its own profile: another system may run in the folder
            (self.folder / FILE_NAME).unlink(missing_ok=True)

    def url(self, service: str, region: str | None = None) -> str:
        """The base URL of a service; a regional service needs `region`."""
        return self.services[service if region is None else f"{service}-{region}"].url

    def key(self) -> str:
        """The API key of the person at this machine; it has all scopes in all regions."""
        return self._key

    def failures(self) -> list[UserError]:
        """The services that were given up, each with its last log lines."""
        return [service.given_up for service in self.services.values() if service.given_up is not None]

    def wait_ready(self, timeout: float = _START_SECONDS) -> None:
        """Wait until every service is ready; raises `UserError` with what is missing."""
        self._awaited, since = True, _clock.monotonic()
        try:
            self._wait(lambda: all(one.was_ready(since) for one in self.services.values()), "The system", timeout)
        finally:
            self._awaited = False

    def _key_file(self, caller: ServiceSpec) -> Path:
        """The file of a service's own API key, for its calls of other services."""
        return self.folder / f"{caller.name}.key"

    def databases(self) -> list[str]:
        """The names of the services' databases."""
        specs = processes(self.regions)
        return list(dict.fromkeys(self._database(spec) for spec in specs if spec.database))

    def _database(self, spec: ProcessSpec) -> str:
        return f"{self._prefix}_{spec.database}"

    async def _prepare_databases(self) -> str:
        role, password_file = role_of(self._prefix), self.folder / PASSWORD_FILE
        return await prepare_databases(
            self.servers.database_url, self.databases(), role=role, password_file=password_file
        )

    def _prepare_processes(self, database_url: str) -> None:
        own_settings = {f"PIEPOWDER_{name.upper()}" for name in STACK_SETTINGS}
        inherited = {name: value for name, value in os.environ.items() if name not in own_settings}
        common = {
            "KAFKA": self.servers.kafka,
            "CLIENTS_FILE": str(self.folder / "clients.json"),
            "HOST": _HOST,
            "DRAIN_SECONDS": str(_DRAIN_SECONDS),
        }
        specs = processes(self.regions)
        ports = dict(zip((spec.name for spec in specs), self._ports([spec.name for spec in specs]), strict=True))
        for spec in specs:
            own = {**spec.variables, "PORT": str(ports[spec.name])}
            for called in spec.service.calls:
                by_region = {s.region: _url(ports[s.name]) for s in specs if s.service.name == called and s.region}
                if by_region:
                    own[f"{called.upper()}_BY_REGION"] = msgspec.json.encode(by_region).decode()
                else:
                    own[called.upper()] = _url(ports[called])
                own[f"{called.upper()}_KEY_FILE"] = str(self._key_file(spec.service))
            if spec.database:
                own["DATABASE_URL"] = sibling_url(database_url, self._database(spec))
            child = Child(
                spec.name,
                [sys.executable, "-m", spec.module],
                log=self.folder / "logs" / f"{spec.name}.log",
                env=inherited | {f"PIEPOWDER_{name}": value for name, value in (common | own).items()},
                cwd=_ROOT,
            )
            child.end_left_over()
            self.services[spec.name] = ServiceProcess(spec, child, ports[spec.name])

    def _ports(self, names: list[str]) -> list[int]:
        note = self.folder / "ports.json"
        try:
            old = msgspec.json.decode(note.read_bytes(), type=dict[str, int]) if note.exists() else {}
        except msgspec.DecodeError:
            old = {}  # the file only keeps the ports the same; other ports work too
        kept = {name: old[name] for name in names if name in old and is_free(old[name])}
        new = iter(free_ports(len(names)))
        ports = {name: kept[name] if name in kept else next(new) for name in names}
        if len(set(ports.values())) < len(ports):
            ports = dict(zip(names, free_ports(len(names)), strict=True))
        write_whole(note, msgspec.json.encode(ports).decode())
        return [ports[name] for name in names]

    def _create_topics(self) -> None:
        wanted = topic_admin.expand(topic_admin.load(), self.regions)
        try:
            report = self._in_a_loop(lambda: topic_admin.ensure(self.servers.kafka, wanted))
        except Transient as error:
            raise UserError(f"{error}.", "Look at Kafka's log, and start again.") from error
        if report.missing:
            raise UserError(f"The topics {', '.join(report.missing)} are missing.", "; ".join(report.differences))

    def _publish_sample(self) -> None:
        control, headers = self._control, {"Authorization": f"Bearer {self._key}"}
        if control is None:
            return
        with httpx.Client(base_url=self.url("router"), headers=headers, timeout=30.0, trust_env=False) as router:

            def publish() -> bool:
                try:
                    names = publish_sample(router, folder=control, regions=self.regions)
                except Transient:
                    return False
                if names:
                    self._report(f"Published: the sample {' and the '.join(names).replace('_', ' ')}")
                return True

            self._wait(publish, "The router", _START_SECONDS)

    def _wait(self, reached: Callable[[], bool], who: str, timeout: float) -> None:
        with counting("Starting", "services ready", total=len(self.services)) as count:
            self._wait_counted(reached, who, timeout, count)

    def _wait_counted(self, reached: Callable[[], bool], who: str, timeout: float, count: ProgressReport) -> None:
        deadline = _clock.monotonic() + timeout
        while not reached():
            late = [service.name for service in self.services.values() if not service.ready]
            count(len(self.services) - len(late), None, f"without {', '.join(late)}" if late else "")
            ended = self.servers.failures() if isinstance(self.servers, LocalStack) else []
            if failures := [*ended, *self.failures()]:
                raise failures[0]
            if _clock.monotonic() > deadline:
                missing = [f"{s.name}: {s.missing} (log: {s.child.log})" for s in self.services.values() if not s.ready]
                raise NotReadyError(f"{who} is not ready after {timeout:.0f} seconds.", "What is missing:", missing)
            self._stopping.wait(0.05)

    def _supervise(self) -> None:
        with httpx.Client(timeout=_PROBE_SECONDS, trust_env=False) as client:
            while not self._stopping.wait(self._pause):
                for service in self.services.values():
                    if self._stopping.is_set():
                        return
                    try:
                        if (message := service.restart(self._silent_servers)) is not None:
                            self._report(message)
                    except UserError as error:
                        service.given_up = error
                        self._report(str(error))
                    service.check(client, soon=self._awaited)
                try:
                    self._write_profile()
                    for child in [*(service.child for service in self.services.values()), *self._servers_children()]:
                        child.bound_log()
                except UserError as error:
                    self._report(str(error))

    @property
    def _pause(self) -> float:
        """The seconds between two rounds of the supervisor: few while a service starts, or a caller waits for it."""
        started = all(service.ready for service in self.services.values())
        return _ROUND_SECONDS if started and not self._awaited else _POLL_SECONDS

    def _silent_servers(self) -> list[str]:
        """The servers that do not respond."""
        kafka = [] if a_broker_responds(self.servers.kafka) else ["Kafka"]
        postgres = [] if responds(plain_url(self.servers.database_url)) else ["PostgreSQL"]
        return kafka + postgres

    def _write_profile(self) -> None:
        """Write the profile, if it has changed."""
        regional: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for service in self.services.values():
            if service.spec.region:
                regional[service.spec.service.name][service.spec.region] = service.url
        single = {s.name: s.url for s in self.services.values() if s.name == s.spec.service.name}
        own = [Process(s.name, s.url, s.child.pid, str(s.child.log)) for s in self.services.values()]
        servers = [
            Process(child.name, self.servers.kafka if "Kafka" in child.name else "", child.pid, str(child.log))
            for child in self._servers_children()
        ]
        stack = StackProcesses(os.getpid(), start_time(os.getpid()), own + servers)
        profile = ProfileFile(
            services={**single, **regional}, kafka=self.servers.kafka, key_file=str(self.folder / "key"), stack=stack
        )
        text = msgspec.json.encode(profile)
        if text != self._written:
            self._written = text
            with file_errors(self.folder):
                write_whole(self.folder / FILE_NAME, msgspec.json.format(text, indent=2).decode(), mode=0o600)

    def _servers_children(self) -> list[Child]:
        return self.servers.children() if isinstance(self.servers, LocalStack) else []

    @staticmethod
    def _in_a_loop(make: Callable[[], Any]) -> Any:
        """Run a coroutine to its end, even in a thread that has an event loop."""
        with ThreadPoolExecutor(max_workers=1) as own:
            return own.submit(lambda: asyncio.run(make())).result()


def _url(port: int) -> str:
    return f"http://{_HOST}:{port}"
