"""JSON: items are sent as they are written; records and JSON-LD products are read as tables."""

from pathlib import Path

import msgspec
import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.json_files import MAX_LINE
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing, Refusal
from shared.runtime.user_errors import UserError
from tests.support.listing_files import SHOP, imported


def lines_of(tmp_path: Path, content: bytes, name: str = "f.ndjson", options: FileOptions = SHOP) -> list[object]:
    path = tmp_path / name
    path.write_bytes(content)
    with open_import(str(path), options) as listings:
        return list(listings.read())


def item(number: int) -> bytes:
    return b'{"platform":"a","kind":"product","id":"%d"}' % number


def test_items_in_lines_are_unchanged_and_a_faulty_line_is_refused_alone(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbf", item(1) + b"\r", b"", b"  ", b"{broken", b"[1]", b'{"platform":"a"}', item(2)]
    assert lines_of(tmp_path, b"\n".join(lines)) == [
        Listing(2, item(1)),
        Refusal(5, 0, "it is not valid JSON (object keys must be strings (byte 1))"),
        Refusal(6, 0, "it is not a JSON object"),
        Refusal(7, 0, "it has no platform and kind, which most objects of the file have"),
        Listing(8, item(2)),
    ]


@pytest.mark.parametrize("broken", [b'"platform":"shop","id":"1"}', b"not JSON at all", b'{"id":"3"}'])
def test_a_faulty_first_line_does_not_change_what_the_others_are(tmp_path: Path, broken: bytes) -> None:
    first, *others = lines_of(tmp_path, b"\n".join([broken, item(2), item(3)]))
    assert isinstance(first, Refusal)
    assert others == [Listing(2, item(2)), Listing(3, item(3))]


def test_lines_of_a_quoted_cell_do_not_make_a_table_ndjson(tmp_path: Path) -> None:
    item = imported(tmp_path, 'id,title,description\n1,T,"{}\n{}\n{}\n{}"\n').item
    assert (item["id"], item["title"], item["text"]) == ("1", "T", "{}\n{}\n{}\n{}")


def test_a_table_with_a_name_in_square_brackets_is_csv(tmp_path: Path) -> None:
    assert imported(tmp_path, "[id],title\n1,Lamp\n").item["title"] == "Lamp"


def test_a_line_that_is_too_long_is_refused_without_being_stored(tmp_path: Path) -> None:
    content = item(1) + b'\n{"x":"' + b"y" * (MAX_LINE + 5) + b'"}\n' + item(2) + b"\n"
    assert [type(line).__name__ for line in lines_of(tmp_path, content)] == ["Listing", "Refusal", "Listing"]


def test_a_table_with_ids_in_braces_is_csv(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title\n{6F96-19FF},a\n{6F96-1A00},b\n")
    assert [item["id"] for item in found.items] == ["{6F96-19FF}", "{6F96-1A00}"]


def test_the_format_option_takes_precedence_over_detection(tmp_path: Path) -> None:
    content = b'id,title\n"{""a"":1}",x\n'
    assert len(lines_of(tmp_path, content, options=FileOptions(platform="shop", is_csv=True))) == 1
    with pytest.raises(UserError, match="No line of"):
        lines_of(tmp_path, content)


def test_the_items_of_an_array_are_sent_byte_for_byte(tmp_path: Path) -> None:
    one = b'{"platform":"shop",\r\n "kind":"x", "id":"1", "price":{"amount_minor":1.0e2}, "title":"\\u00e9\\n"}'
    content = b"\xef\xbb\xbf [\n" + one + b",\n" + b'{"platform":"shop","kind":5,"id":"2","id":"2"} ]\n'
    found = lines_of(tmp_path, content, "f.json")
    assert found == [
        Listing(1, one.replace(b"\r\n", b"  ")),
        Listing(2, b'{"platform":"shop","kind":5,"id":"2","id":"2"}'),
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
        (4, "it is not a JSON object"),
        (5, "attribute variants: it is a list of objects"),
        (6, "it has the key 'name' twice, so that its value is uncertain"),
    ]


RECORDS = [b'{"sku":"1","name":"x","price":5}', b'{"sku":2,"name":"y","price":6.5}']


@pytest.mark.parametrize(
    ("content", "name", "unit"),
    [
        (b"\n".join(RECORDS), "f.ndjson", "line"),
        (b"\n".join(RECORDS), "f.json", "line"),
        (b"[" + b",".join(RECORDS) + b"]", "f.json", "item"),
    ],
)
def test_records_are_the_same_in_lines_and_in_an_array(tmp_path: Path, content: bytes, name: str, unit: str) -> None:
    found = imported(tmp_path, content, name=name)
    assert [(item["id"], item["title"], item["price"]["amount_minor"]) for item in found.items] == [
        ("1", "x", 500),
        ("2", "y", 650),
    ]
    assert [line.number for line in found.lines] == [1, 2]
    assert "repeated" not in found.notes
    assert found.notes["format"] == ("NDJSON, records" if unit == "line" else "JSON array of 2 records")


def test_faulty_lines_of_records_are_refused_alone(tmp_path: Path) -> None:
    lines = ['{"sku":"1","name":"\\ud800"}', '{"sku":"2"}', "{x", '"x"', '{"sku":"3","name":"ö"}', '{"sku":"4"']
    found = imported(tmp_path, "\n".join(lines).encode("latin-1"), name="f.ndjson")
    assert [item["id"] for item in found.items] == ["2"]
    assert [(refusal.number, refusal.detail) for refusal in found.refusals] == [
        (1, "it is not valid JSON (a \\u escape is half of a surrogate pair (byte 19))"),
        (3, "it is not valid JSON (object keys must be strings (byte 1))"),
        (4, "it is not a JSON object"),
        (5, "it is not valid JSON (it is not UTF-8: byte 0xF6)"),
        (6, "it is not valid JSON (it ends before its last bracket or quotation mark)"),
    ]


def test_the_members_of_one_record_do_not_make_the_others_items(tmp_path: Path) -> None:
    content = b"\n".join([b'{"sku":"1","platform":"PS5","kind":"game"}', *RECORDS])
    found = imported(tmp_path, content, name="f.ndjson")
    assert [item["id"] for item in found.items] == ["1", "1", "2"]
    assert found.items[0]["attributes"] == {"platform": "PS5", "kind": "game"}


def test_one_object_with_a_platform_and_a_kind_is_an_item(tmp_path: Path) -> None:
    assert lines_of(tmp_path, b' {\n"platform":"a","kind":"product","id":"1"}\n', "f.json") == [
        Listing(1, b'{ "platform":"a","kind":"product","id":"1"}')
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name":"x","version":"1.0"}', r"one JSON object with the members name, version\. If .* as an array"),
        (b'{"id":"1","title":"x"}', r"one JSON object with the members id, title\. If it is a listing, .*a platform"),
        (b"{}", r"one JSON object without members\."),
        (b'{"platform":null,"kind":null}', "one JSON object with the members platform, kind"),
        (b'{"n":1,"products":[{"id":1}]}', r"with the members n, products\. .* jq -c '\.products\[\]' FILE"),
        (b'{"data":{"my list":[{"id":1}]}}', r"""jq -c '\.data\.\["my list"\]\[\]' FILE"""),
        (b'{"id":"1","id":"2"}', "No item of .* can be read; item 1: it has the key 'id' twice"),
        (b'[{"id":"1","a":{"b":1,"b":2}}]', "item 1: it has the key 'b' twice, so that its value is uncertain"),
        (b'[{"id":"1","title":"Gr\xf6\xdfe"}]', r"item 1: .*it is not UTF-8: byte 0xF6\)\. Write .* as UTF-8"),
        (b'[["id","title"],["1","x"]]', r"item 1: it is not a JSON object\. Write one object for each listing"),
        (b"[{},{}]", "objects of .* have no members"),
        (b"null", "item 1: it is not a JSON object"),
        (b"// x\n[]", "line 1, column 1: invalid character"),
        (b'[{"id":"1"},\n\n ]', r"not valid JSON \(line 3, column 2: trailing comma in array\)\. Correct it"),
        (b'\n[{"price":NaN}]', r"\(line 2, column 11: invalid character\)"),
        (b'\n[{"a":"\\ud800"}]', r"\(line 2, column 8: a \\u escape is half of a surrogate pair\)"),
        (b'[{"a":"x', "it ends before its last bracket"),
        (b"[" * 5_000, "it is nested too deeply"),
        (b'{\n"id":"1"\n}\n{\n"id":"2"\n}', r"line 4, column 2: trailing characters\)\. .*jq -c \. FILE"),
        (
            '[{"id":"1"}]'.encode("utf-16-le"),
            r"is JSON in UTF-16LE\. Save it as UTF-8: iconv -f UTF-16LE -t UTF-8 FILE",
        ),
        ('[{"id":"1"}]'.encode("utf-16-be"), "is JSON in UTF-16BE"),
        ('{"id":"1"}'.encode("utf-16"), "is JSON in UTF-16"),
        ('[{"id":"1"}]'.encode("utf-32"), "is JSON in UTF-32"),
        ('[{"id":"1"}]'.encode("utf-32-le"), "is JSON in UTF-32LE"),
        (b'[{"Nombre":"x"}]', r"No column of .*; its columns are Nombre\. .*--id row\.$"),
    ],
)
def test_other_json_is_named_with_its_fault_and_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        imported(tmp_path, content, name="f.json")


def test_the_only_broken_lines_of_ndjson_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No line of .* can be read; line 2: it is not valid JSON .*jq -c"):
        imported(tmp_path, b"\n{broken\nmore\n", name="f.ndjson")


def test_numeric_ids_of_json_are_not_those_of_a_workbook(tmp_path: Path) -> None:
    found = imported(tmp_path, b'[{"id":1.50},{"id":2}]', name="f.json")
    assert [item["id"] for item in found.items] == ["1.50", "2"]
    assert found.notes["ids"] == "1 are numbers, written without separators"


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


@pytest.mark.parametrize("record", [b'{"sku":"%d","name":"Lamp"}', b'{"platform":"a","kind":"b","id":"%d"}'])
def test_the_position_in_an_array_moves_with_its_elements(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "f.json"
    records = [record % n for n in range(10, 15)]
    path.write_bytes(b"[" + b",".join(records) + b"]")
    with open_import(str(path), SHOP) as listings:
        positions = [listings.source.position for _ in listings.read()]
    assert positions == [len(records[0]) * count for count in range(1, 6)]


def test_the_values_of_json_ld_with_a_language_are_texts(tmp_path: Path) -> None:
    texts = [{"@value": "Lampe", "@language": "de"}, {"@value": "Lamp", "@language": "en"}]
    product = {"@type": "Product", "sku": "1", "name": texts[0], "description": texts, "brand": {"@id": "#b"}}
    document = {"@context": "https://schema.org", "@graph": [product]}
    item = imported(tmp_path, msgspec.json.encode(document), name="f.json").item
    assert (item["title"], item["text"]) == ("Lampe", "Lampe\nLamp")
    assert item["attributes"] == {"name._language": "de", "description._language": "de\nen", "brand._id": "#b"}


def test_products_of_json_ld_in_lines_are_read_and_a_broken_line_is_refused(tmp_path: Path) -> None:
    lines = [{"@type": "Product", "sku": str(n), "name": "Lamp"} for n in (1, 2)]
    content = b'\n{"@type"\n'.join(map(msgspec.json.encode, lines))
    found = imported(tmp_path, content, name="f.ndjson")
    assert [item["id"] for item in found.items] == ["1", "2"]
    assert [refusal.number for refusal in found.refusals] == [2]
