"""The FastAPI application of a service: health, metrics, error responses, and a fast path for the busiest calls."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http import docs_page, health, openapi
from shared.http.input_errors import rejection
from shared.http.measurement import CALLER, FAST_PATH, CallObserver, Measured, measure, rate_limit_fields, route_of
from shared.http.problems import DEFECT, UNAVAILABLE, Problem, problem_of, unavailable
from shared.runtime.errors import Fatal, Transient
from shared.runtime.readiness import Readiness
from shared.validation.faults import InputRejected

log = logging.getLogger(__name__)

FastHandler: TypeAlias = Callable[[Request], Awaitable[Response]]

_SLUGS: Final = {400: "malformed-body", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}


class ServiceApp(FastAPI):
    """FastAPI with the complete OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """The document; generated once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(super().openapi())
        return self.openapi_schema


def create_app(service: str, description: str, readiness: Readiness) -> FastAPI:
    """An application with `/healthz`, `/readyz`, `/metrics`, `/docs` and the error responses of every service.

    Its `state` has `readiness`; the composition root adds `authenticator`.
    """
    app = ServiceApp(
        title=f"Piepowder {service}",
        description=description,
        version="1",
        docs_url=None,  # its page loads script and style from another host
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to the host in the caller's Host header
        generate_unique_id_function=_operation_id,
    )
    app.state.readiness = readiness
    app.add_middleware(Measured)
    app.include_router(health.router(service, readiness))
    app.include_router(docs_page.router(app.title))
    for kind, handler in _ERROR_RESPONSES.items():
        app.add_exception_handler(kind, handler)
    return app


def _operation_id(route: APIRoute) -> str:
    first, *others = route.name.split("_")
    return first + "".join(map(str.capitalize, others))


async def _on_problem(request: Request, error: Problem | InputRejected) -> Response:
    caller: CallObserver | None = request.scope.get(CALLER)
    problem = problem_of(error)
    details = problem.details
    if caller is not None and (details.status in (401, 403) or details.type.endswith(":rate-limited")):
        caller.refused(request.method, route_of(request.scope), details)
    return problem.response()


async def _on_transient(_: Request, error: Transient) -> Response:
    log.warning("unavailable: %s", error)
    return unavailable(error).response()


async def _on_fatal(_: Request, error: Fatal) -> Response:
    log.error("the service cannot continue: %s", error)  # the response has no reason: it is for operators
    detail = "The service cannot do its work until its operators have acted. Send the same request again later."
    return UNAVAILABLE(detail, retry_after=10).response()


async def _on_invalid(_: Request, error: RequestValidationError) -> Response:
    return problem_of(rejection(error)).response()


async def _on_http(request: Request, error: HTTPException) -> Response:
    detail = f"{request.method} {request.url.path}: {str(error.detail).rstrip('.')}. The API is described at /docs."
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
    slug = _SLUGS.get(error.status_code, "http-error")
    return Problem(error.status_code, slug, HTTPStatus(error.status_code).phrase, detail, headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at the request's path."""
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    scopes = {method: {**request.scope, "method": method} for method in methods}
    routes = request.app.routes
    allowed = [method for method in methods if any(r.matches(scopes[method])[0] is Match.FULL for r in routes)]
    return ["GET", "HEAD", *allowed[1:]] if allowed[:1] == ["GET"] else allowed


async def _on_defect(request: Request, error: Exception) -> Response:
    log.error("defect: %s %s", request.method, request.url.path, exc_info=error)
    return DEFECT("An internal error, recorded in the service's log. The same request can be sent again.").response()


_ERROR_RESPONSES: Final[dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]]] = {
    Problem: _on_problem,
    InputRejected: _on_problem,
    Transient: _on_transient,
    Fatal: _on_fatal,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    Exception: _on_defect,
}


class FastPath:
    """Passes the busiest calls directly to their handlers, without the framework's layers.

    `handlers` are keyed by method and path. `app` handles all other calls; it has the same operations as ordinary
    routes, with the same error responses and metrics.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], FastHandler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope[FAST_PATH] = scope["path"]
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - an unexpected error is logged, and becomes a 500 response
            response = await next(on for kind, on in _ERROR_RESPONSES.items() if isinstance(error, kind))(
                request, error
            )
        response.raw_headers.extend(rate_limit_fields(scope))
        try:
            await response(scope, receive, send)
        finally:
            measure(scope["path"], scope["method"], response.status_code, started)
