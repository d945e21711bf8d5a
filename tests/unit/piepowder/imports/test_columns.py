"""Columns become fields by their names, the others become attributes, and only `lenient` leaves out a faulty field."""

from pathlib import Path

import msgspec
import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing
from shared.runtime.user_errors import UserError
from tests.support.intake_items import ANYONE, NOW, item_intake
from tests.support.listing_files import GERMAN, SHOP, imported

LENIENT = FileOptions(platform="shop", lenient=True)


def test_columns_are_found_by_their_usual_names_and_the_others_become_attributes(tmp_path: Path) -> None:
    content = "SKU,Name,Description,Manufacturer,Price,EAN,Ship Weight\n7,Lamp,Warm,Lumio,12.5,4006381333931,2\n"
    assert imported(tmp_path, content).item == {
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


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("Regular price", "price"),
        ("image link", "media"),
        ("Image-Link", "media"),
        ("Product ID", "id"),
        ("Artikel-Nr.", "id"),
        ("Artikelnummer", "id"),
        ("Bezeichnung", "title"),
        ("PRODUKTNAME", "title"),
        ("Beschreibung", "text"),
        ("Verkaufspreis", "price"),
        ("Preis in EUR", "price"),
        ("Währung", "currency"),
        ("Waehrung", "currency"),
        ("Hersteller", "brand"),
        ("Warengruppe", "category"),
        ("EAN-Code", "gtin"),
        ("Bild 1", "media"),
        ("Sprache", "language"),
    ],
)
def test_usual_names_in_english_and_german_are_known(tmp_path: Path, header: str, field: str) -> None:
    other = "sku" if field != "id" else "title"
    found = imported(tmp_path, f"{other};{header}\n1;\n", FileOptions(platform="shop", markets=["DE"]))
    assert found.mapping[field] == header


def test_a_mapped_column_takes_precedence_over_the_usual_name(tmp_path: Path) -> None:
    options = FileOptions(platform="shop", mapping={"id": "code", "title": "headline"})
    item = imported(tmp_path, "id,code,title,headline\n1,X9,no,yes\n", options).item
    assert (item["id"], item["title"]) == ("X9", "yes")
    assert item["attributes"] == {"id": "1", "title": "no"}


def test_a_mapping_to_a_missing_column_names_the_existing_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'sku'.*columns are id, title"):
        imported(tmp_path, "id,title\n1,a\n", FileOptions(platform="shop", mapping={"id": "sku"}))


@pytest.mark.parametrize("content", ["id,price,Price\n1,2,3\n", "id,Preis EUR,Preis CHF\n1,2,3\n"])
def test_two_columns_for_one_field_are_not_chosen_silently(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"ambiguous|several columns"):
        imported(tmp_path, content)


def test_two_other_columns_with_one_name_keep_both_cells(tmp_path: Path) -> None:
    assert imported(tmp_path, "id,title,x,x\n1,a,2,3\n").item["attributes"] == {"x": "2", "x_4": "3"}


def test_the_name_of_an_attribute_keeps_letters_of_all_scripts(tmp_path: Path) -> None:
    item = imported(tmp_path, "id;title;Größe (cm);サイズ;\n1;a;12;L;\n", GERMAN).item
    assert item["attributes"] == {"größe_cm": "12", "サイズ": "L"}


def test_without_an_id_the_rows_are_numbered_only_on_request(tmp_path: Path) -> None:
    content = "title,price\na,1\n\nb,2\n"
    with pytest.raises(UserError, match="--id row"):
        imported(tmp_path, content)
    found = imported(tmp_path, content, FileOptions(platform="shop", number_rows=True))
    assert [(item["id"], item["title"]) for item in found.items] == [("1", "a"), ("2", "b")]


def test_rows_of_data_without_a_header_are_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No column name .* is known"):
        imported(tmp_path, "Lamp;12\nTable;13\n", FileOptions(platform="shop", number_rows=True))


@pytest.mark.parametrize(
    "content",
    [
        "TITOLO,DESCRIZIONE,PREZZO,CURRENCY_CODE,IMMAGINE1,SKU\nCoppa,Testo,55.00,EUR,https://e.example/1.jpg,S1\n",
        "ID,Type,UGS,Nom,Tarif\n1,simple,s,Lampe,12\n",
        "Preis;Artikelnummer;Name des Artikels\n5;1;Lampe\n",
    ],
)
@pytest.mark.parametrize("number_rows", [False, True])
def test_a_table_whose_texts_are_not_known_is_refused(tmp_path: Path, content: str, number_rows: bool) -> None:
    with pytest.raises(UserError, match=r"is known.*; its columns are .*--map title=COLUMN\."):
        imported(tmp_path, content, FileOptions(platform="shop", number_rows=number_rows))


