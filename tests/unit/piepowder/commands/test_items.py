"""`submit` states its interpretation before it sends anything, and sends nothing that is only a guess."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from piepowder.cli import app
from shared.runtime.user_errors import UserError

POLISH = "id;tytuł;price\n1;Nóż sprężynowy;12,50\n2;Żółta łódź;1,00\n"


def submit(tmp_path: Path, content: bytes, *options: str) -> Result:
    """Run the command where no deployment is known, so that an attempt to send fails."""
    path = tmp_path / "listings.csv"
    path.write_bytes(content)
    return CliRunner().invoke(app, ["submit", str(path), "--folder", str(tmp_path / "stack"), *options])


def test_a_dry_run_shows_the_mapping_the_interpretation_and_the_first_rows_and_sends_nothing(tmp_path: Path) -> None:
    content = "Artikelnummer;Bezeichnung;Preis\n0012;Küchenlampe;1.299,90 €\n0013;Tasse;zwölf\n0012;Neu;5\n".encode()
    done = submit(tmp_path, content, "--dry-run", "--market", "DE")

    assert done.exit_code == 1
    for shown in (
        "3 listings",
        "encoding UTF-8",
        "delimiter semicolon",
        "comma: 1 price shows it",
        "← Artikelnummer",
        "← Bezeichnung",
        "1 id occurs more than once, such as '0012' (line 2 and 4)",
        "Küchenlampe",
        "1,299.90 EUR",
        "Nothing was sent: 2 listings can be sent; refused 1.",
        "line 3: price (column 'Preis'): 'zwölf' is not an amount",
    ):
        assert shown in " ".join(done.output.split())
    assert not (tmp_path / "stack").exists()


def test_similar_refusals_are_one_line_with_a_count(tmp_path: Path) -> None:
    rows = "".join(f"{n};{n % 900 + 1}.500\n" for n in range(1_290))
    done = submit(tmp_path, f"id;price\n{rows}".encode(), "--dry-run", "--market", "DE")

    assert "refused 1,290." in done.output
    assert "1,290 times, first in line 2: price (column 'price'): '1.500' is ambiguous" in done.output
    assert done.output.count("is ambiguous:") == 1


def test_lenient_counts_the_fields_that_it_leaves_out(tmp_path: Path) -> None:
    done = submit(tmp_path, b"id;price;gtin\n1;cheap;4006381333931\n2;dear;12\n3;4;\n", "--dry-run", "--lenient")
    assert done.exit_code == 0
    assert "3 listings can be sent; refused 0." in done.output
    assert "Without faulty optional fields: 2 listings (price 2, gtin 1)." in done.output


def test_a_guessed_encoding_is_stated_with_its_text_and_not_used(tmp_path: Path) -> None:
    done = submit(tmp_path, POLISH.encode("cp1250"), "--map", "title=tytuł", "--market", "DE")

    assert isinstance(done.exception, UserError)
    assert "its encoding is a guess: cp1250. If this text is right, repeat the command with --yes;" in str(
        done.exception
    )
    assert "line 2: 1;Nóż sprężynowy;12,50" in str(done.exception)
    assert not (tmp_path / "stack").exists()


@pytest.mark.parametrize("confirmation", [["--yes"], ["--encoding", "windows-1250"]])
def test_a_confirmed_or_stated_encoding_is_used(tmp_path: Path, confirmation: list[str]) -> None:
    done = submit(
        tmp_path, POLISH.encode("cp1250"), "--dry-run", "--map", "title=tytuł", "--market", "DE", *confirmation
    )
    assert done.exit_code == 0
    assert "Żółta łódź" in done.output
    assert "--yes" not in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decimal", "x"], "expected point or comma"),
        (["--encoding", "klingon"], "expected an encoding"),
        (["--encoding", "hex"], "expected an encoding"),
        (["--quoting", "some"], "expected rfc4180 or none"),
        (["--id", "sku"], "--map id=COLUMN"),
        (["--id", "row", "--map", "id=sku"], "not both"),
        (["--map", "id=a", "--map", "id=b"], "more than one column"),
        (["--language", "German"], "not a language tag"),
        (["--currency", "EUX"], "not a currency code (ISO 4217)"),
    ],
)
def test_a_wrong_option_is_refused_before_the_file_is_read(tmp_path: Path, options: list[str], message: str) -> None:
    done = submit(tmp_path, b"id;title\n1;a\n", "--dry-run", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


def test_a_dry_run_says_that_only_intake_checks_items_in_json(tmp_path: Path) -> None:
    table = submit(tmp_path, b"id;title\n1;a\n", "--dry-run")
    items = submit(tmp_path, b'{"platform":"a","kind":"b","id":"1"}\n{"platform":"a","kind":7}\n', "--dry-run")

    assert "Intake checks them again, and may refuse more." in table.output
    assert "Nothing was sent: 2 listings can be sent; refused 0." in items.output
    assert "Only intake checks the fields of these items, so it may refuse some of them." in items.output
