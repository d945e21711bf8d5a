"""Lines that a person enters at a prompt.

A line counts only with its Enter: the rest of an input that ends is no line. On a terminal, prompt_toolkit reads the
keys: Esc ends a prompt at once, Ctrl-D is the end of the input, Ctrl-C interrupts. Without these abilities (a pipe, a
terminal of type `dumb`), whole lines are read in another thread; there Esc counts with its Enter. Both leave the event
loop free, so leases are extended meanwhile.
"""

import asyncio
import os
import sys
import termios
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from rich.text import Text

from piepowder import console_output

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

ESC: Final = "\x1b"
_ESC_SECONDS: Final = 0.1  # arrow keys and Alt with a key begin with Esc, too; their other bytes follow at once


class LineInput(Protocol):
    """Reads a person's lines."""

    async def ask(self, prompt: str) -> str | None:
        """The next line without its end, "\\x1b" for Esc; None at the end of the input. Raises KeyboardInterrupt."""
        ...

    def discard_typed(self) -> None:
        """Forget keys that were pressed before now: nobody can have meant them for the next prompt."""
        ...


def line_input() -> LineInput:
    """The best input for the process's terminal or pipe."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown"):
        return TerminalInput()
    return StreamInput()


class StreamInput:
    """Lines of standard input, read in another thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    async def ask(self, prompt: str) -> str | None:
        """See `LineInput`."""
        console_output.console.print(Text(prompt, style="bold"), end="")
        threading.Thread(target=self._read, daemon=True).start()
        line = await self._lines.get()
        return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else None

    def _read(self) -> None:
        try:
            line = sys.stdin.readline()
        except (OSError, ValueError):  # the terminal is gone, or standard input is closed
            line = ""
        with suppress(RuntimeError):  # the command has ended meanwhile
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    def discard_typed(self) -> None:
        """See `LineInput`. The lines of a pipe are an answer to each prompt in turn, so they are kept."""
        _discard_typed()


class TerminalInput:
    """Lines of a terminal, read by prompt_toolkit without a history: an earlier line must not come back by one key."""

    def __init__(self, keyboard: "Input | None" = None, screen: "Output | None" = None) -> None:
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - other commands must start fast
        from prompt_toolkit.history import DummyHistory  # noqa: PLC0415 - the same
        from prompt_toolkit.input import create_input  # noqa: PLC0415 - the same
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent  # noqa: PLC0415 - the same
        from prompt_toolkit.keys import Keys  # noqa: PLC0415 - the same
        from prompt_toolkit.output import create_output  # noqa: PLC0415 - the same

        keys = KeyBindings()

        @keys.add("escape")
        def _(event: KeyPressEvent) -> None:
            event.app.exit(result=ESC)

        @keys.add("escape", Keys.Any)
        def _(_event: KeyPressEvent) -> None:
            """Ignore Alt with a key that edits nothing: it is no cancellation, and the key is no answer."""

        os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # a terminal without the answer would be waited for
        self._input = keyboard or create_input(sys.stdin)
        self._session: PromptSession[str] = PromptSession(
            input=self._input, output=screen or create_output(sys.stdout), history=DummyHistory(), key_bindings=keys
        )
        self._session.app.ttimeoutlen = self._session.app.timeoutlen = _ESC_SECONDS

    async def ask(self, prompt: str) -> str | None:
        """See `LineInput`."""
        from prompt_toolkit.formatted_text import FormattedText  # noqa: PLC0415 - the same
        from prompt_toolkit.patch_stdout import patch_stdout  # noqa: PLC0415 - the same

        try:
            with patch_stdout(raw=True):  # a message that is shown meanwhile appears above the prompt
                return await self._session.prompt_async(FormattedText([("bold", prompt)]))
        except EOFError:
            return None

    def discard_typed(self) -> None:
        """See `LineInput`."""
        from prompt_toolkit.input.typeahead import clear_typeahead  # noqa: PLC0415 - the same

        clear_typeahead(self._input)
        _discard_typed()


def _discard_typed() -> None:
    if sys.stdin.isatty():
        with suppress(termios.error):
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
