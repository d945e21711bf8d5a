"""Children that do not outlive their parent and are never taken for somebody else's. On Linux the kernel ends a child
when the parent dies, even by SIGKILL; since it watches the *thread* that forked, one thread that lives as long as the
process forks them all. A pid file holds the pid with the process's start time, so a later start recognises a left-over
of ours and ends it, and leaves a stranger alone who was given the same number."""

import json
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Literal

from deploy.local.errors import StackError, disk_full, expected
from deploy.local.files import write_whole

Identity = Literal["same", "userns", "nobody"]
_LAUNCH = Path(__file__).with_name("launch.py")
_FULL = 4 * 2**20
_LONGEST_LOG, _KEPT = 32 * 2**20, 8 * 2**20
_ROUTINE = re.compile(r"\b(?:TRACE|DEBUG|INFO|LOG)\b|^\s+(?:at|\.\.\.) ")  # and the frames below a Java exception
_LINUX = platform.system() == "Linux"


class _Forker:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Callable[[], subprocess.Popen[bytes]]]]
        self._jobs = queue.SimpleQueue()

    def fork(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="forker", daemon=True)
                self._thread.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((future, job))
        return future.result()

    def _run(self) -> None:
        while True:
            future, job = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who waits for it
                future.set_exception(error)


_forker = _Forker()


def start_time(pid: int) -> str | None:
    """When the process started, in the system's own notation; None when there is no such process (or a zombie)."""
    if _LINUX:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def launched(argv: Sequence[str], identity: Identity, death_signal: signal.Signals) -> list[str]:
    """The command that runs `argv` under an identity and lets it die with this process (Linux; elsewhere `argv`)."""
    if not _LINUX:
        return list(argv)
    how = [str(os.getpid()), str(int(death_signal)), identity]
    return [sys.executable, "-I", "-S", str(_LAUNCH), *how, *argv]


