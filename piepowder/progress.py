"""Progress of a long operation. A short one shows nothing.

On a terminal: one line with a bar and a counter, updated in place and removed at the end. Elsewhere (a pipe, CI): a
plain line every few seconds, on standard error, so that it does not mix with results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from piepowder import console_output
from shared.runtime.clock import SystemClock

SILENT_SECONDS: Final = 1.0
LINE_SECONDS: Final = 5.0
_clock = SystemClock()


class ProgressReport(Protocol):
    """Reports that `done` units are done, of a total if it has become known, with a note such as "3 refused"."""

    def __call__(self, done: int, of: int | None = None, note: str = "", /) -> None: ...


@contextmanager
def counting(
    title: str,
    unit: str,
    *,
    total: int | None = None,
    terminal: Console = console_output.console,
    plain: Console = console_output.errors,
    now: Callable[[], float] = _clock.monotonic,
) -> Iterator[ProgressReport]:
    """Show the progress of the operation inside the `with` block: `title: 3 of 46 unit`."""
    shown: _Bar | _Lines = _Bar(title, unit, terminal, now) if terminal.is_terminal else _Lines(title, unit, plain, now)

    def count(done: int, of: int | None = None, note: str = "", /) -> None:
        shown.update(done, total if of is None else of, note)

    try:
        yield count
    finally:
        shown.close()


def _counter(done: int, total: int | None, unit: str, note: str) -> str:
    counter = f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"
    return f"{counter}, {note}" if note else counter


class _Bar:
    """A line with a bar that appears after `SILENT_SECONDS`."""

    def __init__(self, title: str, unit: str, console: Console, now: Callable[[], float]) -> None:
        self._title = title
        self._unit = unit
        self._now = now
        self._since = now()
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task: TaskID | None = None

    def update(self, done: int, total: int | None, note: str) -> None:
        if self._task is None:
            if self._now() - self._since < SILENT_SECONDS:
                return
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total, text="")
        text = _counter(done, total, self._unit, note)
        self._progress.update(self._task, completed=done, total=total, text=text)

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()


class _Lines:
    """Plain lines, one every `LINE_SECONDS`."""

    def __init__(self, title: str, unit: str, console: Console, now: Callable[[], float]) -> None:
        self._title = title
        self._unit = unit
        self._console = console
        self._now = now
        self._last = now()

    def update(self, done: int, total: int | None, note: str) -> None:
        if self._now() - self._last >= LINE_SECONDS:
            self._last = self._now()
            line = f"{self._title}: {_counter(done, total, self._unit, note)}"
            self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Nothing to remove."""
