"""The table of commands is complete, and the help loads no command."""

import importlib
import pkgutil
import subprocess
import sys

import pytest
from typer.main import get_group
from typer.testing import CliRunner

from piepowder import commands
from piepowder.cli import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_of_the_table_has_a_help_text(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"], prog_name="piepowder")
    assert result.exit_code == 0
    assert f"Usage: piepowder {name}" in result.output


def test_each_command_of_each_noun_is_in_the_table() -> None:
    found = set()
    for module in pkgutil.iter_modules(commands.__path__):
        noun = getattr(importlib.import_module(f"piepowder.commands.{module.name}"), "app", None)
        if noun is not None:
            names = [noun.info.name] if noun.info.name else list(get_group(noun).commands)
            found |= {(name, module.name) for name in names}
    assert found == {(name, module) for name, (module, _) in COMMANDS.items()}


def test_the_help_loads_no_command() -> None:
    code = (
        "import sys; from piepowder.cli import app; app(['--help'], standalone_mode=False);"
        "sys.exit(bool({'httpx', 'aiokafka', 'pycountry', 'deploy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in COMMANDS)
