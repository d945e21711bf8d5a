"""A guess is used only after a person confirmed it; a seller's text cannot control the terminal."""

import builtins
from pathlib import Path

import pytest

from piepowder import console_output
from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.submission_preview import require_confirmation, show_preview
from shared.runtime.user_errors import UserError

OPTIONS = FileOptions(platform="shop", markets=["PL"])


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "f.csv"
    path.write_bytes("id;title\n1;Nóż sprężynowy\n".encode("cp1250"))
    return str(path)


@pytest.mark.parametrize("answer", ["y", " Yes "])
def test_on_a_terminal_the_guess_is_used_after_a_yes(file: str, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(console_output.console, "_force_terminal", True)
    monkeypatch.setattr(builtins, "input", lambda _: answer)
    with open_import(file, OPTIONS) as listings:
        require_confirmation(listings)


@pytest.mark.parametrize("answer", ["", "n", "q", "yess", "\x1b"])
def test_on_a_terminal_any_other_answer_sends_nothing(file: str, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(console_output.console, "_force_terminal", True)
    monkeypatch.setattr(builtins, "input", lambda _: answer)
    with open_import(file, OPTIONS) as listings, pytest.raises(UserError, match=r"Nothing was sent\. .*--encoding"):
        require_confirmation(listings)


def test_an_item_with_fields_of_wrong_types_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.ndjson"
    path.write_bytes(
        b'{"platform":"a","kind":"b","id":17,"price":512,"media":88}\n{"platform":"a","kind":"b","id":"2","price":{}}\n'
    )
    with open_import(str(path), OPTIONS) as listings:
        show_preview(listings)
    assert {"17", "512", "88"} <= set(capsys.readouterr().out.split())


def test_control_characters_of_a_listing_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.ndjson"
    path.write_bytes(
        b'{"platform":"a","kind":"b","id":"\\u001b]0;x\\u0007","title":"\\u202eevil"}\n{"platform":"a","kind":"b","id":"2"}\n'
    )
    with open_import(str(path), OPTIONS) as listings:
        show_preview(listings)
    shown = capsys.readouterr().out
    assert "evil" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize(
    ("price", "shown"),
    [
        ('{"amount_minor":129990,"currency":"EUR"}', "1,299.90 EUR"),
        ('{"amount_minor":9223372036854775807,"currency":"JPY"}', "9,223,372,036,854,775,807 JPY"),
        ('{"amount_minor":9223372036854775807,"currency":"EUR"}', "92,233,720,368,547,758.07 EUR"),
        ('{"amount_minor":true,"currency":"EUR"}', "{'amount_minor': True, 'currency': 'EUR'}"),
        ('{"amount_minor":1e3}', "{'amount_minor': 1000.0}"),
        ("[1]", "[1]"),
        ("true", "True"),
    ],
)
def test_a_price_is_shown_exactly_and_another_value_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], price: str, shown: str
) -> None:
    path = tmp_path / "f.ndjson"
    path.write_text(f'{{"platform":"a","kind":"b","id":"1","price":{price}}}\n')
    with open_import(str(path), OPTIONS) as listings:
        show_preview(listings)
    assert f" {shown} " in capsys.readouterr().out
