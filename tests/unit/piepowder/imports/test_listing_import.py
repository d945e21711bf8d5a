"""All checks read the whole file before anything is sent."""

import csv
import random
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing, Refusal
from piepowder.tally import RefusalGroups
from tests.support.listing_files import SHOP, imported


def test_repeated_ids_are_counted_with_an_example(tmp_path: Path) -> None:
    rows = "".join(f"{n % 20},row {n}\n" for n in range(34))
    found = imported(tmp_path, f"id,title\n{rows}")
    assert len(found.items) == 34
    assert found.notes["repeated"] == (
        "14 ids occur more than once, such as '0' (line 2 and 22); the one that arrives last is in force,"
        " except that a content that was sent before is not new; a version decides"
    )


def test_with_a_version_column_the_largest_version_counts(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title,version\n1,a,2\n1,b,1\n")
    assert [item["version"] for item in found.items] == [2, 1]
    assert found.notes["repeated"] == (
        "1 id occurs more than once, such as '1' (line 2 and 3); the one with the largest version is in force"
    )


def test_product_ids_of_another_type_are_counted(tmp_path: Path) -> None:
    rows = "S1\tLamp\t5.00\t1\tB000000001\nS2\tVase\t6.00\t4\t4006381333931\n"
    header = "seller-sku\titem-name\tprice\tproduct-id-type\tproduct-id\n"
    found = imported(tmp_path, f"{header}{rows}", name="report.txt")
    assert [item.get("gtin") for item in found.items] == [None, "4006381333931"]
    assert found.items[0]["attributes"]["product-id"] == "B000000001"
    assert found.notes["no GTIN"] == "1 cells are of another type, as 'product-id-type' says; they become attributes"


def test_repeated_items_of_ndjson_are_counted_by_subject_and_version(tmp_path: Path) -> None:
    lines = [f'{{"platform":"a","kind":"product","id":"1","version":{n}}}' for n in (1, 2, 2)]
    found = imported(tmp_path, "\n".join(lines), name="f.ndjson")
    assert found.notes["repeated"].startswith("1 id occurs more than once, such as 'a:product:1@2' (line 2 and 3)")


def test_texts_that_deny_a_gtin_are_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,ean\n1,Does not apply\n2,N/A\n3,4006381333931\n4,Does not apply\n")
    assert [item.get("gtin") for item in found.items] == [None, None, "4006381333931", None]
    assert found.notes["no GTIN"] == "3 cells say so ('Does not apply', 'N/A')"


def test_the_interpretation_and_the_first_listings_are_known_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("id;Preis;x;Titel\n1;1.299,90 €;a;\n2;12;b;\n3;;;\n4;;;\n", encoding="utf-8")
    with open_import(str(path), FileOptions(platform="laden", markets=["DE"])) as listings:
        assert listings.listings == 4
        assert [msgspec.json.decode(line.body)["id"] for line in listings.examples] == ["1", "2", "3"]
        assert dict(listings.mapping) == {"id": "id", "title": "Titel", "price": "Preis", "attributes": "x"}
        notes = {note.name: note.text for note in listings.notes}
    assert notes == {
        "encoding": "UTF-8",
        "delimiter": "semicolon",
        "quoting": "RFC 4180",
        "no column": "text, media (if a column has it, name it: --map text=COLUMN)",
        "decimal separator": "comma: 1 price shows it, none the other",
        "currency": "the sign or code in the cell, else that of the market",
        "platform": "laden",
        "market": "DE",
    }


def test_standard_input_is_read_again_from_a_private_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.csv"
    path.write_text("id,title\n1,a\n")
    with path.open(encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        with open_import("-", SHOP) as listings:
            assert len(list(listings.read())) == len(list(listings.read())) == 1
            assert listings.name == "standard input"


@pytest.mark.parametrize(
    "field",
    [
        "id",
        "version",
        "language",
        "category",
        "gtin",
        "price",
        "currency",
        "markets",
        "media",
        "seller.id",
        "seller.country",
    ],
)
def test_refusals_for_long_values_differ_only_in_their_quoted_texts(tmp_path: Path, field: str) -> None:
    values = [
        f"not a {field} in any language\t, at https://shop.example // {n} it's" + " long text" * 20 for n in "abc"
    ]
    names = list(dict.fromkeys(["id", "seller.id", "price", field]))
    rows = [names, *([value if name == field else "1" for name in names] for value in values)]
    path = tmp_path / "f.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    groups = RefusalGroups()
    with open_import(str(path), FileOptions(mapping={name: name for name in names})) as listings:
        for line in listings.read():
            assert isinstance(line, Refusal)
            groups.add(line)
    assert [group.count for group in groups.largest()] == [3]


def large_file(path: Path, rows: int) -> None:
    """A file with the columns, quoting and length of a shop's export."""
    pick = random.Random(1)
    text = "A warm lamp, wired for 230 V. " * 10 + "\nSecond line é"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "description", "price", "gtin", "brand", "category", "image", "language"])
        for n in range(rows):
            pictures = f"https://img.example/{n}.jpg, https://img.example/{n}-b.jpg"
            price = f"{pick.randint(1, 99_999) / 100:.2f}"
            writer.writerow([f"s-{n}", f'Lamp "{n}"', text, price, "4006381333931", "Lumio", "Home", pictures, "de"])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for rows in (4_000, 16_000):
        large_file(tmp_path / "f.csv", rows)
        tracemalloc.start()
        with open_import(str(tmp_path / "f.csv"), SHOP) as listings:
            for _ in listings.read():
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 8 * 2**20  # caches of 65,536 prices; the file grows by more than 6 MB


def test_all_readings_of_a_row_cost_less_than_25_times_the_csv_module(tmp_path: Path) -> None:
    """On the machine of docs/performance.md, 20,000 rows a second are 25 times the floor."""
    path = tmp_path / "f.csv"
    large_file(path, 10_000)
    ratios, rows, items = [], 0, 0
    for _ in range(3):
        began = time.process_time()
        with path.open(newline="", encoding="utf-8") as file:
            rows = sum(1 for _ in csv.reader(file))
        floor = time.process_time() - began
        began = time.process_time()
        with open_import(str(path), SHOP) as listings:
            items = sum(isinstance(line, Listing) for line in listings.read())
        ratios.append((time.process_time() - began) / floor)
    assert items == rows - 1 == 10_000
    assert min(ratios) < 25
