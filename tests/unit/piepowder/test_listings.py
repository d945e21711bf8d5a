"""Files with errors: only the lines that cannot be read are refused, each with its number."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from piepowder.listings import MAX_LINE, FileOptions, ItemFile, Line, Refusal, money, read
from shared.runtime.user_errors import UserError

SHOP = FileOptions(platform="shop")


def lines_of(tmp_path: Path, content: bytes, options: FileOptions = SHOP, name: str = "f.csv") -> list[Line | Refusal]:
    path = tmp_path / name
    path.write_bytes(content)
    source = ItemFile(str(path))
    try:
        return list(read(source, options))
    finally:
        source.close()


def items(found: list[Line | Refusal]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line.body) for line in found if isinstance(line, Line)]


def refusals(found: list[Line | Refusal]) -> list[Refusal]:
    return [line for line in found if isinstance(line, Refusal)]


def test_columns_are_found_by_their_usual_names_and_the_others_become_attributes(tmp_path: Path) -> None:
    found = lines_of(
        tmp_path, b"SKU,Name,Description,Manufacturer,Price,EAN,Ship Weight\n7,Lamp,Warm,Lumio,12.5,4006381333931,2\n"
    )

    assert items(found) == [
        {
            "platform": "shop",
            "kind": "product",
            "id": "7",
            "markets": ["US"],
            "title": "Lamp",
            "text": "Warm",
            "brand": "Lumio",
            "price": {"amount_minor": 1250, "currency": "USD"},
            "gtin": "4006381333931",
            "attributes": {"ship_weight": "2"},
        }
    ]


def test_a_mapped_column_takes_precedence_over_the_usual_name(tmp_path: Path) -> None:
    options = FileOptions(platform="shop", mapping={"id": "code", "title": "headline"})

    [item] = items(lines_of(tmp_path, b"id,code,title,headline\n1,X9,no,yes\n", options))

    assert (item["id"], item["title"]) == ("X9", "yes")
    assert item["attributes"] == {"id": "1", "title": "no"}


@pytest.mark.parametrize("delimiter", [",", ";", "|", "#", "\t"])
def test_the_delimiter_is_detected_even_if_cells_contain_others(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "title", "price"], ["1", '"a, b; c | d # e"', "2"], ["2", '"f, g"', "3"]]
    content = "\n".join(delimiter.join(row) for row in rows).encode()

    assert [item["title"] for item in items(lines_of(tmp_path, content))] == ["a, b; c | d # e", "f, g"]


def test_a_byte_order_mark_and_windows_line_ends_and_encoding_are_accepted(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfid;title\r\n1;K\xc3\xbcche\r\n2;K\xfcche \x80 5\r\n"

    assert [item["title"] for item in items(lines_of(tmp_path, content))] == ["Küche", "Küche € 5"]


def test_a_quoted_cell_may_have_several_lines_and_line_numbers_stay_correct(tmp_path: Path) -> None:
    found = lines_of(tmp_path, b'id,title,text\n1,a,"two\nlines, ""quoted"""\n2,b\n3,c,d\n')

    assert items(found)[0]["text"] == 'two\nlines, "quoted"'
    assert [(line.number, type(line).__name__) for line in found] == [(2, "Line"), (4, "Refusal"), (5, "Line")]


def test_a_quote_that_is_never_closed_affects_only_its_own_line(tmp_path: Path) -> None:
    rows = "".join(f"{n},row {n},x\n" for n in range(2, 1000))

    found = lines_of(tmp_path, f'id,title,text\n1,"open,x\n{rows}'.encode())

    assert [item["title"] for item in items(found)] == ['"open', *(f"row {n}" for n in range(2, 1000))]


def test_rows_with_the_wrong_number_of_cells_are_refused_with_line_and_reason(tmp_path: Path) -> None:
    found = lines_of(tmp_path, b"id,title\n1,a\n2\n3,b,c\n4,d,\n\n,,\n5,e\n")

    assert [item["id"] for item in items(found)] == ["1", "4", "5"]
    assert refusals(found) == [
        Refusal(3, 0, "the row has 1 cells, the header has 2"),
        Refusal(4, 0, "the row has 3 cells, the header has 2"),
    ]


def test_a_price_that_is_not_a_number_refuses_its_line_or_with_lenient_becomes_an_attribute(tmp_path: Path) -> None:
    content = b"id,price\n1,cheap\n2,3\n"

    [refusal] = refusals(lines_of(tmp_path, content))
    lenient = items(lines_of(tmp_path, content, FileOptions(platform="shop", lenient=True)))

    assert refusal.number == 2
    assert "'cheap' is not an amount" in refusal.detail
    assert lenient[0]["attributes"] == {"price": "cheap"}
    assert "price" not in lenient[0]


