"""The table of commands is complete, and the help loads no command."""

import importlib
import pkgutil
import subprocess
import sys
from importlib import metadata

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


HEAVY = {
    *("aiokafka", "asyncio", "asyncpg", "deploy", "fastapi", "google", "httpx", "langcodes", "msgspec"),
    *("prometheus_client", "pycountry", "pydantic", "rich", "sqlalchemy", "yaml"),
}


def output_without_heavy_modules(argument: str) -> str:
    """The output of the command with one argument; fails if it imports a module that takes long."""
    code = (
        "import atexit, sys; from piepowder.__main__ import main;"
        f"atexit.register(lambda: print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr));"
        f"sys.argv[1:] = [{argument!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n"), done.stdout + done.stderr
    return done.stdout


def test_the_help_loads_no_command() -> None:
    shown = output_without_heavy_modules("--help")
    assert all(name in shown for name in COMMANDS)


def test_the_version_is_shown_without_a_command() -> None:
    assert output_without_heavy_modules("--version") == f"piepowder {metadata.version('piepowder')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unknown"],
        ["unknown"],
        ["submit"],
        ["submit", "absent.csv"],
        ["submit", __file__, "--currency", "EURO"],
        ["submit", __file__, "--market", "XX"],
        ["submit", __file__, "--delimiter", "ab"],
        ["run", "--nodes", "7"],
        ["run", "--nodes", "2"],
        ["run", "--count"],
        ["up", "--regions", "EU!"],
        ["stopped", "dead-letter", "--topic", "x"],
        ["positions", "accept-loss", "g", "t", "x", "1", "2"],
        ["clients", "create", "shop", "--burst", "3"],
        ["control", "publish"],
        ["timeline"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(__file__, "FILE"),
)
def test_a_usage_error_ends_with_a_full_stop(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="piepowder")
    assert result.exit_code == 2, result.output
    [error] = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.output.rstrip().endswith("."), result.output
    assert not error.endswith("..")
