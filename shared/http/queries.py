"""Query parameters, cursors and the Idempotency-Key header."""

import base64
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec
from fastapi import Header, Query
from pydantic import AfterValidator, BeforeValidator
from starlette.datastructures import QueryParams
from starlette.requests import Request

from shared.http.problems import json_pointer
from shared.runtime.clock import from_text_or_none
from shared.validation.faults import INVALID_REQUEST, Fault, InputRejected

_MAX_CURSOR: Final = 1_000
_MAX_DIGITS: Final = 9
_IDEMPOTENCY_KEY: Final = re.compile(r'"[!#-\[\]-~]{1,255}"')

Cursor: TypeAlias = Annotated[str | None, Query(description="`next` of the previous page")]


def _strip(header: str | None) -> str | None:
    """Remove the optional whitespace after a value, which uvicorn's parser keeps."""
    return None if header is None else header.strip()


def _decimal(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS):
        raise ValueError("expected a number")
    return value


PageLimit: TypeAlias = Annotated[
    int, Query(ge=1, le=200, description="Maximum entries of a page"), BeforeValidator(_decimal)
]
ShortPageLimit: TypeAlias = Annotated[
    int, Query(ge=1, le=50, description="Maximum entries of a page"), BeforeValidator(_decimal)
]
"""For a list of large entries."""


def _unquote(header: str | None) -> str | None:
    if header is not None and _IDEMPOTENCY_KEY.fullmatch(header) is None:
        raise ValueError('expected a quoted string of 1 to 255 characters, such as "lamps-2026"')
    return None if header is None else header[1:-1]


_KEY: Final = (
    "A quoted string of 1 to 255 characters that the client chooses. A repeated call with the same key creates nothing"
    " new."
)
IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(description=_KEY, examples=['"lamps-2026"']),
    BeforeValidator(_strip),
    AfterValidator(_unquote),
]
"""The text between the quotation marks, or None."""
RequiredIdempotencyKey: TypeAlias = Annotated[
    str,
    Header(description=_KEY, examples=['"lamps-2026"'], json_schema_extra={"pattern": f"^{_IDEMPOTENCY_KEY.pattern}$"}),
    BeforeValidator(_strip),
    AfterValidator(_unquote),
]


def query_of(request: Request) -> QueryParams:
    """The query parameters; raises InputRejected (422) for a query that is not percent-encoded UTF-8."""
    query: bytes = request.scope["query_string"]
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError as error:
        raise INVALID_REQUEST(f"not UTF-8 ({error.reason}); 'ä' is encoded as %C3%A4", "/query") from error
    if not query.isascii():
        raise INVALID_REQUEST("not percent-encoded; 'ä' is encoded as %C3%A4", "/query")
    return request.query_params


def require_query(request: Request, known: Sequence[str]) -> None:
    """Raise InputRejected (422) for an unknown or repeated query parameter."""
    given = query_of(request)
    expected = f"expected {', '.join(known)}" if known else "this operation has none"
    unknown = [name for name in dict.fromkeys(given) if name not in known]
    errors = [Fault(json_pointer(["query", name]), f"unknown query parameter; {expected}") for name in unknown]
    repeated = [name for name in known if len(given.getlist(name)) > 1]
    errors += [Fault(json_pointer(["query", name]), "repeated query parameter") for name in repeated]
    if errors:
        raise InputRejected(INVALID_REQUEST, errors)


def encode_cursor(position: object) -> str | None:
    """An opaque cursor for the position of the next page: base64url of JSON. None stays None."""
    return None if position is None else base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None, kind: Any) -> Any:
    """The position in a cursor, of type `kind`; raises InputRejected (422) for any other text. None stays None."""
    if cursor is None:
        return None
    try:
        if len(cursor) > _MAX_CURSOR:
            raise ValueError("too long")
        return msgspec.json.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True), type=kind)
    except ValueError as error:  # from base64 or msgspec
        raise invalid_cursor() from error


def decode_time_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    """The position in a list that is ordered by time and id; raises InputRejected (422) for any other text."""
    position: tuple[str, UUID] | None = decode_cursor(cursor, tuple[str, UUID])
    if position is None:
        return None
    if (time := from_text_or_none(position[0])) is None:
        raise invalid_cursor()
    return time, str(position[1])


def invalid_cursor() -> InputRejected:
    """422: a text that is not a cursor of the list."""
    detail = "Not a cursor of this list: send `next` of the previous page, or no cursor to start."
    return INVALID_REQUEST.with_message(detail, "/query/cursor")
