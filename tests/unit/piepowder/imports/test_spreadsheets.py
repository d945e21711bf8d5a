"""A workbook is read as it is shown; a cell without a known value is refused."""

import io
import zipfile
from pathlib import Path

import pytest

from piepowder.imports.file_options import FileOptions
from shared.runtime.user_errors import UserError
from tests.support.listing_files import GERMAN, Cell, CellValue, imported, workbook


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (Cell("#N/A", kind="e"), "has the error #N/A"),
        (Cell("#DIV/0!", kind="e"), "has the error #DIV/0!"),
        (Cell(formula="A1*2"), "a formula that was never calculated"),
        (Cell("46154", style=1), "2026-05-12 is a date"),
        (-3, "is less than 0"),
        (3.999, "has more decimals than USD"),
    ],
)
def test_a_price_without_a_certain_value_is_refused(tmp_path: Path, cell: Cell | float, reason: str) -> None:
    found = imported(tmp_path, workbook({"A": [["id", "price"], [1, cell]]}), name="f.xlsx")
    assert reason in found.refusal


@pytest.mark.parametrize(
    ("cell", "minor", "currency"),
    [
        (12.5, 1250, "USD"),
        (1.0, 100, "USD"),
        (1234, 123400, "USD"),
        (2.7199999999999998, 272, "USD"),
        (Cell("7.5", formula="A1*2"), 750, "USD"),
        (Cell("1299.9", style=3), 129990, "EUR"),
        ("1.299,90 €", 129990, "EUR"),
    ],
)
def test_a_price_is_exact_with_the_currency_of_its_format(
    tmp_path: Path, cell: Cell | float | str, minor: int, currency: str
) -> None:
    item = imported(tmp_path, workbook({"A": [["id", "price"], [1, cell]]}), name="f.xlsx").item
    assert item["price"] == {"amount_minor": minor, "currency": currency}


@pytest.mark.parametrize(
    ("cell", "id_"),
    [
        ("0012", "0012"),
        (12, "12"),
        (12.0, "12"),
        (10.5, "10.5"),
        (Cell("12", style=2), "00012"),
        (Cell("7", style=4), "SKU-0007"),
        (Cell("12345", style=4), "SKU-12345"),
        (Cell("1234567", style=5), "123-4567"),
        (Cell("4567", style=5), "000-4567"),
        (Cell("12345678", style=5), "1234-5678"),
    ],
)
def test_an_id_is_the_text_that_the_workbook_shows(tmp_path: Path, cell: Cell | float | str, id_: str) -> None:
    assert imported(tmp_path, workbook({"A": [["id", "title"], [cell, "x"]]}), name="f.xlsx").item["id"] == id_


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (1234567890123456789, "more than 15 digits"),
        (Cell("46154", style=1), "is a date"),
        (Cell("#REF!", kind="e"), "error #REF!"),
        (Cell("1234", style=7), """1234 is shown with the format '"No. "#,##0'; write the id as text"""),
        (Cell("7.5", style=4), "7.5 is shown with the format"),
    ],
)
def test_an_id_that_a_spreadsheet_damaged_is_refused(tmp_path: Path, cell: Cell | float, reason: str) -> None:
    assert reason in imported(tmp_path, workbook({"A": [["id", "title"], [cell, "x"]]}), name="f.xlsx").refusal


def test_other_cells_become_attributes_as_text(tmp_path: Path) -> None:
    rows: list[list[CellValue]] = [["id", "new", "since", "stock", "share", "title"]]
    rows.append([1, True, Cell("46154", style=1), 40, 0.1, None])
    item = imported(tmp_path, workbook({"A": rows}), name="f.xlsx").item
    assert item["attributes"] == {"new": "TRUE", "since": "2026-05-12", "stock": "40", "share": "0.1"}


def test_rows_and_columns_before_the_table_do_not_move_its_cells(tmp_path: Path) -> None:
    rows: list[list[CellValue]] = [[None, "Export of my shop"], [], [None, "id", "title", "price"], [None, 1, "x", 3.5]]
    rows.append([None, 2, "y", Cell("#N/A", kind="e")])
    found = imported(tmp_path, workbook({"A": rows}), name="f.xlsx")
    assert [(item["id"], item["title"]) for item in found.items] == [("1", "x")]
    assert found.refusals == [(5, 0, "price (column 'price'): the cell has the error #N/A")]
    assert found.notes["left out"] == "2 rows before the header"


def test_one_of_several_filled_sheets_must_be_chosen(tmp_path: Path) -> None:
    content = workbook({"A": [["id", "title"], [1, "x"]], "B": [["id", "title"], [2, "y"]], "Empty": []})
    with pytest.raises(UserError, match=r"a workbook with 2 sheets: A, B\. Choose one with --sheet NAME\."):
        imported(tmp_path, content, name="f.xlsx")
    with pytest.raises(UserError, match="no sheet 'C'"):
        imported(tmp_path, content, FileOptions(platform="shop", sheet="C"), "f.xlsx")
    assert imported(tmp_path, content, FileOptions(platform="shop", sheet="B"), "f.xlsx").item["id"] == "2"


def test_a_cell_behind_the_header_is_not_lost(tmp_path: Path) -> None:
    found = imported(tmp_path, workbook({"A": [["id", "title"], [1, "x", "extra"]]}), GERMAN, "f.xlsx")
    assert "has a cell ('extra') in a column without a name" in found.refusal


def test_a_damaged_sheet_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is damaged|is a damaged workbook"):
        imported(tmp_path, workbook({"A": [["id"], [Cell("#WHAT", kind="e")]]}), name="f.xlsx")


def test_a_built_in_currency_format_is_a_dollar_sign_and_not_the_currency_of_the_market(tmp_path: Path) -> None:
    content = workbook({"A": [["id", "price"], [1, Cell("5", style=6)]]})
    assert imported(tmp_path, content, name="f.xlsx").item["price"] == {"amount_minor": 500, "currency": "USD"}
    assert "'$' is the sign of USD, AUD" in imported(tmp_path, content, GERMAN, "f.xlsx").refusal


def test_hidden_rows_and_merged_ranges_are_stated(tmp_path: Path) -> None:
    path = tmp_path / "f.xlsx"
    content = workbook({"A": [["My shop", None], ["id", "title"], [1, "x"], [2, None]]})
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            merged = '</sheetData><mergeCells><mergeCell ref="A1:B1"/><mergeCell ref="B3:B4"/></mergeCells>'
            text = old.read(name).decode().replace('<row r="4">', '<row r="4" hidden="1">')
            new.writestr(name, text.replace("</sheetData>", merged))
    found = imported(tmp_path, path.read_bytes(), name="f.xlsx")
    assert found.notes["hidden"] == "1 rows are hidden in the workbook, and read like the others"
    assert found.notes["merged"] == "1 merged ranges below the header; their text is in one cell only"


def test_a_repeated_header_is_left_out_and_counted(tmp_path: Path) -> None:
    rows: list[list[CellValue]] = [["id", "title"], [1, "x"], ["id", " title "], [2, "y"]]
    found = imported(tmp_path, workbook({"A": rows}), name="f.xlsx")
    assert [item["id"] for item in found.items] == ["1", "2"]
    assert found.notes["left out"] == "1 rows that repeat the header"