def test_usual_fields_without_a_column_are_stated(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,Description,Nom,Tarif\n1,a,b,c\n")
    assert found.notes["no column"] == "title, media, price (if a column has it, name it: --map title=COLUMN)"
    assert "no column" not in imported(tmp_path, "id,title\n1,a\n").notes


def test_the_word_artikel_is_a_title_and_no_id(tmp_path: Path) -> None:
    item = imported(tmp_path, "Artikelnummer;Artikel\n1;Lampe\n").item
    assert (item["id"], item["title"]) == ("1", "Lampe")
    with pytest.raises(UserError, match="--map id=COLUMN"):
        imported(tmp_path, "Artikel;Beschreibung\nLampe;rot\n")


@pytest.mark.parametrize("header", ["Price ($)", "Price $", "$ Price", "Price US$", "Price (USD)", "USD Price"])
def test_a_currency_in_the_name_of_the_price_column_is_not_replaced_by_that_of_the_market(
    tmp_path: Path, header: str
) -> None:
    content = f"id,title,{header}\n1,Lamp,12.99\n"
    assert imported(tmp_path, content).item["price"] == {"amount_minor": 1299, "currency": "USD"}
    german = imported(tmp_path, content, GERMAN)
    if "US" in header:
        assert german.item["price"] == {"amount_minor": 1299, "currency": "USD"}
    else:
        assert "'$' is the sign of USD, AUD" in german.refusal


@pytest.mark.parametrize(("header", "refusal"), [("Betrag ($)", "sign of USD"), ("Betrag (kr)", "sign of SEK")])
def test_a_sign_in_the_name_of_a_mapped_price_column_counts_too(tmp_path: Path, header: str, refusal: str) -> None:
    options = FileOptions(platform="shop", markets=["DE"], mapping={"price": header})
    assert refusal in imported(tmp_path, f"id,title,{header}\n1,Lamp,12.99\n", options).refusal


def test_the_currency_column_of_a_german_etsy_export_is_known(tmp_path: Path) -> None:
    item = imported(tmp_path, "TITEL,PREIS,WÄHRUNGSCODE,ARTIKELNUMMER\nLampe,12.50,EUR,S1\n").item
    assert item["price"] == {"amount_minor": 1250, "currency": "EUR"}


def test_an_unknown_column_of_currencies_must_be_used_or_overruled(tmp_path: Path) -> None:
    content = "id,title,price,Cur Of Price\n1,Lamp,12.99,EUR\n2,Cup,5,\n"
    with pytest.raises(UserError, match=r"'Cur Of Price' .*\(such as EUR\).*--map currency='Cur Of Price', or "):
        imported(tmp_path, content)
    mapped = imported(tmp_path, content, FileOptions(platform="shop", mapping={"currency": "Cur Of Price"}))
    stated = imported(tmp_path, content, FileOptions(platform="shop", currency="GBP"))
    assert [item["price"]["currency"] for item in mapped.items] == ["EUR", "USD"]
    assert [item["price"]["currency"] for item in stated.items] == ["GBP", "GBP"]
    other = imported(tmp_path, "id,title,price,spoken,size\n1,a,5,fr,ALL\n2,b,5,rs,XL\n")
    assert len(other.items) == 2


def test_a_currency_column_may_have_signs(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,price,currency\n1,5,€\n2,5,Euro\n3,5,US$\n4,5,eur\n5,5,XAU\n6,$5,€\n", GERMAN)
    assert [item["price"]["currency"] for item in found.items] == ["EUR", "EUR", "USD", "EUR"]
    assert [refusal.detail for refusal in found.refusals] == [
        "currency (column 'currency'): 'XAU' is not a currency; write its code (ISO 4217), such as EUR",
        "price (column 'price'): '$' contradicts the currency € of its column",
    ]


def test_an_item_that_is_too_large_names_its_longest_columns(tmp_path: Path) -> None:
    header = ",".join(f"c{n}" for n in range(60))
    cells = ",".join("x" * (4_000 + n) for n in range(60))
    assert imported(tmp_path, f"id,title,text,{header}\n1,a,{'y' * 49_000},{cells}\n").refusal.endswith(
        "bytes; at most 262,144 are allowed; shorten or remove the longest cells ('text', 'c59', 'c58')"
    )


def test_empty_cells_are_left_out_and_a_missing_id_refuses_the_line(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title,price,brand\n1,,,\n,x,1,y\n")
    assert found.items == [{"platform": "shop", "kind": "product", "id": "1", "markets": ["US"]}]
    assert found.refusals[0].detail == "the item's id (column 'id') is empty"


def test_the_currency_of_a_market_is_used_and_never_another(tmp_path: Path) -> None:
    content = "id,price,market\n1,5,DE\n2,5,GB\n3,5,\n4,5,DE FR\n5,5,DE GB\n"
    found = imported(tmp_path, content)
    assert [item["price"]["currency"] for item in found.items] == ["EUR", "GBP", "USD", "EUR"]
    assert "have several (EUR, GBP); give --currency" in found.refusals[0].detail


def test_a_seller_needs_an_id_and_its_other_cells_are_not_lost(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,seller,seller_name,seller_country\n1,s1,Max,de\n2,,Max,\n")
    assert found.items[0]["seller"] == {"id": "s1", "name": "Max", "country": "DE"}
    assert found.items[1]["attributes"] == {"seller_name": "Max"}
    assert imported(tmp_path, "id,title,seller_name\n1,a,Max\n").item["attributes"] == {"seller_name": "Max"}


FAULTS = {
    "price": "cheap",
    "currency": "XYZ",
    "gtin": "4006381333932",
    "language": "German",
    "image": "a.jpg",
    "version": "one",
    "title": "t" * 1_001,
    "text": "t" * 50_001,
    "brand": "b\x07",
    "category": "a//b",
    "reference": "r" * 201,
    "seller": "s" * 201,
    "colour": "c" * 5_001,
}


@pytest.mark.parametrize("column", FAULTS)
def test_a_faulty_optional_field_refuses_its_line_and_lenient_leaves_out_that_field_alone(
    tmp_path: Path, column: str
) -> None:
    header = ["id", *FAULTS, "size"]
    good = {"price": "5", "currency": "EUR", "title": "Lamp", "gtin": "4006381333931", "size": "XL"}
    cells = [{"id": "1", **good, column: FAULTS[column]}.get(name, "") for name in header]
    content = "|".join(header) + "\n" + "|".join(cells) + "\n"

    assert imported(tmp_path, content).refusals
    path = tmp_path / "listings.csv"
    with open_import(str(path), LENIENT) as listings:
        [line] = listings.read()
    assert isinstance(line, Listing)
    item = msgspec.json.decode(line.body)
    kept = {"price": {"amount_minor": 500, "currency": "EUR"}, "title": "Lamp", "gtin": "4006381333931"}
    kept.pop("price" if column == "currency" else column, None)
    assert {field: item.get(field) for field in ("price", "title", "gtin") if field in item} == kept
    assert item["attributes"] == {"size": "XL"}
    names = {"image": "media", "seller": "seller.id", "colour": "attributes.colour", "currency": "price"}
    assert line.omitted[0].field == names.get(column, column)
    item_intake().prepare(line.body, ANYONE, NOW)


@pytest.mark.parametrize("content", ["id,title\n,x\n", "id,market\n1,UK\n"])
def test_a_faulty_required_field_is_refused_also_if_lenient(tmp_path: Path, content: str) -> None:
    assert imported(tmp_path, content, LENIENT).refusal


def test_the_default_platform_is_the_name_of_the_file(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title\n1,a\n", FileOptions(), "My Shop (2026).csv")
    assert found.item["platform"] == "my-shop-2026"
    assert found.notes["platform"] == "my-shop-2026 (name of the file)"


def test_the_stated_language_is_used_where_the_column_has_none(tmp_path: Path) -> None:
    options = FileOptions(platform=SHOP.platform, language="de")
    found = imported(tmp_path, "id,language\n1,NL\n2,\n3,en_us\n", options)
    assert [item["language"] for item in found.items] == ["nl", "de", "en-US"]


def test_a_numbered_listing_has_its_position_and_not_its_line(tmp_path: Path) -> None:
    content = 'My export\n\ntitle;price\n"a\nlong";1\n\nb;cheap\ntitle;price\nc;2\n'
    found = imported(tmp_path, content, FileOptions(platform="shop", number_rows=True))
    assert [(line.number, item["id"]) for line, item in zip(found.lines[::2], found.items, strict=True)] == [
        (4, "1"),
        (9, "3"),
    ]
    assert found.refusals[0].number == 7
    assert found.mapping["id"] == "the position of the listing in the file (1, 2, …), not its line"


def test_a_seller_with_a_faulty_country_keeps_its_other_members_if_lenient(tmp_path: Path) -> None:
    content = f"id,seller,seller_name,seller_country\n1,s1,Max,XX\n2,{'s' * 201},Max,de\n"
    found = imported(tmp_path, content, LENIENT)
    assert found.items[0]["seller"] == {"id": "s1", "name": "Max"}
    assert found.items[1]["attributes"] == {"seller_name": "Max", "seller_country": "DE"}
    assert [[one.field for one in line.omitted] for line in found.lines if isinstance(line, Listing)] == [
        ["seller.country"],
        ["seller.id"],
    ]


def test_the_default_market_is_named_as_one(tmp_path: Path) -> None:
    assert imported(tmp_path, "id,title\n1,a\n").notes["market"] == "US (default without --market)"
    stated = FileOptions(platform="shop", markets=["US"])
    assert imported(tmp_path, "id,market\n1,\n", stated).notes["market"] == "US (if the row has none)"
