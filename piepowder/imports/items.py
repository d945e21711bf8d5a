"""Items from the rows of a table. A cell without a field becomes an attribute; nothing is lost silently."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from piepowder.imports import currencies, shop_formats, values
from piepowder.imports.columns import ColumnMapping, attribute_name
from piepowder.imports.fields import FIELDS
from piepowder.imports.file_options import FileOptions
from piepowder.imports.money import read_price
from piepowder.imports.rows import BLANKS, Listing, OmittedField, Refusal, TableRow

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode  # the cells of typed sources are subclasses of str


class ItemBuilder:
    """Builds the items of a table. `decimal_of` returns the decided decimal separator of a currency, None if each price
    must show it."""

    def __init__(
        self,
        options: FileOptions,
        mapping: ColumnMapping,
        header: Sequence[str],
        *,
        platform: str,
        decimal_of: Callable[[str], str | None],
        shop: shop_formats.ShopFormat | None,
    ) -> None:
        self._options = options
        self._mapping = mapping
        self._header = header
        self._decimal_of = decimal_of
        self._unescape = None if shop is None else shop.unescape
        self._start: dict[str, Any] = {"platform": platform, "kind": options.kind, "markets": options.default_markets}
        if options.language is not None:
            self._start["language"] = options.language
        self._single = [(field, columns[0]) for field, columns in mapping.fields.items() if field != "media"]
        self._media = mapping.fields.get("media", [])
        self._gtin_type = shop_formats.gtin_type_column(header, mapping.column("gtin"))

    def listing(self, row: TableRow, position: int) -> Listing | Refusal:
        """The item of a row, or its refusal. `position` is that of the row among the listings of the file, from 1."""
        omitted: list[OmittedField] = []
        try:
            body = _encode(self._item(row.cells, position, omitted))
            if len(body) > values.MAX_BODY:
                raise ValueError(
                    f"the item has {len(body):,} bytes; at most {values.MAX_BODY:,} are allowed; shorten or remove the"
                    f" longest cells ({self._longest(row.cells)})"
                )
        except ValueError as error:
            return Refusal(row.number, 0, str(error))
        return Listing(row.number, body, tuple(omitted))

    def _item(self, cells: Sequence[str], position: int, omitted: list[OmittedField]) -> dict[str, Any]:
        texts = {field: text for field, at in self._single if (text := self._text(field, cells[at]))}
        item = dict(self._start)
        moved: dict[str, str] = {}  # attributes from the columns of fields
        if self._options.number_rows:
            item["id"] = str(position)
        elif "id" not in texts:
            at = self._mapping.column("id") or 0
            raise ValueError(f"the item's id (column {self._header[at]!r}) is empty")
        if "gtin" in texts and self._gtin_type is not None and not shop_formats.is_gtin_type(cells[self._gtin_type]):
            moved[attribute_name(self._header[self._mapping.fields["gtin"][0]])] = texts.pop("gtin")
        if "seller.id" not in texts:  # a seller without an id is no seller: its cells are attributes
            for field in ("seller.name", "seller.country"):
                if field in texts:
                    moved[field.replace(".", "_")] = texts.pop(field)
        price, code = texts.pop("price", None), texts.pop("currency", "")
        for field, text in texts.items():
            try:
                self._set(item, field, text)
            except ValueError as error:
                self._omit(field, self._fault(field, error), omitted)
        if price is not None:
            self._add_price(item, price, code, omitted)
        self._add_media(item, cells, omitted)
        attributes = self._attributes(moved, cells, omitted)
        seller = item.get("seller")
        if seller is not None and "id" not in seller:  # its id was omitted
            attributes |= {f"seller_{member}": text for member, text in item.pop("seller").items()}
        if attributes:
            item["attributes"] = attributes
        return item

    def _text(self, field: str, cell: str) -> str:
        text = cell.strip(BLANKS) if type(cell) is str else cell
        return text if self._unescape is None else self._unescape(field, text)

    def _set(self, item: dict[str, Any], field: str, text: str) -> None:
        _, limit, read, _ = FIELDS[field]
        values.check_text(text, limit)
        value = read(text)
        if value is None:
            return
        parent, point, member = field.partition(".")
        if point:
            item.setdefault(parent, {})[member] = value
        else:
            item[field] = value

    def _add_price(self, item: dict[str, Any], text: str, code: str, omitted: list[OmittedField]) -> None:
        faulty = "currency"
        try:
            column = currencies.checked(code) if code else self._mapping.price_currency
            faulty = "price"
            price = read_price(text, column, item["markets"], self._decimal_of, self._options.currency or "")
        except ValueError as error:
            self._omit("price", self._fault(faulty, error), omitted)  # without its currency, the amount has no meaning
            return
        item["price"] = {"amount_minor": price.amount_minor, "currency": price.currency}

    def _add_media(self, item: dict[str, Any], cells: Sequence[str], omitted: list[OmittedField]) -> None:
        try:
            texts = [cells[at] for at in self._media if cells[at]]
            for text in texts:
                values.check_text(text, values.MAX_BODY)
            media = values.media(texts)
        except ValueError as error:
            self._omit("media", self._fault("media", error), omitted)
            return
        if media:
            item["media"] = media

    def _attributes(
        self, moved: Mapping[str, str], cells: Sequence[str], omitted: list[OmittedField]
    ) -> dict[str, str]:
        own = ((name, text) for at, name in self._mapping.attributes.items() if (text := self._text(name, cells[at])))
        attributes: dict[str, str] = {}
        for name, text in chain(moved.items(), own):
            try:
                values.check_text(text, values.MAX_ATTRIBUTE)
                if len(attributes) == values.MAX_ATTRIBUTES:
                    raise ValueError(f"more than {values.MAX_ATTRIBUTES} attributes")
                attributes[name] = text
            except ValueError as error:
                self._omit(f"attributes.{name}", f"attribute {name}: {error}", omitted)
        return attributes

    def _fault(self, field: str, error: ValueError) -> str:
        at = self._mapping.column(field)
        column = f" (column {self._header[at]!r})" if at is not None else ""
        return f"{field}{column}: {error}"

    def _omit(self, field: str, fault: str, omitted: list[OmittedField]) -> None:
        """Leave out a faulty optional field, or refuse the listing."""
        if not self._options.lenient or (field in FIELDS and FIELDS[field].is_required):
            raise ValueError(fault)
        omitted.append(OmittedField(field, fault))

    def _longest(self, cells: Sequence[str]) -> str:
        """The names of the columns with the longest cells."""
        by_length = sorted(range(len(cells)), key=lambda at: len(cells[at]), reverse=True)
        return ", ".join(repr(self._header[at]) for at in by_length[:3])
