"""A long operation shows one line on a terminal and few lines elsewhere; a short one shows nothing."""

import io

import pytest
from rich.console import Console

from piepowder.progress import LINE_SECONDS, SILENT_SECONDS, counting


class Time:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=100, color_system=None, markup=False), output


def test_on_a_pipe_a_line_appears_every_five_seconds_and_not_for_each_step() -> None:
    pipe, output = console(terminal=False)
    time = Time()
    with counting("Kafka", "jars", total=46, terminal=pipe, plain=pipe, now=time) as count:
        for done in range(1, 47):
            time.seconds += 0.25
            count(done)
    assert output.getvalue().splitlines() == ["Kafka: 20 of 46 jars", "Kafka: 40 of 46 jars"]


def test_a_terminal_has_one_line_that_is_updated_and_removed() -> None:
    screen, output = console(terminal=True)
    time = Time()
    with counting("Kafka", "jars", total=46, terminal=screen, plain=screen, now=time) as count:
        time.seconds += SILENT_SECONDS
        for done in range(1, 47):
            count(done, None, "1 again")
    shown = output.getvalue()
    assert "46 of 46 jars, 1 again" in shown
    assert shown.count("\n") <= 1, "one line"
    assert shown.endswith("\x1b[2K"), "the line is erased"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_short_operation_shows_nothing(*, terminal: bool) -> None:
    place, output = console(terminal=terminal)
    with counting("Reading", "records", terminal=place, plain=place, now=Time()) as count:
        for done in range(1000):
            count(done)
    assert output.getvalue() == ""


def test_an_unknown_total_is_left_out_and_a_later_one_is_used() -> None:
    pipe, output = console(terminal=False)
    time = Time()
    with counting("Reading", "records", terminal=pipe, plain=pipe, now=time) as count:
        time.seconds += LINE_SECONDS
        count(1200)
        time.seconds += LINE_SECONDS
        count(1300, 1500, "2 refused")
    assert output.getvalue().splitlines() == ["Reading: 1,200 records", "Reading: 1,300 of 1,500 records, 2 refused"]


def test_an_interrupted_operation_removes_its_line() -> None:
    screen, output = console(terminal=True)
    time = Time()

    def interrupted() -> None:
        with counting("Reading", "records", terminal=screen, plain=screen, now=time) as count:
            time.seconds += SILENT_SECONDS
            count(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert output.getvalue().endswith("\x1b[2K")
