"""JSON: items are sent as they are written; records and JSON-LD products are read as tables."""

from pathlib import Path

import msgspec
import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.json_files import MAX_LINE
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing
from tests.support.listing_files import SHOP, imported


def lines_of(tmp_path: Path, content: bytes, name: str = "f.ndjson", options: FileOptions = SHOP) -> list[object]:
    path = tmp_path / name
    path.write_bytes(content)
    with open_import(str(path), options) as listings:
        return list(listings.read())


def test_ndjson_is_unchanged_except_for_blank_lines(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf\n{"id":"1"}\r\n\n  \n{broken\n{"id":"2"}'
    assert lines_of(tmp_path, content) == [Listing(2, b'{"id":"1"}'), Listing(5, b"{broken"), Listing(6, b'{"id":"2"}')]


def test_a_broken_later_line_of_ndjson_is_sent_and_refused_alone(tmp_path: Path) -> None:
    content = b"\n".join([b'{"id":"2"}', b'"platform":"shop","id":"1"}', b'{ "id":"3"}', b"cut {"])
    found = lines_of(tmp_path, content, "f")
    assert [line.body for line in found if isinstance(line, Listing)] == content.split(b"\n")


def test_lines_of_a_quoted_cell_do_not_make_a_table_ndjson(tmp_path: Path) -> None:
    item = imported(tmp_path, 'id,title,description\n1,T,"{}\n{}\n{}\n{}"\n').item
    assert (item["id"], item["title"], item["text"]) == ("1", "T", "{}\n{}\n{}\n{}")


def test_a_table_with_a_name_in_square_brackets_is_csv(tmp_path: Path) -> None:
    assert imported(tmp_path, "[id],title\n1,Lamp\n").item["title"] == "Lamp"


def test_a_line_that_is_too_long_is_refused_without_being_stored(tmp_path: Path) -> None:
    content = b'{"id":"1"}\n{"x":"' + b"y" * (MAX_LINE + 5) + b'"}\n{"id":"2"}\n'
    assert [type(line).__name__ for line in lines_of(tmp_path, content)] == ["Listing", "Refusal", "Listing"]


def test_a_table_with_ids_in_braces_is_csv(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title\n{6F96-19FF},a\n{6F96-1A00},b\n")
    assert [item["id"] for item in found.items] == ["{6F96-19FF}", "{6F96-1A00}"]


def test_the_format_option_takes_precedence_over_detection(tmp_path: Path) -> None:
    content = b'id,title\n"{""a"":1}",x\n'
    csv = lines_of(tmp_path, content, options=FileOptions(platform="shop", is_csv=True))
    ndjson = lines_of(tmp_path, content)
    assert (len(csv), len(ndjson)) == (1, 2)


def test_the_items_of_an_array_are_sent_byte_for_byte(tmp_path: Path) -> None:
    one = b'{"platform":"shop",\r\n "id":"1", "price":{"amount_minor":1.0e2}, "title":"\\u00e9\\n"}'
    content = b"\xef\xbb\xbf [\n" + one + b",\n" + b'{"platform":"shop","id":"2","id":"2"} ]\n'
    found = lines_of(tmp_path, content, "f.json")
    assert found == [
        Listing(1, one.replace(b"\r\n", b"  ")),
        Listing(2, b'{"platform":"shop","id":"2","id":"2"}'),
    ]


def test_records_of_an_array_are_read_as_a_table(tmp_path: Path) -> None:
    records = b"""[{"sku": 12, "name": "Lamp", "price": 12.10, "size": 1.50, "images": ["https://a.example/1", "https://a.example/2"]},
      {"sku": "0013", "name": "Cup", "price": "1.500"}, {"sku": "14", "stock": {"eu": 3}}, 7,
      {"sku": "15", "variants": [{"sku": "16"}]}, {"sku": "17", "name": "a", "name": "b"},
      {"sku": 12345678901234567890}]"""
    found = imported(tmp_path, records, name="f.json")
    assert [item["id"] for item in found.items] == ["12", "14", "12345678901234567890"]
    assert found.items[0]["price"] == {"amount_minor": 1210, "currency": "USD"}
    assert found.items[0]["media"] == ["https://a.example/1", "https://a.example/2"]
    assert found.items[0]["attributes"] == {"size": "1.50"}
    assert found.items[1]["attributes"] == {"stock.eu": "3"}
    assert [(refusal.number, refusal.detail.partition(";")[0]) for refusal in found.refusals] == [
        (2, "price (column 'price'): '1.500' is ambiguous: 1500, or 1.500"),
        (4, "the element is not a JSON object"),
        (5, "attribute variants: a list of objects"),
        (6, "the element has a duplicate object key, so that its value is uncertain"),
    ]


PRODUCT = {
    "@type": "Product",
    "sku": "A1",
    "name": "Lamp",
    "description": "Warm",
    "gtin13": "4006381333931",
    "brand": {"@type": "Brand", "name": "Lumio"},
    "image": ["https://i.example/1.jpg", {"@type": "ImageObject", "url": "https://i.example/2.jpg"}],
    "offers": {"@type": "Offer", "price": "12.99", "priceCurrency": "EUR"},
}


@pytest.mark.parametrize(
    "document",
    [
        {"@context": "https://schema.org", **PRODUCT},
        {"@context": "https://schema.org", "@graph": [{"@type": "Organization", "name": "Shop"}, PRODUCT]},
        {
            "@context": "https://schema.org",
            "@type": "ItemList",
            "itemListElement": [{"@type": "ListItem", "item": PRODUCT}],
        },
        [{"@context": "https://schema.org/", **PRODUCT}],
    ],
)
def test_products_of_json_ld_are_read(tmp_path: Path, document: object) -> None:
    item = imported(tmp_path, msgspec.json.format(msgspec.json.encode(document)), name="f.json").item
    assert (item["id"], item["title"], item["text"], item["brand"]) == ("A1", "Lamp", "Warm", "Lumio")
    assert item["gtin"] == "4006381333931"
    assert item["media"] == ["https://i.example/1.jpg", "https://i.example/2.jpg"]
    assert item["price"] == {"amount_minor": 1299, "currency": "EUR"}


def test_several_offers_of_a_product_have_no_certain_price(tmp_path: Path) -> None:
    offers = [{"@type": "Offer", "price": "1"}, {"@type": "Offer", "price": "2"}]
    document = {"@context": "https://schema.org", **PRODUCT, "offers": offers}
    assert "several offers" in imported(tmp_path, msgspec.json.encode(document), name="f.json").refusal


@pytest.mark.parametrize("record", [b'{"sku":"%d","name":"Lamp"}', b'{"platform":"a","id":"%d"}'])
def test_the_position_in_an_array_moves_with_its_elements(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "f.json"
    records = [record % n for n in range(10, 15)]
    path.write_bytes(b"[" + b",".join(records) + b"]")
    with open_import(str(path), SHOP) as listings:
        positions = [listings.source.position for _ in listings.read()]
    assert positions == [len(records[0]) * count for count in range(1, 6)]
