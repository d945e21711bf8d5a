"""Exports of shop systems, in their real column layouts and with invented content, are imported without a wrong result.

Each test compares every stored value with the source, and intake accepts every item.
"""

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.shop_formats import is_gtin_type
from services.intake.items.handlers import ItemIntake
from tests.support.intake_items import ANYONE, NOW, item_intake
from tests.support.listing_files import GERMAN, SHOP, Cell, CellValue, imported, workbook


@pytest.fixture(scope="module")
def intake() -> ItemIntake:
    return item_intake()


def accept(intake: ItemIntake, items: list[dict[str, Any]]) -> None:
    for item in items:
        intake.prepare(msgspec.json.encode(item), ANYONE, NOW)


def table(header: str, rows: list[dict[str, str]], *, delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL) -> str:
    """A table as the csv module writes it; `header` has the names of the columns between bars."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header.split("|"), restval="", delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]  # a constant of csv
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def without_identity(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("platform", "kind", "markets")}


SHOPIFY = (
    "Handle|Title|Body (HTML)|Vendor|Product Category|Type|Tags|Published|Option1 Name|Option1 Value|Option1 Linked To"
    "|Option2 Name|Option2 Value|Option2 Linked To|Option3 Name|Option3 Value|Option3 Linked To|Variant SKU"
    "|Variant Grams|Variant Inventory Tracker|Variant Inventory Qty|Variant Inventory Policy"
    "|Variant Fulfillment Service|Variant Price|Variant Compare At Price|Variant Requires Shipping|Variant Taxable"
    "|Variant Barcode|Image Src|Image Position|Image Alt Text|Gift Card|SEO Title|SEO Description|Variant Image"
    "|Variant Weight Unit|Variant Tax Code|Cost per item|Status"
)
SHIRT = {
    "Handle": "linen-shirt",
    "Title": 'Linen shirt, "Harrow"',
    "Body (HTML)": "<p>Soft, washed linen.</p>\n<ul><li>Made in Porto</li></ul>",
    "Vendor": "Ostrow & Sons",
    "Product Category": "Apparel & Accessories > Clothing > Shirts & Tops",
    "Type": "Shirt",
    "Published": "true",
    "Option1 Name": "Colour",
    "Option1 Value": "Sand",
    "Option2 Name": "Size",
    "Option2 Value": "M",
    "Variant SKU": "LS-SAND-M",
    "Variant Price": "59.00",
    "Variant Barcode": "'4006381333931",
    "Image Src": "https://cdn.example/files/shirt_1.jpg?v=1700000000",
    "Image Position": "1",
    "Variant Image": "https://cdn.example/files/sand.jpg?v=1",
    "Status": "active",
}


def test_a_shopify_export_has_one_listing_for_each_variant_with_the_texts_and_pictures_of_its_product(
    intake: ItemIntake, tmp_path: Path
) -> None:
    rows = [
        SHIRT,
        {
            "Handle": "linen-shirt",
            "Option1 Value": "Olive",
            "Option2 Value": "L",
            "Variant SKU": "LS-OLIVE-L",
            "Variant Price": "64.50",
            "Image Src": "https://cdn.example/files/shirt_2.jpg?v=1700000000",
            "Image Position": "2",
        },
        {"Handle": "linen-shirt", "Image Src": "https://cdn.example/files/shirt_3.jpg", "Image Position": "3"},
        {
            "Handle": "gift-card",
            "Title": "Gift card",
            "Vendor": "Ostrow & Sons",
            "Option1 Name": "Title",
            "Option1 Value": "Default Title",
            "Variant Price": "25.00",
            "Gift Card": "true",
            "Status": "draft",
        },
    ]
    found = imported(tmp_path, table(SHOPIFY, rows))

    assert not found.refusals
    accept(intake, found.items)
    pictures = [f"https://cdn.example/files/shirt_{n}.jpg" + ("?v=1700000000" if n < 3 else "") for n in (1, 2, 3)]
    common = {
        "title": SHIRT["Title"],
        "text": SHIRT["Body (HTML)"],
        "category": SHIRT["Product Category"],
        "brand": SHIRT["Vendor"],
    }
    attributes = {
        "type": "Shirt",
        "published": "true",
        "option1_name": "Colour",
        "option2_name": "Size",
        "status": "active",
    }
    assert [without_identity(item) for item in found.items] == [
        {
            "id": "linen-shirt/Sand/M",
            **common,
            "price": {"amount_minor": 5900, "currency": "USD"},
            "gtin": "4006381333931",
            "media": [SHIRT["Variant Image"], *pictures],
            "attributes": attributes
            | {
                "option1_value": "Sand",
                "option2_value": "M",
                "variant_sku": "LS-SAND-M",
                "image_position": "1",
                "variant_image": SHIRT["Variant Image"],
            },
        },
        {
            "id": "linen-shirt/Olive/L",
            **common,
            "price": {"amount_minor": 6450, "currency": "USD"},
            "media": pictures,
            "attributes": attributes
            | {"option1_value": "Olive", "option2_value": "L", "variant_sku": "LS-OLIVE-L", "image_position": "2"},
        },
        {
            "id": "gift-card",
            "title": "Gift card",
            "brand": "Ostrow & Sons",
            "price": {"amount_minor": 2500, "currency": "USD"},
            "attributes": {
                "option1_name": "Title",
                "option1_value": "Default Title",
                "gift_card": "true",
                "status": "draft",
            },
        },
    ]
    assert found.notes["shop format"] == "Shopify"
    assert found.mapping["id"] == "Handle"
    assert found.mapping["price"] == "Variant Price"


def test_a_row_of_shopify_whose_product_has_no_title_is_refused(tmp_path: Path) -> None:
    found = imported(tmp_path, table(SHOPIFY, [{"Handle": "x", "Variant Price": "5.00", "Option1 Value": "Red"}]))
    assert "the row with the title of 'x' is not directly before it" in found.refusal


def test_the_new_layout_of_shopify_is_read_too(intake: ItemIntake, tmp_path: Path) -> None:
    header = (
        "Title|URL handle|Description|Vendor|Product category|Type|Tags|Published on online store|Status|SKU|Barcode"
        "|Option1 name|Option1 value|Price|Compare-at price|Inventory quantity|Product image URL|Image position"
        "|Variant image URL"
    )
    rows = [
        {
            "Title": "Lamp",
            "URL handle": "lamp",
            "Description": "Warm",
            "Vendor": "Lumio",
            "SKU": "L-1",
            "Option1 name": "Colour",
            "Option1 value": "Brass",
            "Price": "1299.90",
            "Product image URL": "https://cdn.example/1.jpg",
        },
        {"URL handle": "lamp", "SKU": "L-2", "Option1 value": "Steel", "Price": "999"},
    ]
    found = imported(tmp_path, table(header, rows))

    accept(intake, found.items)
    assert [(item["id"], item["title"], item["brand"], item["price"]["amount_minor"]) for item in found.items] == [
        ("lamp/Brass", "Lamp", "Lumio", 129_990),
        ("lamp/Steel", "Lamp", "Lumio", 99_900),
    ]
    assert all(item["media"] == ["https://cdn.example/1.jpg"] for item in found.items)


WOOCOMMERCE = (
    "ID|Type|SKU|GTIN, UPC, EAN, or ISBN|Name|Published|Is featured?|Visibility in catalog|Short description"
    "|Description|Date sale price starts|Date sale price ends|Tax status|Tax class|In stock?|Stock|Low stock amount"
    "|Backorders allowed?|Sold individually?|Weight (kg)|Length (cm)|Width (cm)|Height (cm)|Allow customer reviews?"
    "|Purchase note|Sale price|Regular price|Categories|Tags|Shipping class|Images|Download limit"
    "|Download expiry days|Parent|Grouped products|Upsells|Cross-sells|External URL|Button text|Position|Brands"
    "|Attribute 1 name|Attribute 1 value(s)|Attribute 1 visible|Attribute 1 global"
)


def test_a_woocommerce_export_is_read_with_its_escapes(intake: ItemIntake, tmp_path: Path) -> None:
    rows = [
        {
            "ID": "44",
            "Type": "variable",
            "SKU": "hoodie",
            "Name": "'+Plus hoodie",
            "Description": r"<p>Warm.</p>\n<p>A \\n is no line end.</p>",
            "Categories": "Clothing > Hoodies, Sale",
            "Images": "https://shop.example/u/h-1.jpg, https://shop.example/u/w_3,h_2/h-2.jpg",
            "Brands": "Harrow",
            "Attribute 1 name": "Colour",
            "Attribute 1 value(s)": "Blue, Red",
        },
        {
            "ID": "45",
            "Type": "variation",
            "SKU": "hoodie-blue",
            "GTIN, UPC, EAN, or ISBN": "4006381333931",
            "Name": "Hoodie - Blue",
            "Sale price": "39.95",
            "Regular price": "45",
            "Parent": "id:44",
        },
    ]
    found = imported(tmp_path, "\ufeff" + table(WOOCOMMERCE, rows))

    assert not found.refusals
    accept(intake, found.items)
    assert [without_identity(item) for item in found.items] == [
        {
            "id": "44",
            "title": "+Plus hoodie",
            "text": "<p>Warm.</p>\n<p>A \\n is no line end.</p>",
            "category": "Clothing > Hoodies, Sale",
            "brand": "Harrow",
            "media": ["https://shop.example/u/h-1.jpg", "https://shop.example/u/w_3,h_2/h-2.jpg"],
            "attributes": {
                "type": "variable",
                "sku": "hoodie",
                "attribute_1_name": "Colour",
                "attribute_1_value_s": "Blue, Red",
            },
        },
        {
            "id": "45",
            "title": "Hoodie - Blue",
            "gtin": "4006381333931",
            "price": {"amount_minor": 4500, "currency": "USD"},
            "attributes": {"type": "variation", "sku": "hoodie-blue", "sale_price": "39.95", "parent": "id:44"},
        },
    ]
    assert found.notes["shop format"] == "WooCommerce"
    assert found.mapping["price"] == "Regular price"


def test_a_german_woocommerce_export_is_read_with_its_decimal_comma(tmp_path: Path) -> None:
    header = "ID|Typ|Artikelnummer|GTIN, UPC, EAN oder ISBN|Name|Beschreibung|Regulärer Preis|Kategorien|Bilder"
    row = {"ID": "7", "Typ": "simple", "Artikelnummer": "A-7", "Name": "Küchenuhr", "Regulärer Preis": "1.299,90"}
    item = imported(tmp_path, table(header, [row]), GERMAN).item
    assert (item["id"], item["title"], item["price"]) == (
        "7",
        "Küchenuhr",
        {"amount_minor": 129_990, "currency": "EUR"},
    )


ETSY = (
    "TITLE|DESCRIPTION|PRICE|CURRENCY_CODE|QUANTITY|TAGS|MATERIALS|IMAGE1|IMAGE2|IMAGE3|IMAGE4|IMAGE5|IMAGE6|IMAGE7"
    "|IMAGE8|IMAGE9|IMAGE10|VARIATION 1 TYPE|VARIATION 1 NAME|VARIATION 1 VALUES|VARIATION 2 TYPE|VARIATION 2 NAME"
    "|VARIATION 2 VALUES|SKU"
)
NECKLACE = {
    "TITLE": "Amber necklace &quot;Baltic&quot;, handmade",
    "DESCRIPTION": "One of a kind.\n\n✦ 42 cm\n✦ 925 silver, not plated",
    "PRICE": "38.5",
    "CURRENCY_CODE": "EUR",
    "QUANTITY": "1",
    "TAGS": "amber,silver",
    "IMAGE1": "https://i.example/il_fullxfull.1.jpg",
    "IMAGE2": "https://i.example/il_fullxfull.2.jpg",
    "VARIATION 1 NAME": "Length",
    "VARIATION 1 VALUES": "42 cm,45 cm",
    "SKU": "AM-42,AM-45",
}


def test_an_etsy_export_is_read_with_its_currency_and_numbered_pictures(intake: ItemIntake, tmp_path: Path) -> None:
    found = imported(tmp_path, table(ETSY, [NECKLACE], quoting=csv.QUOTE_ALL))

    accept(intake, found.items)
    assert without_identity(found.item) == {
        "id": "AM-42,AM-45",
        "title": NECKLACE["TITLE"],
        "text": NECKLACE["DESCRIPTION"],
        "price": {"amount_minor": 3850, "currency": "EUR"},
        "media": [NECKLACE["IMAGE1"], NECKLACE["IMAGE2"]],
        "attributes": {
            "quantity": "1",
            "tags": "amber,silver",
            "variation_1_name": "Length",
            "variation_1_values": "42 cm,45 cm",
        },
    }
    assert found.notes["shop format"] == "Etsy"


def test_an_etsy_export_without_stock_numbers_is_numbered_only_if_asked(tmp_path: Path) -> None:
    content = table(ETSY, [NECKLACE | {"SKU": ""}, NECKLACE | {"SKU": ""}])
    refused = imported(tmp_path, content)
    numbered = imported(tmp_path, content, FileOptions(platform="shop", number_rows=True))

    assert [refusal.detail for refusal in refused.refusals] == ["the item's id (column 'SKU') is empty"] * 2
    assert refused.notes["no id"].startswith("2 rows")
    assert [item["id"] for item in numbered.items] == ["1", "2"]
    assert numbered.mapping["id"] == "the position of the listing in the file (1, 2, …), not its line"


AMAZON = (
    "item-name|item-description|listing-id|seller-sku|price|quantity|open-date|image-url|item-is-marketplace"
    "|product-id-type|zshop-shipping-fee|item-note|item-condition|zshop-category1|zshop-browse-path"
    "|zshop-storefront-feature|asin1|asin2|asin3|will-ship-internationally|expedited-shipping|zshop-boldface"
    "|product-id|bid-for-featured-placement|add-delete|pending-quantity|fulfillment-channel"
    "|merchant-shipping-group|status"
)


def tabs(header: str, *rows: dict[str, str]) -> str:
    """An unquoted tab-separated file, as Amazon writes it."""
    names = header.split("|")
    return "".join(
        "\t".join(cells) + "\r\n" for cells in [names, *([row.get(name, "") for name in names] for row in rows)]
    )


def test_an_amazon_listings_report_is_read_with_its_quotation_marks_and_types_of_product_ids(
    intake: ItemIntake, tmp_path: Path
) -> None:
    by_ean = {
        "item-name": '"GoPro" cable 6" long',
        "item-description": 'For 15" screens',
        "listing-id": "0102ABCDEFG",
        "seller-sku": "0012-K",
        "price": "12.99",
        "product-id-type": "4",
        "product-id": "4006381333931",
        "asin1": "B000051ZOA",
        "status": "Active",
    }
    by_asin = {
        "item-name": "Café cup",
        "seller-sku": "C-2",
        "price": "7",
        "product-id-type": "1",
        "product-id": "B000051ZOB",
    }
    found = imported(tmp_path, tabs(AMAZON, by_ean, by_asin), name="report.txt")

    accept(intake, found.items)
    assert [without_identity(item) for item in found.items] == [
        {
            "id": "0012-K",
            "title": by_ean["item-name"],
            "text": by_ean["item-description"],
            "price": {"amount_minor": 1299, "currency": "USD"},
            "gtin": "4006381333931",
            "attributes": {
                "listing-id": "0102ABCDEFG",
                "product-id-type": "4",
                "asin1": "B000051ZOA",
                "status": "Active",
            },
        },
        {
            "id": "C-2",
            "title": "Café cup",
            "price": {"amount_minor": 700, "currency": "USD"},
            "attributes": {"product-id": "B000051ZOB", "product-id-type": "1"},
        },
    ]
    assert found.notes["shop format"] == "Amazon listings report"
    assert found.notes["quoting"].startswith("kept as written")


def test_an_amazon_inventory_file_is_read_below_its_two_title_rows(tmp_path: Path) -> None:
    header = (
        "feed_product_type|item_sku|external_product_id|external_product_id_type|item_name|brand_name|standard_price"
        "|main_image_url|other_image_url1"
    )
    titles = "Product Type|Seller SKU|Product ID|Product ID Type|Product Name|Brand Name|Price|Main Image|Other Image"
    row = [
        "lamp",
        "L-1",
        "4006381333931",
        "EAN",
        "Brass lamp",
        "Lumio",
        "49.00",
        "https://i.example/1.jpg",
        "https://i.example/2.jpg",
    ]
    lines = [
        "TemplateType=fptcustom\tVersion=2024.1\tThe top 3 rows are for Amazon only." + "\t" * 6,
        titles.replace("|", "\t"),
        header.replace("|", "\t"),
        "\t".join(row),
    ]
    found = imported(tmp_path, "\n".join(lines) + "\n", name="inventory.txt")

    item = found.item
    assert (item["id"], item["title"], item["gtin"], item["brand"]) == ("L-1", "Brass lamp", "4006381333931", "Lumio")
    assert item["media"] == ["https://i.example/1.jpg", "https://i.example/2.jpg"]
    assert found.notes["left out"].startswith("2 lines before the header")


def test_a_google_feed_in_tsv_is_read_with_spaces_in_its_names(intake: ItemIntake, tmp_path: Path) -> None:
    header = "id|title|description|link|image link|additional image link|availability|price|brand|gtin|condition"
    row = {
        "id": "A1",
        "title": "Lamp",
        "description": "Warm, bright",
        "link": "https://shop.example/a1",
        "image link": "https://i.example/1.jpg",
        "additional image link": "https://i.example/2.jpg,https://i.example/3.jpg",
        "availability": "in_stock",
        "price": "1299.00 EUR",
        "brand": "Lumio",
        "gtin": "4006381333931",
    }
    found = imported(tmp_path, tabs(header, row), name="feed.tsv")

    accept(intake, found.items)
    assert found.item["media"] == [f"https://i.example/{n}.jpg" for n in (1, 2, 3)]
    assert found.item["price"] == {"amount_minor": 129_900, "currency": "EUR"}
    assert found.notes["shop format"] == "Google product feed"


GERMAN_HEADER = [
    "Artikelnummer",
    "Bezeichnung",
    "Beschreibung",
    "Preis (€)",
    "EAN",
    "Marke",
    "Kategorie",
    "Bild-URL",
    "Größe",
]
GERMAN_ROWS = [
    [
        "0012",
        "Küchenlampe „Süd“",
        "Weiß; 40 W",
        "1.299,90",
        "4006381333931",
        "Lumio",
        "Wohnen/Licht",
        "https://i.example/ä.jpg",
        "groß",
    ],
    ["0013", "Öllampe", "", "12,5", "", "", "", "", ""],
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252"])
def test_a_german_spreadsheet_saved_as_text_is_read(intake: ItemIntake, tmp_path: Path, encoding: str) -> None:
    text = table(
        "|".join(GERMAN_HEADER), [dict(zip(GERMAN_HEADER, row, strict=True)) for row in GERMAN_ROWS], delimiter=";"
    )
    stated = encoding if encoding == "windows-1252" else None
    found = imported(tmp_path, text.encode(encoding), FileOptions(platform="laden", markets=["DE"], encoding=stated))

    assert not found.refusals
    accept(intake, found.items)
    assert without_identity(found.items[0]) == {
        "id": "0012",
        "title": "Küchenlampe „Süd“",
        "text": "Weiß; 40 W",
        "price": {"amount_minor": 129_990, "currency": "EUR"},
        "gtin": "4006381333931",
        "brand": "Lumio",
        "category": "Wohnen/Licht",
        "media": ["https://i.example/ä.jpg"],
        "attributes": {"größe": "groß"},
    }
    assert found.items[1]["price"] == {"amount_minor": 1_250, "currency": "EUR"}


def test_a_german_workbook_is_read_with_numbers_formats_and_zeros(intake: ItemIntake, tmp_path: Path) -> None:
    rows: list[list[CellValue]] = [
        [*GERMAN_HEADER],
        [Cell("12", style=2), "Küchenlampe", "Weiß", Cell("1299.9", style=3), 4006381333931, "Lumio", None, None, 40],
        ["0013", "Öllampe", None, 2.7199999999999998, "4006381333931", None, None, None, Cell("46154", style=1)],
    ]
    found = imported(tmp_path, workbook({"Artikel": rows, "Leer": []}), GERMAN, "artikel.xlsx")

    assert not found.refusals
    accept(intake, found.items)
    assert [without_identity(item) for item in found.items] == [
        {
            "id": "00012",
            "title": "Küchenlampe",
            "text": "Weiß",
            "price": {"amount_minor": 129_990, "currency": "EUR"},
            "gtin": "4006381333931",
            "brand": "Lumio",
            "attributes": {"größe": "40"},
        },
        {
            "id": "0013",
            "title": "Öllampe",
            "price": {"amount_minor": 272, "currency": "EUR"},
            "gtin": "4006381333931",
            "attributes": {"größe": "2026-05-12"},
        },
    ]


def test_a_name_of_a_column_states_the_currency_and_a_cell_may_not_contradict_it(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,Price (USD)\n1,5\n2,5 €\n", SHOP)
    assert found.items[0]["price"] == {"amount_minor": 500, "currency": "USD"}
    assert "contradicts the currency USD" in found.refusals[0].detail


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", False),
        ("2", False),
        ("3", True),
        ("4", True),
        ("ASIN", False),
        ("ISBN", False),
        (" UPC ", True),
        ("ean", True),
    ],
)
def test_only_a_upc_or_ean_is_a_gtin_in_amazons_files(*, text: str, expected: bool) -> None:
    assert is_gtin_type(text) is expected
