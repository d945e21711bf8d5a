"""`piepowder request`: a request from a file to its approval, with readable results."""

import functools
from pathlib import Path

import httpx
import msgspec
import pytest
from typer.testing import CliRunner, Result

from piepowder import cli, console_output
from piepowder.client import Api, ApiError
from piepowder.commands import options
from shared.runtime.errors import Transient
from tests.support.intake_requests import POLICY_SET, RequestService

DRAFT = """
title: Look at lamps
kind: policy_change
sponsor: moderation-lead
regions: [eu]
expected_date: 2026-06-01
rationale: They are too cheap.
"""


class RequestCommand:
    """The command on intake's REST in memory, with a key file for each person."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.service = RequestService()
        self.service.connect_database()
        self.folder = folder
        for name, key in self.service.keys.items():
            (folder / f"{name}.key").write_text(key + "\n")
        (folder / "policies.yaml").write_bytes(msgspec.yaml.encode(POLICY_SET))
        (folder / "draft.yaml").write_text(DRAFT)
        transport = httpx.ASGITransport(self.service.app)
        monkeypatch.setattr(options, "Api", functools.partial(Api, transport=transport, patience=0.0))
        monkeypatch.setenv("PIEPOWDER_INTAKE_URL", "http://intake")

    def run(self, *words: str, by: str = "author") -> Result:
        arguments = [*words, "--key-file", str(self.folder / f"{by}.key")]
        return CliRunner().invoke(cli.app, ["request", *arguments], catch_exceptions=True)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RequestCommand:
    monkeypatch.setattr("piepowder.console_output.console.width", 300)
    return RequestCommand(tmp_path, monkeypatch)


def shown(command: RequestCommand, *words: str, by: str = "author") -> str:
    """The output of the command."""
    with console_output.console.capture() as captured:
        result = command.run(*words, by=by)
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


def test_a_request_from_a_file_can_be_submitted_approved_and_commented(command: RequestCommand) -> None:
    files = ("--file", str(command.folder / "draft.yaml"), "--policies", str(command.folder / "policies.yaml"))
    created = shown(command, "new", *files, "--title", "Look at all lamps")
    request_id = created.partition(":")[0]
    assert "draft, version 1" in created
    assert "would change:\n  policies/a: added" in created
    assert "submitted, 0 of 2 approvals" in shown(command, "submit", request_id)
    assert "submitted, 1 of 2 approvals" in shown(command, "approve", request_id, "--reason", "fine", by="lead-a")
    assert "approved, version 4" in shown(command, "approve", request_id, by="lead-b")
    assert "Added, as version 5" in shown(command, "comment", request_id, "At last.")
    whole = shown(command, "show", request_id)
    for words in ("Look at all lamps", "2026-06-01", "lead-a, lead-b", "fine", "At last.", "They are too cheap."):
        assert words in whole
    listed = shown(command, "list", "--state", "approved")
    assert request_id in listed
    assert request_id not in shown(command, "list", "--kind", "capacity")


def test_a_repeated_command_with_the_same_idempotency_key_creates_no_second_request(command: RequestCommand) -> None:
    def made(*words: str) -> str:
        files = ("--file", str(command.folder / "draft.yaml"))
        return shown(command, "new", *files, *words).partition(":")[0]

    assert made("--key", "mine") == made("--key", "mine")
    assert made() != made("--title", "Other")


def test_a_change_applies_to_the_current_version_of_a_draft(command: RequestCommand) -> None:
    request_id = shown(command, "new", "--file", str(command.folder / "draft.yaml")).partition(":")[0]
    assert "version 2" in shown(command, "change", request_id, "--title", "Better")
    assert "version 3" in shown(command, "change", request_id, "--policies", str(command.folder / "policies.yaml"))
    assert "Better" in shown(command, "show", request_id)


def test_without_the_router_the_draft_is_reported_as_unchecked(command: RequestCommand) -> None:
    command.service.router.error = Transient("The router does not answer.")
    files = ("--file", str(command.folder / "draft.yaml"), "--policies", str(command.folder / "policies.yaml"))
    assert "not checked yet: The router does not answer." in shown(command, "new", *files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("new", "--title", "x"), "--kind: is required"),
        (("show", "x"), "No business request"),
        (("approve", "0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10"), "no business request"),
    ],
)
def test_a_refused_call_is_reported_as_a_sentence(
    command: RequestCommand, words: tuple[str, ...], message: str
) -> None:
    result = command.run(*words)
    assert isinstance(result.exception, ApiError)
    assert message in str(result.exception)


def test_a_file_without_a_yaml_mapping_is_refused(command: RequestCommand) -> None:
    (command.folder / "list.yaml").write_text("[1, 2]")
    result = command.run("new", "--file", str(command.folder / "list.yaml"))
    assert result.exit_code == 2
    assert "expected a YAML mapping" in result.output


def test_a_fault_names_the_option_or_the_place_in_the_file(command: RequestCommand) -> None:
    draft = command.folder / "draft.yaml"

    def fault(*words: str) -> str:
        result = command.run("new", *words)
        assert isinstance(result.exception, ApiError), result.output
        return str(result.exception)

    assert "--kind: " in fault("--title", "x", "--kind", "no_kind", "--region", "eu")
    assert fault("--file", str(draft), "--kind", "no_kind").startswith("--kind: ")
    assert fault("--file", str(draft), "--region", "nowhere").startswith("--region: ")
    policies = command.folder / "policies.yaml"
    policies.write_bytes(msgspec.yaml.encode({**POLICY_SET, "policies": 7}))
    assert fault("--file", str(draft), "--policies", str(policies)).startswith("--policies policies: ")
    draft.write_text(DRAFT.replace("policy_change", "no_kind"))
    assert fault("--file", str(draft)).startswith(f"kind in {draft}: ")
