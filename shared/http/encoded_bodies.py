"""A call's body: of a kind that is taken here, decompressed while it comes, bounded, and never waited for without end.

What a body says of itself is not believed: its bytes are counted, and a compressed one is opened a piece at a time, so
that one which swells (a decompression bomb) is refused when it has grown too much, not when it has filled the memory.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, NamedTuple, Protocol

from starlette.requests import Request

from shared.http.http import Problem

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS: Final = "gzip, zstd"  # RFC 9110, section 8.4.1, and RFC 8878
_COMPRESSED: Final = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_STEP: Final = 64 * 1024
_RATIO: Final = 200
_FREE: Final = 2**20  # bytes that may come out whatever the ratio
_WINDOW: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}  # 8 MiB: RFC 9659, section 3


class Head(NamedTuple):
    """What a call's header fields say of its body, and what the client would rather have; `length` is in bytes."""

    content_type: str
    coding: str
    length: int
    prefer: str


def head(request: Request) -> Head:
    """The fields that matter here, in one walk over all."""
    content_type, coding, length, prefer = "", "", 0, ""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"content-length":
            length = int(value)  # the server has refused what is no number
        elif name == b"content-encoding":
            coding += f",{value.decode('latin-1')}"
        elif name == b"prefer":
            prefer += f",{value.decode('latin-1')}"
    return Head(content_type, coding, length, prefer)


def require(head: Head, *content_types: str) -> None:
    """Raises a 415 Problem when the body is of another type, or coded in a way that is not known here."""
    given = head.content_type.partition(";")[0].strip().lower()
    if given not in content_types:
        names = " or ".join(sorted(content_types))
        detail = f"The body's Content-Type is {repr(given)[:100] if given else 'missing'}; expected {names}."
        raise Problem(415, "unsupported-media-type", "The body is of another kind", detail)
    if head.coding and _codings(head) not in ([], ["gzip"], ["zstd"]):
        raise Problem(
            415,
            "unsupported-content-coding",
            "The body is coded in a way that is not known here",
            f"The body's Content-Encoding is {head.coding[1:]!r:.60}; expected {CODINGS.replace(',', ' or')}, or none.",
            headers={"Accept-Encoding": CODINGS},
        )


def pieces(request: Request, head: Head) -> AsyncIterator[bytes]:
    """The body as it comes, decompressed; raises a 400 or 413 Problem when that cannot be done."""
    codings = _codings(head) if head.coding else []
    return _decompressed(request.stream(), codings[0]) if codings else request.stream()


async def whole(
    request: Request,
    head: Head,
    idle_seconds: float,
    *,
    limit: int,
    too_large: Callable[[], Exception],
) -> bytes:
    """A body of at most `limit` bytes; raises a 408 Problem when it is not there in time, and
    what `too_large` says as soon as it is."""
    if head.length > limit:
        raise too_large()
    body = b""
    try:
        async with asyncio.timeout(idle_seconds):
            async for data in pieces(request, head):
                body = body + data if body else data
                if len(body) > limit:
                    raise too_large()
    except TimeoutError as error:
        raise too_slow(f"The body was not there within {idle_seconds:g} seconds.") from error
    return body.removeprefix(b"\xef\xbb\xbf")


def too_slow(detail: str) -> Problem:
    """408: the rest is not waited for."""
    return Problem(408, "too-slow", "The body comes too slowly", detail, headers={"Connection": "close"})


def _codings(head: Head) -> list[str]:
    names = (name.strip().lower() for name in head.coding.split(","))
    return [_COMPRESSED.get(name, name) for name in names if name not in ("", "identity")]


class _Inflating(Protocol):
    """Opens a stream; `whole` says whether it may end here."""

    whole: bool

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Gzip:
    """RFC 1952: one member or several; zeros behind them are padding, as gzip itself has it."""

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
    """RFC 8878: one frame or several."""

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
    taken = given = 0
    try:
        async for data in body:
            taken += len(data)
            for piece in stream.feed(data):
                given += len(piece)
                if given > max(_FREE, _RATIO * taken):
                    raise _swells()
                yield piece
                await asyncio.sleep(0)  # a small piece may hold much, and others wait too
    except (zlib.error, zstd.ZstdError) as error:
        raise _corrupt(f"is not {coding}, or was damaged on its way ({error})") from error
    if not stream.whole:
        raise _corrupt(f"ends in the middle of its {coding} stream")


def _corrupt(what: str) -> Problem:
    title = "The body cannot be decompressed"
    return Problem(400, "malformed-coding", title, f"The body {what}. Compress it again and send it whole.")


def _swells() -> Problem:
    detail = f"The body grows more than {_RATIO}-fold when it is decompressed. Send it less compressed, or plain."
    return Problem(413, "too-large", "The body is compressed too much", detail)
