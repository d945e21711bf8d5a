"""Tables of XLSX workbooks. Calamine reads the values; the XML of the sheet adds three facts that calamine does not
tell: cells without a known value (errors, formulas that were never calculated), zeros before a number, and currency
signs, which only the format of a cell shows."""

import datetime
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from typing import IO, Any, Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import python_calamine
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse, parse

from piepowder.imports import currencies
from piepowder.imports.columns import FoundHeader, find_header
from piepowder.imports.feeds import local_name
from piepowder.imports.file_options import FileOptions
from piepowder.imports.files import InputFile
from piepowder.imports.rows import BLANKS, DateText, Note, Number, Refusal, TableRow, UnknownValue, quoted
from shared.runtime.user_errors import UserError

_ERRORS: Final = (python_calamine.CalamineError, zipfile.BadZipFile, ParseError, DefusedXmlException, KeyError, OSError)
_SAMPLE_ROWS: Final = 40
_RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_LAST_ROW: Final = re.compile(r"([0-9]+)$")
_REFERENCE: Final = re.compile(r"([A-Z]+)[0-9]+")
_PLACES: Final = re.compile(r'"([^"]*)"|\\(.)|([- ()/.:+])|([0#])')
_QUOTED: Final = re.compile(r'"[^"]*"|\\.')
_LONGEST_FORMAT: Final = 100
_TEXT_IN_FORMAT: Final = re.compile(r'"[^"]*\w[^"]*"|\\\w')
_CURRENCY_FORMATS: Final = ("5", "6", "7", "8", "42", "44")  # without a code in the file, they are those of ECMA-376
_FORMAT_SIGN: Final = re.compile(r'\[\$([^\]-]+)(?:-[0-9A-Fa-f]+)?\]|"([^"]+)"|\\(.)|([$€£¥₹₩₽₺])')


class _Format(NamedTuple):
    """The part of a number format that changes the value: the code of a format with texts and places for digits, its
    currency sign, or the code of a format that shows another text in an unknown way."""

    places: str = ""
    sign: str = ""
    shown_as: str = ""


