"""A submission never overwrites the files of another submission."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from piepowder.cli import app
from piepowder.submission_files import journals, new_files


def test_each_submission_has_its_own_files(tmp_path: Path) -> None:
    records = [new_files(tmp_path, name, None, None) for name in ("a/items.csv", "b/items.csv.gz", "-")]
    for record in records:
        record.report.touch()

    names = ["items-1", "items-2", "listings-1"]
    assert [record.journal for record in records] == [tmp_path / "submitted" / f"{name}.ndjson" for name in names]
    assert [record.report.name for record in records] == [f"{name}-refused.ndjson" for name in names]
    assert journals(tmp_path) == [record.journal for record in records]


def test_the_report_is_beside_the_journal_unless_its_path_is_given(tmp_path: Path) -> None:
    journal, report = tmp_path / "mine", tmp_path / "no"
    assert new_files(tmp_path, "x.csv", journal, None) == (journal, tmp_path / "mine-refused.ndjson")
    assert new_files(tmp_path, "x.csv", journal, report) == (journal, report)


@pytest.mark.parametrize("option", ["--journal", "--report"])
def test_an_existing_file_is_not_overwritten(tmp_path: Path, option: str) -> None:
    listings = tmp_path / "listings.csv"
    listings.write_text("id,title\n1,Lamp\n")
    result = CliRunner().invoke(app, ["submit", str(listings), option, str(listings), "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert listings.read_text() == "id,title\n1,Lamp\n"
