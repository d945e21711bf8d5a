"""A hint names a command that runs as it is printed, whether or not `piepowder` is on the PATH."""

import sys
from pathlib import Path

import pytest

from piepowder.hints import command, runnable

SCRIPT = str(Path(sys.executable).with_name("piepowder"))
HINT = "the topic t does not exist: create it with `piepowder topics`"


def test_a_command_on_the_path_is_named_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: SCRIPT)
    assert command("up --folder x") == "piepowder up --folder x"
    assert runnable(HINT) == HINT


@pytest.mark.parametrize("found", [None, "/usr/bin/piepowder"])
def test_a_command_that_is_not_on_the_path_is_named_with_its_folder(
    monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: found)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert runnable(HINT) == f"the topic t does not exist: create it with `{SCRIPT} topics`"


def test_without_a_script_the_module_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert command("topics") == f"{sys.executable} -m piepowder topics"
