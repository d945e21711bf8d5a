"""A submission never overwrites the files of another submission, and needs no caller to remember its options."""

from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from piepowder.cli import app
from piepowder.client import Api
from piepowder.imports.file_options import FileOptions
from piepowder.submission_files import journals, new_files, open_listings, submit_listings
from shared.runtime.user_errors import UserError
from tests.support.command import TEST_PROFILE
from tests.support.fake_intake import FakeIntake


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


async def test_a_guess_that_nobody_has_confirmed_is_never_sent(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes("id;title\n1;Nóż sprężynowy\n".encode("cp1250"))
    intake = FakeIntake()
    api = Api(TEST_PROFILE, transport=httpx.MockTransport(intake))

    with open_listings(str(path), FileOptions(platform="shop")) as listings:
        with pytest.raises(UserError, match=r"its encoding is a guess: cp1250\. .*--yes"):
            await submit_listings(api, listings, tmp_path)
        assert not intake.bodies
        assert not (tmp_path / "submitted").exists()
    with open_listings(str(path), FileOptions(platform="shop", accept_guess=True)) as listings:
        tally, _ = await submit_listings(api, listings, tmp_path)
    assert tally.accepted == 1


@pytest.mark.parametrize("lenient", [False, True])
async def test_a_submission_is_lenient_if_its_file_was_opened_so(tmp_path: Path, lenient: bool) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"id;gtin\n1;4006381333931\n")
    intake = FakeIntake()
    intake.status = lambda text, _: 422 if "gtin" in text else 202
    api = Api(TEST_PROFILE, transport=httpx.MockTransport(intake))

    with open_listings(str(path), FileOptions(platform="shop", lenient=lenient)) as listings:
        tally, _ = await submit_listings(api, listings, tmp_path)

    assert (tally.accepted, tally.refused) == ((1, 0) if lenient else (0, 1))
    assert tally.omitted == ({"gtin": 1} if lenient else {})
