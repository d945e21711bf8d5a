"""Identification of a file by its content, and one sentence for a file that cannot be read."""

import zipfile
from enum import StrEnum
from pathlib import Path
from typing import Final

from piepowder.imports.files import InputFile
from piepowder.imports.json_files import is_ndjson
from shared.runtime.user_errors import UserError


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
_WHITE: Final = b" \t\r\n"


def identify(source: InputFile, stated: str | None) -> FileKind:
    """The kind of a file; raises `UserError`, with what it is and the remedy, for any other."""
    head = source.head()
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip(_WHITE)
    if not head:
        raise UserError(f"{source.name} is empty.", "Name a file with at least one item.")
    if stated is not None:
        return FileKind(stated)
    for magic, what, advice in _MAGIC:
        if head.startswith(magic):
            raise UserError(f"{source.name} is {what}.", advice)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _identify_zip(source)
    if not bare and len(head) < 65_536:
        raise UserError(f"{source.name} is empty.", "Name a file with at least one item.")
    if _wide(head).startswith(("[", "{")):
        raise UserError(f"{source.name} is JSON in UTF-16.", "Save it as UTF-8.")
    if source.name.lower().removesuffix(".gz").endswith((".ndjson", ".jsonl")):
        return FileKind.NDJSON
    if bare.startswith(b"<") or _wide(head).startswith("<"):
        return _identify_markup(source.name, bare[:2_000].lower())
    if bare.startswith(b"["):
        return FileKind.JSON
    if is_ndjson(head):
        return FileKind.NDJSON
    if bare.startswith(b"{") and (bare[1:].lstrip(_WHITE)[:1] in (b'"', b"}")):
        return FileKind.JSON
    return FileKind.DELIMITED


def _wide(head: bytes) -> str:
    """The start of a text in UTF-16 with a byte order mark; empty for others."""
    if head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return ""
    return head[:200].decode("utf-16", "ignore").lstrip()


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
