"""An opened file of listings: identified, interpreted and read to its end, ready to be sent.

All that only the file as a whole can decide (encoding, quoting, decimal separator, repeated ids), and all faults that
make later rows uncertain, are found before the first listing is sent; then the file is read once more. A text file is
read row by row, so memory does not grow with it. A workbook is read whole, and a JSON array is mapped into memory.
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from piepowder.imports import currencies, encodings, feeds, json_files, values
from piepowder.imports.columns import CONTENT, ColumnMapping, map_columns
from piepowder.imports.delimited import DelimitedTable
from piepowder.imports.encodings import GuessedEncoding
from piepowder.imports.file_options import FileOptions
from piepowder.imports.files import FileKind, InputFile, identify
from piepowder.imports.items import ItemBuilder
from piepowder.imports.json_files import Items
from piepowder.imports.money import DecimalSeparator, shown_separator
from piepowder.imports.repeated_ids import counting_ids
from piepowder.imports.rows import BLANKS, Listing, Note, Number, Refusal, Table, TableRow, UnknownValue, quoted
from piepowder.imports.shop_formats import ShopFormat, find_format, gtin_type_column, is_gtin_type
from piepowder.imports.spreadsheets import SpreadsheetTable
from shared.runtime.user_errors import UserError

_SHOWN: Final = 3
_WITHOUT_VERSIONS: Final = (
    "the one that arrives last is in force, except that a content that was sent before is not new; a version decides"
)
_PROGRESS_ROWS: Final = 2_000
_LONGEST_CURRENCY: Final = 4
_DECIDING_PRICES: Final = 2
_SEPARATOR_NAMES: Final = {".": "point", ",": "comma"}
_Read = TypeVar("_Read", TableRow, Listing)


@dataclass(kw_only=True)
class ListingImport:
    """An opened file: its interpretation (`notes`), the columns of each field (`mapping`), its number of `listings`, of
    which `refused` cannot be read, and the first ones to send (`examples`).

    `read` returns the listings and refusals in order, from the start at each call. `guess` is a guess of its encoding
    that nobody has confirmed. `unit` is the name of a listing's number: line, row or item. `are_values_checked`: the
    values were checked here; those of items in JSON are checked by intake alone.
    """

    source: InputFile
    read: Callable[[], Iterator[Listing | Refusal]]
    unit: str
    are_values_checked: bool
    is_lenient: bool
    notes: Sequence[Note]
    mapping: Sequence[tuple[str, str]] = ()
    guess: GuessedEncoding | None = None
    listings: int
    refused: int
    examples: Sequence[Listing]

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.source.name

    def __enter__(self) -> "ListingImport":
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()


def open_import(
    name: str, options: FileOptions, progress: Callable[[int, int], None] = lambda _position, _size: None
) -> ListingImport:
    """Open and read a file (`-` is standard input); raises `UserError` when the file as a whole cannot be used.

    `progress` is called with the bytes that were read, and the size.
    """
    source = InputFile(name)
    try:
        return _read_file(source, options, lambda: progress(source.position, source.size))
    except BaseException:
        source.close()
        raise


def _read_file(source: InputFile, options: FileOptions, progress: Callable[[], None]) -> ListingImport:
    kind = identify(source, is_csv=options.is_csv)
    guess: GuessedEncoding | None = None
    content: Table | Items
    if kind is FileKind.NDJSON:
        content = json_files.open_ndjson(source)
    elif kind is FileKind.JSON:
        content = json_files.open_json(source)
    elif kind is FileKind.XML:
        content = feeds.open_feed(source)
    elif kind is FileKind.SPREADSHEET:
        content = SpreadsheetTable(source, options)
    else:
        encoding = encodings.find_encoding(source, options.encoding)
        guess = None if options.accept_guess else encoding.guess
        content = DelimitedTable(source, encoding, options)
    if isinstance(content, Items):
        return _of_items(source, content, options, progress)
    try:
        return _of_table(source, content, options, guess, progress)
    except UserError as error:
        if guess is None:
            raise
        raise UserError(
            f"{error.what} {source.name} is not UTF-8, and its encoding is a guess: {guess.name}.",
            f"{error.what_to_do} Or, if the text below is wrong, give the encoding with --encoding.",
            guess.samples,
        ) from error


class _Counts(NamedTuple):
    """Counts of a whole file, and the note about repeated ids."""

    listings: int
    refused: int
    repeated: list[Note]


def _count(
    rows: Iterable[_Read | Refusal],
    name_of: Callable[[_Read], str],
    unit: str,
    progress: Callable[[], None],
    *,
    has_versions: bool,
) -> _Counts:
    """Count rows or listings, and the names that occur more than once; an empty name is none."""
    total = refused = 0
    with counting_ids() as ids:
        for total, row in enumerate(rows, 1):
            if total % _PROGRESS_ROWS == 0:
                progress()
            if isinstance(row, Refusal):
                refused += 1
            elif name := name_of(row):
                ids.add(name, row.number)
        repeated = ids.result()
    if not repeated.ids:
        return _Counts(total, refused, [])
    many, occur = ("ids", "occur") if repeated.ids > 1 else ("id", "occurs")
    first, second = repeated.numbers
    example = f"{quoted(repeated.example, 80)} ({unit} {first:,} and {second:,})"
    rule = "the one with the largest version is in force" if has_versions else _WITHOUT_VERSIONS
    text = f"{repeated.ids:,} {many} {occur} more than once, such as {example}; {rule}"
    return _Counts(total, refused, [Note("repeated", text)])


def _examples(listings: Iterable[Listing | Refusal]) -> list[Listing]:
    return list(islice((listing for listing in listings if isinstance(listing, Listing)), _SHOWN))


def _of_items(source: InputFile, items: Items, options: FileOptions, progress: Callable[[], None]) -> ListingImport:
    counts = _count(
        items.listings(),
        lambda listing: json_files.subject_and_version(listing.body),
        items.unit,
        progress,
        has_versions=False,
    )
    return ListingImport(
        source=source,
        read=items.listings,
        unit=items.unit,
        are_values_checked=False,
        is_lenient=options.lenient,
        notes=[items.note, *counts.repeated],
        listings=counts.listings,
        refused=counts.refused,
        examples=_examples(items.listings()),
    )


def _of_table(
    source: InputFile,
    table: Table,
    options: FileOptions,
    guess: GuessedEncoding | None,
    progress: Callable[[], None],
) -> ListingImport:
    shop = find_format(table.header)
    is_delimited = isinstance(table, DelimitedTable)
    mapping = map_columns(source.name, table.header, options, shop, is_delimited=is_delimited)
    rows = _Rows(table, shop)
    survey = _Survey(mapping, table.header, options)
    has_versions = mapping.column("version") is not None
    counts = _count(rows, survey.add, table.unit, progress, has_versions=has_versions)
    if not counts.listings:
        raise UserError(f"{source.name} has a header, but no row.", "Name a file with at least one item.")
    platform = options.platform or default_platform(source.stem)
    survey.check_currencies(source.name, table.header)
    builder = ItemBuilder(options, mapping, table.header, platform=platform, decimal_of=survey.decimal_of, shop=shop)

    def listings() -> Iterator[Listing | Refusal]:
        for position, row in enumerate(rows, 1):
            yield row if isinstance(row, Refusal) else builder.listing(row, position)

    described = mapping.describe(table.header)
    if options.number_rows:
        described.insert(0, ("id", f"the position of the listing in the file (1, 2, …), not its {table.unit}"))
    return ListingImport(
        source=source,
        read=listings,
        unit=table.unit,
        are_values_checked=True,
        is_lenient=options.lenient,
        notes=[
            *([] if shop is None else [Note("shop format", shop.name)]),
            *table.notes(),
            *rows.notes(),
            *_unknown(mapping),
            *survey.notes(table.header),
            Note("platform", platform if options.platform else f"{platform} (name of the file)"),
            *([] if options.kind == "product" else [Note("kind", options.kind)]),
            Note("market", f"{', '.join(options.default_markets)}{_default(mapping, 'markets', options.markets)}"),
            *([Note("language", options.language + _default(mapping, "language"))] if options.language else []),
            *counts.repeated,
        ],
        mapping=described,
        guess=guess,
        listings=counts.listings,
        refused=counts.refused,
        examples=_examples(listings()),
    )


def default_platform(stem: str) -> str:
    """The platform of a file without `--platform`: the name of the file."""
    return re.sub(r"[^a-z0-9]+", "-", stem.lower())[:63].strip("-") or "local"


def _default(mapping: ColumnMapping, field: str, stated: Sequence[str] = ("",)) -> str:
    """The addition to the value of a field that rows without one have."""
    default = "" if stated else " (default without --market)"
    return f"{default} (if the row has none)" if field in mapping.fields else default


def _unknown(mapping: ColumnMapping) -> list[Note]:
    """The usual fields that no column has, if other columns may have them."""
    missing = [field for field in (*CONTENT, "price") if field not in mapping.fields]
    if not missing or not mapping.attributes:
        return []
    return [Note("no column", f"{', '.join(missing)} (if a column has it, name it: --map {missing[0]}=COLUMN)")]


class _Rows:
    """The rows of a table that are listings: without repeated headers, and regrouped as the shop format needs it."""

    def __init__(self, table: Table, shop: ShopFormat | None) -> None:
        self._table = table
        self._regroup = None if shop is None else shop.regroup
        self._repeated_headers = 0

    def __iter__(self) -> Iterator[TableRow | Refusal]:
        rows = self._without_headers()
        return rows if self._regroup is None else self._regroup(self._table.header, rows)

    def notes(self) -> list[Note]:
        """The number of repeated headers, after all rows were read."""
        many = self._repeated_headers
        return [Note("left out", f"{many:,} rows that repeat the header")] if many else []

    def _without_headers(self) -> Iterator[TableRow | Refusal]:
        self._repeated_headers = 0
        header = list(self._table.header)
        for row in self._table.rows():
            if isinstance(row, TableRow) and row.cells[0].strip(BLANKS) == header[0] and _stripped(row) == header:
                self._repeated_headers += 1
            else:
                yield row


def _stripped(row: TableRow) -> list[str]:
    return [cell.strip(BLANKS) for cell in row.cells]


class _Survey:
    """Counts over all rows that decide how cells are read: decimal separators of prices, words for "no GTIN", ids."""

    def __init__(self, mapping: ColumnMapping, header: Sequence[str], options: FileOptions) -> None:
        self._id = mapping.column("id")
        self._price = mapping.column("price")
        self._gtin = mapping.column("gtin")
        self._options = options
        self._mapping = mapping
        self._currency = mapping.column("currency")
        self._markets = mapping.column("markets")
        self._separators: dict[str, Counter[DecimalSeparator]] = {}
        is_stated = self._currency is not None or mapping.price_currency or options.currency
        has_prices = self._price is not None and not is_stated
        self._currencies = dict.fromkeys(mapping.attributes if has_prices else (), "")
        self._no_gtin: Counter[str] = Counter()
        self._gtin_type = gtin_type_column(header, self._gtin)
        self._of_other_type = 0
        self._numeric_ids = 0
        self._no_id = 0

    def add(self, row: TableRow) -> str:
        """Count the cells of a row; returns its id as it is written."""
        cells = row.cells
        if self._price is not None:
            self._add_price(cells, cells[self._price])
            if self._currencies:
                self._add_currencies(cells)
        if self._gtin is not None:
            gtin = cells[self._gtin]
            if gtin and self._gtin_type is not None and not is_gtin_type(cells[self._gtin_type]):
                self._of_other_type += 1
            elif gtin and not gtin[0].isdigit() and values.is_no_gtin(gtin.strip(BLANKS)):
                self._no_gtin[gtin.strip(BLANKS)] += 1
        if self._id is None:
            return ""
        cell = cells[self._id]
        self._numeric_ids += isinstance(cell, Number)
        self._no_id += not cell and not isinstance(cell, UnknownValue)
        return cell.strip(BLANKS)

    def _add_price(self, cells: Sequence[str], price: str) -> None:
        if type(price) is not str or not price:
            return
        column = self._mapping.price_currency
        if self._currency is not None:
            column = cells[self._currency].strip(BLANKS) or column
        markets = self._options.default_markets
        if self._markets is not None and (cell := cells[self._markets].strip(BLANKS)):
            with suppress(ValueError):
                markets = values.markets(cell)
        shown = shown_separator(price.strip(BLANKS), column, markets, self._options.currency or "")
        if shown is not None:
            currency, separator = shown
            if currency not in self._separators:
                self._separators[currency] = Counter()
            self._separators[currency][separator] += 1

    def _add_currencies(self, cells: Sequence[str]) -> None:
        for at in list(self._currencies):
            cell = cells[at].strip(BLANKS)
            if cell and len(cell) <= _LONGEST_CURRENCY and currencies.is_code_or_sign(cell):
                self._currencies[at] = cell
            elif cell:
                del self._currencies[at]

    def check_currencies(self, name: str, header: Sequence[str]) -> None:
        """Raise `UserError` if prices get the currency of their market, although another column may have theirs."""
        for at, example in self._currencies.items():
            if example:
                raise UserError(
                    f"The column {header[at]!r} of {name} has only currencies (such as {example}), but its name is not"
                    " known as that of the prices' currency.",
                    f"Give --map currency={shlex.quote(header[at])}, or the currency of all prices with --currency.",
                )

    def decimal_of(self, currency: str) -> str | None:
        """The decimal separator of a currency's prices: the stated one, or the one that at least two of them show, and
        none the other."""
        return self._options.decimal or _decided(self._separators.get(currency, Counter()))

    def notes(self, header: Sequence[str]) -> list[Note]:
        """The interpretation of the columns."""
        notes = []
        if self._price is not None:
            notes += [
                Note("decimal separator", self._about_decimals()),
                Note("currency", self._about_currency(header)),
            ]
        if self._no_gtin:
            some = ", ".join(repr(text) for text, _ in self._no_gtin.most_common(3))
            notes.append(Note("no GTIN", f"{self._no_gtin.total():,} cells say so ({some})"))
        if self._gtin_type is not None and self._of_other_type:
            reason = f"another type, as {header[self._gtin_type]!r} says; they become attributes"
            notes.append(Note("no GTIN", f"{self._of_other_type:,} cells are of {reason}"))
        if self._numeric_ids:
            notes.append(Note("ids", f"{self._numeric_ids:,} are numbers, written without separators"))
        if self._no_id:
            notes.append(
                Note("no id", f"{self._no_id:,} rows; they are refused (--id row uses the position of all listings)")
            )
        return notes

    def _about_decimals(self) -> str:
        if self._options.decimal is not None:
            return f"{_SEPARATOR_NAMES[self._options.decimal]} (--decimal)"
        written = {
            currency: counts for currency, counts in self._separators.items() if set(counts) - {DecimalSeparator.NONE}
        }
        texts = [
            f"{f'{currency}: ' if len(written) > 1 else ''}{_about_separators(counts)}"
            for currency, counts in written.items()
        ]
        return "; ".join(texts) or "no price has one"

    def _about_currency(self, header: Sequence[str]) -> str:
        at = self._mapping.column("currency")
        parts = [f"column {header[at]!r}"] if at is not None else []
        if self._mapping.price_currency:
            parts.append(f"{self._mapping.price_currency} (name of the column)")
        parts.append("the sign or code in the cell")
        if self._options.currency:
            parts.append(f"else {self._options.currency} (--currency)")
        elif not self._mapping.price_currency:
            parts.append("else that of the market")
        return ", ".join(parts)


def _decided(counts: Counter[DecimalSeparator]) -> str | None:
    shown = [mark for mark in (DecimalSeparator.POINT, DecimalSeparator.COMMA) if counts[mark]]
    return shown[0].value if len(shown) == 1 and counts[shown[0]] >= _DECIDING_PRICES else None


def _about_separators(counts: Counter[DecimalSeparator]) -> str:
    unclear = counts[DecimalSeparator.AMBIGUOUS]
    shown = [mark for mark in (DecimalSeparator.POINT, DecimalSeparator.COMMA) if counts[mark]]
    if not shown:
        return f"not decided; {_ambiguous(unclear)} refused (--decimal)"
    if len(shown) > 1:
        return "point and comma, as each price shows" + (f"; {_ambiguous(unclear)} refused" if unclear else "")
    count = counts[shown[0]]
    shows = "price shows" if count == 1 else "prices show"
    text = f"{_SEPARATOR_NAMES[shown[0].value]}: {count:,} {shows} it, none the other"
    if not unclear:
        return text
    if _decided(counts):
        return f"{text}; so {_ambiguous(unclear)} read with it"
    return f"{text}; {_ambiguous(unclear)} refused, because one price does not decide (--decimal)"


def _ambiguous(count: int) -> str:
    return f"{count:,} ambiguous {'one is' if count == 1 else 'ones are'}"
