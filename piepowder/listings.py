"""Items from a file, one by one, in the form of `POST /v1/items`: NDJSON unchanged, or CSV through a column mapping.

A file may be larger than memory, and real files contain errors. So lines are read one at a time, and a line that cannot
be read is refused alone, with its number and the reason. A quotation mark that is never closed affects only its own
line. Nothing is guessed silently: an empty cell is left out, a line whose price is not a number is refused (with
`lenient`, the price becomes an attribute), and no amount is rounded.
"""

import csv
import gzip
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import msgspec
import pycountry

from shared.runtime.user_errors import UserError

FIELDS: Final = {
    "id": ("id", "sku", "asin", "item_id", "product_id", "listing_id", "article"),
    "version": ("version",),
    "reference": ("reference",),
    "language": ("language", "lang", "locale"),
    "title": ("title", "name", "product_name", "product_title", "item_name"),
    "text": ("text", "description", "body", "item_description"),
    "category": ("category", "categories", "product_type"),
    "brand": ("brand", "manufacturer", "vendor"),
    "gtin": ("gtin", "ean", "upc", "gtin13", "ean13", "barcode"),
    "price": ("price", "amount", "list_price"),
    "currency": ("currency", "price_currency"),
    "markets": ("markets", "market"),
    "media": ("media", "image", "image_url", "images"),
    "seller.id": ("seller_id", "seller", "merchant_id", "merchant"),
    "seller.name": ("seller_name", "merchant_name"),
    "seller.country": ("seller_country",),
}
DELIMITERS: Final = (",", ";", "|", "#", "\t")

MAX_LINE: Final = 16 * 2**20
_MAX_SPAN: Final = 200  # lines that one quoted cell may have
_OBJECT: Final = re.compile(rb'\{\s*["}]')  # the start of a JSON object; an id in braces does not match
_SAMPLE_LINES: Final = 20  # lines from which format and delimiter are detected
_DECIMALS: Final = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}  # ISO 4217; all others have 2
_SIGNS: Final = {"€": "EUR", "£": "GBP", "₹": "INR", "₩": "KRW", "zł": "PLN"}
_CODE: Final = re.compile(r"([a-z]{3})\b|\b([a-z]{3})$", re.IGNORECASE)
_POINT: Final = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+|)(?:\.([0-9]*))?")
_COMMA: Final = re.compile(r"([0-9]+|[0-9]{1,3}(?:[. ][0-9]{3})+),([0-9]{1,2})")


class Line(NamedTuple):
    """An item as a JSON object without line breaks, and the number of its first line in the file."""

    number: int
    body: bytes


class Refusal(NamedTuple):
    """A line that was not sent (status 0) or that intake refused, with the reason."""

    number: int
    status: int
    detail: str


class FileOptions(msgspec.Struct, frozen=True):
    """The format of a file. `mapping` (field → column) takes precedence over columns found by their names. `format`
    is `csv` or `ndjson`; None detects it. The default platform is the file's name."""

    platform: str | None = None
    format: str | None = None
    kind: str = "product"
    markets: Sequence[str] = ("US",)
    currency: str = "USD"
    language: str | None = None
    mapping: Mapping[str, str] = {}
    delimiter: str | None = None
    lenient: bool = False


class ItemFile:
    """An open file (`-` is standard input). `position` of `size` bytes were read; an unknown `size` is None."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: int | None = None
        self.position = 0
        self._file: IO[bytes]
        if name == "-":
            self._file = sys.stdin.buffer
            return
        path = Path(name)
        try:
            if path.suffix == ".gz":
                self._file = cast("IO[bytes]", gzip.open(path))  # noqa: SIM115 - closed by close()
            else:
                self._file = path.open("rb")
                self.size = path.stat().st_size
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}).", "Name a CSV or NDJSON file.") from error

    def close(self) -> None:
        if self.name != "-":
            self._file.close()

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Each line with its number, from 1; None in place of a line of `MAX_LINE` bytes or more."""
        number = 0
        while line := self._read():
            number += 1
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise UserError(f"{self.name} is UTF-16.", "Save it as UTF-8 and submit it again.")
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) >= MAX_LINE and not line.endswith(b"\n"):
                while (rest := self._read()) and not rest.endswith(b"\n"):
                    pass
                yield number, None
            else:
                yield number, line

    def _read(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE)
        except (OSError, EOFError) as error:
            raise UserError(f"{self.name} cannot be read to its end ({error}).", "Repair the file.") from error
        self.position += len(line)
        return line


def read(source: ItemFile, options: FileOptions) -> Iterator[Line | Refusal]:
    """The items of a file, in order; raises `UserError` when the file as a whole cannot be used."""
    lines = source.lines()
    first = next(((number, line) for number, line in lines if line is None or line.strip()), None)
    if first is None:
        raise UserError(f"{source.name} is empty.", "Name a CSV or NDJSON file with at least one item.")
    ahead = deque([first, *islice(lines, _SAMPLE_LINES)])
    if (options.format or _format(source.name, [line.lstrip() for _, line in ahead if line])) == "ndjson":
        return _ndjson(chain(ahead, lines))
    _, head = ahead.popleft()
    if head is None:
        raise UserError(f"The first line of {source.name} has more than {MAX_LINE >> 20} MB.", "Name another file.")
    return _csv(source.name, head, ahead, lines, options)


