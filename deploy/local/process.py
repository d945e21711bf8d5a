"""Child processes that end with their parent and are never confused with other processes. On Linux the kernel ends a
child when its parent ends, even by SIGKILL; because the kernel watches the *thread* that forked, one thread that
lives as long as the process forks all children. A pid file has the process id and the start time, so a later start
recognizes a left-over child and ends it, but never another process with the same id."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Literal, Self

from deploy.local.files import write_whole
from shared.runtime.private_files import PRIVATE_UMASK, make_private_folder, open_private
from shared.runtime.process_identity import start_time
from shared.runtime.user_errors import UserError, disk_full, file_errors

Identity = Literal["same", "userns", "nobody"]
_CHILD_EXEC = Path(__file__).with_name("child_exec.py")
_STOP_SECONDS = 15.0
_FULL = 4 * 2**20
_LONGEST_LOG, _KEPT = 32 * 2**20, 8 * 2**20
_ROUTINE = re.compile(r"\b(?:TRACE|DEBUG|INFO|LOG)\b|^\s+(?:at|\.\.\.) ")  # and the frames of a Java exception
_LINUX = platform.system() == "Linux"


_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")  # never shut down: see above


def child_command(argv: Sequence[str], identity: Identity, death_signal: signal.Signals) -> list[str]:
    """The command that runs `argv` under an identity and ends it with this process (on Linux; elsewhere `argv`)."""
    if not _LINUX:
        return list(argv)
    options = [str(os.getpid()), str(int(death_signal)), identity]
    return [sys.executable, "-I", "-S", str(_CHILD_EXEC), *options, *argv]


@dataclass(eq=False)
class Child:
    """One child process, with a bounded log, a pid file and a process group of its own: Ctrl-C in the terminal reaches
    the parent, which stops the children in order; a signal to the child reaches its own children too.

    `stop_signal` asks it to end; the kernel sends `death_signal` when the parent ends (Linux).
    """

    name: str
    argv: Sequence[str]
    _: KW_ONLY
    log: Path
    env: dict[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    identity: Identity = "same"
    paused: bool = field(default=False, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)
    _ended_by_us: bool = field(default=False, init=False)

    @property
    def pid_file(self) -> Path:
        return self.log.with_suffix(".pid")

    def start(self) -> None:
        """Start it, after ending a left-over child of an earlier parent. Raises `UserError` for a file error."""
        if self.alive:
            return
        with file_errors(self.log.parent):
            make_private_folder(self.log.parent)
            self.end_left_over()
            self.bound_log()
            with open_private(self.log, "ab") as output:
                self._log_start = output.tell()
                self._process = _forker.submit(
                    subprocess.Popen,
                    child_command(self.argv, self.identity, self.death_signal),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.env,
                    cwd=self.cwd,
                    process_group=0,
                    umask=PRIVATE_UMASK,
                ).result()
            self._ended_by_us = self.paused = False
            pid = self._process.pid
            try:
                write_whole(self.pid_file, json.dumps({"pid": pid, "started": start_time(pid)}))
            except OSError:
                self.kill()
                raise

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stopping(self) -> bool:
        """True if it was asked to end, and still runs."""
        return self._ended_by_us and self.alive

    @property
    def failed(self) -> bool:
        """True if it ended without being stopped here."""
        return self._process is not None and not self._ended_by_us and self._process.poll() is not None

    @property
    def end(self) -> str:
        """A text about its end: the exit code or the signal."""
        code = self.returncode
        if code is None or code >= 0:
            return f"ended with code {code}"
        hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}"

    def wait(self, timeout: float) -> int | None:
        """The return code; None when it, or after a stop one of its own children, still runs after `timeout`
        seconds."""
        if self._process is None:
            return None
        deadline = time.monotonic() + timeout
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        while self._has_children:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return code

    @property
    def _has_children(self) -> bool:
        """True if a stopped child's own children still run. The child ran until it was stopped here, so its id belongs
        to its process group as long as a member runs."""
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: from macOS, for an ended group
            if self._process is not None and self._ended_by_us:
                os.killpg(self._process.pid, 0)
                return True
        return False

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end; kill it after `timeout` seconds."""
        stop_all([self], timeout)

    def ask_to_stop(self, number: signal.Signals | None = None) -> None:
        """Send its stop signal, or another one, also if it is frozen."""
        self._ended_by_us = self._ended_by_us or self.alive
        self._send(number or self.stop_signal)
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._ended_by_us = self._ended_by_us or self.alive
        self._send(signal.SIGKILL)
        if self.wait(10.0) is not None:
            self.pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze it on purpose (SIGSTOP): supervision does not regard it as hung."""
        self.paused = True
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)
        self.paused = False

    def end_hung(self) -> None:
        """Send SIGKILL and wait for the end. Unlike after `kill`, `failed` is then true."""
        self._send(signal.SIGKILL)
        self.wait(10.0)

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to its process group."""
        if self._process is not None and (self._process.poll() is None or self._has_children):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def tail(self, n: int = 20) -> list[str]:
        """The last `n` lines of this run's log."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - 65_536))
                return file.read().decode("utf-8", errors="replace").splitlines()[-n:]
        except OSError:
            return []

    def last_messages(self, n: int = 5) -> list[str]:
        """The last warnings and errors of this run's log; if there are none, its last lines."""
        lines = self.tail()
        return [line for line in lines if not _ROUTINE.search(line)][-n:] or lines[-2:]

    def bound_log(self) -> None:
        """Drop the older part of a log that is too long. Its writer appends, and so continues after the rest."""
        with file_errors(self.log.parent):
            if not self.log.exists() or self.log.stat().st_size <= _LONGEST_LOG:
                return
            with self.log.open("r+b") as file:
                file.seek(-_KEPT, os.SEEK_END)
                _, _, rest = file.read().partition(b"\n")
                file.truncate(0)
            with open_private(self.log, "ab") as file:
                file.write(rest)
            self._log_start = 0

    def logged(self, pattern: str) -> bool:
        """True if one of the last 500 lines of this run's log has a match of a regular expression."""
        return any(re.search(pattern, line) for line in self.tail(500))

    def end_left_over(self) -> None:
        """End the process of the pid file if it is still the same process, and remove the file."""
        try:
            content = json.loads(self.pid_file.read_text(encoding="utf-8"))
            pid, started = int(content["pid"]), content["started"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.pid_file.unlink(missing_ok=True)
            return
        if started is not None:
            for number, patience in ((self.stop_signal, 10.0), (signal.SIGKILL, 5.0)):
                deadline = time.monotonic() + patience
                if start_time(pid) == started:
                    os.kill(pid, number)
                    os.kill(pid, signal.SIGCONT)
                while start_time(pid) == started and time.monotonic() < deadline:
                    time.sleep(0.02)
        self.pid_file.unlink(missing_ok=True)

    def failure(self, what: str, what_to_do: str = "") -> UserError:
        """The error to raise if it ended or does not respond: a full disk, else `what` with its last messages."""
        folder = self.log.parent
        full = self.logged("No space left on device|Check free disk space")
        if full or shutil.disk_usage(folder).free < _FULL:
            return disk_full(folder)
        return UserError(what, f"Its log is {self.log}. {what_to_do}".rstrip(), self.last_messages())


def stop_all(children: Iterable[Child], timeout: float = 10.0) -> None:
    """Ask all to end at the same time; kill the rest after `timeout` seconds in total."""
    deadline = time.monotonic() + timeout
    asked = list(children)
    for child in asked:
        child.ask_to_stop()
    for child in asked:
        if child.wait(max(0.0, deadline - time.monotonic())) is None:
            child.kill()
        elif child.returncode is not None:
            child.pid_file.unlink(missing_ok=True)


class Startable(ABC):
    """An object that a `with` block starts and stops."""

    @abstractmethod
    def start(self) -> object: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class LocalServer(Startable):
    """A server that keeps its data in `folder`."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.folder = folder.absolute()
        self._report = report
        self._cancelled = threading.Event()

    @property
    @abstractmethod
    def children(self) -> list[Child]: ...

    @abstractmethod
    def answers(self, child: Child) -> bool:
        """Liveness probe: True if one of its processes answers, with whatever answer, within a few seconds."""

    @abstractmethod
    def restart(self, child: Child) -> None:
        """End one of its processes, which may be frozen, and start it again at the same address.

        Raises `UserError` if it does not start.
        """

    def stop(self) -> None:
        """Stop the server, also during a start."""
        self._cancelled.set()
        stop_all(self.children, _STOP_SECONDS)

    def cancel(self) -> None:
        """Make a start in another thread end soon."""
        self._cancelled.set()

    def _start_with_retries(self, start: Callable[[], None], *, attempts: int, pause: float, passing: str) -> None:
        """Start, and start again after a failure whose log has a match of the pattern `passing`."""
        for attempt in range(1, attempts + 1):
            try:
                return start()
            except BaseException as error:
                stop_all(self.children, _STOP_SECONDS)
                may_pass = isinstance(error, UserError) and any(child.logged(passing) for child in self.children)
                if not may_pass or attempt == attempts:
                    raise
                time.sleep(pause)
        return None


def run(child: Child, *, timeout: float, cancelled: threading.Event) -> None:
    """Run a child to its end. Raises `UserError` when it fails, takes longer than `timeout` or is cancelled; then it
    and its children are ended."""
    check(cancelled)
    child.start()
    try:
        wait_until(child, lambda: child.returncode == 0, timeout=timeout, cancelled=cancelled)
    finally:
        child.stop()


def wait_until(child: Child, is_ready: Callable[[], bool], *, timeout: float, cancelled: threading.Event) -> None:
    """Wait until `is_ready()`. Raises `UserError` when the child ends first, or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not is_ready():
        check(cancelled)
        if not child.alive and not is_ready():
            raise child.failure(f"{child.name} {child.end}.")
        if time.monotonic() > deadline:
            raise child.failure(f"{child.name} did not respond within {timeout:.0f} seconds.")
        time.sleep(0.03)


def check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise UserError("The start was interrupted.", "Start again when you like.")
