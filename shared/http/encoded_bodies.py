"""Request bodies: media type, Content-Encoding, and limits of size, compression ratio and time.

The declared length is not trusted: the bytes are counted. A compressed body is decompressed in small pieces, so that a
decompression bomb is rejected at the limit and cannot fill the memory.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, NamedTuple, Protocol

from starlette.requests import Request

from shared.http.problems import (
    BODY_PROBLEMS,
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
    ProblemType,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MALFORMED_CODING: Final = ProblemType(
    "malformed-coding", 400, "The body cannot be decompressed", "The body is not gzip."
)
UNSUPPORTED_CODING: Final = ProblemType(
    "unsupported-content-coding",
    415,
    "The content coding is not supported",
    "The body's Content-Encoding is 'br'; expected gzip or zstd, or none.",
)
ENCODED_BODY: Final = (*BODY_PROBLEMS, MALFORMED_CODING, UNSUPPORTED_CODING)
"""Errors of operations with a body that can be compressed."""

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
CODINGS: Final = "gzip, zstd"  # RFC 9110, section 8.4.1, and RFC 8878
_COMPRESSED: Final = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_STEP: Final = 64 * 1024
_RATIO: Final = 200
_FREE: Final = 2**20  # decompressed bytes for which the ratio is not checked
_WINDOW: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}  # 8 MiB: RFC 9659, section 3


class BodyHeaders(NamedTuple):
    """The header fields that describe the body, and `Prefer`; `length` is in bytes."""

    content_type: str
    coding: str
    length: int
    prefer: str


def head(request: Request) -> BodyHeaders:
    """The body's header fields, read in one pass over all fields."""
    content_type, coding, length, prefer = "", "", 0, ""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"content-length":
            length = int(value)  # the server has rejected a text that is not a number
        elif name == b"content-encoding":
            coding += f",{value.decode('latin-1')}"
        elif name == b"prefer":
            prefer += f",{value.decode('latin-1')}"
    return BodyHeaders(content_type, coding, length, prefer)


def require(head: BodyHeaders, *content_types: str, coded: bool = True) -> None:
    """Raise a 415 Problem for another content type, an unsupported content coding, or any coding unless `coded`."""
    given = head.content_type.partition(";")[0].strip().lower()
    if given not in content_types:
        names = " or ".join(sorted(content_types))
        found = repr(given)[:100] if given else "missing"
        raise UNSUPPORTED_MEDIA_TYPE(f"The body's Content-Type is {found}; expected {names}.")
    if not coded and head.coding and head.coding[1:].strip().lower() != "identity":
        raise UNSUPPORTED_MEDIA_TYPE(f"The body's Content-Encoding is {head.coding[1:]!r:.60}; expected none.")
    if head.coding and _codings(head) not in ([], ["gzip"], ["zstd"]):
        detail = (
            f"The body's Content-Encoding is {head.coding[1:]!r:.60}; expected {CODINGS.replace(',', ' or')}, or none."
        )
        raise UNSUPPORTED_CODING(detail, headers={"Accept-Encoding": CODINGS})


def pieces(request: Request, head: BodyHeaders) -> AsyncIterator[bytes]:
    """The decompressed body, piece by piece; raises a 400 Problem for a damaged body, 413 for an excessive ratio."""
    codings = _codings(head) if head.coding else []
    return _decompressed(request.stream(), codings[0]) if codings else request.stream()


async def whole(
    request: Request, head: BodyHeaders, seconds: float, *, limit: int, too_large: Callable[[], Exception]
) -> bytes:
    """The decompressed body. Raises `too_large()` above `limit` bytes, a 408 Problem after `seconds`."""
    if head.length > limit:
        raise too_large()
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in pieces(request, head):
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise too_large()
    except TimeoutError as error:
        raise too_slow(f"The body did not arrive within {seconds:g} seconds.") from error
    return b"".join(parts)


def too_slow(detail: str) -> Problem:
    """408: the body arrives too slowly; the connection is closed."""
    return BODY_TOO_SLOW(detail, headers={"Connection": "close"})


def _codings(head: BodyHeaders) -> list[str]:
    names = (name.strip().lower() for name in head.coding.split(","))
    return [_COMPRESSED.get(name, name) for name in names if name not in ("", "identity")]


class _Inflating(Protocol):
    """A streaming decompressor; `whole` is True if the stream may end at this place."""

    whole: bool

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Gzip:
    """RFC 1952: one or more members; zero bytes after a member are padding, as in gzip itself."""

    whole = False

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        while data or (len(piece) == _STEP and not self._member.eof):
            if self._member.eof:
                data = data.lstrip(b"\0")
                if not data:
                    return
                self._member = zlib.decompressobj(wbits=31)
            piece = self._member.decompress(data, _STEP)
            yield piece
            data = self._member.unconsumed_tail or self._member.unused_data
            self.whole = self._member.eof


class _Zstd:
    """RFC 8878: one or more frames."""

    whole = False

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor(options=_WINDOW)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not (self._frame.needs_input or self._frame.eof):
            if self._frame.eof:
                self._frame = zstd.ZstdDecompressor(options=_WINDOW)
            yield self._frame.decompress(data, _STEP)
            data = self._frame.unused_data
            self.whole = self._frame.eof


async def _decompressed(body: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    stream: _Inflating = _Gzip() if coding == "gzip" else _Zstd()
    received = decompressed = 0
    try:
        async for data in body:
            received += len(data)
            for piece in stream.feed(data):
                decompressed += len(piece)
                if decompressed > max(_FREE, _RATIO * received):
                    detail = f"The compression ratio is above {_RATIO}. Send the body less compressed, or uncompressed."
                    raise BODY_TOO_LARGE(detail)
                yield piece
                await asyncio.sleep(0)  # a small piece can expand a lot: let other calls run
    except (zlib.error, zstd.ZstdError) as error:
        raise _corrupt(f"is not {coding}, or is damaged ({error})") from error
    if not stream.whole:
        raise _corrupt(f"ends in the middle of its {coding} stream")


def _corrupt(what: str) -> Problem:
    return MALFORMED_CODING(f"The body {what}. Compress it again and send all of it.")
