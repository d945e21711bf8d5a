"""The whole system on this machine: the four services as children of ours, on the Kafka and PostgreSQL of a stack.

A service that dies is started again, with growing pauses, so that what Kafka and PostgreSQL keep is worked on; one that
cannot live at all is given up and shown with its last lines. Who runs where stands in `stack.json`, which names its
writer by process id and start time, so that other commands never take a dead stack for a living one. It starts
services by name only: it imports none.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec

from deploy.initial import CONTROL, INTAKES_SCOPES, keep_key, put_sample_into_force
from deploy.local.errors import StackError, expected
from deploy.local.files import write_whole
from deploy.local.ports import free_ports, is_free
from deploy.local.process import Child, start_time, stop_all
from shared.kafka import topic_admin
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient

_ROOT: Final = Path(__file__).parents[2]
_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 180.0
_STOP_SECONDS: Final = 24.0
_DRAIN_SECONDS: Final = 5
_POLL_SECONDS: Final = 0.15
_ATTEMPTS: Final = 5  # deaths in a row, each within `_SHORT_LIFE` seconds of its start, before a service is given up
_SHORT_LIFE: Final = 60.0
_GIVEN_UP: Final = "It is not started any more: mend the cause, and start all again."

_clock = SystemClock()


class Servers(Protocol):
    """What the system stands on: Kafka's bootstrap servers, and the URL of a database on the PostgreSQL server."""

    @property
    def kafka(self) -> str: ...

    @property
    def database_url(self) -> str: ...


@runtime_checkable
class _HasChildren(Protocol):
    def children(self) -> list[Child]: ...


class Place(msgspec.Struct, frozen=True):
    """One process on the screen and in `stack.json`."""

    name: str
    url: str
    pid: int | None
    log: str


class Running(msgspec.Struct, frozen=True):
    """`stack.json`: what runs where, for commands in another terminal. `pid` and `started` name who keeps it up."""

    pid: int
    started: str | None
    regions: list[str]
    kafka: str
    databases: list[str]
    key_file: str
    services: list[Place]
    servers: list[Place]

    def url(self, name: str) -> str:
        """The base URL of a service, such as `intake` or `decision-eu`."""
        found = next((service.url for service in self.services if service.name == name), None)
        if found is None:
            known = ", ".join(service.name for service in self.services)
            raise StackError(f"No service named {name} runs here; there are {known}.", "Name one of the regions.")
        return found

    def chosen(self, region: str | None) -> list[str]:
        """The region that is named, or all; raises `StackError`, which names them, when there is no such region."""
        if region is not None and region not in self.regions:
            raise StackError(f"There is no region {region!r} here.", f"The regions are {', '.join(self.regions)}.")
        return self.regions if region is None else [region]

    def key(self) -> str:
        """The API key of the person at this machine."""
        with expected(Path(self.key_file)):
            return Path(self.key_file).read_text(encoding="utf-8").strip()


def find_running(folder: Path) -> Running:
    """The system that runs with its data in `folder`; raises `StackError` when none does."""
    note = folder.absolute() / "stack.json"
    start = "Start one with `piepowder up` or `make run`, or name its folder with --folder."
    try:
        running = msgspec.json.decode(note.read_bytes(), type=Running)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StackError(f"Nothing runs with its data in {folder}.", start) from error
    except (OSError, msgspec.DecodeError) as error:
        raise StackError(f"{note} is not readable ({error}).", start) from error
    if start_time(running.pid) != running.started:
        raise StackError(f"The system in {folder} was ended without being stopped; it is not running.", start)
    return running


