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
from contextlib import suppress
from itertools import chain, islice
from typing import Any, BinaryIO, Final, NamedTuple

from piepowder.imports.columns import FoundHeader, find_header
from piepowder.imports.encodings import TextEncoding
from piepowder.imports.file_options import FileOptions
from piepowder.imports.files import InputFile
from piepowder.imports.rows import BLANKS, Note, Refusal, TableRow
from piepowder.imports.shop_formats import find_format
from shared.runtime.user_errors import UserError

MAX_CELL: Final = 16 * 2**20
_RULE: Final = re.compile(r"[\s:+=-]*-{3}[\s:+=-]*")  # the line below the header of a Markdown table
_DELIMITERS: Final = (",", ";", "|", "#", "\t")
_NAMES: Final = {",": "comma", ";": "semicolon", "|": "pipe", "#": "number sign", "\t": "tab", ":": "colon"}
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_SAMPLE_CHARACTERS: Final = 256 * 1024
_SAMPLE_ROWS: Final = 40
_BUFFER_BYTES: Final = 2**18
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
        self._delimiter, self._header = self._find_layout(sample, options)
        self.header: Sequence[str] = self._header.names
        if self._delimiter == "\t" and options.quoting is None:
            self._quoting = self._quoting_of_tabs()

    def notes(self) -> list[Note]:
        by = " (sep= line)" if self._has_separator_line else ""
        notes = [
            Note("encoding", self._encoding.description),
            Note("delimiter", f"{_delimiter_name(self._delimiter)}{by}"),
            Note("quoting", self._quoting.description),
        ]
        if preamble := self._header.preamble:
            before = self._header.number - 1 - self._has_separator_line
            notes.append(Note("left out", f"{before} lines before the header: {preamble[:60]!r}"))
        return notes

    def rows(self) -> Iterator[TableRow | Refusal]:
        width = len(self.header)
        for record in _records(self._source.name, self._lines(), self._delimiter, self._quoting):
            if record[0] <= self._header.number:
                continue
            if isinstance(record, Refusal):
                yield record
                continue
            number, cells = record
            if len(cells) != width:
                while len(cells) > width and not cells[-1].strip(BLANKS):
                    cells.pop()
                if len(cells) != width:
                    if any(cell.strip(BLANKS) for cell in cells):
                        yield Refusal(number, 0, f"the row has {len(cells)} cells, the header has {width}")
                    continue
            if any(cells) and any(cell.strip(BLANKS) for cell in cells):
                yield TableRow(number, cells)

    def _text(self, newline: str) -> io.TextIOWrapper:
        return io.TextIOWrapper(
            io.BufferedReader(_Unclosed(self._source.start()), _BUFFER_BYTES),
            encoding=self._encoding.codec,
            errors="strict" if self._encoding.codec.startswith(("utf-16", "utf-32")) else "surrogateescape",
            newline=newline,
        )

    def _lines(self) -> "_Lines":
        lines = _Lines(self._text(self._end), self._end, self._source.name)
        if self._has_separator_line:
            next(lines, None)
        return lines

    def _find_layout(self, sample: str, options: FileOptions) -> tuple[str, FoundHeader]:
        """The delimiter and the header."""
        if not sample.strip(BLANKS):
            raise UserError(f"{self._source.name} is empty.", "Name a file with at least one item.")
        delimiters = (self._stated,) if self._stated else _DELIMITERS
        samples = {delimiter: self._sample_rows(sample, delimiter) for delimiter in delimiters}
        headers = {delimiter: find_header(rows, options) for delimiter, rows in samples.items()}
        found = [(delimiter, header) for delimiter, header in headers.items() if header is not None]
        if not found:
            raise UserError(
                f"The first rows of {self._source.name} cannot be read as a table with a row of names (RFC 4180).",
                "Add one; or give the --delimiter, or --quoting none if its quotation marks are ordinary characters.",
            )
        first = min(header.at for _, header in found)
        known = max(header.known for _, header in found if header.at == first)
        found = [(delimiter, header) for delimiter, header in found if (header.at, header.known) == (first, known)]
        delimiter, header = found[0]
        is_one_column = all(len(row) == 1 for each, _ in found for _, row in samples[each])
        if len(found) > 1 and known and not is_one_column:
            names = ", ".join(_delimiter_name(each) for each, _ in found)
            raise UserError(
                f"The first row of {self._source.name} (line {header.number:,}) can be read with several delimiters"
                f" ({names}).",
                "Give the --delimiter; if it is not the row with the names of the columns, remove it.",
            )
        if any(_RULE.fullmatch("".join(row)) for _, row in samples[delimiter][header.at + 1 : header.at + 2]):
            raise UserError(
                f"{self._source.name} is a table drawn with characters: line {header.number + 1:,} is a rule.",
                "Export the listings as CSV, XLSX or NDJSON.",
            )
        return delimiter, header

    def _sample_rows(self, sample: str, delimiter: str) -> list[tuple[int, list[str]]]:
        """The first rows of the sample that are not blank, each with the number of its first line."""
        quotings = (self._quoting, _NONE) if delimiter == "\t" else (self._quoting,)
        return next((rows for quoting in quotings if (rows := self._read_sample(sample, delimiter, quoting))), [])

    def _read_sample(self, sample: str, delimiter: str, quoting: _Quoting) -> list[tuple[int, list[str]]]:
        lines = _Lines(io.StringIO(sample, newline=self._end), self._end, self._source.name)
        if self._has_separator_line:
            next(lines, None)
        found: list[tuple[int, list[str]] | Refusal] = []
        with suppress(UserError):  # the sample ends inside a cell, or this is not the delimiter
            found.extend(islice(_records(self._source.name, lines, delimiter, quoting), _SAMPLE_ROWS))
        if found and isinstance(found[0], Refusal):
            raise UserError(
                f"Line {found[0].number:,} of {self._source.name} cannot be read: {found[0].detail}.",
                "Remove it, or save the file with one kind of line ends.",
            )
        return [record for record in found if not isinstance(record, Refusal)]

    def _quoting_of_tabs(self) -> _Quoting:
        """The use of quotation marks in a tab-separated file; such files have no common rule.

        Marks that are not around whole cells, as in `"GoPro" cable`, are ordinary characters if only this reading gives
        each line as many cells as the header; they quote cells if only RFC 4180 does. If all marks are around whole
        cells, the cells themselves decide. A format that never quotes may have been saved again by a spreadsheet
        program, so it decides only where the file does not contradict it. If both readings are possible, the user must
        decide.
        """
        shop = find_format(self.header)
        never_quotes = shop is not None and shop.unquoted_tabs
        marks = _MarksOfTabs(len(self.header))
        lines = self._lines()
        for line in lines:
            if lines.number >= self._header.number:
                marks.add(line.rstrip("\r\n"))
        if not marks.odd:
            decided = marks.quote_cells
            if decided is not None and not (decided and never_quotes and marks.enclosed and not marks.header_enclosed):
                return _RFC if decided else _NONE
        else:
            faulty = self._fault_of_quoting(_RFC)
            if faulty is None and not marks.same_width:
                return _RFC
            if faulty is not None and marks.same_width and (marks.balanced or never_quotes):
                return _NONE
            if faulty is not None and not marks.same_width:
                raise faulty
        raise UserError(
            f"The quotation marks in {self._source.name} may enclose cells or be part of them.",
            "Give --quoting rfc4180 or --quoting none.",
        )

    def _fault_of_quoting(self, quoting: _Quoting) -> UserError | None:
        """The fault of a tab-separated file with this quoting: faulty marks, or a row of another width."""
        try:
            for record in _records(self._source.name, self._lines(), "\t", quoting):
                if isinstance(record, Refusal) or record[0] < self._header.number:
                    continue
                if len(record[1]) != len(self.header):
                    return UserError(
                        f"The row of line {record[0]:,} of {self._source.name} has {len(record[1])} cells, the header"
                        f" has {len(self.header)}, and the use of its quotation marks is uncertain.",
                        "Correct the row, or give --quoting rfc4180 or --quoting none.",
                    )
        except UserError as error:
            return error
        return None


