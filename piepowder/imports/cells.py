"""The cells of a table: text, and in typed sources (spreadsheets, JSON) also numbers, dates and values without text."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from piepowder.imports.lines import Refusal

BLANKS: Final = " \t\r\n\u00a0\u3000"
"""The white space around the text of a cell that is not part of it."""


class Number(str):
    """A number of a typed source, written with a decimal point and no thousands signs; `sign` is the currency sign of
    its cell's format."""

    __slots__ = ("sign",)
    sign: str

    def __new__(cls, text: str, sign: str = "") -> "Number":
        number = super().__new__(cls, text)
        number.sign = sign
        return number


class Moment(str):
    """A date or time of a typed source, as ISO 8601."""

    __slots__ = ()


class NoValue(str):
    """A cell whose value is unknown; the text is the reason."""

    __slots__ = ()


def is_moment(cell: str) -> bool:
    """True for a date or time of a typed source."""
    return type(cell) is Moment


def reason_without_value(cell: str) -> str:
    """The reason why the value of a cell is unknown; empty if it is known."""
    return str(cell) if type(cell) is NoValue else ""


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
        """The interpretation of the file, complete after the first reading of all rows."""
        ...

    def rows(self) -> Iterator[TableRow | Refusal]:
        """The rows in order."""
        ...
