"""`piepowder control`: the result of a publication, with the slow conditions of the policy set."""

from functools import partial
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from piepowder import cli, console_output
from piepowder.client import Api
from piepowder.commands import options


def test_a_publication_shows_what_is_in_force_and_which_conditions_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {
        "operating_model": None,
        "policy_set": {"id": "ps-2-5f4e3d2c1b0a", "number": 2, "changed": True},
        "slow_conditions": [{"condition": "weapons/1", "reason": "`trim`"}],
    }
    monkeypatch.setenv("PIEPOWDER_ROUTER_URL", "http://router")
    monkeypatch.setenv("PIEPOWDER_KEY", "key")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=published))
    monkeypatch.setattr(options, "Api", partial(Api, transport=transport))
    policies = tmp_path / "policies.yaml"
    policies.write_text("{}")
    with console_output.console.capture() as captured:
        result = CliRunner().invoke(cli.app, ["control", "publish", "--policies", str(policies)])
    assert result.exit_code == 0, (result.output, result.exception)
    assert captured.get().splitlines() == [
        "policy set 2 (ps-2-5f4e3d2c1b0a): now in force",
        "slow condition weapons/1: `trim`",
    ]
