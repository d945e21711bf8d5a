"""Responses that are msgspec structs: events exactly as stored, and the hot paths. All other responses are `View`s."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from shared.http.models import EXAMPLE, embedded

_encode = msgspec.json.Encoder().encode


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` (a msgspec struct) as JSON."""
    return Response(_encode(body), status, headers=dict(headers or {}), media_type="application/json")


def struct(kind: type[msgspec.Struct], example: object) -> dict[str, Any]:
    """The documentation of such a response for `responses`, with the first paragraph of the struct's docstring."""
    content = {"schema": embedded(kind), EXAMPLE: _encode(example).decode()}
    return {"description": (kind.__doc__ or "").split("\n\n")[0], "content": {"application/json": content}}
