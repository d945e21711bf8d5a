"""Runs the whole system while a command needs it, and stops it in every case.

The first interruption stops everything in order; later ones are ignored until the children have ended, within a
limited time (and they end with their parent in any case).
"""

import signal
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, Self

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from deploy.local.group_guard import refuse_second_system
from deploy.local.stack import LocalStack
from deploy.local.system import System
from piepowder import console_output
from piepowder.hints import command
from shared.runtime.user_errors import UserError

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunningSystem:
    """A stack and the system on it: ready inside the `with` block, stopped after it, also when its start is
    interrupted. With `stay`, services that are not ready in time keep running (`System.start`)."""

    def __init__(self, folder: Path, *, nodes: int, regions: Sequence[str], stay: bool = False) -> None:
        self._stay = stay
        self.stack = LocalStack(folder, nodes=nodes, report=console_output.show)
        self.system = System(self.stack, regions, folder, report=console_output.show)

    def __enter__(self) -> Self:
        try:
            self.stack.start()
        except UserError:
            raise  # the stack has stopped its servers
        except BaseException:
            self._stop()
            raise
        try:
            if self.stack.local_kafka is None:
                refuse_second_system(self.stack.kafka, self.system.regions, report=console_output.show)
            self.system.start(stay=self._stay)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._stop(error)

    def _stop(self, reason: BaseException | None = None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # not restored: the stop is the command's last action
        console_output.show(f"Stopping. {reason.what}" if isinstance(reason, UserError) else "Stopping")
        self.system.stop()
        self.stack.stop()
        console_output.show(f"Stopped. The data stays in {self.stack.folder}.")

    @property
    def ready(self) -> bool:
        """True if every service is ready."""
        return all(service.ready for service in self.system.services.values())

    def failures(self) -> list[UserError]:
        """The processes that ended for good without being stopped."""
        return [*self.stack.failures(), *self.system.failures()]

    def watch(self) -> None:
        """Wait until a process ends for good, and raise its failure."""
        while not (failures := self.failures()):
            threading.Event().wait(0.3)
        raise failures[0]

    def table(self) -> RenderableType:
        """The processes: addresses, and whether each is ready."""
        table = console_output.table("process", "ready", "address", "pid", "restarts", "log")
        for child in self.stack.children():
            address = self.stack.kafka if "Kafka" in child.name else self.stack.database_url.rpartition("@")[2]
            silent = child.name in self.stack.silent
            ready = Text("ready", "green") if address and child.alive and not silent else None
            state = ready or Text("does not respond" if silent else "starting" if child.alive else "down", "red")
            table.add_row(child.name, state, address, str(child.pid or ""), "", console_output.relative(child.log))
        for service in self.system.services.values():
            state = Text("ready", "green") if service.ready else Text(service.missing or "stopped", "red")
            restarts = str(service.restarts or "")
            log = console_output.relative(service.child.log)
            table.add_row(service.name, state, service.url, str(service.child.pid or ""), restarts, log)
        return table

    def live_table(self) -> AbstractContextManager[object]:
        """The table, updated in place; without a terminal, one line."""
        if console_output.console.is_terminal:
            return Live(get_renderable=self.table, console=console_output.console, refresh_per_second=4)
        console_output.show("Starting Kafka, PostgreSQL and the services")
        return nullcontext()


def advice(arguments: str, folder: Path) -> str:
    """A command line to run in another terminal, for the system in `folder`."""
    option = "" if folder == Path(".piepowder") else f" --folder {folder}"
    return console_output.relative(command(f"{arguments}{option}"))


def up(folder: Path, *, nodes: int, regions: Sequence[str]) -> None:
    """Run the system until interrupted, with a live table of its processes, also while services wait for an operator.

    Raises `UserError` when a process does not start, or ends for good later.
    """
    running = RunningSystem(folder, nodes=nodes, regions=regions, stay=True)
    with running.live_table(), running:
        if not console_output.console.is_terminal:
            console_output.console.print(running.table())
        state, colour = ("Ready", "green") if running.ready else ("Not ready yet", "yellow")
        console_output.show(f"{state}. The key is in {folder / 'key'}. Ctrl-C stops all.", colour)
        console_output.show(f'For curl in another terminal: eval "$({advice("env", folder)})"')
        try:
            running.watch()
        except KeyboardInterrupt:
            return
