"""The header of a table: its search in the first rows, and the fields of its columns. A column without a field is an
attribute."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

from piepowder.imports import currencies
from piepowder.imports.fields import FIELDS
from piepowder.imports.file_options import FileOptions
from piepowder.imports.rows import BLANKS
from piepowder.imports.shop_formats import ShopFormat, find_format, plain_name
from shared.runtime.user_errors import UserError

CONTENT: Final = ("title", "text", "media")
"""The fields that a listing is judged by. A table with none of them was not understood."""
SEARCHED_ROWS: Final = 20
"""The header is one of the first rows."""
_NOT_IN_NAME: Final = re.compile(r"[^\w.-]+")
_NUMBERED_IMAGE: Final = re.compile(
    r"(?:other_|additional_)?(?:image|picture|photo|bild|foto)(?:_?(?:url|link|src))?_?[0-9]{1,2}"
    r"(?:_?(?:url|link|src))?"
)
_PRICE_OF: Final = re.compile(r"(?P<name>.*?)[\s_(\[-]*(?:\bin\s+)?(?P<currency>[^\s_()\[\]]{1,4})[)\]\s]*")
_OF_PRICE: Final = re.compile(r"(?P<currency>[A-Z]{3}\b|[^\w\s()\[\]]{1,3})[\s_)\]-]*(?P<name>.*)")
_GENERAL_NAMES: Final = frozenset(chain.from_iterable(field.names.split() for field in FIELDS.values()))
_AMAZON_TEMPLATE: Final = "TemplateType="  # Amazon's inventory file: the header is below two rows of titles
_EBAY_COMMENT: Final = "#INFO"  # eBay's templates begin with such rows
_SHOWN_COLUMNS: Final = 40


class FoundHeader(NamedTuple):
    """The header of a table: its position among the rows that are not blank, the number of its row, its names, how many
    of them are known, and the first text before it."""

    at: int
    number: int
    names: list[str]
    known: int
    preamble: str


def find_header(rows: Sequence[tuple[int, list[str]]], options: FileOptions) -> FoundHeader | None:
    """The header of a table, of which the first rows are given with their numbers and without blank rows.

    It is the first row with several cells that has a known name, or that is as wide as the next row. A row after such a
    row is never the header, whatever it contains: a seller may have written it. A row with one cell is the header only
    if it is the first one and has a known name. None: no row is the header.
    """
    at = 2 if rows and rows[0][1][0].startswith(_AMAZON_TEMPLATE) else 0
    while at < len(rows) and rows[at][1][0].startswith(_EBAY_COMMENT):
        at += 1
    for number, cells in rows[at:SEARCHED_ROWS]:
        names = _trimmed(cells)
        known = _known_names(names, options)
        is_alone = sum(map(bool, names)) < 2
        next_row = rows[at + 1][1] if at + 1 < len(rows) else []
        is_as_wide = len(_trimmed(next_row)) <= len(names) <= len(next_row)
        if (known and not (is_alone and at)) or (is_as_wide and not is_alone):
            before = next((cell.strip() for _, row in rows[:at] for cell in row if cell.strip()), "")
            return FoundHeader(at, number, names, known, before)
        at += 1
    return None


def _trimmed(cells: Sequence[str]) -> list[str]:
    """The texts of the cells, without blank cells at the end."""
    texts = [cell.strip(BLANKS) for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _known_names(header: Sequence[str], options: FileOptions) -> int:
    """The number of different known names in a header."""
    shop = find_format(header)
    known = _GENERAL_NAMES.union(map(plain_name, options.mapping.values()))
    if shop is not None:
        known = known.union(*map(str.split, shop.names.values()))
    prices = FIELDS["price"].names.split()
    return sum(
        plain_name(name) in known
        or _NUMBERED_IMAGE.fullmatch(plain_name(name)) is not None
        or price_with_currency(name)[0] in prices
        for name in set(header)
    )


class ColumnMapping(NamedTuple):
    """The columns of each field, and the name of each attribute by its column. `price_currency` is the code or sign of
    a currency that the name of the price column has; empty if none."""

    fields: dict[str, list[int]]
    attributes: dict[int, str]
    price_currency: str

    def column(self, field: str) -> int | None:
        """The column of a field that has one."""
        return self.fields[field][0] if field in self.fields else None

    def describe(self, header: Sequence[str]) -> list[tuple[str, str]]:
        """Each field with its columns; then the attributes."""
        fields = [(field, ", ".join(header[at] for at in columns)) for field, columns in self.fields.items()]
        return [*fields, ("attributes", ", ".join(self.attributes.values()))] if self.attributes else fields


def map_columns(
    name: str, header: Sequence[str], options: FileOptions, shop: ShopFormat | None, *, is_delimited: bool = False
) -> ColumnMapping:
    """The mapping of a header; raises `UserError` when a column of `options` does not exist, when two columns have the
    same name, or when no column has the id. `is_delimited`: a wrong delimiter may be the cause."""
    mapper = _Mapper(name, header)
    for field, column in options.mapping.items():
        mapper.take_stated(field, column)
    own = {} if shop is None else shop.names
    for field, about in FIELDS.items():
        if field not in mapper.fields and not (field == "id" and options.number_rows):
            mapper.take_known(field, own.get(field, about.names).split())
    fields = mapper.fields
    if "seller.id" not in fields:  # a seller without an id is no seller: the columns are attributes
        fields = {field: columns for field, columns in fields.items() if not field.startswith("seller.")}
    _check_id(name, header, fields, options, is_delimited=is_delimited)
    price_currency = price_with_currency(header[fields["price"][0]])[1] if "price" in fields else ""
    return ColumnMapping(fields, _attribute_names(header, fields), price_currency)


class _Mapper:
    """Assigns columns to fields, each column once."""

    def __init__(self, name: str, header: Sequence[str]) -> None:
        self._name = name
        self._header = header
        self.fields: dict[str, list[int]] = {}
        self._by_plain_name: dict[str, list[int]] = {}
        for at, column in enumerate(header):
            if column:
                self._by_plain_name.setdefault(plain_name(column), []).append(at)

    def take_stated(self, field: str, column: str) -> None:
        """Assign the column that the user names."""
        same = [at for at, other in enumerate(self._header) if other.casefold() == column.strip().casefold()]
        self.fields[field] = [self._only(same, f"--map {field}={column}", column)]

    def take_known(self, field: str, names: Sequence[str]) -> None:
        """Assign the column with the first of these names that exists; for media, all such columns."""
        if field == "media":
            numbered = [name for name in self._by_plain_name if _NUMBERED_IMAGE.fullmatch(name)]
            columns = sorted({at for name in (*names, *numbered) for at in self._free(name)})
        else:
            same = next((columns for name in names if (columns := self._free(name))), [])
            columns = [self._only(same, f"the field {field}", self._header[same[0]])] if same else []
        if field == "price" and not columns:
            columns = self._price_with_currency(names)
        if columns:
            self.fields[field] = columns

    def _free(self, name: str) -> list[int]:
        taken = set(chain.from_iterable(self.fields.values()))
        return [at for at in self._by_plain_name.get(name, []) if at not in taken]

    def _price_with_currency(self, names: Sequence[str]) -> list[int]:
        """The column whose name is that of a price and of a currency: `Preis (EUR)`."""
        columns = [at for at, column in enumerate(self._header) if price_with_currency(column)[0] in names]
        if len(columns) > 1:
            listed = ", ".join(self._header[at] for at in columns)
            raise UserError(
                f"{self._name} has prices in several columns ({listed}).", "Choose one: --map price=COLUMN."
            )
        return columns

    def _only(self, columns: Sequence[int], use: str, column: str) -> int:
        if not columns:
            raise UserError(
                f"{self._name} has no column {column!r} for {use}.", f"Its columns are {', '.join(self._header)}."
            )
        if len(columns) > 1:
            raise UserError(
                f"{self._name} has {len(columns)} columns with the name {column!r}, so that {use} is ambiguous.",
                "Rename or delete the others.",
            )
        return columns[0]


def price_with_currency(column: str) -> tuple[str, str]:
    """The plain name of a price column and the code or sign of a currency in its name: `Preis (EUR)` and `EUR Preis`
    are `("preis", "EUR")`. Empty if it has none."""
    for pattern in (_PRICE_OF, _OF_PRICE):
        parts = pattern.fullmatch(column.strip())
        if parts is not None and parts["name"] and currencies.named(parts["currency"]):
            return plain_name(parts["name"]), parts["currency"]
    return "", ""


def _check_id(
    name: str, header: Sequence[str], fields: dict[str, list[int]], options: FileOptions, *, is_delimited: bool
) -> None:
    more = " …" if len(header) > _SHOWN_COLUMNS else ""
    columns = ", ".join(column or "(no name)" for column in header[:_SHOWN_COLUMNS]) + more
    if "id" not in fields and not options.number_rows:
        raise UserError(
            f"No column of {name} has the item's id; its columns are {columns}.",
            "Name it with --map id=COLUMN, or use the position of the listing with --id row"
            + (", or correct the --delimiter." if is_delimited else "."),
        )
    if not fields:
        raise UserError(
            f"No column name of {name} is known; its columns are {columns}.",
            "If this is a row of data, add a first row with the names; or name a column with --map title=COLUMN.",
        )
    if not any(field in fields for field in CONTENT) and len(set(chain.from_iterable(fields.values()))) < sum(
        map(bool, header)
    ):
        raise UserError(
            f"No column of {name} is known as title, text or pictures; its columns are {columns}.",
            "Name those that have them, such as --map title=COLUMN.",
        )


def attribute_name(column: str) -> str:
    """The name of a column's attribute; empty for a column without a letter or digit."""
    return _NOT_IN_NAME.sub("_", column.lower()).strip("_")[:190]


def _attribute_names(header: Sequence[str], fields: dict[str, list[int]]) -> dict[int, str]:
    taken = set(chain.from_iterable(fields.values()))
    names: dict[int, str] = {}
    for at, column in enumerate(header):
        if at not in taken:
            name = attribute_name(column) or f"column_{at + 1}"
            names[at] = name if name not in names.values() else f"{name}_{at + 1}"
    return names