class SpreadsheetTable:
    """The table in one sheet of a workbook."""

    unit = "row"

    def __init__(self, source: InputFile, options: FileOptions) -> None:
        self._source = source
        with self._damage():
            self._workbook = python_calamine.load_workbook(source.start())
            self._zip = zipfile.ZipFile(source.start())
        self._name = self._chosen(options.sheet)
        self._sheet = self._sheet_named(self._name)
        self._formats = self._read_formats()
        self._hidden_rows = self._merged = self._header_number = 0
        self._header = self._find_header(options)
        self._header_number = self._header.number
        self.header: Sequence[str] = self._header.names

    def notes(self) -> list[Note]:
        notes = [Note("sheet", f"{self._name!r} of an XLSX workbook")]
        if self._header.number > 1:
            notes.append(Note("left out", f"{self._header.number - 1} rows before the header"))
        if self._hidden_rows:
            notes.append(
                Note("hidden", f"{self._hidden_rows:,} rows are hidden in the workbook, and read like the others")
            )
        if self._merged:
            notes.append(
                Note("merged", f"{self._merged:,} merged ranges below the header; their text is in one cell only")
            )
        return notes

    def rows(self) -> Iterator[TableRow | Refusal]:
        width = len(self.header)
        for number, cells in self._typed_rows():
            if number <= self._header.number:
                continue
            extra = [cell for cell in cells[width:] if cell.strip(BLANKS)]
            texts = [*cells[:width], *[""] * (width - len(cells))]
            if extra:
                yield Refusal(number, 0, f"the row has a cell ({quoted(extra[0], 40)}) in a column without a name")
            elif any(cell.strip(BLANKS) or isinstance(cell, UnknownValue) for cell in texts):
                yield TableRow(number, texts)

    def _chosen(self, stated: str | None) -> str:
        sheets = [
            sheet.name
            for sheet in self._workbook.sheets_metadata
            if sheet.typ is python_calamine.SheetTypeEnum.WorkSheet
        ]
        if stated is not None:
            if stated not in sheets:
                raise UserError(f"{self._source.name} has no sheet {stated!r}.", f"Its sheets are {', '.join(sheets)}.")
            return stated
        filled = [name for name in sheets if self._sheet_named(name).end is not None]
        if len(filled) != 1:
            if not filled:
                raise UserError(f"{self._source.name} is a workbook without data.", "Name another file.")
            raise UserError(
                f"{self._source.name} is a workbook with {len(filled)} sheets: {', '.join(filled)}.",
                "Choose one with --sheet NAME.",
            )
        return filled[0]

    def _sheet_named(self, name: str) -> python_calamine.CalamineSheet:
        with self._damage():
            return self._workbook.get_sheet_by_name(name)

    def _find_header(self, options: FileOptions) -> FoundHeader:
        rows = [row for row in islice(self._typed_rows(), _SAMPLE_ROWS) if any(cell.strip(BLANKS) for cell in row[1])]
        header = find_header(rows, options)
        if header is None:
            raise UserError(
                f"The sheet {self._name!r} of {self._source.name} has no row with the names of columns.",
                "Add it, or choose another with --sheet.",
            )
        return header

    def _typed_rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows with their numbers in the sheet; the first cell is that of the first column with data."""
        start = self._sheet.start
        if start is None:
            return
        marks = self._marked_cells()
        ahead = next(marks, None)
        for number, row in enumerate(self._sheet.iter_rows(), 1):
            while ahead is not None and ahead[0] < number:
                ahead = next(marks, None)
            cells = [_text(value) for value in row]
            if ahead is not None and ahead[0] == number:
                for column, mark in ahead[1].items():
                    if 0 <= column - start[1] < len(cells):
                        cells[column - start[1]] = _marked(cells[column - start[1]], mark)
            yield number, cells
        for _ in marks:  # merged ranges are listed behind the rows
            pass

    def _marked_cells(self) -> Iterator[tuple[int, dict[int, "UnknownValue | _Format"]]]:
        """Cells with an unknown value or a format: the numbers of their rows, and the cells by column from 0."""
        with self._damage(), self._zip.open(self._part_of_sheet()) as xml:
            number = self._hidden_rows = self._merged = 0
            for _, element in iterparse(xml, events=("end",)):
                name = local_name(element.tag)
                if name == "mergeCell":
                    last = _LAST_ROW.search(element.get("ref", ""))
                    self._merged += last is not None and int(last[1]) > self._header_number
                if name != "row":
                    continue
                number = int(element.get("r") or number + 1)
                self._hidden_rows += element.get("hidden") in ("1", "true")
                marks: dict[int, UnknownValue | _Format] = {}
                column = -1
                for cell in element:
                    place = _REFERENCE.fullmatch(cell.get("r", ""))
                    column = column + 1 if place is None else _column(place[1])
                    if (mark := self._mark(cell)) is not None:
                        marks[column] = mark
                element.clear()
                if marks:
                    yield number, marks

    def _mark(self, cell: Any) -> "UnknownValue | _Format | None":
        kind = cell.get("t", "n")
        children = {local_name(child.tag): child for child in cell}
        value = children["v"].text if "v" in children else None
        if kind == "e":
            return UnknownValue(f"the cell has the error {value or '?'}")
        if "f" in children and value is None and "is" not in children:
            return UnknownValue("the cell has a formula that was never calculated; open the file and save it again")
        if kind == "n" and value is not None:
            return self._formats.get(cell.get("s", "0"))
        return None

    def _part_of_sheet(self) -> str:
        """The path of the sheet's XML in the file."""
        with self._zip.open("xl/workbook.xml") as xml:
            sheets = (element for element in _root(xml).iter() if local_name(element.tag) == "sheet")
            ids = {element.get("name"): element.get(_RELATION) for element in sheets}
        with self._zip.open("xl/_rels/workbook.xml.rels") as xml:
            targets = {element.get("Id"): element.get("Target", "") for element in _root(xml)}
        target = targets.get(ids.get(self._name)) or ""
        return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"

    def _read_formats(self) -> Mapping[str, _Format]:
        """The formats of cells, by the number of their style, that change the text of a value."""
        if "xl/styles.xml" not in self._zip.namelist():
            return {}
        with self._damage(), self._zip.open("xl/styles.xml") as xml:
            root = _root(xml)
        formats = (element for element in root.iter() if local_name(element.tag) == "numFmt")
        codes: dict[Any, str] = dict.fromkeys(_CURRENCY_FORMATS, '"$"0')
        codes |= {element.get("numFmtId"): element.get("formatCode", "") for element in formats}
        styles: list[Any] = next((list(element) for element in root if local_name(element.tag) == "cellXfs"), [])
        known = ((number, _format(codes.get(style.get("numFmtId"), ""))) for number, style in enumerate(styles))
        return {str(number): form for number, form in known if form != _Format()}

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """An error of a library as a message about the workbook."""
        try:
            yield
        except python_calamine.PasswordError as error:
            raise UserError(
                f"{self._source.name} is a workbook with a password.", "Save it without the password, or as CSV."
            ) from error
        except _ERRORS as error:
            raise UserError(
                f"{self._source.name} is a damaged workbook ({error}).", "Open it and save it again as XLSX, or as CSV."
            ) from error


