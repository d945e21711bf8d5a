"""Former helpers, for the APIs that do not use `StrictRoute` yet."""

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from fastapi import Header
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.app import FastPath as Shortcut
from shared.http.app import Handler, create_app
from shared.http.bodies import decode_json as require_sound
from shared.http.bodies import require_json
from shared.http.measurement import CALLER, route_of
from shared.http.models import EXAMPLE
from shared.http.problems import (
    BODY_PROBLEMS,
    INVALID_REQUEST,
    PROBLEM_JSON,
    InputError,
    Problem,
    ProblemDetails,
    not_ready,
    problems,
    unavailable,
)
from shared.http.queries import query_of, require_query
from shared.http.server import DISCONNECT as HANG_UP

__all__ = [
    "CALLER",
    "HANG_UP",
    "IDEMPOTENCY_KEY",
    "PROBLEM_JSON",
    "Handler",
    "IdempotencyKey",
    "InputError",
    "LimitBody",
    "Problem",
    "ProblemDetails",
    "Shortcut",
    "add_schemas",
    "create_app",
    "documented_answer",
    "documented_body",
    "documented_problem",
    "json_response",
    "not_ready",
    "query_of",
    "read_idempotency_key",
    "require_json",
    "require_query",
    "require_sound",
    "route_of",
    "unavailable",
]  # fmt: skip

IDEMPOTENCY_KEY: Final = r'^"[!#-\[\]-~]{1,255}"$'
_SHARED: Final = "#/components/schemas/{name}"
_encode = msgspec.json.Encoder().encode


IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        description="A quoted string of the client's own; the same call again, with the same key, makes nothing twice",
        json_schema_extra={"pattern": IDEMPOTENCY_KEY, "examples": ['"lamps-2026"']},
    ),
]


def read_idempotency_key(header: str) -> str:
    given = header.strip()
    if re.match(IDEMPOTENCY_KEY, given) is None:
        detail = f'Idempotency-Key is {given!r:.100}; expected a quoted string of 1 to 255 characters: "lamps-2026".'
        raise INVALID_REQUEST(detail, pointer="/header/idempotency-key")
    return given[1:-1]


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers=dict(headers or {}), media_type="application/json")


def documented_answer(kind: type[msgspec.Struct], example: object) -> dict[str, Any]:
    schema = msgspec.json.schema(kind, ref_template="#/$defs/{name}")
    description = (kind.__doc__ or "").split("\n\n")[0]
    content = {"schema": schema, EXAMPLE: _encode(example).decode()}
    return {"description": description, "content": {"application/json": content}}


def documented_problem(status: int, slug: str, title: str, detail: str) -> dict[str, Any]:
    example = {"type": f"urn:piepowder:problem:{slug}", "title": title, "status": status, "detail": detail}
    schema = {"$ref": _SHARED.format(name=ProblemDetails.__name__)}
    return {"description": title, "content": {PROBLEM_JSON: {"schema": schema, "example": example}}}


def documented_body() -> dict[int | str, dict[str, Any]]:
    return problems(*BODY_PROBLEMS)


def add_schemas(document: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in schemas.items():
        if known.setdefault(name, schema) != schema:
            raise AssertionError(f"two types of the API are named {name}")


class LimitBody:
    def __init__(self, app: ASGIApp, max_bytes: int, under: str = "/", seconds: float = 30.0) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._under = under
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._under):
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        size = int(length) if length.isdigit() else 0
        received, ended = 0, False
        until = asyncio.get_running_loop().time() + self._seconds

        async def receiving() -> Message:
            nonlocal received, ended
            if ended:
                return await receive()
            if size > self._max_bytes:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise self._too_slow() from error
            ended = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receiving, send)

    def _too_large(self) -> Problem:
        detail = f"The body has more than the {self._max_bytes} bytes that are taken here."
        return Problem(413, "too-large", "The body is too large", detail)

    def _too_slow(self) -> Problem:
        detail = f"The body was not there within {self._seconds:g} seconds."
        return Problem(408, "too-slow", "The body comes too slowly", detail, headers={"Connection": "close"})
