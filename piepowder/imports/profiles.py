"""The column names of shop systems, and of tables in English and German.

A profile applies if the header has all columns of one of its signatures. Names are compared without case, and with `_`
for everything that is not a letter or digit: `Image Link`, `image-link` and `image_link` are one name.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from unicodedata import normalize

from piepowder.imports import currencies
from piepowder.imports.cells import TableRow
from piepowder.imports.lines import Refusal

_SEPARATORS: Final = re.compile(r"[\W_]+")
_NUMBERED_IMAGE: Final = re.compile(
    r"(?:other_|additional_)?(?:image|picture|photo|bild|foto)(?:_?(?:url|link|src))?_?[0-9]{1,2}"
    r"(?:_?(?:url|link|src))?"
)
_PRICE_OF: Final = re.compile(r"(?P<name>.*?)[\s_(\[-]*(?:\bin\s+)?(?P<currency>[^\s_()\[\]]{1,4})[)\]\s]*")

Rows = Iterable[TableRow | Refusal]


class ShopProfile(NamedTuple):
    """The columns of one shop system. `signatures` are sets of column names; `names` has the columns of each field, in
    the order of preference; `regroup` builds one row for each listing; `unescape` restores an exported cell. With
    `unquoted_tabs`, a tab-separated file of the system never quotes cells."""

    name: str
    signatures: tuple[frozenset[str], ...]
    names: Mapping[str, Sequence[str]]
    regroup: "Callable[[Sequence[str], Rows], Iterator[TableRow | Refusal]] | None" = None
    unescape: Callable[[str, str], str] | None = None
    unquoted_tabs: bool = False


GENERAL: Final[Mapping[str, Sequence[str]]] = {
    "id": (
        *("id", "sku", "asin", "item_id", "product_id", "listing_id", "article", "offer_id", "item_sku", "seller_sku"),
        *("item_number", "article_number", "product_number", "custom_label_sku", "custom_label", "productid", "itemid"),
        *("artikelnummer", "artikel_nummer", "artikelnr", "artikel_nr", "art_nr", "artnr", "artikel_id", "produkt_id"),
        *("produktnummer", "angebots_id", "angebotsnummer", "bestellnummer", "artikel"),
    ),
    "version": ("version",),
    "reference": ("reference", "referenz"),
    "language": ("language", "lang", "locale", "content_language", "sprache", "inlanguage"),
    "title": (
        *("title", "name", "product_name", "product_title", "item_name", "item_title", "product", "headline"),
        *("productname", "producttitle", "itemname", "itemtitle"),
        *("titel", "bezeichnung", "artikelbezeichnung", "artikelname", "produktname", "produktbezeichnung"),
        *("produkttitel", "artikeltitel"),
    ),
    "text": (
        *("text", "description", "body", "item_description", "product_description", "body_html", "long_description"),
        *("productdescription", "itemdescription"),
        *("beschreibung", "artikelbeschreibung", "produktbeschreibung", "langbeschreibung", "langtext"),
    ),
    "category": (
        *("category", "categories", "product_type", "product_category", "google_product_category"),
        *("kategorie", "kategorien", "produktkategorie", "warengruppe", "produkttyp"),
    ),
    "brand": ("brand", "brands", "manufacturer", "vendor", "brand_name", "marke", "hersteller"),
    "gtin": (
        *("gtin", "ean", "upc", "gtin13", "ean13", "gtin14", "gtin12", "gtin8", "barcode", "ean_code", "upc_code"),
        *("gtin_ean", "ean_gtin", "strichcode", "p_ean", "p_upc"),
    ),
    "price": (
        *("price", "amount", "list_price", "regular_price", "selling_price", "unit_price", "current_price"),
        *("start_price", "standard_price", "preis", "verkaufspreis", "vk_preis", "vk", "bruttopreis", "preis_brutto"),
        *("einzelpreis", "stückpreis"),
    ),
    "currency": ("currency", "price_currency", "currency_code", "pricecurrency", "währung", "waehrung"),
    "markets": ("markets", "market", "markt", "märkte", "maerkte"),
    "media": (
        *("media", "image", "image_url", "images", "image_link", "image_src", "main_image_url", "image_urls"),
        *("imageurl", "imagelink", "imageurls", "pictureurl"),
        *("additional_image_link", "additional_image_links", "picture", "pictures", "photo", "photos", "picture_url"),
        *("bild", "bilder", "bild_url", "bildurl", "bild_urls", "bildlink", "produktbild", "produktbilder", "foto"),
    ),
    "seller.id": ("seller_id", "seller", "merchant_id", "merchant", "händler_id", "verkäufer_id", "haendler_id"),
    "seller.name": ("seller_name", "merchant_name", "händlername", "verkäufername", "haendlername"),
    "seller.country": ("seller_country",),
}


def plain_name(column: str) -> str:
    """The name of a column for comparison."""
    return _SEPARATORS.sub("_", normalize("NFKC", column).casefold()).strip("_")


_GENERAL_NAMES: Final = {plain_name(name) for names in GENERAL.values() for name in names}


def recognized(header: Sequence[str]) -> int:
    """The number of different known names in a header; a profile's signature counts a hundred."""
    names = {plain_name(column) for column in header}
    profile = find(header)
    known = sum(len(names) for names in (names & _GENERAL_NAMES, names & _names_of(profile) - _GENERAL_NAMES))
    return known + (100 if profile is not None else 0)


