"""Lines of a person: only a line with its Enter counts, and Esc cancels at once."""

import asyncio
import io
import sys
import termios

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from piepowder import line_input
from piepowder.line_input import ESC, StreamInput, TerminalInput


async def test_the_rest_of_an_input_without_enter_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\n b \r\n\x1b\nr"))
    lines = StreamInput()
    assert [await lines.ask("> ") for _ in range(7)] == ["a", "", " b ", ESC, None, None, None]
    lines.discard_typed()


async def test_a_closed_input_is_the_end_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    assert await StreamInput().ask("> ") is None


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ("a\r", ["a"]),
        ("a\n", ["a"]),
        ("ab\x7f\r", ["a"]),
        ("\r", [""]),
        ("\x1b[Aa\r", ["a"]),  # an arrow key is no Esc
        ("\x1ba\r", [""]),  # Alt with a key neither cancels nor answers
        ("\x1bz\r", [""]),
        ("il y est\x1b\x7f\r", ["il y "]),  # Alt+Backspace deletes a word
        ("un mot\x1bb!\r", ["un !mot"]),  # Alt+B goes back a word
        ("a\x1b[97u\r", ["a97u"]),  # an unknown sequence is no Esc
        ("\x1b[200~a\r\nb\x1b[201~\r", ["a\nb"]),  # Enter in a pasted text ends no line
        ("ä💥\r", ["ä💥"]),
        ("\x04", [None]),
        ("a\rb\r", ["a", "b"]),
    ],
)
async def test_keys_become_lines(keys: str, lines: list[str | None]) -> None:
    with create_pipe_input() as keyboard:
        terminal = TerminalInput(keyboard, DummyOutput())
        keyboard.send_text(keys)
        assert [await terminal.ask("> ") for _ in lines] == lines


async def test_esc_ends_a_prompt_at_once_whatever_was_typed() -> None:
    for typed in ("", "a", "FAKE"):
        with create_pipe_input() as keyboard:
            keyboard.send_text(f"{typed}{ESC}")
            assert await TerminalInput(keyboard, DummyOutput()).ask("> ") == ESC


async def test_an_earlier_line_does_not_come_back_by_a_key() -> None:
    with create_pipe_input() as keyboard:
        terminal = TerminalInput(keyboard, DummyOutput())
        keyboard.send_text("y\r")
        assert await terminal.ask("> ") == "y"
        for key in ("\x1b[A", "\x10", "\x1b[B", "\x0e", "\x1b[A\x1b[A"):
            keyboard.send_text(f"{key}\r")
            assert await terminal.ask("> ") == "", repr(key)


async def test_ctrl_c_interrupts() -> None:
    with create_pipe_input() as keyboard:
        keyboard.send_text("a\x03")
        with pytest.raises(KeyboardInterrupt):
            await TerminalInput(keyboard, DummyOutput()).ask("> ")


async def test_keys_that_were_typed_ahead_are_forgotten_on_demand() -> None:
    with create_pipe_input() as keyboard:
        terminal = TerminalInput(keyboard, DummyOutput())
        keyboard.send_text("a\rb\r")
        assert await terminal.ask("> ") == "a"
        terminal.discard_typed()
        keyboard.send_text("c\r")
        assert await terminal.ask("> ") == "c"


@pytest.mark.parametrize("term", ["dumb", "", "unknown", None])
async def test_a_terminal_without_abilities_and_a_pipe_are_read_by_lines(
    term: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    assert isinstance(line_input.line_input(), StreamInput)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert isinstance(line_input.line_input(), StreamInput)
    await asyncio.sleep(0)


async def test_keys_that_the_terminal_still_holds_are_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 7

    flushed: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(termios, "tcflush", lambda *call: flushed.append(call))
    with create_pipe_input() as keyboard:
        TerminalInput(keyboard, DummyOutput()).discard_typed()
    StreamInput().discard_typed()
    assert flushed == [(7, termios.TCIFLUSH)] * 2