def _root(xml: IO[bytes]) -> Element:
    root = parse(xml).getroot()
    if root is None:
        raise ParseError("no root element")
    return root


def _format(code: str) -> _Format:
    """The meaning of a number format: `00000` has five places, `#,##0.00 "€"` a currency sign."""
    positive = code.split(";", maxsplit=1)[0]
    for groups in _FORMAT_SIGN.findall(positive):
        sign = next((text.strip() for text in groups if text.strip()), "")
        if sign and currencies.named(sign):
            return _Format(sign=sign)
    places = "".join(place for *_, place in _PLACES.findall(positive))
    has_text = _TEXT_IN_FORMAT.search(positive) is not None
    is_simple = not _PLACES.sub("", positive) and "." not in _QUOTED.sub("", positive)
    if places and is_simple and len(positive) <= _LONGEST_FORMAT and (has_text or len(places) > 1 or "\\" in positive):
        return _Format(places=positive)
    return _Format(shown_as=positive) if has_text else _Format()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        exact = Decimal(repr(value))
        return Number(f"{exact:f}".removesuffix(".0"))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    if isinstance(value, datetime.timedelta):
        return DateText(str(value))
    return DateText(value.isoformat())


def _marked(text: str, mark: "UnknownValue | _Format") -> str:
    if isinstance(mark, UnknownValue):
        return mark
    if not isinstance(text, Number):
        return text
    if mark.places and text.isdigit():
        return _in_places(text, mark.places)
    return Number(text, mark.sign, mark.places or mark.shown_as)


def _in_places(digits: str, places: str) -> str:
    """A whole number in a format with texts and places for digits: 7 in `"SKU-"0000` is `SKU-0007`."""
    parts = [(literal, place) for *literals, place in _PLACES.findall(places) for literal in ["".join(literals)]]
    left = list(digits.zfill(sum(place == "0" for _, place in parts)))
    shown: list[str] = []
    many = sum(bool(place) for _, place in parts)
    for literal, place in reversed(parts):
        many -= bool(place)
        if place and many == 0:
            shown.append("".join(left))
        elif place:
            shown.append(left.pop() if left else "")
        else:
            shown.append(literal)
    return "".join(reversed(shown))


def _column(letters: str) -> int:
    """The number of a column, from 0: `AA` is 26."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - 64
    return number - 1
