"""The parts of an import: cells, rows and tables of a file, and the listings or refusals that they become.

A cell is a text. Typed sources (workbooks, JSON) also have numbers, dates and cells whose value is unknown; these are
subclasses of str.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

BLANKS: Final = " \t\r\n\u00a0\u3000"
"""The white space that is removed at the start and end of a cell."""


class Number(str):
    """A number of a typed source, with a decimal point and without thousands separators. `sign` is the currency sign of
    its cell's format, and `shown_as` a format that shows another text than the number; both may be empty."""

    __slots__ = ("shown_as", "sign")
    sign: str
    shown_as: str

    def __new__(cls, text: str, sign: str = "", shown_as: str = "") -> "Number":
        number = super().__new__(cls, text)
        number.sign = sign
        number.shown_as = shown_as
        return number


class DateText(str):
    """A date or time of a typed source, as ISO 8601."""

    __slots__ = ()


class UnknownValue(str):
    """A cell whose value is unknown; the text is the reason."""

    __slots__ = ()


class SeveralValues(str):
    """The values of a name that a record has more than once, with a line for each."""

    __slots__ = ()


def quoted(text: str, longest: int = 60) -> str:
    """A text in quotation marks. It is shortened inside them, so that similar messages can be recognized."""
    return repr(str(text) if len(text) <= longest else f"{text[:longest]}…")


def uncertainty(cell: str) -> str:
    """The reason why a cell is not one text that its author wrote; empty if it is."""
    if isinstance(cell, UnknownValue):
        return str(cell)
    if isinstance(cell, SeveralValues):
        first, second = cell.split("\n")[:2]
        return f"there are several values, such as {quoted(first)} and {quoted(second)}; export only one"
    is_date = isinstance(cell, DateText)
    return f"{cell!s:.60} is a date, which the spreadsheet made of another text; write it as text" if is_date else ""


class OmittedField(NamedTuple):
    """A faulty optional field of an item that `--lenient` left out, with the fault. `field` is the name as in `--map`,
    or `attributes.NAME`."""

    field: str
    detail: str


class Listing(NamedTuple):
    """A listing as a JSON object without line breaks; `number` is that of its line, row or item in the file."""

    number: int
    body: bytes
    omitted: tuple[OmittedField, ...] = ()


class Refusal(NamedTuple):
    """A listing that was not sent (status 0) or that intake refused, with the reason."""

    number: int
    status: int
    detail: str


class TableRow(NamedTuple):
    """A row with as many cells as the header; `number` is that of its first line in the file."""

    number: int
    cells: list[str]


class Note(NamedTuple):
    """One part of the interpretation of a file, for people."""

    name: str
    text: str


class Table(Protocol):
    """The rows of a file. `rows` starts again at each call; it raises `UserError` when the file cannot be read."""

    header: Sequence[str]
    unit: str
    """The name of a row's number: line, row or item."""

    def notes(self) -> list[Note]:
        """The interpretation of the file."""
        ...

    def rows(self) -> Iterator[TableRow | Refusal]:
        """The rows in order."""
        ...


NamedCells: TypeAlias = Mapping[str, Sequence[str]]


class RecordTable:
    """A table of records with named values (XML, JSON). The columns are the union of the names of all records; several
    values of a name are one cell with a line for each.

    `read` returns the records with their numbers, from the start at each call. A record that cannot be read is a
    refusal.
    """

    def __init__(
        self, read: Callable[[], Iterator[tuple[int, NamedCells] | Refusal]], notes: Sequence[Note], unit: str = "item"
    ) -> None:
        self._read = read
        self.unit = unit
        self._notes = list(notes)
        self._columns: dict[str, int] = {}
        self.first_refusal: Refusal | None = None
        for record in read():
            if isinstance(record, Refusal):
                self.first_refusal = self.first_refusal or record
                continue
            for name in record[1]:
                self._columns.setdefault(name, len(self._columns))
        self.header: Sequence[str] = list(self._columns)

    def add_note(self, note: Note) -> None:
        """State a part of the interpretation that the records show."""
        self._notes.append(note)

    def notes(self) -> list[Note]:
        return self._notes

    def rows(self) -> Iterator[TableRow | Refusal]:
        for record in self._read():
            if isinstance(record, Refusal):
                yield record
                continue
            number, fields = record
            cells = [""] * len(self._columns)
            for name, texts in fields.items():
                cells[self._columns[name]] = texts[0] if len(texts) == 1 else _joined(texts)
            yield TableRow(number, cells)


def _joined(texts: Sequence[str]) -> str:
    unknown = next((text for text in texts if isinstance(text, UnknownValue)), None)
    return SeveralValues("\n".join(texts)) if unknown is None else unknown
