"""Real exports of shops are accepted whole: the command reads every row, and intake accepts every item.

The rows below are invented, one for each kind of row in real exports. The real files belong to third parties and are
not part of the project; if they are in `../shared/data`, every row of them is tested too.
"""

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing, Refusal
from services.intake.items.handlers import ItemIntake
from shared.validation.faults import InputRejected
from tests.conftest import project_root
from tests.support.intake_items import ANYONE, NOW, item_intake

REAL_FILES = project_root().parent / "shared" / "data"
FILES = {
    "listings-d8-amazon.csv": ("|", 22_074),
    "listings-d8-walmart.csv": ("|", 2_554),
    "listings-d3-amazon.csv": ("#", 1_354),
    "listings-d3-gp.csv": ("#", 3_039),
}

BAR_SEPARATED = (
    "id|title|modelno|price|shipweight|brand|dimensions\r\n"
    "0|Harrow 3-Band Equaliser|152132|12.65|1|Harrow|7.6 x 4.8 x 1.4 inches\r\n"
    '1|Harrow Film for a tablet|"Tablet 9.7"""|19.99|5.6|Harrow|9.3 x 7.2 inches\r\n'
    '2|Ostrow Disk - 250 GB|"2.5"" Disk"|66.88|1|Ostrow|\r\n'
    "3|Remote Transmitter & Stand <new>||58.45|2|Harrow|\r\n"
    "4|Lamp 'Warm', 40 W|L-1|||Harrow|\r\n"
    "5|" + "Cable, black, for every port; " * 28 + "|C-1|1157.21|0.2||\r\n"
    "6|Free sample|F|0.0||Ostrow|\r\n"
)
HASH_SEPARATED = (
    "id#title#description#manufacturer#price\r\n"
    "0#picture pack 950 000 (dvd-rom)##harrow soft#0.0\r\n"
    "1#learning to account#learning to account with&nbsp;&trade; marks; 1/2 price? 100%!#ostrow#38.99\r\n"
    "2#film maker 4.0#needs power pc© g3 – or more…##69.71 gbp\r\n"
    "3#long story#" + "what it does and how it does that " * 560 + "#harrow soft#1,299.00\r\n"
    "4#no price, no text###\r\n"
)


@pytest.fixture(scope="module")
def intake() -> ItemIntake:
    return item_intake()


def rows_of(path: Path, options: FileOptions) -> tuple[list[dict[str, Any]], list[Refusal]]:
    with open_import(str(path), options) as listings:
        found = list(listings.read())
    items = [msgspec.json.decode(line.body) for line in found if isinstance(line, Listing)]
    return items, [line for line in found if isinstance(line, Refusal)]


def rejections(intake: ItemIntake, items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The ids of the items that intake rejects, with the reasons."""
    found = []
    for item in items:
        try:
            intake.prepare(msgspec.json.encode(item), ANYONE, NOW)
        except InputRejected as rejected:
            found.append((item["id"], str(rejected)))
    return found


@pytest.mark.parametrize("markets", [("US",), ("DE", "US")])
@pytest.mark.parametrize(("content", "count"), [(BAR_SEPARATED, 7), (HASH_SEPARATED, 5)])
def test_a_row_of_each_kind_in_real_exports_is_accepted(
    intake: ItemIntake, tmp_path: Path, content: str, count: int, markets: tuple[str, ...]
) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(content.encode())
    items, unread = rows_of(path, FileOptions(platform="export", markets=markets, language="en", currency="USD"))
    assert (unread, rejections(intake, items)) == ([], [])
    assert [item["id"] for item in items] == [str(n) for n in range(count)]


def test_no_cell_of_a_row_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(BAR_SEPARATED.encode())
    bars, _ = rows_of(path, FileOptions(platform="export"))
    assert bars[1]["attributes"] == {"modelno": 'Tablet 9.7"', "shipweight": "5.6", "dimensions": "9.3 x 7.2 inches"}
    assert bars[2]["attributes"] == {"modelno": '2.5" Disk', "shipweight": "1"}
    assert "price" not in bars[4]
    assert bars[6]["price"] == {"amount_minor": 0, "currency": "USD"}
    path.write_bytes(HASH_SEPARATED.encode())
    hashes, _ = rows_of(path, FileOptions(platform="export"))
    assert hashes[2]["price"] == {"amount_minor": 6971, "currency": "GBP"}
    assert hashes[2]["text"] == "needs power pc© g3 – or more…"
    assert hashes[3]["price"] == {"amount_minor": 129_900, "currency": "USD"}
    assert len(hashes[3]["text"]) > 19_000


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_a_real_export_is_accepted_without_a_mapping(intake: ItemIntake, name: str) -> None:
    path = REAL_FILES / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    delimiter, count = FILES[name]
    items, unread = rows_of(path, FileOptions(platform="export"))
    assert (unread, rejections(intake, items)) == ([], [])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert len(rows) == len(items) == count
    for row, item in zip(rows, items, strict=True):
        assert (item["id"], item["title"]) == (row["id"], row["title"].strip())
        assert item.get("text", "") == (row.get("description") or "").strip()
        amount, _, code = row["price"].partition(" ")
        price = {"amount_minor": int(Decimal(amount) * 100), "currency": code.upper() or "USD"} if amount else None
        assert item.get("price") == price
