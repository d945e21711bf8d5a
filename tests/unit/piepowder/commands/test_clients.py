"""`piepowder clients`: a key is printed once, alone on standard output, and is never an argument."""

from functools import partial
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from piepowder import cli
from piepowder.client import Api
from piepowder.commands import options
from piepowder.commands.clients import moment
from shared.runtime.clock import from_text
from shared.runtime.user_errors import UserError
from tests.support.fake_intake import KEY, FakeIntake

NEW = ["--scope", "items:write", "--region", "eu"]


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch) -> FakeIntake:
    intake = FakeIntake()

    monkeypatch.setenv("PIEPOWDER_INTAKE_URL", "http://intake")
    monkeypatch.setenv("PIEPOWDER_KEY", "key")
    monkeypatch.setattr(options, "Api", partial(Api, transport=httpx.MockTransport(intake)))
    return intake


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["clients", *words], env={"COLUMNS": "200"})


def test_the_key_of_a_new_client_is_alone_on_standard_output(
    intake: FakeIntake, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.app(["clients", "create", "shop", *NEW, "--platform", "shop", "--rate", "5"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0
    assert out == f"{KEY}\n"
    assert "shown only now" in err
    assert KEY not in err
    assert [asked[:2] for asked in intake.requests] == [("POST", "/v1/clients"), ("POST", "/v1/clients/shop/keys")]
    assert intake.requests[0][2]["limit"] == {"requests_per_second": 5.0, "burst": 10, "items_per_second": 0.0}
    assert intake.idempotency_keys[0] is not None


def test_a_client_that_exists_gets_no_second_key_and_the_command_names_the_one_that_creates_it(
    intake: FakeIntake,
) -> None:
    intake.exists = True
    result = run("create", "shop", *NEW, "--platform", "shop")
    assert isinstance(result.exception, UserError)
    assert "shop exists, with the keys 9f86d081884c (live). No other key was created" in str(result.exception)
    assert "clients rotate shop" in str(result.exception)
    assert [asked[:2] for asked in intake.requests] == [("POST", "/v1/clients")]


def test_a_fault_names_the_option(intake: FakeIntake) -> None:
    faults = [
        {"pointer": "/scopes/0", "detail": "unknown scope"},
        {"pointer": "/limit/burst", "detail": "too large"},
        {"pointer": "/other", "detail": "unknown"},
    ]
    intake.refusal = httpx.Response(422, json={"title": "No", "errors": faults})
    result = run("create", "shop", *NEW, "--platform", "shop")
    assert str(result.exception).startswith("--scope: unknown scope; --burst: too large; /other: unknown")


def test_a_key_that_is_not_in_force_yet_is_reported(intake: FakeIntake, capfd: pytest.CaptureFixture[str]) -> None:
    intake.in_force = False
    with pytest.raises(SystemExit):
        cli.app(["clients", "rotate", "shop", "--keep-old", "7d", "--expires", "2099-01-01T00:00:00+01:00"])
    assert "is not accepted yet" in capfd.readouterr().err
    body = intake.requests[0][2]
    assert body["expires_at"] == "2098-12-31T23:00:00.000Z"
    assert from_text(body["others_expire_at"]) > from_text("2026-01-01T00:00:00Z")


def test_each_run_of_a_command_has_its_own_idempotency_key(intake: FakeIntake) -> None:
    run("rotate", "shop")
    run("rotate", "shop")
    assert len(set(intake.idempotency_keys)) == 2


def test_a_client_is_shown_with_its_keys_and_without_control_characters(intake: FakeIntake) -> None:
    shown, listed = run("show", "shop"), run("list")
    assert (shown.exit_code, listed.exit_code) == (0, 0)
    for expected in ("9f86d081884c", "5 calls a second, 10 at once", "2026-05-02T09:30:00.000Z"):
        assert expected in shown.output
    assert "\x1b" not in shown.output
    assert [line.split()[0] for line in listed.output.splitlines()[1:]] == ["shop", "web"]
    assert [asked[:2] for asked in intake.requests] == [("GET", "/v1/clients/shop")] + [("GET", "/v1/clients")] * 2


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["revoke", "shop", "9f86d081884c"], ("DELETE", "/v1/clients/shop/keys/9f86d081884c", None)),
        (["disable", "shop"], ("PATCH", "/v1/clients/shop", {"state": "disabled"})),
        (["enable", "shop"], ("PATCH", "/v1/clients/shop", {"state": "active"})),
        (["show", "a/b"], ("GET", "/v1/clients/a/b", None)),
    ],
)
def test_each_command_is_one_call(intake: FakeIntake, words: list[str], asked: tuple[str, str, Any]) -> None:
    assert run(*words).exit_code == 0
    assert intake.requests == [asked]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["revoke", "shop", KEY], "must not be in a command line"),
        (["rotate", "shop", "--keep-old", "soon"], "7d, 12h or 30m"),
        (["create", "shop", *NEW, "--platform", "shop", "--burst", "7"], "require --rate"),
        (["create", "shop", "--region", "eu", "--platform", "shop"], "--scope"),
        (["create", "shop", *NEW], "--platform"),
    ],
)
def test_invalid_options_are_refused_before_any_call(intake: FakeIntake, words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert KEY not in result.output
    assert intake.requests == []
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("text", ["0d", "7", "7 d", "d7", "-7d", "7w", "2027-01-31", "2027-01-31T00:00:00"])
def test_a_text_that_is_neither_a_duration_nor_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a span"):
        moment(text)
