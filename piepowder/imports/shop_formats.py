"""The formats of shop systems' exports.

A format applies if the header has all columns of one of its signatures; the first one in `SHOP_FORMATS` is used. Names
are compared as `plain_name` writes them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias
from unicodedata import normalize

from piepowder.imports.rows import Refusal, TableRow, quoted

_SEPARATORS: Final = re.compile(r"[\W_]+")
Rows: TypeAlias = Iterable[TableRow | Refusal]


class ShopFormat(NamedTuple):
    """The export of one shop system. `signatures` are sets of plain column names. `names` has the plain column names of
    fields, as in `FIELDS`; a field that it does not have uses the general names there, and an empty text means that no
    column has the field. `regroup` builds one row for each listing. `unescape` restores an exported cell of a
    field or attribute. With `unquoted_tabs`, a tab-separated file of the system never quotes cells."""

    name: str
    signatures: tuple[str, ...]
    names: Mapping[str, str]
    regroup: "Callable[[Sequence[str], Rows], Iterator[TableRow | Refusal]] | None" = None
    unescape: Callable[[str, str], str] | None = None
    unquoted_tabs: bool = False


def plain_name(column: str) -> str:
    """The name of a column for comparison, without case, and with `_` for everything that is not a letter or digit:
    `Image Link`, `image-link` and `image_link` are one name."""
    return _SEPARATORS.sub("_", normalize("NFKC", column).casefold()).strip("_")


def find_format(header: Sequence[str]) -> ShopFormat | None:
    """The format of a header."""
    names = frozenset(map(plain_name, header))
    return next((shop for signature, shop in _SIGNATURES if signature <= names), None)


def gtin_type_column(header: Sequence[str], gtin: int | None) -> int | None:
    """The column that says whether the cells of the column `gtin` are GTINs."""
    names = [plain_name(column) for column in header]
    of_type = None if gtin is None else GTIN_TYPE_COLUMNS.get(names[gtin])
    return names.index(of_type) if of_type in names else None


def _shopify_rows(header: Sequence[str], rows: Rows) -> Iterator[TableRow | Refusal]:
    """One row for each variant of a product, with the product's texts and all of its pictures.

    Shopify writes the texts of a product in its first row only; the next rows have further variants, pictures or both.
    """
    names = [plain_name(column) for column in header]
    handle = _first(names, "handle", "url_handle")
    for _, group in groupby(rows, lambda row: None if isinstance(row, Refusal) else row.cells[handle]):
        found = list(group)
        product = [row for row in found if isinstance(row, TableRow)]  # a group has refusals or rows
        yield from _shopify_product(names, product) if product else found


def _shopify_product(names: Sequence[str], group: Sequence[TableRow]) -> Iterator[TableRow | Refusal]:
    handle, title = _first(names, "handle", "url_handle"), _first(names, "title")
    images = _columns(names, "image_src", "product_image_url")
    variant_image = _columns(names, "variant_image", "variant_image_url")
    of_variant = {at for at, name in enumerate(names) if _is_of_variant(name)}
    sellable = _columns(names, "option1_value", "variant_sku", "variant_price", "sku", "price")
    first = group[0]
    if not first.cells[title].strip():
        for row in group:
            yield Refusal(
                row.number, 0, f"the row with the title of {quoted(row.cells[handle])} is not directly before it"
            )
        return
    pictures = [picture for row in group for at in images if (picture := row.cells[at].strip())]
    options = _columns(names, "option1_value", "option2_value", "option3_value")
    for row in group:
        if row is not first and not any(row.cells[at].strip() for at in sellable):
            continue  # a picture of the product
        cells = [cell if cell.strip() or at in of_variant else first.cells[at] for at, cell in enumerate(row.cells)]
        chosen = [value for at in options if (value := row.cells[at].strip())]
        if chosen and chosen != ["Default Title"]:
            cells[handle] = "/".join([cells[handle], *chosen])
        own = [picture for at in variant_image if (picture := row.cells[at].strip())][:1]
        for at in images:
            cells[at] = "\n".join(dict.fromkeys([*own, *pictures]))
        yield TableRow(row.number, cells)


def _columns(names: Sequence[str], *wanted: str) -> list[int]:
    return [at for at, name in enumerate(names) if name in wanted]


def _first(names: Sequence[str], *wanted: str) -> int:
    return next(names.index(name) for name in wanted if name in names)


def _is_of_variant(name: str) -> bool:
    """True for a column that belongs to one variant: its empty cells are not filled from the product's first row."""
    variant = ("variant_", "unit_price_", "cost_per_item", "image_", "product_image", "price", "compare_at", "sku")
    others = ("barcode", "weight", "inventory", "included", "fulfillment", "charge_tax", "tax_code", "requires_ship")
    return name.startswith((*variant, *others)) or re.fullmatch(r"option[1-3]_(value|linked_to)", name) is not None


