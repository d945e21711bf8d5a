"""What every service's REST has in common: problem details, health, readiness and metrics.

Errors are RFC 9457 `application/problem+json` with a stable `type`, and for input the JSON pointers of what was wrong.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Annotated, Any, Final, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import FastAPI, Header
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import Counter, Histogram
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.health import add_probes
from shared.http.openapi_security import RATE_LIMITED, add_security
from shared.runtime import metrics
from shared.runtime.errors import Fatal, Transient
from shared.runtime.readiness import Readiness
from shared.validation import strict_json

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

PROBLEM_JSON: Final = "application/problem+json"
HANG_UP: Final = "piepowder.hang_up"  # the ASGI extension by which a connection is dropped, whatever waits to be sent
CALLER: Final = "piepowder.caller"  # where a request's scope has who calls, once that was asked
_SHORTCUT: Final = "piepowder.shortcut"
_MOST_FAULTS: Final = 20  # that are told of one kind
_OF_ANOTHER_KIND: Final = "unsupported-media-type"
_HTTP_ERRORS: Final = {400: "malformed-body", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}
IDEMPOTENCY_KEY: Final = r'^"[!#-\[\]-~]{1,255}"$'
IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        description="A quoted string of the client's own; the same call again, with the same key, makes nothing twice",
        json_schema_extra={"pattern": IDEMPOTENCY_KEY, "examples": ['"lamps-2026"']},
    ),
]
_OWN: Final = "#/$defs/{name}"
_SHARED: Final = "#/components/schemas/{name}"
_EXAMPLE: Final = "x-example"  # as JSON text: FastAPI leaves out of its document what is null
_encode = msgspec.json.Encoder().encode


class InputError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with an input: where (RFC 6901 JSON pointer), what, and what was expected instead."""

    pointer: str
    detail: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error, RFC 9457; `errors` lists each fault of an input."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[InputError] = []
    retry_after: int | None = None


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An error to answer with. `slug` names its type for good; `retry_after` is in seconds."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[InputError] = (),
        pointer: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        if pointer is not None:
            errors = [InputError(pointer, detail)]
        self.details = ProblemDetails(f"urn:piepowder:problem:{slug}", title, status, detail, list(errors), retry_after)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def response(self) -> Response:
        """The HTTP answer."""
        return Response(_encode(self.details), self.details.status, headers=self.headers, media_type=PROBLEM_JSON)


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` (msgspec-encodable) as JSON."""
    return Response(_encode(body), status, headers=dict(headers or {}), media_type="application/json")


def documented_answer(kind: type[msgspec.Struct], example: object) -> dict[str, Any]:
    """An answer for OpenAPI's `responses`: described by the struct's first line, with its schema and an example."""
    schema = msgspec.json.schema(kind, ref_template=_OWN)
    description = (kind.__doc__ or "").split("\n\n")[0]
    content = {"schema": schema, _EXAMPLE: _encode(example).decode()}
    return {"description": description, "content": {"application/json": content}}


def documented_problem(status: int, slug: str, title: str, detail: str) -> dict[str, Any]:
    """An error for OpenAPI's `responses`, with itself as the example."""
    example = {"type": f"urn:piepowder:problem:{slug}", "title": title, "status": status, "detail": detail}
    documented = _documented(title)
    documented["content"][PROBLEM_JSON]["example"] = example
    return documented


def documented_body() -> dict[int | str, dict[str, Any]]:
    """The errors of every JSON body, for OpenAPI's `responses`."""
    return {
        400: documented_problem(
            400, "malformed-json", "The input is not JSON", "The input is not JSON: it is cut off."
        ),
        408: documented_problem(
            408, "too-slow", "The body comes too slowly", "The body was not there within 30 seconds."
        ),
        413: documented_problem(413, "too-large", "The body is too large", "The body has more bytes than are taken."),
        415: documented_problem(415, _OF_ANOTHER_KIND, "The body is of another kind", "Expected application/json."),
    }


def require_json(request: Request) -> None:
    """Raises a 415 Problem when there is a body that is not JSON by its own account, or is coded."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind != "application/json" or coding != "identity":
        given = f"Content-Type is {repr(kind)[:100] if kind else 'missing'}, its Content-Encoding {coding!r:.100}"
        detail = f"The body's {given}; expected application/json, not coded."
        raise Problem(415, _OF_ANOTHER_KIND, "The body is of another kind", detail)


def require_sound(body: bytes) -> None:
    """Raises a Problem for a JSON body that nobody should try to make sense of: 400 when it is no JSON, 422 when a name
    is in an object more than once, or a number is too large to be one."""
    try:
        given = strict_json.decode(body)
    except strict_json.Malformed as error:
        raise Problem(400, "malformed-json", "The input is not JSON", str(error), pointer="") from error
    twice = (InputError(_pointer(place), "is there more than once") for place in strict_json.twice(given))
    too_large = (InputError(_pointer(place), "is too large a number") for place in strict_json.too_large(given))
    if errors := list(islice(chain(twice, too_large), _MOST_FAULTS)):
        raise _unfit(errors)


def query_of(request: Request) -> QueryParams:
    """What a call asks for behind its `?`; raises a 422 Problem when that is not UTF-8, for others would mend it."""
    query: bytes = request.scope["query_string"]
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError as error:
        raise _unfit([InputError("/query", f"is not UTF-8 ({error.reason}): 'ä' is %C3%A4 there")]) from error
    if not query.isascii():
        raise _unfit([InputError("/query", "holds characters that stand as they are: 'ä' is %C3%A4 there")])
    return request.query_params


def require_query(request: Request, known: Sequence[str]) -> None:
    """Raises a 422 Problem for what a call asks for behind its `?` that is not known, or is there twice."""
    given = query_of(request)
    takes = f"it takes {', '.join(known)}" if known else "it takes none"
    others = [name for name in dict.fromkeys(given) if name not in known]
    errors = [InputError(_pointer(["query", name]), f"is no parameter of this call; {takes}") for name in others]
    twice = [name for name in known if len(given.getlist(name)) > 1]
    errors += [InputError(_pointer(["query", name]), "is given more than once") for name in twice]
    if errors:
        raise _unfit(errors[:_MOST_FAULTS])


def read_idempotency_key(header: str) -> str:
    """What an `Idempotency-Key` says between its quotation marks; raises a 422 Problem when it is no such string."""
    given = header.strip()
    if re.match(IDEMPOTENCY_KEY, given) is None:
        detail = f'Idempotency-Key is {given!r:.100}; expected a quoted string of 1 to 255 characters: "lamps-2026".'
        pointer = "/header/idempotency-key"
        raise Problem(422, "invalid-request", "The request does not fit", detail, pointer=pointer)
    return given[1:-1]


def not_ready(readiness: Readiness) -> Problem:
    """503: the service cannot do its work yet; says what it lacks."""
    lacks = "; ".join(f"{name}: {state}" for name, state in readiness.conditions.items() if state != "ok")
    return Problem(503, "not-ready", "The service is not ready", f"Not ready: {lacks}.", retry_after=2)


def unavailable(error: Transient) -> Problem:
    """503: something the service stands on is away; the same call again is right."""
    return Problem(503, "unavailable", "Temporarily unavailable", f"{error} Send the same again later.", retry_after=2)


def create_app(service: str, description: str, readiness: Readiness) -> FastAPI:
    """A FastAPI application with `/healthz`, `/readyz`, `/metrics` and the error answers of every service."""
    app = FastAPI(
        title=f"Piepowder {service}",
        description=description,
        version="1",
        redoc_url=None,
        redirect_slashes=False,  # to a host that the caller names
        generate_unique_id_function=_operation_id,
        responses={
            401: documented_problem(401, "unauthorized", "The call is not authenticated", "No API key: send it as ..."),
            403: documented_problem(403, "missing-scope", "The key may not do this", "Client 'shop' lacks the scope."),
            422: documented_problem(422, "invalid-request", "The request does not fit", "`errors` says where."),
            503: documented_problem(503, "not-ready", "The service is not ready", "Not ready: database: away."),
        },
    )
    app.add_middleware(_Measured)

    add_probes(app, service, readiness)
    add_security(app)
    _share_schemas(app)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(Transient, _on_transient)
    app.add_exception_handler(Fatal, _on_fatal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _operation_id(route: APIRoute) -> str:
    first, *others = route.name.split("_")
    return first + "".join(map(str.capitalize, others))


def _documented(description: str) -> dict[str, Any]:
    schema = {"$ref": _SHARED.format(name=ProblemDetails.__name__)}
    return {"description": description, "content": {PROBLEM_JSON: {"schema": schema}}}


def _share_schemas(app: FastAPI) -> None:
    """Let the document say once what several answers have in common; generated clients then have one type for it."""
    generate = app.openapi
    _, problem = msgspec.json.schema_components([ProblemDetails], ref_template=_SHARED)

    def with_shared() -> dict[str, Any]:
        document = generate()
        add_schemas(document, problem)
        _share(document["paths"], document)
        return document

    app.openapi = with_shared  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def add_schemas(document: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    """Name schemas in an OpenAPI document; AssertionError when one of another type has the name already."""
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in schemas.items():
        if known.setdefault(name, schema) != schema:
            raise AssertionError(f"two types of the API are named {name}")


def _share(node: Any, document: dict[str, Any]) -> None:
    if isinstance(node, list):
        for part in node:
            _share(part, document)
    elif isinstance(node, dict):
        if (example := node.pop(_EXAMPLE, None)) is not None:
            node["example"] = msgspec.json.decode(example)
        schemas = node.pop("$defs", {})
        _share(list(schemas.values()), document)
        add_schemas(document, schemas)
        if isinstance(reference := node.get("$ref"), str):
            node["$ref"] = reference.replace(_OWN.format(name=""), _SHARED.format(name=""))
        for part in node.values():
            _share(part, document)


class Caller(Protocol):
    """Who calls, as the answer is concerned; see `shared.auth.authenticator`."""

    def fields(self) -> Sequence[tuple[bytes, bytes]]: ...

    def refused(self, method: str, route: str, problem: ProblemDetails) -> None: ...


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    caller: Caller | None = request.scope.get(CALLER)
    details = error.details
    if caller is not None and (details.status in (401, 403) or details.type.endswith(f":{RATE_LIMITED}")):
        caller.refused(request.method, route_of(request.scope), details)
    return error.response()


async def _on_transient(_: Request, error: Exception) -> Response:
    assert isinstance(error, Transient)
    log.warning("unavailable: %s", error)
    return unavailable(error).response()


async def _on_fatal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Fatal)
    log.error("cannot go on: %s", error)  # why is for those who run it
    said = "The service cannot do its work until those who run it have seen to it. Send the same again later."
    return Problem(503, "unavailable", "Temporarily unavailable", said, retry_after=10).response()


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _unfit([_input_error(fault) for fault in error.errors()[:_MOST_FAULTS]]).response()


def _unfit(errors: list[InputError]) -> Problem:
    said = f"{errors[0].pointer or 'the body'}: {errors[0].detail}"
    return Problem(422, "invalid-request", "The request does not fit", said, errors=errors)


def _input_error(fault: Mapping[str, Any]) -> InputError:
    detail = fault["msg"].removeprefix("Value error, ")
    place = fault["loc"][1:] if fault["loc"][0] == "body" else fault["loc"]
    return InputError(_pointer(place), f"{detail} (given: {fault.get('input')!r:.80})")


def _pointer(location: Sequence[int | str]) -> str:
    parts = [str(part)[:100].replace("~", "~0").replace("/", "~1") for part in location]
    return "".join(f"/{part}" for part in parts)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):  # of a body that FastAPI reads itself
        return error.__cause__.response()
    detail = f"{request.method} {request.url.path}: {str(error.detail).rstrip('.')}. The API is described at /docs."
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
    slug = _HTTP_ERRORS.get(error.status_code, "http-error")
    return Problem(error.status_code, slug, str(error.detail), detail, headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """The methods that some route takes at the request's path."""
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    scopes = {method: {**request.scope, "method": method} for method in methods}
    routes = request.app.routes
    return [method for method in methods if any(r.matches(scopes[method])[0] is Match.FULL for r in routes)]


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("a defect: %s %s", request.method, request.url.path, exc_info=error)
    detail = "The service met a defect of its own; it is in its log. Sending the same again is safe."
    return Problem(500, "defect", "Internal error", detail).response()


class LimitBody:
    """Middleware that answers 413 to bodies of more than `max_bytes`, before they are in memory, and 408 to those that
    are not there after `seconds`; to calls whose path begins with `under`, once their bodies are asked for."""

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
        return Problem(413, "too-large", "The body is too large", detail)  # the rest is read past, so that it is heard

    def _too_slow(self) -> Problem:
        detail = f"The body was not there within {self._seconds:g} seconds."
        return Problem(408, "too-slow", "The body comes too slowly", detail, headers={"Connection": "close"})


class _Measured:
    """Counts and times REST calls by route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if fields := _fields(scope):
                    message["headers"] = [*message["headers"], *fields]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            _measure(route_of(scope), scope["method"], status, started)


def route_of(scope: Scope) -> str:
    """The path of a request's route, with its parameters' names; never what a caller wrote."""
    if (route := scope.get("route")) is not None:  # FastAPI's routes name themselves, Starlette's do not
        return str(route.path)
    if (endpoint := scope.get("endpoint")) is not None:
        routes = (route.path_format for route in scope["app"].routes if getattr(route, "endpoint", None) == endpoint)
        return next(routes, "unmatched")
    return str(scope.get(_SHORTCUT, "unmatched"))


def _fields(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    caller: Caller | None = scope.get(CALLER)
    return () if caller is None else caller.fields()


class Shortcut:
    """Calls that come by the thousand a second go straight to their handlers, past the framework's layers.

    `handlers`, by method and path, are also ordinary routes of `app`, which answers all other calls; errors are
    answered and calls are measured as there.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope[_SHORTCUT] = scope["path"]
        request = Request(scope, receive)
        try:
            response = await handler(request)
        except Problem as problem:
            response = await _on_problem(request, problem)
        except Transient as error:
            response = await _on_transient(request, error)
        except Fatal as error:
            response = await _on_fatal(request, error)
        except HTTPException as error:
            response = await _on_http(request, error)
        except Exception as error:  # noqa: BLE001 - a defect is logged and answered
            response = await _on_bug(request, error)
        response.raw_headers.extend(_fields(scope))
        try:
            await response(scope, receive, send)
        finally:
            _measure(scope["path"], scope["method"], response.status_code, started)


@lru_cache(maxsize=4096)
def _meters(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return metrics.HTTP_REQUESTS.labels(route, method, str(status)), metrics.HTTP_SECONDS.labels(route, method)


def _measure(route: str, method: str, status: int, started: float) -> None:
    calls, seconds = _meters(route, method, status)
    calls.inc()
    seconds.observe(time.perf_counter() - started)