def _delimiter_name(delimiter: str) -> str:
    return _NAMES.get(delimiter, repr(delimiter))


class _MarksOfTabs:
    """The quotation marks in the lines of a tab-separated file of `width` columns. `odd` is the number of cells that
    begin with a mark and do not end with its partner."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._bare: Counter[int] = Counter()
        self._needless = False
        self._doubled = False
        self._inside = False
        self._lines = 0
        self.enclosed: Counter[int] = Counter()
        self.header_enclosed = False
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
            if self._lines > 1:
                self._bare.update(at for at, cell in enumerate(cells) if cell)
            return
        for at, cell in enumerate(cells):
            if not cell.startswith('"'):
                self._bare[at] += bool(cell)
                self._inside |= '"' in cell
            elif cell == '""':
                continue
            elif _ENCLOSED.fullmatch(cell):
                self.enclosed[at] += 1
                self.header_enclosed |= self._lines == 1
                self._doubled |= '"' in cell[1:-1]
                self._needless |= not any(mark in cell[1:-1] for mark in '",;')
            else:
                self.odd += 1
                self.balanced &= cell.count('"') % 2 == 0

    @property
    def quote_cells(self) -> bool | None:
        """True if the marks around whole cells quote them, also without any mark; False if they are part of the text,
        None if both are possible. All marks are around whole cells, or inside of cells.

        Evidence: a program quotes all cells, all texts (so all cells of some columns), or only the cells that need it.
        A program that quotes does so for each cell with a mark, and doubles the mark.
        """
        if self.header_enclosed:
            return True
        if not self.enclosed:
            return not self._inside
        is_mixed = [bool(self._bare[at]) for at in self.enclosed]  # the column also has cells without marks
        are_part = self._inside or (self._needless and any(is_mixed))
        do_quote = self._doubled or not self._needless or (self._lines > 2 and not all(is_mixed))
        return do_quote if do_quote != are_part else None


class _Unclosed(io.RawIOBase):
    """A binary file that a text layer cannot close."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = file.read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Lines:
    """The lines of a text with their line ends. `number` is that of the last one; `taken` are the lines of the current
    record."""

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
    blanks = BLANKS.replace(delimiter, "").replace("\r", "").replace("\n", "")
    spaced_mark = re.compile(rf'(?:^|{re.escape(delimiter)})[{blanks}]+"').search
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
            cells = []
            yield Refusal(start, 0, "the row has a line end of another kind than the file, outside of quotation marks")
        if quoting is _RFC and any(map(spaced_mark, lines.taken)):
            _check_spaced_marks(name, start, "".join(lines.taken), delimiter)
        if cells:
            yield start, cells