def _woocommerce_cell(name: str, text: str) -> str:
    """A cell as the shop has it: the export writes `\\n` for a line end of a description, and an apostrophe before a
    text that a spreadsheet would take for a formula. Source: WC_Product_CSV_Exporter, WC_CSV_Exporter::escape_data."""
    if text.startswith(("'=", "'+", "'-", "'@")):
        text = text[1:]
    if name == "text" and "\\n" in text:
        return "\\n".join(part.replace("\\n", "\n") for part in text.split("\\\\n"))
    return text


SHOP_FORMATS: Final = (
    ShopFormat(
        "Shopify",
        ("handle title variant_price", "handle title variant_sku", "url_handle title option1_name"),
        {
            "id": "handle url_handle",
            "title": "title",
            "text": "body_html body description",
            "category": "product_category type",
            "brand": "vendor",
            "gtin": "variant_barcode barcode",
            "price": "variant_price price",
            "media": "image_src product_image_url",
            "seller.id": "",
        },
        regroup=_shopify_rows,
    ),
    ShopFormat(
        "WooCommerce",
        ("id type sku name regular_price", "id typ name regulärer_preis"),
        {
            "id": "id",
            "title": "name",
            "text": "description beschreibung",
            "category": "categories kategorien",
            "brand": "brands brand marken marke",
            "gtin": "gtin_upc_ean_or_isbn gtin_upc_ean_oder_isbn",
            "price": "regular_price regulärer_preis",
            "media": "images bilder",
        },
        unescape=_woocommerce_cell,
    ),
    ShopFormat(
        "Etsy",
        ("title description price currency_code quantity image1",),
        {
            "id": "listing_id sku",
            "title": "title",
            "text": "description",
            "price": "price",
            "currency": "currency_code",
            "category": "",
            "brand": "",
        },
    ),
    ShopFormat(
        "Amazon listings report",
        ("item_name seller_sku price", "item_name seller_sku asin1"),
        {
            "id": "seller_sku",
            "title": "item_name",
            "text": "item_description",
            "price": "price",
            "media": "image_url",
            "gtin": "product_id",
        },
        unquoted_tabs=True,
    ),
    ShopFormat(
        "Amazon listings report (German)",
        ("artikelbezeichnung händler_sku preis",),
        {
            "id": "händler_sku",
            "title": "artikelbezeichnung",
            "text": "artikelbeschreibung",
            "price": "preis",
            "gtin": "produkt_id",
        },
        unquoted_tabs=True,
    ),
    ShopFormat(
        "Amazon inventory file",
        ("item_sku item_name external_product_id",),
        {
            "id": "item_sku",
            "title": "item_name",
            "text": "product_description",
            "brand": "brand_name",
            "category": "item_type feed_product_type",
            "gtin": "external_product_id",
            "price": "standard_price list_price",
            "media": "main_image_url",
        },
    ),
    ShopFormat(
        "Google product feed",
        ("id title link image_link", "id title link availability", "id title price availability condition"),
        {
            "id": "id",
            "title": "title",
            "text": "description",
            "category": "product_type google_product_category",
            "media": "image_link additional_image_link additional_image_links",
            "price": "price",
        },
    ),
)
_SIGNATURES: Final = [(frozenset(names.split()), shop) for shop in SHOP_FORMATS for names in shop.signatures]
GTIN_TYPE_COLUMNS: Final = {
    "product_id": "product_id_type",
    "produkt_id": "produkt_id_typ",
    "external_product_id": "external_product_id_type",
}
"""Columns whose cell is a GTIN only if the cell of another column says so."""
_GTIN_TYPE_VALUES: Final = frozenset({"3", "4", "upc", "ean", "gtin"})


def is_gtin_type(text: str) -> bool:
    """True if Amazon's type of a product id is that of a GTIN. Source: Amazon's inventory loader, `product-id-type`
    (1 ASIN, 2 ISBN, 3 UPC, 4 EAN)."""
    return text.strip().casefold() in _GTIN_TYPE_VALUES