def _format(name: str, lines: Sequence[bytes]) -> str:
    """`ndjson` if the file's name, its first line or most of its first lines indicate it; else `csv`."""
    if name.lower().removesuffix(".gz").endswith((".ndjson", ".jsonl")):
        return "ndjson"
    if lines and lines[0].startswith(b"["):
        raise UserError(f"{name} is one JSON array.", "Write one object a line: jq -c '.[]' FILE.")
    objects = sum(_OBJECT.match(line) is not None for line in lines)
    return "ndjson" if lines and (lines[0].startswith(b"{") or 2 * objects >= len(lines)) else "csv"


def money(text: str, currency: str) -> tuple[int, str]:
    """A written price in minor units with its ISO 4217 currency: `"12.5"` in USD is `(1250, "USD")`.

    Accepts thousands separators and, as decimal sign, a point or (before one or two digits) a comma. A currency's code
    or sign in the text takes precedence over `currency`. Raises ValueError, with the reason, for any other text and for
    an amount with more decimals than the currency.
    """
    bare = text.strip().replace("\xa0", " ")
    for sign, its_currency in _SIGNS.items():
        if sign in bare:
            bare, currency = bare.replace(sign, "").strip(), its_currency
    code = _CODE.search(bare)
    if code is not None and pycountry.currencies.get(alpha_3=code[0].upper()) is not None:
        bare, currency = (bare[: code.start()] + bare[code.end() :]).strip(), code[0].upper()
    bare = bare.removeprefix("$").removesuffix("$").strip()
    match = _COMMA.fullmatch(bare) or _POINT.fullmatch(bare)
    if match is None or not any(character.isdigit() for character in bare):
        raise ValueError(f"{text!r} is not an amount; expected a number such as 12.99")
    whole, fraction, digits = match[1], match[2] or "", decimals(currency)
    if fraction[digits:].strip("0"):
        raise ValueError(f"{text!r} has more decimals than {currency}, which has {digits}")
    return int(re.sub(r"[,. ]", "", whole) + fraction[:digits].ljust(digits, "0")), currency


def decimals(currency: str) -> int:
    """The number of decimals of an ISO 4217 currency."""
    return _DECIMALS.get(currency, 2)


def _ndjson(lines: Iterable[tuple[int, bytes | None]]) -> Iterator[Line | Refusal]:
    for number, line in lines:
        if line is None:
            yield _too_long(number)
        elif body := line.strip():
            yield Line(number, body)


def _too_long(number: int) -> Refusal:
    return Refusal(number, 0, f"the line has more than {MAX_LINE >> 20} MB; an item has far less")


def _csv(
    name: str,
    first: bytes,
    ahead: deque[tuple[int, bytes | None]],
    lines: Iterator[tuple[int, bytes | None]],
    options: FileOptions,
) -> Iterator[Line | Refusal]:
    head = decode(first)
    delimiter = options.delimiter or sniff(head, [decode(line) for _, line in ahead if line])
    header = [cell.strip() for cell in next(csv.reader([head], delimiter=delimiter))]
    csv.field_size_limit(MAX_LINE)
    return _items(_Rows(ahead, lines, delimiter, len(header)), Columns(name, header, options))


def _items(rows: "_Rows", columns: "Columns") -> Iterator[Line | Refusal]:
    for row in rows:
        if isinstance(row, Refusal):
            yield row
            continue
        number, cells = row
        try:
            yield Line(number, msgspec.json.encode(columns.item(cells)))
        except ValueError as error:
            yield Refusal(number, 0, str(error))


