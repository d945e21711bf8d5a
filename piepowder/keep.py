"""Keeps the whole system up while a command runs, and takes it down again whatever happens.

The first interruption stops all in order; further ones are ignored until the children are gone, which is bounded (and
they would not outlive us in any case).
"""

import signal
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from deploy.local.company import refuse_company
from deploy.local.errors import StackError
from deploy.local.stack import LocalStack
from deploy.local.system import System
from piepowder import screen

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Kept:
    """A stack and the system on it: ready inside the `with` block, gone behind it, also if its start is interrupted."""

    def __init__(self, folder: Path, *, nodes: int, regions: Sequence[str]) -> None:
        self.stack = LocalStack(folder, nodes=nodes, say=screen.say)
        self.system = System(self.stack, regions, folder, say=screen.say)

    def __enter__(self) -> Self:
        try:
            self.stack.start()
        except StackError:
            raise  # it has stopped what it started
        except BaseException:
            self._stop()
            raise
        try:
            if self.stack.local_kafka is None:
                refuse_company(self.stack.kafka, self.system.regions, say=screen.say)
            self.system.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(error)

    def _stop(self, why: BaseException | None = None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # for good: stopping is the last that a command does
        screen.say(f"Stopping. {why.what}" if isinstance(why, StackError) else "Stopping")
        self.system.stop()
        self.stack.stop()
        screen.say(f"Stopped. The data stays in {self.stack.folder}.")

    def failures(self) -> list[StackError]:
        """What has ended for good though nobody asked it to."""
        return [*(failure.error for failure in self.stack.failures()), *self.system.failures()]

    def watch(self) -> None:
        """Wait until something ends for good, and raise it."""
        while not (failures := self.failures()):
            threading.Event().wait(0.3)
        raise failures[0]

    def board(self) -> RenderableType:
        """What runs where, whether it is ready, and why not."""
        board = screen.table("process", "ready", "address", "pid", "restarts", "log")
        for child in self.stack.children():
            where = self.stack.kafka if "Kafka" in child.name else self.stack.database_url.rpartition("@")[2]
            state = (
                Text("ready", "green") if where and child.alive else Text("starting" if child.alive else "down", "red")
            )
            board.add_row(child.name, state, where, str(child.pid or ""), "", screen.near(child.log))
        for service in self.system.services.values():
            state = Text("ready", "green") if service.ready else Text(service.lacking or "stopped", "red")
            restarts = str(service.restarts or "")
            log = screen.near(service.child.log)
            board.add_row(service.name, state, service.url, str(service.child.pid or ""), restarts, log)
        return board


def up(folder: Path, *, nodes: int, regions: Sequence[str]) -> None:
    """Keep the system up until interrupted, with one screen that tells what runs where.

    Raises `StackError` when something does not start, or ends for good later.
    """
    kept = Kept(folder, nodes=nodes, regions=regions)
    screened = screen.console.is_terminal
    live = Live(get_renderable=kept.board, console=screen.console, refresh_per_second=4) if screened else nullcontext()
    with live, kept:
        if not screened:
            screen.console.print(kept.board())
        screen.say(f"Ready. The key is in {folder / 'key'}. Ctrl-C stops all.", "green")
        try:
            kept.watch()
        except KeyboardInterrupt:
            return
