"""The profile: each source of addresses and key, their precedence, and errors that name the missing value."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from piepowder.cli import app
from piepowder.client import Api
from piepowder.commands import options
from piepowder.profile import Process, ProfileFile, StackProcesses, exports, read_local, resolve
from shared.runtime.process_identity import start_time
from shared.runtime.user_errors import UserError

VARIABLES = {
    "PIEPOWDER_INTAKE_URL": "https://intake.variables/",
    "PIEPOWDER_DECISION_URL_EU": "http://decision.variables",
    "PIEPOWDER_AUDIT_URL_NORTH_1": "http://audit.variables",
    "PIEPOWDER_DATABASE_URL": "postgresql://not-a-service",
    "PIEPOWDER_KEY": "variables-key",
    "PIEPOWDER_KAFKA": "variables:9092",
}
FILE = """
services:
  intake: https://intake.file
  router: https://router.file
  decision: {eu: https://eu.file, uk: https://uk.file}
kafka: file:9092
key_file: secret/key
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("file-key\n")
    (tmp_path / "profile.yaml").write_text(FILE)
    return tmp_path / "profile.yaml"


def local(folder: Path, started: str | None = None) -> Path:
    """Write the profile of a running local stack into a folder; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "key").write_text("local-key\n")
    intake = Process("intake", "http://127.0.0.1:1", 1, "intake.log")
    projection = Process("intake-projection", "http://127.0.0.1:2", 1, "projection.log")
    stack = StackProcesses(os.getpid(), started or start_time(os.getpid()), [intake, projection])
    content = ProfileFile(
        services={"intake": intake.address, "decision": {"eu": "http://127.0.0.1:3"}},
        kafka="127.0.0.1:4",
        key_file=str(folder / "key"),
        stack=stack,
    )
    (folder / "profile.json").write_bytes(msgspec.json.encode(content))
    return folder


def test_a_file_has_addresses_by_service_and_region_kafka_and_a_relative_key_file(file: Path) -> None:
    profile = resolve(profile=str(file), variables={})
    assert (profile.url("router"), profile.url("decision-uk")) == ("https://router.file", "https://uk.file")
    assert (profile.regions, profile.chosen("uk"), profile.bootstrap()) == (["eu", "uk"], ["uk"], "file:9092")
    assert profile.api_key() == "file-key"
    assert "file-key" not in repr(profile)


def test_a_name_is_a_file_in_the_users_configuration_folder(file: Path, tmp_path: Path) -> None:
    (tmp_path / "piepowder").mkdir()
    file.rename(tmp_path / "piepowder" / "production.yml")
    variables = {"XDG_CONFIG_HOME": str(tmp_path), "PIEPOWDER_PROFILE": "production"}
    assert resolve(variables=variables).url("router") == "https://router.file"
    with pytest.raises(UserError, match=r"piepowder/staging.yaml does not exist"):
        resolve(profile="staging", variables=variables)


def test_variables_give_one_value_each() -> None:
    profile = resolve(variables=VARIABLES)
    assert profile.url("intake") == "https://intake.variables"
    assert profile.url("audit-north-1") == "http://audit.variables"
    assert profile.regions == ["eu", "north-1"]
    assert (profile.api_key(), profile.bootstrap()) == ("variables-key", "variables:9092")
    assert {service for service, _ in profile.services} == {"intake", "decision", "audit"}


def test_a_running_local_stack_is_found_without_options(tmp_path: Path) -> None:
    folder = local(tmp_path / "stack")
    for profile in (resolve(folder=folder, variables={}), resolve(variables={"PIEPOWDER_FOLDER": str(folder)})):
        assert (profile.url("intake"), profile.url("decision-eu")) == ("http://127.0.0.1:1", "http://127.0.0.1:3")
        assert profile.url("intake-projection") == "http://127.0.0.1:2"
        assert profile.api_key() == "local-key"


@pytest.mark.parametrize(
    ("given", "variables", "found"),
    [
        ({"profile"}, VARIABLES, ("https://intake.file", "file-key")),
        ({"profile", "key_file"}, VARIABLES, ("https://intake.file", "option-key")),
        ({"folder"}, VARIABLES, ("http://127.0.0.1:1", "local-key")),
        ({"profile", "folder"}, {}, ("https://intake.file", "file-key")),
        (set(), VARIABLES | {"PIEPOWDER_PROFILE": "file"}, ("https://intake.variables", "variables-key")),
        (set(), {"PIEPOWDER_PROFILE": "file"}, ("https://intake.file", "file-key")),
        (set(), {"PIEPOWDER_PROFILE": "file", "PIEPOWDER_FOLDER": "folder"}, ("https://intake.file", "file-key")),
        (set(), {"PIEPOWDER_FOLDER": "folder", "PIEPOWDER_KEY": "mine"}, ("http://127.0.0.1:1", "mine")),
        (set(), VARIABLES | {"PIEPOWDER_FOLDER": "folder"}, ("https://intake.variables", "variables-key")),
        (set(), VARIABLES | {"PIEPOWDER_KEY_FILE": "key_file"}, ("https://intake.variables", "variables-key")),
        (set(), {"PIEPOWDER_FOLDER": "folder", "PIEPOWDER_KEY_FILE": "key_file"}, ("http://127.0.0.1:1", "option-key")),
    ],
)
def test_options_precede_variables_then_the_named_profile_then_the_local_stack(
    file: Path, tmp_path: Path, given: set[str], variables: Mapping[str, str], found: tuple[str, str]
) -> None:
    (tmp_path / "option-key").write_text("option-key\n")
    paths = {"file": file, "folder": local(tmp_path / "stack"), "key_file": tmp_path / "option-key"}
    profile = resolve(
        profile=str(file) if "profile" in given else None,
        folder=paths["folder"] if "folder" in given else None,
        key_file=paths["key_file"] if "key_file" in given else None,
        variables={name: str(paths.get(value, value)) for name, value in variables.items()},
    )
    assert (profile.url("intake"), profile.api_key()) == found


def test_kafka_comes_from_the_option_first_and_never_from_variables_beside_a_named_profile(file: Path) -> None:
    assert resolve(profile=str(file), kafka="option:1", variables=VARIABLES).bootstrap() == "option:1"
    assert resolve(profile=str(file), variables=VARIABLES).bootstrap() == "file:9092"
    file.write_text("services: {intake: https://intake.file}")
    profile = resolve(profile=str(file), variables=VARIABLES)
    with pytest.raises(UserError, match="does not give Kafka's bootstrap servers"):
        profile.bootstrap()
    with pytest.raises(UserError, match="does not give the address of decision-eu"):
        profile.url("decision-eu")
    assert profile.api_key() == "variables-key", "a profile may leave the key to a variable"


def test_the_local_stacks_key_is_not_sent_to_an_address_of_a_variable(tmp_path: Path) -> None:
    variables = {"PIEPOWDER_INTAKE_URL": "https://elsewhere", "PIEPOWDER_FOLDER": str(local(tmp_path / "stack"))}
    with pytest.raises(UserError, match=r"variables do not give an API key. .*PIEPOWDER_KEY or PIEPOWDER_KEY_FILE"):
        resolve(variables=variables).api_key()


def test_the_error_of_a_missing_value_names_every_way_to_set_it(file: Path) -> None:
    profile = resolve(profile=str(file), variables={})
    with pytest.raises(UserError) as missing:
        profile.url("audit-uk")
    assert str(missing.value) == (
        f"The profile {file} does not give the address of audit-uk."
        " Add services.audit.uk to the profile, or set PIEPOWDER_AUDIT_URL_UK."
    )
    with pytest.raises(UserError, match=r"There is no region 'us' here. The regions are eu, uk"):
        profile.chosen("us")
    with pytest.raises(UserError, match="do not give any region"):
        resolve(variables={"PIEPOWDER_INTAKE_URL": "http://intake"}).chosen(None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("services: {intake: intake}", "'intake', which is not a URL"),
        ("server: x", "is not a profile"),
        ("services: [", "is not a profile"),
        ("services: {intake: [1]}", "is not a profile"),
    ],
)
def test_a_file_that_is_not_a_profile_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        resolve(profile=str(tmp_path / "p.yaml"), variables={})


def test_a_variable_that_is_not_a_url_is_named() -> None:
    with pytest.raises(UserError, match="PIEPOWDER_INTAKE_URL has 'intake:8080', which is not a URL"):
        resolve(variables={"PIEPOWDER_INTAKE_URL": "intake:8080"})


def test_without_a_running_stack_the_error_names_the_alternatives(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No local stack runs .*`(.*)`") as raised:
        read_local(tmp_path).url("intake")
    advised = str(raised.value).split("`")[1]
    assert subprocess.run([*shlex.split(advised), "--help"], capture_output=True, check=False).returncode == 0
    for needed in ("--profile", "PIEPOWDER_PROFILE", "PIEPOWDER_INTAKE_URL"):
        assert needed in str(raised.value)


def test_a_killed_system_is_not_mistaken_for_a_running_one(tmp_path: Path) -> None:
    folder = local(tmp_path / "stack", started="long ago")
    for profile in (
        read_local(folder),
        resolve(variables={"PIEPOWDER_PROFILE": str(folder / "profile.json")}),
    ):
        with pytest.raises(UserError, match="without a normal stop"):
            profile.url("intake")


def test_exports_are_quoted_for_a_shell_and_lead_to_the_same_profile(tmp_path: Path) -> None:
    folder = local(tmp_path / "it's; touch here")
    lines = list(exports(read_local(folder)))
    script = "; ".join(lines) + '; printf "%s\\n" "$KEY" "$PIEPOWDER_DECISION_URL_EU"; env'
    run = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, env={})
    key, decision, *rest = run.stdout.splitlines()
    assert (key, decision) == ("local-key", "http://127.0.0.1:3")
    assert not (tmp_path / "here").exists()
    variables = dict(line.split("=", 1) for line in rest if line.startswith("PIEPOWDER_"))
    profile = resolve(variables=variables)
    assert (profile.url("intake"), profile.api_key(), profile.bootstrap()) == (
        "http://127.0.0.1:1",
        "local-key",
        "127.0.0.1:4",
    )
    assert "PIEPOWDER_KAFKA" not in variables, "`piepowder up` in this shell would use the stack's Kafka"


def test_the_command_env_writes_the_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local(tmp_path / "stack")
    result = CliRunner().invoke(app, ["env", "--folder", str(folder)])
    assert (result.exit_code, result.output.splitlines()) == (0, list(exports(read_local(folder))))
    monkeypatch.chdir(tmp_path)
    without = CliRunner().invoke(app, ["env"], env=dict.fromkeys(VARIABLES, ""))
    assert isinstance(without.exception, UserError)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["status"], "https://intake.file/readyz"),
        (["timeline", "shop:product:1"], "https://audit.file/v1/subjects/shop/product/1/timeline"),
        (["withdraw", "x"], "https://intake.file/v1/items/x"),
        (["submit", "-"], "https://intake.file/v1/items/batch"),
        (["review"], "https://router.file/v1/control"),
        (["review", "--simulate", "1"], "https://eu.file/v1/claims"),
        (["clients", "list"], "https://intake.file/v1/clients"),
        (["request", "list"], "https://intake.file/v1/requests"),
        (["control", "show"], "https://router.file/v1/control"),
        (["account"], "https://audit.file/v1/totals"),
    ],
)
def test_each_command_calls_the_deployment_of_its_profile(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], asked: str
) -> None:
    file.write_text(FILE.replace("kafka: file:9092", "kafka: 127.0.0.1:1") + "\n")
    text = file.read_text().replace("  decision:", "  audit: {eu: https://audit.file}\n  decision:")
    file.write_text(text.replace(", uk: https://uk.file", ""))
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(418, json={"detail": "no tea"})

    monkeypatch.setattr(options, "Api", partial(Api, transport=httpx.MockTransport(respond)))
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, [*words, "--profile", str(file)], input='{"platform": "a", "kind": "product"}\n')
    assert asked in {str(call.url).partition("?")[0] for call in calls}
    assert {call.headers["authorization"] for call in calls} == {"Bearer file-key"}


def test_journals_are_kept_in_the_folder_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIEPOWDER_FOLDER", str(tmp_path))
    assert options.ApiConnection().folder == tmp_path
    assert options.ApiConnection(folder=tmp_path / "other").folder == tmp_path / "other"