def decode(line: bytes) -> str:
    """A line as text: UTF-8, else Windows-1252, else Latin-1, which decodes any bytes."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")


def sniff(head: str, sample: Sequence[str]) -> str:
    """The delimiter that splits most lines of the sample into as many cells as the header."""

    def fits(delimiter: str) -> tuple[int, int]:
        width = len(next(csv.reader([head], delimiter=delimiter)))
        alike = sum(len(next(csv.reader([line], delimiter=delimiter), [])) == width for line in sample)
        return (alike, width) if width > 1 else (-1, 1)

    return max(DELIMITERS, key=fits)


class Columns:
    """The column of each item field; the other columns become attributes."""

    def __init__(self, name: str, header: Sequence[str], options: FileOptions) -> None:
        self._options = options
        stem = re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower().split(".")[0])[:63].strip("-")
        self._platform = options.platform or stem or "local"
        self.fields: dict[str, int] = {}
        by_name = {column.lower(): at for at, column in reversed(list(enumerate(header))) if column}
        for field, column in options.mapping.items():
            if column.lower() not in by_name:
                raise UserError(
                    f"{name} has no column {column!r} for --map {field}={column}.",
                    f"Its columns are {', '.join(header)}.",
                )
            self.fields[field] = by_name[column.lower()]
        for field, names in FIELDS.items():
            found = next((by_name[other] for other in names if other in by_name), None)
            if field not in self.fields and found is not None and found not in self.fields.values():
                self.fields[field] = found
        if "id" not in self.fields:
            raise UserError(
                f"No column of {name} has the item's id; its columns are {', '.join(header)}.",
                "Name it with --map id=COLUMN, give the --delimiter if it is wrong, or use --format ndjson.",
            )
        self._header = header
        self._attributes = self._name_attributes(header)

    def describe(self) -> str:
        """The mapping as one line."""
        taken = [f"{field}={self._header[at]}" for field, at in self.fields.items()]
        rest = [f"attributes: {', '.join(self._attributes.values())}"] if self._attributes else []
        return "; ".join([", ".join(taken), *rest])

    def item(self, cells: Sequence[str]) -> dict[str, Any]:
        """The item of a row; raises ValueError, with the reason, when the row is not an item."""
        options = self._options
        found = {field: text for field, at in self.fields.items() if (text := cells[at].strip())}
        if "id" not in found:
            raise ValueError(f"the item's id (column {self._header[self.fields['id']]!r}) is empty")
        item: dict[str, Any] = {"platform": self._platform, "kind": options.kind}
        item["markets"] = (
            re.split(r"[\s,;/|]+", found.pop("markets").upper()) if "markets" in found else options.markets
        )
        if options.language is not None:
            item["language"] = options.language
        attributes = {name: text for at, name in self._attributes.items() if (text := cells[at].strip())}
        currency = found.pop("currency", options.currency).upper()
        price = found.pop("price", None)
        if price is not None:
            try:
                amount, currency = money(price, currency)
                item["price"] = {"amount_minor": amount, "currency": currency}
            except ValueError as error:
                if not options.lenient:
                    raise ValueError(f"price (column {self._header[self.fields['price']]!r}): {error}") from error
                attributes["price"] = price
        version = found.pop("version", None)
        if version is not None:
            if not version.isdecimal():
                raise ValueError(f"version: {version!r} is not a whole number")
            item["version"] = int(version)
        if "media" in found:
            item["media"] = re.split(r"[\s|]+", found.pop("media"))
        if "gtin" in found:
            found["gtin"] = re.sub(r"[\s-]", "", found["gtin"])
        seller = {field.partition(".")[2]: found.pop(field) for field in list(found) if field.startswith("seller.")}
        if "id" in seller:
            item["seller"] = seller
        item |= found
        if attributes:
            item["attributes"] = attributes
        return item

    def _name_attributes(self, header: Sequence[str]) -> dict[int, str]:
        taken, names = set(self.fields.values()), dict[int, str]()
        for at, column in enumerate(header):
            if at not in taken:
                name = re.sub(r"[^a-z0-9_.-]+", "_", column.lower()).strip("_") or f"column_{at + 1}"
                names[at] = name if name not in names.values() else f"{name}_{at + 1}"
        return names


class _Rows:
    """The rows of a table, each with the number of its first line; a quoted cell may have several lines."""

    def __init__(
        self,
        ahead: deque[tuple[int, bytes | None]],
        lines: Iterator[tuple[int, bytes | None]],
        delimiter: str,
        width: int,
    ) -> None:
        self._ahead = ahead
        self._lines = lines
        self._delimiter = delimiter
        self._width = width

    def __iter__(self) -> Iterator[tuple[int, list[str]] | Refusal]:
        while (line := self._next()) is not None:
            number, raw = line
            if raw is None:
                yield _too_long(number)
                continue
            text = decode(raw)
            cells = self._split(text) if '"' not in text else self._quoted(number, raw, text)
            while len(cells) > self._width and not cells[-1].strip():
                cells.pop()
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) == self._width:
                yield number, cells
            else:
                yield Refusal(number, 0, f"the row has {len(cells)} cells, the header has {self._width}")

    def _next(self) -> tuple[int, bytes | None] | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def _split(self, text: str) -> list[str]:
        return text.rstrip("\r\n").split(self._delimiter)

    def _quoted(self, number: int, raw: bytes, text: str) -> list[str]:
        taken: list[tuple[int, bytes]] = [(number, raw)]

        def feed() -> Iterator[str]:
            yield text
            while len(taken) < _MAX_SPAN and (line := self._next()) is not None:
                if line[1] is None:
                    self._ahead.appendleft(line)
                    return
                taken.append((line[0], line[1]))
                yield decode(line[1])

        try:
            cells = next(csv.reader(feed(), delimiter=self._delimiter))
        except csv.Error:
            cells = []
        plain = self._split(text)
        several = len(taken) > 1
        each_a_row = several and all(len(self._split(decode(line))) == self._width for _, line in taken)
        if len(cells) == self._width and not each_a_row and len(taken) < _MAX_SPAN:
            return cells
        if several:  # the quotation mark does not open a cell of several lines
            self._ahead.extendleft(reversed(taken[1:]))
        if several or len(plain) == self._width:
            return plain
        return cells