def find(header: Sequence[str]) -> ShopProfile | None:
    """The profile of a header."""
    names = frozenset(map(plain_name, header))
    return next((profile for profile in PROFILES if any(sign <= names for sign in profile.signatures)), None)


def is_image(name: str) -> bool:
    """True for the plain name of a numbered image column, such as `image2` or `bild_3_url`."""
    return _NUMBERED_IMAGE.fullmatch(name) is not None


def price_with_currency(column: str) -> tuple[str, str]:
    """The plain name of a price column and the currency that it states: `Preis (EUR)` is `("preis", "EUR")`. Empty if
    it states none."""
    found = _PRICE_OF.fullmatch(column.strip())
    if found is None or not found["name"]:
        return "", ""
    meant = currencies.named(found["currency"])
    return (plain_name(found["name"]), meant[0]) if len(meant) == 1 else ("", "")


def _names_of(profile: ShopProfile | None) -> frozenset[str]:
    return frozenset() if profile is None else frozenset(name for names in profile.names.values() for name in names)


def _shopify_rows(header: Sequence[str], rows: Rows) -> Iterator[TableRow | Refusal]:
    """One row for each variant of a product, with the product's texts and all of its pictures.

    Shopify writes the texts of a product in its first row only; the next rows have further variants, pictures or both.
    """
    names = [plain_name(column) for column in header]
    handle = _first(names, "handle", "url_handle")
    group: list[TableRow] = []
    for row in rows:
        if isinstance(row, Refusal):
            yield from _shopify_product(names, group)
            group = []
            yield row
            continue
        if group and row.cells[handle] != group[0].cells[handle]:
            yield from _shopify_product(names, group)
            group = []
        group.append(row)
    yield from _shopify_product(names, group)


def _shopify_product(names: Sequence[str], group: Sequence[TableRow]) -> Iterator[TableRow | Refusal]:
    if not group:
        return
    handle, title = _first(names, "handle", "url_handle"), _first(names, "title")
    images = [at for at, name in enumerate(names) if name in ("image_src", "product_image_url")]
    variant_image = [at for at, name in enumerate(names) if name in ("variant_image", "variant_image_url")]
    of_variant = {at for at, name in enumerate(names) if _is_of_variant(name)}
    sellable = [
        at for at, name in enumerate(names) if name in ("option1_value", "variant_sku", "variant_price", "sku", "price")
    ]
    first = group[0]
    if not first.cells[title].strip():
        for row in group:
            yield Refusal(
                row.number, 0, f"the row with the title of {row.cells[handle]!r:.60} is not directly before it"
            )
        return
    pictures = [picture for row in group for at in images if (picture := row.cells[at].strip())]
    options = [at for at, name in enumerate(names) if re.fullmatch(r"option[1-3]_value", name)]
    for row in group:
        if row is not first and not any(row.cells[at].strip() for at in sellable):
            continue  # a picture of the product
        cells = [cell if cell.strip() or at in of_variant else first.cells[at] for at, cell in enumerate(row.cells)]
        values = [value for at in options if (value := row.cells[at].strip())]
        if values and values != ["Default Title"]:
            cells[handle] = "/".join([cells[handle], *values])
        for at in variant_image:
            if own := row.cells[at].strip():
                pictures_of_row = [own, *pictures]
                break
        else:
            pictures_of_row = pictures
        for at in images:
            cells[at] = "\n".join(dict.fromkeys(pictures_of_row))
        yield TableRow(row.number, cells)


def _is_of_variant(name: str) -> bool:
    """True for a column whose empty cell does not mean the cell of the product's first row."""
    variant = ("variant_", "unit_price_", "cost_per_item", "image_", "product_image", "price", "compare_at", "sku")
    others = ("barcode", "weight", "inventory", "included", "fulfillment", "charge_tax", "tax_code", "requires_ship")
    return name.startswith((*variant, *others)) or re.fullmatch(r"option[1-3]_(value|linked_to)", name) is not None


