"""Tables of delimited text (CSV, TSV), read as RFC 4180 says.

A quotation mark that opens a cell ends it only where the RFC ends it, whatever is between: so no text of a seller can
create a row. If the quotation marks of a file are faulty, the end of a cell is unknown, and with it the start of every
later row. Such a file is refused as a whole, before anything is sent. An unquoted tab-separated file, in which
quotation marks are ordinary characters, is recognized as a whole, or stated with `--quoting none`.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from piepowder.imports import profiles
from piepowder.imports.cells import BLANKS, Note, TableRow
from piepowder.imports.encodings import TextEncoding
from piepowder.imports.files import InputFile
from piepowder.imports.lines import Refusal
from piepowder.imports.options import FileOptions
from shared.runtime.user_errors import UserError

MAX_CELL: Final = 16 * 2**20
_DELIMITERS: Final = (",", ";", "|", "#", "\t")
_NAMES: Final = {",": "comma", ";": "semicolon", "|": "bar", "#": "number sign", "\t": "tab", ":": "colon"}
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_SAMPLE_CHARACTERS: Final = 256 * 1024
_SAMPLE_ROWS: Final = 40
_ENCLOSED: Final = re.compile(r'"(?:[^"]|"")*"')
_LINE_ENDS: Final = re.compile(r"\r\n|\n|\r")
_END_NAMES: Final = {"\r\n": "CR LF", "\n": "LF", "\r": "CR"}


class _Quoting(NamedTuple):
    """The arguments of the csv module for quotation marks."""

    arguments: dict[str, Any]
    description: str


_RFC: Final = _Quoting({"strict": True}, "RFC 4180")
_NONE: Final = _Quoting(
    {"quoting": csv.QUOTE_NONE, "quotechar": None}, "kept as written: the file does not quote cells"
)


class _Layout(NamedTuple):
    """The header and the number of its line; `preamble` is the first text before it."""

    delimiter: str
    header: list[str]
    line: int
    preamble: str


class DelimitedTable:
    """A table of delimited text."""

    unit = "line"

    def __init__(self, source: InputFile, encoding: TextEncoding, options: FileOptions) -> None:
        self._source = source
        self._encoding = encoding
        csv.field_size_limit(MAX_CELL)
        try:
            sample = self._text("").read(_SAMPLE_CHARACTERS)
        except UnicodeDecodeError as error:
            raise _undecodable(source.name, 1, error) from error
        self._end = _line_end(sample)
        separator = _SEPARATOR_LINE.fullmatch(_LINE_ENDS.split(sample, maxsplit=1)[0].strip())
        self._stated = options.delimiter or (None if separator is None else separator[1])
        self._has_separator_line = separator is not None
        self._quoting = _NONE if options.quoting == "none" else _RFC
        self._layout = self._find_layout(sample, options)
        if self._layout.delimiter == "\t" and options.quoting is None:
            self._quoting = self._quoting_of_tabs()
        self.header: Sequence[str] = self._layout.header
        self._repeated_headers = 0

    def notes(self) -> list[Note]:
        layout = self._layout
        by = " (sep= line)" if self._has_separator_line else ""
        notes = [
            Note("encoding", self._encoding.description),
            Note("delimiter", f"{_NAMES.get(layout.delimiter, repr(layout.delimiter))}{by}"),
            Note("quotation", self._quoting.description),
        ]
        if layout.preamble:
            notes.append(
                Note(
                    "left out",
                    f"{layout.line - 1 - self._has_separator_line} lines before the header: {layout.preamble}",
                )
            )
        if self._repeated_headers:
            notes.append(Note("left out", f"{self._repeated_headers:,} rows that repeat the header"))
        return notes

    def rows(self) -> Iterator[TableRow | Refusal]:
        self._repeated_headers = 0
        found = _records(self._source.name, self._lines(), self._layout.delimiter, self._quoting)
        width, header, header_line = len(self.header), self._layout.header, self._layout.line
        for record in found:
            if isinstance(record, Refusal):
                if record.number > header_line:
                    yield record
                continue
            number, cells = record
            if number <= header_line:
                continue
            if len(cells) != width:
                while len(cells) > width and not cells[-1].strip(BLANKS):
                    cells.pop()
                if len(cells) != width:
                    if any(cell.strip(BLANKS) for cell in cells):
                        yield Refusal(number, 0, f"the row has {len(cells)} cells, the header has {width}")
                    continue
            if not any(cells) or not any(cell.strip(BLANKS) for cell in cells):
                continue
            if cells[0] == header[0] and [cell.strip(BLANKS) for cell in cells] == header:
                self._repeated_headers += 1
                continue
            yield TableRow(number, cells)

    def _text(self, newline: str) -> io.TextIOWrapper:
        return io.TextIOWrapper(
            _Unclosed(self._source.start()),  # type: ignore[arg-type]  # has the methods that are used
            encoding=self._encoding.codec,
            errors="strict" if self._encoding.codec.startswith(("utf-16", "utf-32")) else "surrogateescape",
            newline=newline,
        )

    def _lines(self) -> "_Lines":
        lines = _Lines(self._text(self._end), self._end, self._source.name)
        if self._has_separator_line:
            next(lines, None)
        return lines

    def _find_layout(self, sample: str, options: FileOptions) -> _Layout:
        if not sample.strip(BLANKS):
            raise UserError(f"{self._source.name} is empty.", "Name a file with at least one item.")
        mapped = {profiles.plain_name(column) for column in options.mapping.values()}
        best: tuple[tuple[int, int, int], _Layout] | None = None
        for delimiter in (self._stated,) if self._stated else _DELIMITERS:
            rows = self._sample_rows(sample, delimiter)
            if not rows and self._quoting is _RFC and delimiter == "\t":
                rows = self._sample_rows(sample, delimiter, _NONE)
            for at, (number, cells) in enumerate(rows[: _SAMPLE_ROWS // 2]):
                names = {profiles.plain_name(cell) for cell in cells}
                known = profiles.recognized(cells) + len(names & mapped)
                alike = sum(len(other) == len(cells) for _, other in rows[at + 1 :])
                if at and known < 2 and any(sum(map(bool, row)) > 1 for _, row in rows[:at]):
                    continue
                rank = (known, alike if len(cells) > 1 else -1, len(cells))
                if best is None or rank > best[0]:
                    header = [cell.strip(BLANKS) for cell in cells]
                    while header and not header[-1]:
                        header.pop()
                    first = next((cell for _, row in rows[:at] for cell in row if cell.strip()), "")
                    best = rank, _Layout(delimiter, header, number, f"{first.strip()[:60]!r}" if at else "")
        if best is None or not best[1].header:
            raise UserError(
                f"The first rows of {self._source.name} cannot be read as a table (RFC 4180).",
                "Give the --delimiter, or --quoting none if its quotation marks are ordinary characters.",
            )
        return best[1]

    def _sample_rows(self, sample: str, delimiter: str, quoting: _Quoting | None = None) -> list[tuple[int, list[str]]]:
        """The first rows of the sample that are not blank, each with the number of its first line."""
        lines = _Lines(io.StringIO(sample, newline=self._end), self._end, self._source.name)
        if self._has_separator_line:
            next(lines, None)
        found: list[tuple[int, list[str]]] = []
        try:
            for record in _records(self._source.name, lines, delimiter, quoting or self._quoting):
                if isinstance(record, Refusal):
                    continue
                found.append(record)
                if len(found) == _SAMPLE_ROWS:
                    break
        except UserError:
            pass  # the sample ends inside a cell, or this is not the delimiter
        return found

    def _quoting_of_tabs(self) -> _Quoting:
        """The use of quotation marks in a tab-separated file; such files have no common rule.

        They enclose cells if the whole file can be read so. They are ordinary characters if the file has cells such as
        `"GoPro" cable` and each of its lines has as many cells as the header, or if they are only around some cells of
        a column, of which some need no quotation. If both readings are possible, the user must decide.
        """
        profile = profiles.find(self._layout.header)
        if profile is not None and profile.unquoted_tabs:
            return _NONE
        marks = _MarksOfTabs(len(self._layout.header))
        for line in self._lines():
            marks.add(line.rstrip("\r\n"))
        if not marks.quoted and not marks.odd:
            return _RFC
        if not marks.odd:
            return _RFC if marks.are_quotation else _NONE
        faulty = None
        try:
            for _ in _records(self._source.name, self._lines(), "\t", _RFC):
                pass
        except UserError as error:
            faulty = error
        if faulty is None and not marks.same_width:
            return _RFC
        if faulty is not None and marks.same_width and marks.balanced:
            return _NONE
        if faulty is not None and not marks.same_width:
            raise faulty
        raise UserError(
            f"The quotation marks in {self._source.name} may enclose cells or be part of them.",
            "Give --quoting rfc4180 or --quoting none.",
        )


class _MarksOfTabs:
    """The quotation marks at the start of cells in the lines of a tab-separated file of `width` columns."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._enclosed: Counter[int] = Counter()
        self._bare: Counter[int] = Counter()
        self._header_enclosed = False
        self._needless = False
        self._lines = 0
        self.quoted = 0
        self.odd = 0
        self.balanced = True
        self.same_width = True

    def add(self, line: str) -> None:
        if not line.strip():
            return
        self._lines += 1
        cells = line.split("\t")
        if len(cells) != self._width:
            self.same_width = False
        if '"' not in line:
            self._bare.update(at for at, cell in enumerate(cells) if cell)
            return
        for at, cell in enumerate(cells):
            if not cell.startswith('"'):
                self._bare[at] += bool(cell)
            elif _ENCLOSED.fullmatch(cell):
                self.quoted += 1
                self._enclosed[at] += 1
                self._header_enclosed |= self._lines == 1
                self._needless |= not any(mark in cell[1:-1] for mark in '",;')
            else:
                self.odd += 1
                self.balanced &= cell.count('"') % 2 == 0

    @property
    def are_quotation(self) -> bool:
        """True if the marks around whole cells enclose them."""
        if self._header_enclosed or not self._needless:
            return True
        return self._lines > 2 and all(self._bare[at] <= 1 for at in self._enclosed)  # 1: the header


