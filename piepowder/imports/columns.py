"""The columns of a table as fields of items. A cell without a field becomes an attribute; nothing is lost silently."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from piepowder.imports import currencies, profiles, values
from piepowder.imports.cells import BLANKS
from piepowder.imports.lines import Line, OmittedField, Refusal
from piepowder.imports.money import PriceReader
from piepowder.imports.options import FileOptions
from shared.runtime.user_errors import UserError

_NOT_IN_NAME: Final = re.compile(r"[^\w.-]+")
_MANY: Final = ("media",)
_OF_SELLER: Final = ("seller.name", "seller.country")
_encode = msgspec.json.Encoder(enc_hook=str).encode  # the cells of typed sources are subclasses of str


class ColumnMapping(NamedTuple):
    """The columns of each field, and the name of each attribute by its column. `gtin_type` is the column that says
    whether a product id is a GTIN; `price_currency` is the currency that the name of the price column states."""

    fields: dict[str, list[int]]
    attributes: dict[int, str]
    gtin_type: int | None
    price_currency: str

    def column(self, field: str) -> int | None:
        """The column of a field that has one."""
        return self.fields[field][0] if field in self.fields else None


def map_columns(
    name: str, header: Sequence[str], options: FileOptions, profile: profiles.ShopProfile | None
) -> ColumnMapping:
    """The mapping of a header; raises `UserError` when a column of `options` does not exist, when two columns have the
    same name, or when no column has the id."""
    mapper = _Mapper(name, header)
    for field, column in options.mapping.items():
        mapper.take_stated(field, column)
    own = {} if profile is None else profile.names
    for field, names in profiles.GENERAL.items():
        if field in mapper.fields or (field == "id" and options.number_rows):
            continue
        mapper.take_known(field, own.get(field, names))
    fields = mapper.fields
    if "seller.id" not in fields:  # a seller without an id is no seller: the columns are attributes
        for field in _OF_SELLER:
            fields.pop(field, None)
    _check_id(name, header, fields, options)
    gtin_type = None
    if "gtin" in fields:
        of_type = profiles.GTIN_TYPES.get(profiles.plain_name(header[fields["gtin"][0]]), "")
        gtin_type = next(iter(mapper.by_plain_name.get(of_type, [])), None)
    return ColumnMapping(fields, _attribute_names(header, fields), gtin_type, mapper.price_currency)


class _Mapper:
    """Assigns columns to fields, each column once."""

    def __init__(self, name: str, header: Sequence[str]) -> None:
        self._name = name
        self._header = header
        self.fields: dict[str, list[int]] = {}
        self.price_currency = ""
        self.by_plain_name: dict[str, list[int]] = {}
        for at, column in enumerate(header):
            if column:
                self.by_plain_name.setdefault(profiles.plain_name(column), []).append(at)

    def take_stated(self, field: str, column: str) -> None:
        """Assign the column that the user names."""
        found = [at for at, other in enumerate(self._header) if other.casefold() == column.strip().casefold()]
        self.fields[field] = [_only(self._name, self._header, found, f"--map {field}={column}", column)]
        if field == "price":
            self.price_currency = profiles.price_with_currency(column)[1]

    def take_known(self, field: str, names: Sequence[str]) -> None:
        """Assign the column with the first of these names that exists."""
        if field in _MANY:
            found = self._columns_of_media(names)
        else:
            same = next((columns for name in names if (columns := self._free(name))), [])
            found = [_only(self._name, self._header, same, f"the field {field}", self._header[same[0]])] if same else []
        if field == "price":
            if found:
                self.price_currency = profiles.price_with_currency(self._header[found[0]])[1]
            else:
                found = self._price_with_currency(names)
        if found:
            self.fields[field] = found

    def _free(self, name: str) -> list[int]:
        taken = {at for columns in self.fields.values() for at in columns}
        return [at for at in self.by_plain_name.get(name, []) if at not in taken]

    def _columns_of_media(self, names: Sequence[str]) -> list[int]:
        numbered = [name for name in self.by_plain_name if profiles.is_image(name)]
        return sorted({at for name in (*names, *numbered) for at in self._free(name)})

    def _price_with_currency(self, names: Sequence[str]) -> list[int]:
        """The column whose name is that of a price and of a currency: `Preis (EUR)`."""
        found: dict[int, str] = {}
        for at, column in enumerate(self._header):
            plain, currency = profiles.price_with_currency(column)
            if plain in names:
                found[at] = currency
        if len(found) > 1:
            columns = ", ".join(self._header[at] for at in found)
            raise UserError(
                f"{self._name} has prices in several columns ({columns}).", "Choose one: --map price=COLUMN."
            )
        self.price_currency = next(iter(found.values()), "")
        return list(found)


def _only(name: str, header: Sequence[str], found: Sequence[int], use: str, column: str) -> int:
    if not found:
        raise UserError(f"{name} has no column {column!r} for {use}.", f"Its columns are {', '.join(header)}.")
    if len(found) > 1:
        raise UserError(
            f"{name} has {len(found)} columns with the name {column!r}, so that {use} is ambiguous.",
            "Rename or delete the others.",
        )
    return found[0]


def _check_id(name: str, header: Sequence[str], fields: dict[str, list[int]], options: FileOptions) -> None:
    columns = ", ".join(column or "(no name)" for column in header[:40]) + (" …" if len(header) > 40 else "")
    if "id" not in fields and not options.number_rows:
        raise UserError(
            f"No column of {name} has the item's id; its columns are {columns}.",
            "Name it with --map id=COLUMN, use the number of the row with --id row, or correct the --delimiter.",
        )
    if not fields:
        raise UserError(
            f"No column name of {name} is known; its columns are {columns}.",
            "If this is a row of data, add a first row with the names; or name a column with --map title=COLUMN.",
        )


def _attribute_names(header: Sequence[str], fields: dict[str, list[int]]) -> dict[int, str]:
    taken = {at for columns in fields.values() for at in columns}
    names: dict[int, str] = {}
    used = set[str]()
    for at, column in enumerate(header):
        if at not in taken:
            name = _NOT_IN_NAME.sub("_", column.lower()).strip("_")[:190] or f"column_{at + 1}"
            names[at] = name if name not in used else f"{name}_{at + 1}"
            used.add(names[at])
    return names


def default_platform(name: str) -> str:
    """The platform of a file without `--platform`: its name."""
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower().split(".")[0])[:63].strip("-") or "local"


class ItemBuilder:
    """Builds the items of a table."""

    def __init__(
        self,
        options: FileOptions,
        mapping: ColumnMapping,
        header: Sequence[str],
        *,
        platform: str,
        decimal: str | None,
        profile: profiles.ShopProfile | None,
    ) -> None:
        self._options = options
        self._mapping = mapping
        self._header = header
        self._prices = PriceReader(decimal, options.currency or "")
        self._codes = currencies.codes()
        self._unescape = None if profile is None else profile.unescape
        self._start = {"platform": platform, "kind": options.kind}
        self._markets = tuple(options.markets)
        self._language = options.language
        self._single = {field: columns[0] for field, columns in mapping.fields.items() if field not in _MANY}
        self._media = mapping.fields.get("media", [])
        self._convert: dict[str, Callable[[str], Any]] = {
            "language": values.language,
            "category": values.category,
            "version": values.version,
        }

    def line(self, number: int, count: int, cells: Sequence[str]) -> Line | Refusal:
        """The item of a row, or its refusal. `count` is the number of the row in the table."""
        omitted: list[OmittedField] = []
        try:
            item = self._item(count, cells, omitted)
            body = _encode(item)
            if len(body) > values.MAX_BODY:
                raise ValueError(f"the item has {len(body):,} bytes; at most {values.MAX_BODY:,} are allowed")
        except UnicodeEncodeError:
            return Refusal(number, 0, self._undecodable(cells))
        except ValueError as error:
            return Refusal(number, 0, str(error))
        return Line(number, body, tuple(omitted))

    def id_of(self, cells: Sequence[str]) -> str:
        """The id of a row as text; empty if it has none."""
        at = self._mapping.column("id")
        return "" if at is None else cells[at].strip(BLANKS)

    def _item(self, count: int, cells: Sequence[str], omitted: list[OmittedField]) -> dict[str, Any]:
        item: dict[str, Any] = dict(self._start)
        found: dict[str, str] = {}
        for field, at in self._single.items():
            cell = cells[at]
            text = cell if type(cell) is not str else cell.strip(BLANKS)
            if self._unescape is not None:
                text = self._unescape(field, text)
            if text:
                found[field] = text
        item["id"] = self._id(count, found)
        markets = self._markets
        if (text := found.pop("markets", "")) != "":
            try:
                markets = values.markets(text)
            except ValueError as error:
                raise self._fault("markets", error) from error
        item["markets"] = markets
        if self._language is not None:
            item["language"] = self._language
        self._add_price(item, found, markets, omitted)
        self._add_gtin(item, found, cells, omitted)
        self._add_seller(item, found, omitted)
        for field, text in found.items():
            try:
                values.check_text(text, values.LIMITS.get(field, values.MAX_ATTRIBUTE))
                convert = self._convert.get(field)
                item[field] = text if convert is None else convert(text)
            except ValueError as error:
                self._omit(field, error, omitted)
        self._add_media(item, cells, omitted)
        self._add_attributes(item, cells, omitted)
        return item

    def _id(self, count: int, found: dict[str, str]) -> str:
        if self._options.number_rows and "id" not in found:
            return str(count)
        text = found.pop("id", "")
        column = self._header[self._single["id"]] if "id" in self._single else ""
        if not text:
            raise ValueError(f"the item's id (column {column!r}) is empty")
        try:
            text = values.identifier(text)
            values.check_text(text, values.LIMITS["id"])
        except ValueError as error:
            raise self._fault("id", error) from error
        return text

    def _add_price(
        self, item: dict[str, Any], found: dict[str, str], markets: tuple[str, ...], omitted: list[OmittedField]
    ) -> None:
        code, text = found.pop("currency", ""), found.pop("price", None)
        if text is None:
            return
        try:
            column = values.currency(code, self._codes) if code else self._mapping.price_currency
        except ValueError as error:
            self._omit("currency", error, omitted)  # without it, the amount has no meaning
            if self._options.lenient:
                omitted.append(OmittedField("price", "its currency is unknown"))
            return
        try:
            amount, currency = self._prices.read(text, column, markets)
            item["price"] = {"amount_minor": amount, "currency": currency}
        except ValueError as error:
            self._omit("price", error, omitted)

    def _add_gtin(
        self, item: dict[str, Any], found: dict[str, str], cells: Sequence[str], omitted: list[OmittedField]
    ) -> None:
        text = found.pop("gtin", None)
        if text is None:
            return
        at = self._mapping.gtin_type
        if at is not None and not profiles.is_gtin_type(cells[at]):
            name = _NOT_IN_NAME.sub("_", self._header[self._single["gtin"]].lower()).strip("_")
            item["attributes"] = {name: text}
            return
        try:
            gtin = values.gtin(text)
        except ValueError as error:
            self._omit("gtin", error, omitted)
            return
        if gtin is not None:
            item["gtin"] = gtin

    def _add_seller(self, item: dict[str, Any], found: dict[str, str], omitted: list[OmittedField]) -> None:
        seller: dict[str, str] = {}
        for field in ("seller.id", *_OF_SELLER):
            text = found.pop(field, None)
            if text is None:
                continue
            if field != "seller.id" and not seller:  # a seller without an id is no seller: its cells are attributes
                item.setdefault("attributes", {})[field.replace(".", "_")] = text
                continue
            try:
                values.check_text(text, values.LIMITS.get(field, values.MAX_ATTRIBUTE))
                if field == "seller.country":
                    text = values.country(text)
                elif field == "seller.id":
                    text = values.identifier(text)
                seller[field.partition(".")[2]] = text
            except ValueError as error:
                self._omit(field, error, omitted)
        if seller:
            item["seller"] = seller

    def _add_media(self, item: dict[str, Any], cells: Sequence[str], omitted: list[OmittedField]) -> None:
        found = [cells[at] for at in self._media if cells[at]]
        if not found:
            return
        try:
            media = values.media(found)
        except ValueError as error:
            self._omit("media", error, omitted)
            return
        if media:
            item["media"] = media

    def _add_attributes(self, item: dict[str, Any], cells: Sequence[str], omitted: list[OmittedField]) -> None:
        attributes: dict[str, str] = item.get("attributes", {})
        for at, name in self._mapping.attributes.items():
            cell = cells[at]
            text = cell if type(cell) is not str else cell.strip(BLANKS)
            if self._unescape is not None:
                text = self._unescape(name, text)
            if not text:
                continue
            try:
                values.check_text(text, values.MAX_ATTRIBUTE)
                if len(attributes) == values.MAX_ATTRIBUTES:
                    raise ValueError(f"more than {values.MAX_ATTRIBUTES} attributes")
                attributes[name] = text
            except ValueError as error:
                self._omit(f"attribute {name}", error, omitted)
        if attributes:
            item["attributes"] = attributes

    def _fault(self, field: str, error: ValueError) -> ValueError:
        at = self._mapping.column(field)
        column = f" (column {self._header[at]!r})" if at is not None else ""
        return ValueError(f"{field}{column}: {error}")

    def _omit(self, field: str, error: ValueError, omitted: list[OmittedField]) -> None:
        """Leave out a faulty optional field, or refuse the line."""
        fault = self._fault(field, error)
        if not self._options.lenient:
            raise fault from error
        omitted.append(OmittedField(field, str(fault)))

    def _undecodable(self, cells: Sequence[str]) -> str:
        for at, cell in enumerate(cells):
            try:
                cell.encode()
            except UnicodeEncodeError as error:
                byte = ord(cell[error.start]) - 0xDC00
                return f"column {self._header[at]!r}: the byte 0x{byte:02X} is not valid in the encoding of the file"
        raise AssertionError("a cell could not be encoded")


def describe(mapping: ColumnMapping, header: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each field with its columns; then the attributes."""
    for field, columns in mapping.fields.items():
        yield field, ", ".join(header[at] for at in columns)
    if mapping.attributes:
        yield "attributes", ", ".join(mapping.attributes.values())
