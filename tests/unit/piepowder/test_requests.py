"""`piepowder request`: from a file to a decision, each result a readable line."""

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
from tests.support.intake_requests import POLICY_SET, House

DRAFT = """
title: Look at lamps
kind: policy_change
sponsor: moderation-lead
regions: [eu]
expected_date: 2026-06-01
rationale: They are too cheap.
"""


class Office:
    """The command on intake's REST in memory, with a key file for each person."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = House()
        self.house.open()
        self.folder = folder
        for name, key in self.house.keys.items():
            (folder / f"{name}.key").write_text(key + "\n")
        (folder / "policies.yaml").write_bytes(msgspec.yaml.encode(POLICY_SET))
        (folder / "draft.yaml").write_text(DRAFT)
        transport = httpx.ASGITransport(self.house.app)
        monkeypatch.setattr(options, "Api", functools.partial(Api, transport=transport, patience=0.0))
        monkeypatch.setenv("PIEPOWDER_INTAKE_URL", "http://intake")

    def run(self, *words: str, by: str = "author") -> Result:
        arguments = [*words, "--key-file", str(self.folder / f"{by}.key")]
        return CliRunner().invoke(cli.app, ["request", *arguments], catch_exceptions=True)


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr("piepowder.console_output.console.width", 300)
    return Office(tmp_path, monkeypatch)


def shown(office: Office, *words: str, by: str = "author") -> str:
    """The output of the command."""
    with console_output.console.capture() as captured:
        result = office.run(*words, by=by)
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


def test_from_a_file_to_a_decision(office: Office) -> None:
    files = ("--file", str(office.folder / "draft.yaml"), "--policies", str(office.folder / "policies.yaml"))
    told = shown(office, "new", *files, "--title", "Look at all lamps")
    request_id = told.partition(":")[0]
    assert "draft, version 1" in told
    assert "would change:\n  policies/a: added" in told
    assert "submitted, 0 of 2 approvals" in shown(office, "submit", request_id)
    assert "submitted, 1 of 2 approvals" in shown(office, "approve", request_id, "--reason", "fine", by="lead-a")
    assert "approved, version 4" in shown(office, "approve", request_id, by="lead-b")
    assert "Added, as version 5" in shown(office, "comment", request_id, "At last.")
    whole = shown(office, "show", request_id)
    for words in ("Look at all lamps", "2026-06-01", "lead-a, lead-b", "fine", "At last.", "They are too cheap."):
        assert words in whole
    listed = shown(office, "list", "--state", "approved")
    assert request_id in listed
    assert request_id not in shown(office, "list", "--kind", "capacity")


def test_a_repeated_new_request_with_the_same_key_creates_no_second(office: Office) -> None:
    def made(*words: str) -> str:
        files = ("--file", str(office.folder / "draft.yaml"))
        return shown(office, "new", *files, *words).partition(":")[0]

    assert made("--key", "mine") == made("--key", "mine")
    assert made() != made("--title", "Other")


def test_a_change_applies_to_the_current_version_of_a_draft(office: Office) -> None:
    request_id = shown(office, "new", "--file", str(office.folder / "draft.yaml")).partition(":")[0]
    assert "version 2" in shown(office, "change", request_id, "--title", "Better")
    assert "version 3" in shown(office, "change", request_id, "--policies", str(office.folder / "policies.yaml"))
    assert "Better" in shown(office, "show", request_id)


def test_without_the_router_the_draft_is_reported_as_unchecked(office: Office) -> None:
    office.house.router.error = Transient("The router does not answer.")
    files = ("--file", str(office.folder / "draft.yaml"), "--policies", str(office.folder / "policies.yaml"))
    assert "not checked yet: The router does not answer." in shown(office, "new", *files)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "--title", "x"), "/kind: is required"),
        (("show", "x"), "No business request"),
        (("approve", "0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10"), "no business request"),
    ],
)
def test_a_refused_call_is_reported_as_a_sentence(office: Office, words: tuple[str, ...], said: str) -> None:
    result = office.run(*words)
    assert isinstance(result.exception, ApiError)
    assert said in str(result.exception)


def test_a_file_without_a_mapping_is_named(office: Office) -> None:
    (office.folder / "list.yaml").write_text("[1, 2]")
    result = office.run("new", "--file", str(office.folder / "list.yaml"))
    assert result.exit_code == 2
    assert "expected a YAML mapping" in result.output
