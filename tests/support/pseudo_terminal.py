"""A program in a pseudo-terminal: its output as text, and a person's keys."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

_CONTROLS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][AB0]|\x1b[=>78]|\r")
_START: Final = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class PseudoTerminal:
    """Runs a program on a terminal of 50 lines and 150 columns; ends it on exit."""

    def __init__(self, command: Sequence[str], *, cwd: str, env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._raw = b""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)
        if error is not None:
            print(self.text[-4000:])

    @property
    def text(self) -> str:
        """The whole output, without control sequences."""
        return _CONTROLS.sub("", self._raw.decode(errors="replace"))

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def expect(self, text: str, seconds: float = 60) -> str:
        """Wait until new output contains `text`; returns the output since the last expected one."""
        deadline = time.monotonic() + seconds
        while (at := self.text.find(text, self._seen)) < 0:
            assert self._read(deadline), f"{text!r} did not appear after: {self.text[self._seen :][-2000:]}"
        found = self.text[self._seen : at + len(text)]
        self._seen = at + len(text)
        return found

    def wait(self, seconds: float = 60) -> int:
        """Wait for the end of the program; returns its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Read more output; False at its end, and after the deadline."""
        readable, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return False
        try:
            more = os.read(self._master, 65_536)
        except OSError:  # the program has ended
            return False
        self._raw += more
        return bool(more)
