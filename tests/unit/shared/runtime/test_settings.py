"""An invalid setting ends the process with one line that names it."""

import pytest

from shared.runtime.settings import CommonSettings, RegionIds, load


class Settings(CommonSettings):
    regions: RegionIds


def test_defaults_work_locally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIEPOWDER_REGIONS", "eu, us")
    settings = load(Settings)
    assert settings.regions == ["eu", "us"]
    assert settings.host == "127.0.0.1"
    assert settings.bootstrap("eu") == settings.kafka


def test_a_region_can_have_its_own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIEPOWDER_REGIONS", "eu,us")
    monkeypatch.setenv("PIEPOWDER_KAFKA_BY_REGION", '{"us": "there:9092"}')
    settings = load(Settings)
    assert settings.bootstrap("us") == "there:9092"
    assert settings.bootstrap("eu") == settings.kafka


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIEPOWDER_PORT", "seventy"),
        ("PIEPOWDER_PORT", "70000"),
        ("PIEPOWDER_REGIONS", ""),
        ("PIEPOWDER_REGIONS", "EU"),
        ("PIEPOWDER_LOG_LEVEL", "loud"),
        ("PIEPOWDER_DRAIN_SECONDS", "0"),
        ("PIEPOWDER_KAFKA_BY_REGION", "{"),
        ("PIEPOWDER_OIDC_ISSUER", "http://issuer.example"),
        ("PIEPOWDER_OIDC_ISSUER", "ftp://localhost"),
        ("PIEPOWDER_OIDC_ISSUER", "issuer"),
    ],
)
def test_an_invalid_value_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv("PIEPOWDER_REGIONS", "eu")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        load(Settings)
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert name in message
    assert len(message.splitlines()) == 1


def test_a_missing_value_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PIEPOWDER_REGIONS", raising=False)
    with pytest.raises(SystemExit):
        load(Settings)
    assert capsys.readouterr().err == "PIEPOWDER_REGIONS is not set.\n"


def test_the_password_in_an_invalid_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIEPOWDER_REGIONS", "eu")
    monkeypatch.setenv("PIEPOWDER_OIDC_ISSUER", "postgresql://anna:secret@db/audit")
    with pytest.raises(SystemExit):
        load(Settings)
    assert capsys.readouterr().err == (
        "PIEPOWDER_OIDC_ISSUER = 'postgresql://anna@db/audit' is not valid: "
        "expected https://..., or http:// on this machine.\n"
    )


def test_an_issuer_requires_an_audience(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIEPOWDER_REGIONS", "eu")
    monkeypatch.setenv("PIEPOWDER_OIDC_ISSUER", "https://issuer.example")
    with pytest.raises(SystemExit):
        load(Settings)
    assert "PIEPOWDER_OIDC_AUDIENCE" in capsys.readouterr().err
    monkeypatch.setenv("PIEPOWDER_OIDC_AUDIENCE", "https://piepowder.example")
    assert load(Settings).oidc_issuer == "https://issuer.example"
    monkeypatch.setenv("PIEPOWDER_OIDC_ISSUER", "http://127.0.0.1:8080")
    assert load(Settings).oidc_issuer == "http://127.0.0.1:8080"
