"""The fields of an item that a column can have: one table for their names, limits and values.

The limits are those of intake; a test compares them, and the fields with the body of `POST /v1/items`. A field with a
point is a member of an object: `seller.id` is `{"seller": {"id": …}}`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from piepowder.imports import values

_ID: Final = 200
_NAME: Final = 500


class Field(NamedTuple):
    """A field of an item.

    `names`: the names of its columns in tables of any origin, as `plain_name` writes them, in the order of preference,
    separated by spaces. `limit`: the largest number of characters. `read` makes the value from a text (None: there is
    none) and raises ValueError; price, currency and media are read by `ItemBuilder`. A faulty required field always
    refuses the listing.
    """

    names: str
    limit: int = values.MAX_ATTRIBUTE
    read: Callable[[str], Any] = str
    is_required: bool = False


FIELDS: Final[Mapping[str, Field]] = {
    "id": Field(
        "id sku asin item_id product_id listing_id offer_id item_sku seller_sku item_number article_number "
        "product_number custom_label_sku custom_label productid itemid artikelnummer artikel_nummer artikelnr "
        "artikel_nr art_nr artnr artikel_id produkt_id produktnummer angebots_id angebotsnummer bestellnummer",
        _ID,
        values.identifier,
        is_required=True,
    ),
    "version": Field("version", read=values.version),
    "reference": Field("reference referenz", _ID),
    "language": Field("language lang locale content_language sprache inlanguage", read=values.language),
    "title": Field(
        "title name product_name product_title item_name item_title product headline productname producttitle "
        "itemname itemtitle titel bezeichnung artikelbezeichnung artikelname produktname produktbezeichnung "
        "produkttitel artikeltitel artikel article",
        1_000,
    ),
    "text": Field(
        "text description body item_description product_description body_html long_description productdescription "
        "itemdescription beschreibung artikelbeschreibung produktbeschreibung langbeschreibung langtext",
        50_000,
    ),
    "category": Field(
        "category categories product_type product_category google_product_category kategorie kategorien "
        "produktkategorie warengruppe produkttyp",
        _NAME,
        values.category,
    ),
    "brand": Field("brand brands manufacturer vendor brand_name marke hersteller", _NAME),
    "gtin": Field(
        "gtin ean upc gtin13 ean13 gtin14 gtin12 gtin8 barcode ean_code upc_code gtin_ean ean_gtin strichcode p_ean "
        "p_upc",
        read=values.gtin,
    ),
    "price": Field(
        "price amount list_price regular_price selling_price unit_price current_price start_price standard_price "
        "preis verkaufspreis vk_preis vk bruttopreis preis_brutto einzelpreis stückpreis",
    ),
    "currency": Field(
        "currency price_currency currency_code pricecurrency currency_unit währung waehrung währungscode waehrungscode",
    ),
    "markets": Field("markets market markt märkte maerkte", read=values.markets, is_required=True),
    "media": Field(
        "media image image_url images image_link image_src main_image_url image_urls imageurl imagelink imageurls "
        "pictureurl additional_image_link additional_image_links picture pictures photo photos picture_url bild "
        "bilder bild_url bildurl bild_urls bildlink produktbild produktbilder foto enclosure_url media_content_url",
    ),
    "seller.id": Field(
        "seller_id seller merchant_id merchant händler_id verkäufer_id haendler_id",
        _ID,
        values.identifier,
    ),
    "seller.name": Field("seller_name merchant_name händlername verkäufername haendlername", _NAME),
    "seller.country": Field("seller_country", read=values.country),
}
"""The fields by their names in `--map`, in the order in which columns are searched for them."""
