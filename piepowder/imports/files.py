"""The submitted file: opened, decompressed and seekable, so that it can be read again; identified by its content.

Standard input, pipes and compressed files are copied into a temporary file without a name, which only this process can
read.
"""

import gzip
import json
import mmap
import re
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from enum import StrEnum
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from shared.runtime.user_errors import UserError, file_errors

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_WHITE: Final = b" \t\r\n"
_HEAD: Final = 65_536
_ARRAY: Final = re.compile(
    rb'\[\s*(?:["{\[\]\d-]|true|false|null)'
)  # the start of a JSON array, not that of `[id],title`
_OBJECT: Final = re.compile(rb'\{\s*["}]')  # the start of a JSON object; an id in braces does not match
_SAMPLE_LINES: Final = 20


class InputFile:
    """An open file (`-` is standard input) of `size` bytes, of which `position` were read. `stem` is its name without
    folder and suffixes; empty for standard input."""

    def __init__(self, name: str) -> None:
        self.name, self.stem = ("standard input", "") if name == "-" else (name, Path(name).name.split(".")[0])
        self._advanced = 0
        with file_errors(Path(tempfile.gettempdir()), "Choose another folder with TMPDIR."):
            self.file: BinaryIO = self._open(name)
        self.size = self.file.seek(0, 2)
        self.file.seek(0)

    @property
    def position(self) -> int:
        return 0 if self.file.closed else self.file.tell() + self._advanced

    def start(self) -> BinaryIO:
        """The file at its beginning."""
        self._advanced = 0
        self.file.seek(0)
        return self.file

    def mapped(self) -> memoryview:
        """The content in memory that the system can drop and read again; `advance` counts the bytes that are read."""
        return memoryview(mmap.mmap(self.start().fileno(), 0, access=mmap.ACCESS_READ))

    def advance(self, size: int) -> None:
        """Count bytes of the mapped content as read."""
        self._advanced += size

    def head(self) -> bytes:
        """The first bytes."""
        return self.start().read(_HEAD)

    def close(self) -> None:
        self.file.close()

    def _open(self, name: str) -> BinaryIO:
        if name == "-":
            return self._copied(sys.stdin.buffer)
        try:
            file = Path(name).open("rb")  # noqa: SIM115 - closed by close()
            is_regular = stat.S_ISREG(Path(name).stat().st_mode)
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}).", "Name a file of listings.") from error
        if is_regular and file.peek(2)[:2] != _GZIP:
            return file
        with file:
            return self._copied(file)

    def _copied(self, stream: IO[bytes]) -> BinaryIO:
        copy = _copy(stream, self.name)
        is_compressed = copy.read(2) == _GZIP
        copy.seek(0)
        if not is_compressed:
            return copy
        with copy, gzip.open(copy) as unpacked:
            return _copy(cast("IO[bytes]", unpacked), self.name)


def _copy(source: IO[bytes], name: str) -> BinaryIO:
    """A temporary file with the content of a stream, at its beginning."""
    copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by its user
    try:
        shutil.copyfileobj(source, copy, 2**20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        copy.close()
        raise UserError(
            f"{name} cannot be decompressed to its end ({str(error).rstrip('.')}).", "Compress it again with gzip."
        ) from error
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


class FileKind(StrEnum):
    """The kind of a file that can be read."""

    DELIMITED = "csv"
    NDJSON = "ndjson"
    JSON = "json"
    SPREADSHEET = "xlsx"
    XML = "xml"


_EXPORT: Final = "Export the listings as CSV, XLSX or NDJSON."
_MAGIC: Final = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file (XLS) or a workbook with a password",
        "Save it as XLSX or CSV.",
    ),
    (b"%PDF", "a PDF", _EXPORT),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Decompress it first: zstd -d FILE."),
    (b"BZh", "compressed with bzip2", "Decompress it first: bunzip2 FILE."),
    (b"\xfd7zXZ\x00", "compressed with xz", "Decompress it first: unxz FILE."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Extract it, and name the file in it."),
    (b"Rar!", "a RAR archive", "Extract it, and name the file in it."),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (b"PAR1", "a Parquet file", "Convert it to CSV or NDJSON."),
    (b"\x89PNG", "a picture (PNG)", "Name a file of listings."),
    (b"\xff\xd8\xff", "a picture (JPEG)", "Name a file of listings."),
    (b"GIF8", "a picture (GIF)", "Name a file of listings."),
    (b"{\\rtf", "a text document (RTF)", _EXPORT),
)


