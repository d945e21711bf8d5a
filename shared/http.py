"""What every service's REST has in common: problem details, health, readiness and metrics.

Errors are RFC 9457 `application/problem+json` with a stable `type`, and for input the JSON pointers of what was wrong.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import metrics
from shared.errors import Transient
from shared.lifecycle import Readiness

log = logging.getLogger(__name__)

PROBLEM_JSON: Final = "application/problem+json"
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
        responses={
            401: _documented("No API key, or not a known one"),
            403: _documented("The key lacks the scope or the region"),
            422: _documented("The input does not fit; `errors` says where"),
            503: _documented("Not ready, or something it stands on is away; see `Retry-After`"),
        },
    )
    app.add_middleware(_Measured)

    async def healthz(_: Request) -> Response:
        return json_response({"status": "alive", "service": service})

    async def readyz(_: Request) -> Response:
        ready = readiness.ready
        return json_response(
            {"ready": ready, "service": service, "conditions": readiness.conditions}, 200 if ready else 503
        )

    async def prometheus(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.add_route("/healthz", healthz)
    app.add_route("/readyz", readyz)
    app.add_route("/metrics", prometheus)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(Transient, _on_transient)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _documented(description: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail"],
                    "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
                },
            },
            "retry_after": {"type": "integer"},
        },
    }
    return {"description": description, "content": {PROBLEM_JSON: {"schema": schema}}}


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _on_transient(_: Request, error: Exception) -> Response:
    assert isinstance(error, Transient)
    log.warning("unavailable: %s", error)
    return unavailable(error).response()


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [InputError(_pointer(e["loc"]), f"{e['msg']} (given: {e.get('input')!r:.80})") for e in error.errors()]
    return Problem(422, "invalid-request", "The request does not fit", errors[0].detail, errors=errors).response()


def _pointer(location: Sequence[int | str]) -> str:
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in location if part != "body"]
    return "".join(f"/{part}" for part in parts)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http-error")
    detail = f"{request.method} {request.url.path}: {error.detail}. The API is described at /docs."
    return Problem(error.status_code, slug, str(error.detail), detail, headers=error.headers).response()


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("a defect: %s %s", request.method, request.url.path, exc_info=error)
    detail = "The service met a defect of its own; it is in its log. Sending the same again is safe."
    return Problem(500, "defect", "Internal error", detail).response()


class _Measured:
    """Counts and times REST calls by route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._children: dict[tuple[str, str], Any] = {}
        self._paths: dict[object, str] = {}

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
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = self._route(scope)
            metrics.HTTP_REQUESTS.labels(route, scope["method"], str(status)).inc()
            key = (route, scope["method"])
            histogram = self._children.get(key)
            if histogram is None:
                histogram = self._children[key] = metrics.HTTP_SECONDS.labels(route, scope["method"])
            histogram.observe(time.perf_counter() - started)

    def _route(self, scope: Scope) -> str:
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return "unmatched"
        if endpoint not in self._paths:
            self._paths |= {route.endpoint: route.path for route in scope["app"].routes if hasattr(route, "endpoint")}
        return self._paths.get(endpoint, "unmatched")
