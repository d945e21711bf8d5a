"""An opened file of listings: identified, interpreted and read once, ready to be sent.

The first reading decides what only the file as a whole can decide (encoding, decimal sign, repeated ids) and finds
faults that make every later row uncertain. So all of this is stated, or refused, before the first item is sent. The
second reading builds the items. Memory is bounded by the largest row, except for workbooks, which are read whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Final, NamedTuple

from piepowder.imports import encodings, feeds, json_files, profiles, values
from piepowder.imports.cells import BLANKS, Note, NoValue, Number, Table, TableRow
from piepowder.imports.columns import ColumnMapping, ItemBuilder, default_platform, describe, map_columns
from piepowder.imports.delimited import DelimitedTable
from piepowder.imports.encodings import GuessedEncoding
from piepowder.imports.files import InputFile
from piepowder.imports.json_files import ItemArray, ItemLines
from piepowder.imports.lines import Line, Refusal
from piepowder.imports.money import DecimalSign, decimal_sign
from piepowder.imports.options import FileOptions
from piepowder.imports.repeated_ids import RepeatedIds, counting_ids
from piepowder.imports.sources import FileKind, identify
from piepowder.imports.spreadsheets import SpreadsheetTable
from shared.runtime.user_errors import UserError

_SHOWN: Final = 3
_PROGRESS_ROWS: Final = 2_000
_SIGN_NAMES: Final = {".": "point", ",": "comma"}


class Findings(NamedTuple):
    """The result of the first reading: counts of all rows, and the first lines to send."""

    rows: int
    refused: int
    repeated: RepeatedIds
    examples: tuple[Line, ...]


@dataclass(frozen=True)
class ListingImport:
    """An opened file: its interpretation (`notes`), the columns of each field (`mapping`), the guess of its encoding if
    it is one, and the result of the first reading. `lines` reads it again from its start at each call."""

    _source: InputFile
    _reader: "_TableReader | ItemLines | ItemArray"
    _: KW_ONLY
    notes: Sequence[Note]
    mapping: Sequence[tuple[str, str]] = ()
    guess: GuessedEncoding | None = None
    findings: Findings

    @property
    def name(self) -> str:
        """The name of the file."""
        return self._source.name

    @property
    def unit(self) -> str:
        """The name of the numbers of lines: line, row or item."""
        return self._reader.unit

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self._source.size

    @property
    def position(self) -> int:
        """The bytes read so far."""
        return self._source.position

    def lines(self) -> Iterator[Line | Refusal]:
        """The items and refused lines of the file, in order."""
        return self._reader.lines()

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> "ListingImport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_import(
    name: str, options: FileOptions, progress: Callable[[int, int], None] = lambda _position, _size: None
) -> ListingImport:
    """Open and read a file (`-` is standard input); raises `UserError` when the file as a whole cannot be used.

    `progress` is called with the bytes that were read, and the size.
    """
    source = InputFile(name)
    try:
        return _opened(source, options, lambda: progress(source.position, source.size))
    except BaseException:
        source.close()
        raise


def _opened(source: InputFile, options: FileOptions, progress: Callable[[], None]) -> ListingImport:
    kind = identify(source, options.format)
    guess = None
    table: Table
    if kind is FileKind.NDJSON:
        return _of_items(source, ItemLines(source), progress)
    if kind is FileKind.JSON:
        opened = json_files.open_json(source)
        if isinstance(opened, ItemArray):
            return _of_items(source, opened, progress)
        table = opened
    elif kind is FileKind.XML:
        table = feeds.open_feed(source)
    elif kind is FileKind.SPREADSHEET:
        table = SpreadsheetTable(source, options)
    else:
        encoding = encodings.find_encoding(source, options.encoding)
        guess = encoding.guess
        table = DelimitedTable(source, encoding, options)
    return _of_table(source, table, options, guess, progress)


def _of_items(source: InputFile, items: ItemLines | ItemArray, progress: Callable[[], None]) -> ListingImport:
    rows = refused = 0
    examples = list[Line]()
    with counting_ids() as ids:
        for line in items.lines():
            rows += 1
            if rows % _PROGRESS_ROWS == 0:
                progress()
            if isinstance(line, Refusal):
                refused += 1
                continue
            if len(examples) < _SHOWN:
                examples.append(line)
            if name := json_files.id_of_item(line.body):
                ids.add(name, line.number)
        found = Findings(rows, refused, ids.result(), tuple(examples))
    notes = [*items.notes(), *_note_repeated(found.repeated, items.unit)]
    return ListingImport(source, items, notes=notes, findings=found)


def _of_table(
    source: InputFile,
    table: Table,
    options: FileOptions,
    guess: GuessedEncoding | None,
    progress: Callable[[], None],
) -> ListingImport:
    profile = profiles.find(table.header)
    mapping = map_columns(source.name, table.header, options, profile)
    rows = _Rows(table, profile)
    survey = _Survey(mapping, options)
    with counting_ids() as ids:
        for row in rows.all():
            survey.rows += 1
            if survey.rows % _PROGRESS_ROWS == 0:
                progress()
            if isinstance(row, Refusal):
                survey.refused += 1
            else:
                survey.add(row.cells)
                if survey.id_column is not None and (name := row.cells[survey.id_column].strip(BLANKS)):
                    ids.add(name, row.number)
        repeated = ids.result()
    if not survey.rows:
        raise UserError(f"{source.name} has a header, but no row.", "Name a file with at least one item.")
    platform = options.platform or default_platform("local" if source.name == "standard input" else source.name)
    decimal = options.decimal or survey.decided_sign
    builder = ItemBuilder(options, mapping, table.header, platform=platform, decimal=decimal, profile=profile)
    reader = _TableReader(rows, builder, table.unit)
    examples = tuple(islice((line for line in reader.lines() if isinstance(line, Line)), _SHOWN))
    notes = [
        *([Note("profile", profile.name)] if profile is not None else []),
        *table.notes(),
        *survey.notes(table.header, decimal),
        Note("platform", platform),
        Note("market", ", ".join(options.markets) + (" (if the row has none)" if "markets" in mapping.fields else "")),
        *_note_repeated(repeated, table.unit),
    ]
    findings = Findings(survey.rows, survey.refused, repeated, examples)
    described = list(describe(mapping, table.header))
    if options.number_rows:
        described.insert(0, ("id", "the number of the row"))
    return ListingImport(source, reader, notes=notes, mapping=described, guess=guess, findings=findings)


def _note_repeated(repeated: RepeatedIds, unit: str) -> list[Note]:
    if not repeated.ids:
        return []
    ids, occur = ("ids", "occur") if repeated.ids > 1 else ("id", "occurs")
    first, second = repeated.numbers
    example = f"{repeated.example!r:.80} ({unit} {first:,} and {second:,})"
    text = f"{repeated.ids:,} {ids} {occur} more than once, such as {example}; a later one is the newer version"
    return [Note("repeated", text)]


class _Rows:
    """The rows of a table, one for each listing."""

    def __init__(self, table: Table, profile: profiles.ShopProfile | None) -> None:
        self._table = table
        self._regroup = None if profile is None else profile.regroup

    def all(self) -> Iterator[TableRow | Refusal]:
        rows = self._table.rows()
        return rows if self._regroup is None else self._regroup(self._table.header, rows)


class _TableReader:
    """Builds the items of a table."""

    def __init__(self, rows: _Rows, builder: ItemBuilder, unit: str) -> None:
        self._rows = rows
        self._builder = builder
        self.unit = unit

    def lines(self) -> Iterator[Line | Refusal]:
        build = self._builder.line
        for count, row in enumerate(self._rows.all(), 1):
            yield row if isinstance(row, Refusal) else build(row.number, count, row.cells)


class _Survey:
    """Counts over all rows that decide how cells are read: decimal signs of prices, words for "no GTIN", ids."""

    def __init__(self, mapping: ColumnMapping, options: FileOptions) -> None:
        self.rows = 0
        self.refused = 0
        self.id_column = mapping.column("id")
        self._price = mapping.column("price")
        self._gtin = mapping.column("gtin")
        self._options = options
        self._mapping = mapping
        self._signs: Counter[DecimalSign] = Counter()
        self._no_gtin: Counter[str] = Counter()
        self._numeric_ids = 0
        self._no_id = 0

    def add(self, cells: Sequence[str]) -> None:
        if self._price is not None:
            price = cells[self._price]
            if type(price) is str:
                self._signs[decimal_sign(price.strip(BLANKS))] += 1
        if self._gtin is not None:
            gtin = cells[self._gtin]
            if gtin and not gtin[0].isdigit() and values.is_no_gtin(gtin.strip(BLANKS)):
                self._no_gtin[gtin.strip(BLANKS)] += 1
        if self.id_column is not None:
            cell = cells[self.id_column]
            self._numeric_ids += isinstance(cell, Number)
            self._no_id += not cell and not isinstance(cell, NoValue)

    @property
    def decided_sign(self) -> str | None:
        """The decimal sign that all prices with a clear one have."""
        found = [sign for sign in (DecimalSign.POINT, DecimalSign.COMMA) if self._signs[sign]]
        return found[0].value if len(found) == 1 else None

    def notes(self, header: Sequence[str], decimal: str | None) -> list[Note]:
        """The interpretation of the columns."""
        notes = []
        if self._price is not None:
            notes += [
                Note("decimal sign", self._about_decimals(decimal)),
                Note("currency", self._about_currency(header)),
            ]
        if self._no_gtin:
            some = ", ".join(repr(text) for text, _ in self._no_gtin.most_common(3))
            notes.append(Note("no GTIN", f"{self._no_gtin.total():,} cells say so ({some})"))
        if self._numeric_ids:
            notes.append(Note("ids", f"{self._numeric_ids:,} are numbers in the workbook, written without separators"))
        if self._no_id:
            notes.append(Note("no id", f"{self._no_id:,} rows; they are refused (--id row numbers all rows instead)"))
        return notes

    def _about_decimals(self, decimal: str | None) -> str:
        unclear = self._signs[DecimalSign.AMBIGUOUS]
        if self._options.decimal is not None:
            return f"{_SIGN_NAMES[self._options.decimal]} (--decimal)"
        if decimal is not None:
            shown = self._signs[DecimalSign(decimal)]
            also = f"; so {unclear:,} ambiguous ones are read with it" if unclear else ""
            return f"{_SIGN_NAMES[decimal]}: {shown:,} prices show it, none the other{also}"
        if self._signs[DecimalSign.POINT]:
            refused = f"; {unclear:,} ambiguous ones are refused" if unclear else ""
            return f"point and comma, as each price shows{refused}"
        return (
            f"not decided: {unclear:,} prices are ambiguous and refused (--decimal)" if unclear else "no price has one"
        )

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