def _first(names: Sequence[str], *wanted: str) -> int:
    return next(at for name in wanted for at, column in enumerate(names) if column == name)


def _woocommerce_cell(name: str, text: str) -> str:
    """A cell as the shop has it: the export writes `\\n` for a line end of a description, and an apostrophe before a
    text that a spreadsheet would take for a formula. Source: WC_Product_CSV_Exporter, WC_CSV_Exporter::escape_data."""
    if text.startswith(("'=", "'+", "'-", "'@")):
        text = text[1:]
    if name == "text" and "\\n" in text:
        return "\\n".join(part.replace("\\n", "\n") for part in text.split("\\\\n"))
    return text


PROFILES: Final = (
    ShopProfile(
        "Shopify",
        (
            frozenset({"handle", "title", "variant_price"}),
            frozenset({"handle", "title", "variant_sku"}),
            frozenset({"url_handle", "title", "option1_name"}),
        ),
        {
            "id": ("handle", "url_handle"),
            "title": ("title",),
            "text": ("body_html", "body", "description"),
            "category": ("product_category", "type"),
            "brand": ("vendor",),
            "gtin": ("variant_barcode", "barcode"),
            "price": ("variant_price", "price"),
            "media": ("image_src", "product_image_url"),
            "seller.id": (),
        },
        regroup=_shopify_rows,
    ),
    ShopProfile(
        "WooCommerce",
        (
            frozenset({"id", "type", "sku", "name", "regular_price"}),
            frozenset({"id", "typ", "name", "regulärer_preis"}),
        ),
        {
            "id": ("id",),
            "title": ("name",),
            "text": ("description", "beschreibung"),
            "category": ("categories", "kategorien"),
            "brand": ("brands", "brand", "marken", "marke"),
            "gtin": ("gtin_upc_ean_or_isbn", "gtin_upc_ean_oder_isbn"),
            "price": ("regular_price", "regulärer_preis"),
            "media": ("images", "bilder"),
        },
        unescape=_woocommerce_cell,
    ),
    ShopProfile(
        "Etsy",
        (frozenset({"title", "description", "price", "currency_code", "quantity", "image1"}),),
        {
            "id": ("listing_id", "sku"),
            "title": ("title",),
            "text": ("description",),
            "price": ("price",),
            "currency": ("currency_code",),
            "category": (),
            "brand": (),
        },
    ),
    ShopProfile(
        "Amazon listings report",
        (frozenset({"item_name", "seller_sku", "price"}), frozenset({"item_name", "seller_sku", "asin1"})),
        {
            "id": ("seller_sku",),
            "title": ("item_name",),
            "text": ("item_description",),
            "price": ("price",),
            "media": ("image_url",),
            "gtin": ("product_id",),
        },
        unquoted_tabs=True,
    ),
    ShopProfile(
        "Amazon listings report (German)",
        (frozenset({"artikelbezeichnung", "händler_sku", "preis"}),),
        {
            "id": ("händler_sku",),
            "title": ("artikelbezeichnung",),
            "text": ("artikelbeschreibung",),
            "price": ("preis",),
            "gtin": ("produkt_id",),
        },
        unquoted_tabs=True,
    ),
    ShopProfile(
        "Amazon inventory file",
        (frozenset({"item_sku", "item_name", "external_product_id"}),),
        {
            "id": ("item_sku",),
            "title": ("item_name",),
            "text": ("product_description",),
            "brand": ("brand_name",),
            "category": ("item_type", "feed_product_type"),
            "gtin": ("external_product_id",),
            "price": ("standard_price", "list_price"),
            "media": ("main_image_url",),
        },
    ),
    ShopProfile(
        "Google product feed",
        (
            frozenset({"id", "title", "link", "image_link"}),
            frozenset({"id", "title", "link", "availability"}),
            frozenset({"id", "title", "price", "availability", "condition"}),
        ),
        {
            "id": ("id",),
            "title": ("title",),
            "text": ("description",),
            "category": ("product_type", "google_product_category"),
            "media": ("image_link", "additional_image_link", "additional_image_links"),
            "price": ("price",),
        },
    ),
)
GTIN_TYPES: Final = {
    "product_id": "product_id_type",
    "produkt_id": "produkt_id_typ",
    "external_product_id": "external_product_id_type",
}
"""Columns whose cell is a GTIN only if the cell of another column says so."""
_GTIN_TYPES: Final = frozenset({"3", "4", "upc", "ean", "gtin"})


def is_gtin_type(text: str) -> bool:
    """True if Amazon's type of a product id is that of a GTIN. Source: Amazon's inventory loader, `product-id-type`
    (1 ASIN, 2 ISBN, 3 UPC, 4 EAN)."""
    return text.strip().casefold() in _GTIN_TYPES