class Service:
    """One service process. `lacking` says why it is not ready, and is empty when it is."""

    def __init__(self, name: str, child: Child, port: int) -> None:
        self.name = name
        self.child = child
        self.port = port
        self.lacking = "not started"
        self.restarts = 0
        self.given_up: StackError | None = None
        self._started = 0.0
        self._short_lives = 0
        self._again = 0.0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def ready(self) -> bool:
        return self.lacking == "" and self.child.alive

    def start(self) -> None:
        """Start the process, if it does not run; `System.wait_ready` waits for it."""
        with self._lock:
            if self.child.alive:
                return
            self.lacking = "starting"
            self.given_up = None
            self._started = _clock.monotonic()
            self.child.start()

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after `timeout` seconds; it stays down until `start`."""
        self.lacking = "stopped"
        self.child.stop(timeout)

    def kill(self) -> None:
        """SIGKILL; it stays down until `start`."""
        self.lacking = "killed"
        self.child.kill()

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def look(self, client: httpx.Client) -> None:
        """Ask it what it lacks."""
        if not self.child.alive:
            return
        try:
            answer = client.get(f"{self.url}/readyz")
            conditions: Mapping[str, str] = answer.json()["conditions"]
        except (httpx.HTTPError, ValueError, KeyError):
            if self.lacking in ("", "does not answer"):
                self.lacking = "does not answer"
            return
        lacking = "; ".join(
            text if name in text else f"{name}: {text}" for name, text in conditions.items() if text != "ok"
        )
        self.lacking = lacking

    def revive(self) -> str | None:
        """Start it again if it died by itself and its pause is over; what happened, in a sentence, when it did."""
        if not self.child.failed or self.given_up is not None:
            return None
        now = _clock.monotonic()
        if self._again == 0.0:
            lived = now - self._started
            self._short_lives = self._short_lives + 1 if lived < _SHORT_LIFE else 1
            ended, lives = f"{self.name} {self.child.end}", self._short_lives
            if self.child.returncode == 2 or lives >= _ATTEMPTS:
                often = f", {lives} times in a row, each within {_SHORT_LIFE:.0f} seconds of its start"
                self.given_up = self.child.failure(f"{ended}{often if lives > 1 else ''}.", _GIVEN_UP)
                self.lacking = f"{ended} and is given up"
                return str(self.given_up)
            pause = min(10.0, 0.25 * 2.0 ** (lives - 1))
            self._again = now + pause
            self.lacking = f"{ended}; starting again in {pause:g} s"
            return "\n  | ".join(
                [f"{ended}; it is started again. Its log is {self.child.log}.", *self.child.last_words()]
            )
        if now >= self._again:
            self._again = 0.0
            self.restarts += 1
            self.start()
        return None


class System:
    """The services of `regions` on `servers`, with keys, logs and notes in `folder`.

    `control` is the folder with the operating model and the policies to publish when none are in force (None publishes
    nothing); `databases` is the prefix of the databases' names, for systems that share a server.
    """

    def __init__(
        self,
        servers: Servers,
        regions: Sequence[str] = ("eu", "us"),
        folder: Path = Path(".piepowder"),
        *,
        control: Path | None = CONTROL,
        databases: str = "piepowder",
        say: Callable[[str], None] = print,
    ) -> None:
        self.servers = servers
        self.regions = list(regions)
        self.folder = folder.absolute()
        self.services: dict[str, Service] = {}
        self._control = control
        self._prefix = databases
        self._say = say
        self._key = ""
        self._noted: bytes = b""
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    def start(self) -> None:
        """Prepare what the services need, start them, and wait until all are ready.

        Raises `StackError` for what may be expected to go wrong; then, and when interrupted, everything is stopped.
        """
        self._stopping.clear()
        try:
            with expected(self.folder):
                (self.folder / "logs").mkdir(parents=True, exist_ok=True)
                self._key = keep_key(self.folder / "key", self.folder / "clients.json", "local")
                keep_key(self._intakes_key, self.folder / "clients.json", "intake", INTAKES_SCOPES)
                self._make_services()
            self._in_a_loop(lambda: _create_databases(self.servers.database_url, self._databases()))
            self._create_topics()
            for service in self.services.values():
                service.start()
            self._note()
            self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
            self._supervisor.start()
            self._publish_when_nothing_is_in_force()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all: intake first, so that the others finish what it took; bounded to half a minute."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join(5.0)
            self._supervisor = None
        deadline = _clock.monotonic() + _STOP_SECONDS
        for kind in ("intake", "router", "decision", "audit"):
            children = [service.child for name, service in self.services.items() if name.split("-")[0] == kind]
            stop_all(children, max(1.0, min(_DRAIN_SECONDS + 4.0, deadline - _clock.monotonic())))
        if self._noted:  # only what this system wrote: another may be running in the folder
            (self.folder / "stack.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, service: str, region: str | None = None) -> str:
        """The base URL of a service; `decision` and `audit` have one in each region."""
        return self.services[service if region is None else f"{service}-{region}"].url

    def key(self) -> str:
        """The API key with all scopes in all regions, of the person at this machine."""
        return self._key

    def failures(self) -> list[StackError]:
        """The services that died again and again and are not started any more, each with its last lines."""
        return [service.given_up for service in self.services.values() if service.given_up is not None]

    def wait_ready(self, timeout: float = _START_SECONDS) -> None:
        """Wait until every service can do its work; raises `StackError` with what is lacking."""
        self._wait(lambda: all(service.ready for service in self.services.values()), "The system", timeout)

    @property
    def _intakes_key(self) -> Path:
        return self.folder / "intake.key"

    def _databases(self) -> list[str]:
        names = [self._database(name) for name in self.services if name != "router"]
        return list(dict.fromkeys(names))

    def _database(self, service: str) -> str:
        """Intake's two processes share one."""
        return f"{self._prefix}_{service.removesuffix('-projection').replace('-', '_')}"

    def _make_services(self) -> None:
        everywhere = {"REGIONS": ",".join(self.regions)}
        wanted: dict[str, dict[str, str]] = {
            "intake": everywhere | {"PROJECTION": "false"},
            "intake-projection": dict(everywhere),
            "router": dict(everywhere),
        }
        for kind in ("decision", "audit"):
            wanted |= {f"{kind}-{region}": {"REGION": region} for region in self.regions}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIEPOWDER_")}
        common = {
            "KAFKA": self.servers.kafka,
            "CLIENTS_FILE": str(self.folder / "clients.json"),
            "HOST": _HOST,
            "DRAIN_SECONDS": str(_DRAIN_SECONDS),
            "LOG_LEVEL": os.environ.get("PIEPOWDER_LOG_LEVEL", "INFO"),
        }
        ports = dict(zip(wanted, self._ports(list(wanted)), strict=True))
        for name in ("intake", "intake-projection"):
            wanted[name] |= {
                "ROUTER": f"http://{_HOST}:{ports['router']}",
                "ROUTER_KEY_FILE": str(self._intakes_key),
            }
        for name, own in wanted.items():
            if name != "router":
                own["DATABASE_URL"] = _sibling(self.servers.database_url, self._database(name))
            variables = {
                f"PIEPOWDER_{key}": value for key, value in (common | own | {"PORT": str(ports[name])}).items()
            }
            child = Child(
                name,
                [sys.executable, "-m", f"services.{name.split('-')[0]}"],
                log=self.folder / "logs" / f"{name}.log",
                env=inherited | variables,
                cwd=_ROOT,
            )
            child.end_left_over()
            self.services[name] = Service(name, child, ports[name])

    def _ports(self, names: list[str]) -> list[int]:
        note = self.folder / "ports.json"
        try:
            old = msgspec.json.decode(note.read_bytes(), type=dict[str, int]) if note.exists() else {}
        except msgspec.DecodeError:
            old = {}  # a note for convenience: other ports do as well
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
            raise StackError(f"{error}.", "Look at Kafka's log, and start again.") from error
        if report.missing:
            raise StackError(f"The topics {', '.join(report.missing)} are missing.", "; ".join(report.differences))

    def _publish_when_nothing_is_in_force(self) -> None:
        control, headers = self._control, {"Authorization": f"Bearer {self._key}"}
        if control is None:
            return
        with httpx.Client(base_url=self.url("router"), headers=headers, timeout=30.0, trust_env=False) as router:

            def put() -> bool:
                try:
                    names = put_sample_into_force(router, folder=control, regions=self.regions)
                except Transient:
                    return False
                if names:
                    self._say(f"Put into force: the sample {' and the '.join(names).replace('_', ' ')}")
                return True

            self._wait(put, "The router", _START_SECONDS)

    def _wait(self, reached: Callable[[], bool], who: str, timeout: float) -> None:
        deadline = _clock.monotonic() + timeout
        while not reached():
            dead = [child.death() for child in self._servers_children() if child.failed]
            if failures := [*dead, *self.failures()]:
                raise failures[0]
            if _clock.monotonic() > deadline:
                lacking = [f"{s.name}: {s.lacking} (log: {s.child.log})" for s in self.services.values() if not s.ready]
                raise StackError(f"{who} is not ready after {timeout:.0f} seconds.", "What is lacking:", lacking)
            self._stopping.wait(0.05)

    def _supervise(self) -> None:
        with httpx.Client(timeout=1.0, trust_env=False) as client:
            while not self._stopping.wait(_POLL_SECONDS):
                for service in self.services.values():
                    if self._stopping.is_set():
                        return
                    try:
                        if (happened := service.revive()) is not None:
                            self._say(happened)
                    except StackError as error:
                        service.given_up = error
                        self._say(str(error))
                    service.look(client)
                try:
                    self._note()
                    for child in [*(service.child for service in self.services.values()), *self._servers_children()]:
                        child.bound_log()
                except StackError as error:
                    self._say(str(error))

    def _note(self) -> None:
        """Write `stack.json`, when it would say something new."""
        running = Running(
            pid=os.getpid(),
            started=start_time(os.getpid()),
            regions=self.regions,
            kafka=self.servers.kafka,
            databases=self._databases(),
            key_file=str(self.folder / "key"),
            services=[Place(s.name, s.url, s.child.pid, str(s.child.log)) for s in self.services.values()],
            servers=[Place(child.name, "", child.pid, str(child.log)) for child in self._servers_children()],
        )
        text = msgspec.json.encode(running)
        if text != self._noted:
            self._noted = text
            with expected(self.folder):
                write_whole(self.folder / "stack.json", msgspec.json.format(text, indent=2).decode(), mode=0o600)

    def _servers_children(self) -> list[Child]:
        return self.servers.children() if isinstance(self.servers, _HasChildren) else []

    @staticmethod
    def _in_a_loop(make: Callable[[], Any]) -> Any:
        """Run a coroutine to its end, also where this thread has an event loop already."""
        with ThreadPoolExecutor(max_workers=1) as own:
            return own.submit(lambda: asyncio.run(make())).result()


def _sibling(url: str, database: str) -> str:
    """The URL of another database on the same server."""
    parts = urlsplit(url)
    return parts._replace(scheme=parts.scheme.partition("+")[0], path=f"/{database}").geturl()


async def _create_databases(url: str, names: Sequence[str]) -> None:
    try:
        connection = await asyncpg.connect(_sibling(url, urlsplit(url).path.lstrip("/")), timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StackError(f"PostgreSQL does not answer: {error}.", "Look at its log, and start again.") from error
    try:
        existing = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
        for name in names:
            if name not in existing:
                await connection.execute(f'CREATE DATABASE "{name}"')
    except asyncpg.PostgresError as error:
        what_to_do = "Give the user of PIEPOWDER_DATABASE_URL the right to create databases."
        raise StackError(f"The databases cannot be created: {error}.", what_to_do) from error
    finally:
        await connection.close(timeout=5)