def test_empty_cells_are_left_out_and_a_missing_id_refuses_the_line(tmp_path: Path) -> None:
    found = lines_of(tmp_path, b"id,title,price,brand\n1,,,\n,x,1,y\n")

    assert items(found) == [{"platform": "shop", "kind": "product", "id": "1", "markets": ["US"]}]
    assert "id (column 'id') is empty" in refusals(found)[0].detail


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("12.5", "USD", (1250, "USD")),
        ("0.0", "USD", (0, "USD")),
        ("12.500", "USD", (1250, "USD")),
        ("1,234.50", "USD", (123450, "USD")),
        ("1.234,50 €", "USD", (123450, "EUR")),
        ("12,99", "EUR", (1299, "EUR")),
        ("$ 5", "USD", (500, "USD")),
        ("69.71 gbp", "USD", (6971, "GBP")),
        ("1200", "JPY", (1200, "JPY")),
        ("1.2345", "KWD", None),
        ("12.345", "USD", None),
        ("1.5", "JPY", None),
        ("-3", "USD", None),
        ("1e5", "USD", None),
        (".", "USD", None),
        ("12 or 13", "USD", None),
        ("٣", "USD", None),
    ],
)
def test_a_price_becomes_exact_minor_units_or_is_rejected(
    text: str, currency: str, expected: tuple[int, str] | None
) -> None:
    if expected is not None:
        assert money(text, currency) == expected
    else:
        with pytest.raises(ValueError, match=r"is not an amount|has more decimals"):
            money(text, currency)


def test_ndjson_is_unchanged_except_for_blank_lines(tmp_path: Path) -> None:
    found = lines_of(tmp_path, b'\n{"id":"1"}\r\n\n  \n{broken\n{"id":"2"}', name="f.ndjson")

    assert found == [Line(2, b'{"id":"1"}'), Line(5, b"{broken"), Line(6, b'{"id":"2"}')]


def test_a_line_that_is_too_long_is_refused_without_being_stored(tmp_path: Path) -> None:
    found = lines_of(tmp_path, b'{"id":"1"}\n{"x":"' + b"y" * (MAX_LINE + 5) + b'"}\n{"id":"2"}\n')

    assert [(line.number, type(line).__name__) for line in found] == [(1, "Line"), (2, "Refusal"), (3, "Line")]


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    assert items(lines_of(tmp_path, gzip.compress(b"id,title\n1,a\n"), name="f.csv.gz"))[0]["id"] == "1"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"title,price\na,1\n", "--map id=COLUMN"),
        ("id,title\n".encode("utf-16"), "UTF-16"),
        (b'[{"id": "1"}]', "one JSON array"),
    ],
)
def test_an_unusable_file_is_refused_with_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        lines_of(tmp_path, content)


def test_a_mapping_to_a_missing_column_names_the_existing_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'sku'.*columns are id, title"):
        lines_of(tmp_path, b"id,title\n1,a\n", FileOptions(platform="shop", mapping={"id": "sku"}))


BROKEN = [b'"platform":"shop","id":"1"}', b"not JSON at all", b"id,title"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_first_line_of_ndjson_is_refused_alone(tmp_path: Path, broken: bytes) -> None:
    content = b"\n".join([broken, b'{"id":"2"}', b'{ "id":"3"}', b"cut {", b""])

    assert lines_of(tmp_path, content, name="-") == [
        Line(1, broken),
        Line(2, b'{"id":"2"}'),
        Line(3, b'{ "id":"3"}'),
        Line(4, b"cut {"),
    ]


def test_a_table_with_ids_in_braces_is_csv(tmp_path: Path) -> None:
    assert [item["id"] for item in items(lines_of(tmp_path, b"id,title\n{6F96-19FF},a\n{6F96-1A00},b\n"))] == [
        "{6F96-19FF}",
        "{6F96-1A00}",
    ]


def test_the_format_option_takes_precedence_over_detection(tmp_path: Path) -> None:
    content = b'id,title\n"{""a"":1}",x\n'
    assert len(items(lines_of(tmp_path, content, FileOptions(platform="shop", format="csv"), name="f.ndjson"))) == 1
    assert [line.number for line in lines_of(tmp_path, content, FileOptions(platform="shop", format="ndjson"))] == [
        1,
        2,
    ]
