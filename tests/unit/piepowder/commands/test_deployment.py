"""`piepowder status` and `env` name the action to take when no local stack runs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from piepowder.cli import app
from shared.runtime.user_errors import UserError


@pytest.mark.parametrize("command", ["status", "env"])
def test_without_a_running_stack_the_command_says_how_to_start_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIEPOWDER_PROFILE", "PIEPOWDER_INTAKE_URL", "PIEPOWDER_KEY"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, [command, "--folder", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert f"No local stack runs with its data in {tmp_path}" in str(result.exception)
    assert "make run" in str(result.exception)
    assert result.output == "", "no empty tables"