def identify(source: InputFile, *, is_csv: bool) -> FileKind:
    """The kind of a file; raises `UserError`, with what it is and the remedy, for any other."""
    head = source.head()
    bare = head.removeprefix(_BOM).lstrip(_WHITE)
    if not head:
        raise UserError(f"{source.name} is empty.", "Name a file with at least one item.")
    if is_csv:
        return FileKind.DELIMITED
    for magic, what, advice in _MAGIC:
        if head.startswith(magic):
            raise UserError(f"{source.name} is {what}.", advice)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _identify_zip(source)
    if not bare and len(head) < _HEAD:
        raise UserError(f"{source.name} is empty.", "Name a file with at least one item.")
    wide, start = _wide(head)
    if start.startswith(("[", "{")) or (wide.startswith("UTF-32") and start.startswith("<")):
        what = "XML" if start.startswith("<") else "JSON"
        raise UserError(f"{source.name} is {what} in {wide}.", f"Save it as UTF-8: iconv -f {wide} -t UTF-8 FILE.")
    if _ARRAY.match(bare):
        return FileKind.JSON
    name = source.name.lower().removesuffix(".gz")
    if name.endswith((".ndjson", ".jsonl")):
        return FileKind.NDJSON
    if bare.startswith(b"<") or start.startswith("<"):
        return _identify_markup(source.name, bare[:2_000].lower())
    if _is_ndjson(head):
        return FileKind.NDJSON
    if name.endswith(".json") or (bare.startswith(b"{") and (bare[1:].lstrip(_WHITE)[:1] in (b'"', b"}"))):
        return FileKind.JSON
    return FileKind.DELIMITED


def _wide(head: bytes) -> tuple[str, str]:
    """The encoding and start of a text in UTF-16 or UTF-32, also without a byte order mark; empty for others."""
    codec = json.detect_encoding(head)
    if codec.startswith("utf-8"):
        return "", ""
    name = codec.upper().replace("-LE", "LE").replace("-BE", "BE")
    return name, head[:200].decode(codec, "ignore").lstrip("\ufeff \t\r\n")


def _identify_markup(name: str, start: bytes) -> FileKind:
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<table", b"<script")):
        raise UserError(f"{name} is an HTML page.", "Export the listings as CSV, XLSX or a product feed.")
    return FileKind.XML


def _identify_zip(source: InputFile) -> FileKind:
    try:
        with zipfile.ZipFile(source.start()) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{source.name} is a damaged ZIP archive.", "Export it again.") from error
    if "xl/workbook.xml" in names:
        return FileKind.SPREADSHEET
    if "xl/workbook.bin" in names:
        raise UserError(f"{source.name} is a binary workbook (XLSB).", "Save it as XLSX or CSV.")
    if "mimetype" in names and "content.xml" in names:
        raise UserError(f"{source.name} is an OpenDocument file (ODS).", "Save it as XLSX or CSV.")
    if "word/document.xml" in names:
        raise UserError(f"{source.name} is a Word document.", _EXPORT)
    if any(name.startswith("Index/") and name.endswith(".iwa") for name in names):
        raise UserError(f"{source.name} is a Numbers file.", "Export it as XLSX or CSV.")
    listed = ", ".join(Path(name).name for name in names[:3]) or "no file"
    raise UserError(f"{source.name} is a ZIP archive with {listed}.", "Extract it, and name the file in it.")


def _is_ndjson(head: bytes) -> bool:
    """True if the first line and a later one start a JSON object. Other lines are no evidence: in a table, they may be
    those of a quoted cell."""
    lines = [line for line in map(bytes.strip, head.removeprefix(_BOM).split(b"\n")) if line]
    starts = [_OBJECT.match(line) is not None for line in lines[:_SAMPLE_LINES]]
    return len(starts) > 1 and starts[0] and any(starts[1:])