def _check_spaced_marks(name: str, start: int, record: str, delimiter: str) -> None:
    """Raise `UserError` if white space precedes the quotation mark at the start of a cell. The csv module takes such a
    mark for an ordinary character, and other programs for the start of a quoted cell."""
    cells = re.compile(rf'"(?:[^"]|"")*"|[^{re.escape(delimiter)}]*')
    at = 0
    while at <= len(record):
        cell = cells.match(record, at)[0]  # type: ignore[index]  # the pattern also matches an empty cell
        if not cell.startswith('"') and cell.lstrip(BLANKS).startswith('"'):
            raise UserError(
                f"In the row of line {start:,} of {name}, white space is before the quotation mark of a cell, against"
                " RFC 4180. The start of the next row is therefore uncertain, and nothing is sent.",
                "Remove the white space, or give --quoting none if the file does not quote.",
            )
        at += len(cell) + 1


def _skip_record(name: str, start: int, lines: _Lines, delimiter: str, quoting: _Quoting) -> None:
    """Read to the end of a record with line ends outside of quotation marks, which may have further quoted cells."""
    taken = list(lines.taken)
    inside = (_LINE_ENDS.sub(" ", line.removesuffix(lines.end)) + "\n" for line in chain(taken, lines))
    try:
        next(csv.reader(inside, delimiter=delimiter, **quoting.arguments))
    except csv.Error as error:
        raise UserError(
            f"The row of line {start:,} of {name} has a line end of another kind than the file"
            f" ({_END_NAMES[lines.end]}) beside a quoted cell. The start of the next row is therefore uncertain, and"
            " nothing is sent.",
            "Save the file with one kind of line ends.",
        ) from error


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