class _Unclosed:
    """A binary file that a text layer cannot close."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.read = file.read
        self.read1 = getattr(file, "read1", file.read)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """The lines of a text with their line ends; `number` is that of the last one, `taken` are those since `forget`."""

    def __init__(self, text: Any, end: str, name: str) -> None:
        self._readline = text.readline
        self.end = end
        self._name = name
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line: str = self._readline(MAX_CELL)
        except UnicodeDecodeError as error:
            raise _undecodable(self._name, self.number + 1, error) from error
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) >= MAX_CELL and not line.endswith(self.end):
            raise UserError(
                f"Line {self.number:,} of {self._name} has more than {MAX_CELL >> 20} MB.",
                "An item has far less; remove the line, or give the right --delimiter and --encoding.",
            )
        self.taken.append(line)
        return line


def _records(name: str, lines: _Lines, delimiter: str, quoting: _Quoting) -> Iterator[tuple[int, list[str]] | Refusal]:
    """The records with the numbers of their first lines; raises `UserError` when quotation marks are faulty."""
    reader = csv.reader(lines, delimiter=delimiter, **quoting.arguments)
    while True:
        start = lines.number + 1
        lines.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not str(error).startswith("new-line character"):
                raise _faulty_quotation(name, start, lines.number, str(error)) from error
            _skip_record(name, start, lines, delimiter, quoting)
            yield Refusal(start, 0, "the row has a line end of another kind than the file, outside of quotation marks")
            continue
        if cells:
            yield start, cells


def _skip_record(name: str, start: int, lines: _Lines, delimiter: str, quoting: _Quoting) -> None:
    """Read to the end of a record with line ends outside of quotation marks, which may have further quoted cells."""
    taken = list(lines.taken)
    inside = (_LINE_ENDS.sub(" ", line.removesuffix(lines.end)) + "\n" for line in chain(taken, lines))
    try:
        next(csv.reader(inside, delimiter=delimiter, **quoting.arguments))
    except csv.Error as error:
        raise _faulty_quotation(name, start, lines.number, str(error)) from error


def _faulty_quotation(name: str, start: int, last: int, reason: str) -> UserError:
    if "field limit" in reason or "field larger" in reason:
        return UserError(
            f"A cell of {name} that begins in line {start:,} has more than {MAX_CELL >> 20} MB.",
            "Correct its quotation marks, or remove it.",
        )
    if "end of data" in reason:
        what = f"A quotation mark in the row of line {start:,} is not closed before the end of {name} (line {last:,})."
    else:
        where = f"line {start:,}" if start == last else f"lines {start:,} to {last:,}"
        what = f"The quotation marks in {where} of {name} are not those of RFC 4180."
    return UserError(
        f"{what} The start of the next row is therefore uncertain, and nothing is sent.",
        'Write a quotation mark inside a quoted cell twice (""), or give --quoting none if the file does not quote.',
    )


def _undecodable(name: str, line: int, error: UnicodeDecodeError) -> UserError:
    return UserError(
        f"{name} is not valid {error.encoding.upper()} in or behind line {line:,} ({error.reason}).",
        "Give its --encoding, or save it as UTF-8.",
    )


def _line_end(sample: str) -> str:
    """The line end of most rows: quoted cells are left out as far as their quotation marks are those of the RFC."""
    outside = re.sub(r'"[^"]*"', "", sample)
    counts = dict.fromkeys(_END_NAMES, 0)
    for end in _LINE_ENDS.findall(outside):
        counts[end] += 1
    if counts["\r\n"] and counts["\r\n"] >= counts["\n"]:
        return "\r\n"
    return "\n" if counts["\n"] or not counts["\r"] else "\r"