class Child:
    """One child process: its output appended to a bounded log, its pid file beside it, its own process group (Ctrl-C in
    the terminal reaches the parent, who stops the children in order; a signal to it reaches what it has started).

    `stop_signal` asks it to end; `death_signal` is what the kernel sends when the parent dies (Linux).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pid_file: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        identity: Identity = "same",
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.env = None if env is None else dict(env)
        self.cwd = cwd
        self.pid_file = pid_file or log.with_suffix(".pid")
        self.stop_signal = stop_signal
        self.death_signal = death_signal
        self.identity = identity
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._ended_by_us = False

    def start(self) -> None:
        """Start it, after ending what an earlier parent left over. Raises `StackError` when that cannot be done."""
        if self.alive:
            return
        with expected(self.log.parent):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.end_left_over()
            self.bound_log()
            with self.log.open("ab") as output:
                self._log_start = output.tell()
                self._process = _forker.fork(
                    lambda: subprocess.Popen(
                        launched(self.argv, self.identity, self.death_signal),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=self.env,
                        cwd=self.cwd,
                        process_group=0,
                    )
                )
            self._ended_by_us = False
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
    def failed(self) -> bool:
        """It was started, has ended, and nobody here asked it to."""
        return self._process is not None and not self._ended_by_us and self._process.poll() is not None

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.returncode
        if code is None or code >= 0:
            return f"ended with code {code}"
        hint = ", for want of memory if nobody did it" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}"

    def wait(self, timeout: float) -> int | None:
        """The return code; None when it still runs after `timeout` seconds, or, told to end, its own children do."""
        if self._process is None:
            return None
        deadline = time.monotonic() + timeout
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        while self._left_something:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return code

    @property
    def _left_something(self) -> bool:
        """Whether what it had started still runs. Asked of a child that ran until we ended it: so its number has been
        its group's all the time, and is nobody else's while one of the group runs."""
        if self._process is None or not self._ended_by_us:
            return False
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):  # the latter from macOS, of a group that has ended
            return False
        return True

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end; after `timeout` seconds make it."""
        stop_all([self], timeout)

    def ask_to_stop(self) -> None:
        self._ended_by_us = self._ended_by_us or self.alive
        self._send(self.stop_signal)
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._ended_by_us = self._ended_by_us or self.alive
        self._send(signal.SIGKILL)
        if self.wait(10.0) is not None:
            self.pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        """To it and to what it has started."""
        if self._process is not None and (self._process.poll() is None or self._left_something):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def tail(self, n: int = 20) -> list[str]:
        """The last `n` lines that this run wrote to the log."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - 65_536))
                return file.read().decode("utf-8", errors="replace").splitlines()[-n:]
        except OSError:
            return []

    def last_words(self, n: int = 5) -> list[str]:
        """What this run wrote last that was no routine: warnings and worse; where nothing was, its very last lines."""
        lines = self.tail()
        return [line for line in lines if not _ROUTINE.search(line)][-n:] or lines[-2:]

    def bound_log(self) -> None:
        """Drop the older part of a log that has grown too long; whoever writes to it appends, and so goes on behind."""
        with expected(self.log.parent):
            if not self.log.exists() or self.log.stat().st_size <= _LONGEST_LOG:
                return
            with self.log.open("r+b") as file:
                file.seek(-_KEPT, os.SEEK_END)
                _, _, rest = file.read().partition(b"\n")
                file.truncate(0)
            with self.log.open("ab") as file:
                file.write(rest)
            self._log_start = 0

    def said(self, words: str) -> bool:
        """Whether the end of this run's log holds these words."""
        return any(words in line for line in self.tail(500))

    def end_left_over(self) -> None:
        """End the process named by the pid file if it is still the one that we started; forget the file."""
        try:
            noted = json.loads(self.pid_file.read_text(encoding="utf-8"))
            pid, started = int(noted["pid"]), noted["started"]
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

    def failure(self, what: str, what_to_do: str = "") -> StackError:
        """What to raise when it has ended or does not answer: the reason if the log names one, else its last words."""
        folder = self.log.parent
        full = ("No space left on device", "Check free disk space")
        if any(self.said(words) for words in full) or shutil.disk_usage(folder).free < _FULL:
            return disk_full(folder)
        return StackError(what, f"Its log is {self.log}. {what_to_do}".rstrip(), self.last_words())

    def death(self) -> StackError:
        """What to raise when it has ended though nobody asked it to."""
        return self.failure(f"{self.name} {self.end}.", "Its data is kept: mend the cause, and start all again.")


def stop_all(children: Iterable[Child], timeout: float = 10.0) -> None:
    """Ask all to end at once; after `timeout` seconds in total make those that have not."""
    deadline = time.monotonic() + timeout
    asked = list(children)
    for child in asked:
        child.ask_to_stop()
    for child in asked:
        if child.wait(max(0.0, deadline - time.monotonic())) is None:
            child.kill()
        elif child.returncode is not None:
            child.pid_file.unlink(missing_ok=True)


def run(child: Child, *, timeout: float, cancelled: threading.Event) -> None:
    """Run a child to its end. Raises `StackError` when it fails, takes longer than `timeout` or is cancelled; then it
    and what it has started are ended."""
    check(cancelled)
    child.start()
    try:
        wait_until(child, lambda: child.returncode == 0, timeout=timeout, cancelled=cancelled)
    finally:
        child.stop()


def wait_until(child: Child, answers: Callable[[], bool], *, timeout: float, cancelled: threading.Event) -> None:
    """Wait until `answers()`. Raises `StackError` when the child ends before, or `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    while not answers():
        check(cancelled)
        if not child.alive and not answers():
            raise child.failure(f"{child.name} {child.end}.")
        if time.monotonic() > deadline:
            raise child.failure(f"{child.name} did not answer within {timeout:.0f} seconds.")
        time.sleep(0.03)


def check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise StackError("The start was interrupted.", "Start again when you like.")
