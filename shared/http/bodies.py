"""Request bodies: media type, size and time limits, strict JSON."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from starlette.requests import Request

from shared.http.problems import (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    UNSUPPORTED_MEDIA_TYPE,
    json_pointer,
)
from shared.validation import strict_json
from shared.validation.faults import INVALID_REQUEST, MALFORMED_JSON, MAX_FAULTS, Fault, InputRejected

MAX_BODY_BYTES: Final = 128 * 1024
BODY_SECONDS: Final = 30.0


def require_json(request: Request) -> None:
    """Raise a 415 Problem for a body whose Content-Type is not JSON, or that has a Content-Encoding."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind != "application/json" or coding != "identity":
        given = f"Content-Type is {repr(kind)[:100] if kind else 'missing'}, its Content-Encoding {coding!r:.100}"
        raise UNSUPPORTED_MEDIA_TYPE(f"The body's {given}; expected application/json without an encoding.")


async def read_body(stream: AsyncIterator[bytes], content_length: str | None, limit: int) -> bytes:
    """The whole body; raises a 413 Problem above `limit` bytes and a 408 Problem after `BODY_SECONDS`."""
    too_large = partial(BODY_TOO_LARGE, f"The body exceeds the limit of {limit} bytes.")
    if content_length is not None and content_length.isdecimal() and int(content_length) > limit:
        raise too_large()
    too_slow = partial(BODY_TOO_SLOW, headers={"Connection": "close"})
    return await collect(stream, BODY_SECONDS, limit=limit, too_large=too_large, too_slow=too_slow)


async def collect(
    stream: AsyncIterator[bytes],
    seconds: float,
    *,
    limit: int,
    too_large: Callable[[], Exception],
    too_slow: Callable[[str], Exception],
) -> bytes:
    """All bytes of a stream; raises `too_large()` above `limit` bytes and `too_slow(detail)` after `seconds`."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in stream:
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise too_large()
    except TimeoutError as error:
        raise too_slow(f"The body did not arrive within {seconds:g} seconds.") from error
    return b"".join(parts)


def parse_json(body: bytes) -> Any:
    """A JSON value, in which duplicate object keys are recorded; raises InputRejected (400) for malformed JSON."""
    try:
        return strict_json.decode(body)
    except strict_json.MalformedJsonError as error:
        raise MALFORMED_JSON.with_message(str(error), "") from error


def decode_json(body: bytes) -> Any:
    """A JSON value, decoded strictly. Raises InputRejected: 400 for malformed JSON, 422 with pointers for a duplicate
    object key and for a number out of range."""
    value = parse_json(body)
    duplicates = (Fault(json_pointer(place), "duplicate object key") for place in strict_json.duplicates(value))
    too_large = (Fault(json_pointer(place), "number too large") for place in strict_json.infinite_numbers(value))
    if errors := list(islice(chain(duplicates, too_large), MAX_FAULTS)):
        raise InputRejected(INVALID_REQUEST, errors)
    return value
