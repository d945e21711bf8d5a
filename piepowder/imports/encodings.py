"""The encoding of a text file: known, or a guess that the user must confirm.

A file is UTF-8 if it is valid UTF-8, and UTF-16 or UTF-32 if it has their byte order mark. `--encoding` states any
other. Without it, charset-normalizer proposes one, which is never used without a confirmation, because a wrong one
gives readable nonsense. A file is also UTF-8 if most of its lines that are not ASCII are valid UTF-8, because a text in
another encoding is so only by chance; its other lines are refused.
"""

import codecs
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import charset_normalizer

from piepowder.imports.files import InputFile
from shared.runtime.user_errors import UserError

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 (byte order mark)"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32 (byte order mark)"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32 (byte order mark)"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16 (byte order mark)"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16 (byte order mark)"),
)
_CHUNK: Final = 2**20
_MAX_LINE: Final = 2**16
_SAMPLE_BYTES: Final = 100_000
_SHOWN_LINES: Final = 5
_PROPOSED: Final = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("iso8859_2", "iso8859_7", "iso8859_9", "iso8859_15", "koi8_r", "koi8_u", "mac_roman", "cp437", "cp850", "cp852"),
    *("cp932", "euc_jp", "iso2022_jp", "gb18030", "big5", "cp949"),
]
"""The encodings in use that are not Unicode: with others, short texts often get a wrong proposal."""
_ESCAPES: Final = ("unicode-escape", "raw-unicode-escape", "utf-7", "punycode", "idna", "hz")
_SHOWN_CHARACTERS: Final = 60


class GuessedEncoding(NamedTuple):
    """A guess, with lines whose text depends on it."""

    name: str
    samples: tuple[str, ...]


class TextEncoding(NamedTuple):
    """The encoding of a file as a codec's name, its description, and the guess if it is one."""

    codec: str
    description: str
    guess: GuessedEncoding | None = None


def codec_name(text: str) -> str | None:
    """The name of a text encoding that Python knows, None for another name, and for an encoding in which printable
    characters stand for others: a text could contain a line end."""
    try:
        "ä".encode(text, "replace").decode(text, "surrogateescape")
        codec = codecs.lookup(text).name
    except (LookupError, ValueError, TypeError, AttributeError):
        return None
    return None if codec in _ESCAPES else codec


def find_encoding(source: InputFile, stated: str | None) -> TextEncoding:
    """The encoding of a file; raises `UserError` when it is not text, or not in the stated encoding."""
    head = source.head()
    if stated is not None:
        codec = codec_name(stated)
        if codec is None:
            raise UserError(f"{stated} is not an encoding.", "Give one such as utf-8, windows-1252 or shift_jis.")
        marked = codec in ("utf-8", "utf_8") and head.startswith(codecs.BOM_UTF8)
        return TextEncoding("utf-8-sig" if marked else codec, f"{stated} (--encoding)")
    for mark, codec, description in _MARKS:
        if head.startswith(mark):
            return TextEncoding(codec, description)
    if head.count(0) > len(head) // 100:
        raise _with_nul(source.name, head)
    if _is_utf8(source.start()):
        is_ascii = head.isascii() and len(head) == source.size  # of a larger file, only the head is known
        return TextEncoding("utf-8", "ASCII" if is_ascii else "UTF-8")
    return _propose(source)


def _with_nul(name: str, head: bytes) -> UserError:
    even, odd = head[::2].count(0), head[1::2].count(0)
    order = "little-endian" if odd > even else "big-endian"
    if max(even, odd) > len(head) // 8 and min(even, odd) < max(even, odd) // 4:
        encoding = "utf-16-le" if odd > even else "utf-16-be"
        return UserError(
            f"{name} is probably UTF-16 ({order}), but has no byte order mark.",
            f"Submit it again with --encoding {encoding}, or save it as UTF-8.",
        )
    return UserError(
        f"{name} is not a text file: it contains NUL bytes.", "Export the listings as CSV, XLSX or NDJSON."
    )


def _is_utf8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _propose(source: InputFile) -> TextEncoding:
    valid = wrong = 0
    invalid = list[tuple[int, bytes]]()  # together, they have as many different characters as possible
    first_valid = list[tuple[int, bytes]]()
    sample, seen = bytearray(), set[int]()
    for number, line in _lines(source.start()):
        if line.isascii():
            continue
        try:
            line.decode()
            valid += 1
            first_valid = first_valid or [(number, line)]
        except UnicodeDecodeError:
            wrong += 1
            new = {byte for byte in line if byte > 0x7F} - seen
            if new and len(invalid) < _SHOWN_LINES:
                invalid.append((number, line))
                seen |= new
        if len(sample) < _SAMPLE_BYTES:
            sample += line
    if valid > wrong:
        numbers = ", ".join(f"{number:,}" for number, _ in invalid)
        more = f" and {wrong - len(invalid):,} more" if wrong > len(invalid) else ""
        return TextEncoding("utf-8", f"UTF-8; the bytes of line {numbers}{more} are not, so these are refused")
    best = charset_normalizer.from_bytes(bytes(sample), cp_isolation=_PROPOSED).best()
    if best is None:
        raise UserError(
            f"The encoding of {source.name} is unknown; it is not UTF-8 (line {invalid[0][0]:,}).",
            "Give it with --encoding, such as windows-1252, or save the file as UTF-8.",
        )
    codec = codec_name(best.encoding) or best.encoding
    if sample.decode(codec, "replace") == sample.decode("cp1252", "replace"):
        codec = "cp1252"  # the more common of two encodings that give the same text
    shown = [f"line {number:,}: {_changed(line, codec)}" for number, line in invalid]
    shown += [
        f"line {number:,}: {_changed(line, codec)} (valid UTF-8: {_changed(line, 'utf-8')})"
        for number, line in first_valid
    ]
    return TextEncoding(codec, f"{codec} (a guess)", GuessedEncoding(codec, tuple(shown)))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line with its number; a very long one in parts."""
    number = 1
    while line := file.readline(_MAX_LINE):
        yield number, line
        number += line.endswith(b"\n")


def _changed(line: bytes, codec: str) -> str:
    """The part of a line around its first byte that is not ASCII, as text."""
    text = line.decode(codec, "replace").strip()
    first = next((at for at, character in enumerate(text) if not character.isascii()), 0)
    start = max(0, first - _SHOWN_CHARACTERS // 2)
    cut = text[start : start + _SHOWN_CHARACTERS]
    return f"{'…' if start else ''}{cut}{'…' if start + _SHOWN_CHARACTERS < len(text) else ''}"
