"""Metrics and rate-limit headers of REST calls."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Final, Protocol

from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.problems import ProblemDetails
from shared.http.route import AroundCall
from shared.runtime import metrics

CALLER: Final = "piepowder.caller"
"""Key of a request's scope: the authenticated caller, once known."""

FAST_PATH: Final = "piepowder.fast-path"
"""Key of a request's scope: the path of a call on the fast path, for which the framework sets no route."""


_OUTCOMES: Final = "piepowder.outcomes"
"""Key of a request's scope: the counter of an operation's responses."""


class CountOutcomes(AroundCall):
    """Counts an operation's responses by status, except those to a caller that was refused before."""

    def __init__(self, outcomes: Counter) -> None:
        self._outcomes = outcomes

    def around(self, request: Request) -> AbstractContextManager[None]:
        """Let the middleware count the response."""
        request.scope[_OUTCOMES] = self._outcomes
        return nullcontext()


class CallObserver(Protocol):
    """The methods of a request's caller that the response needs; see `shared.auth.authenticator.Caller`."""

    def rate_limit_fields(self) -> Sequence[tuple[bytes, bytes]]: ...

    def refused(self, method: str, route: str, problem: ProblemDetails) -> None: ...


class Measured:
    """Middleware: counts and times REST calls by route, adds the rate-limit headers of the caller, and handles HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # as GET (RFC 9110, section 9.3.2); the web server omits the body
            scope = {**scope, "method": "GET"}
        if not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_with_fields(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if fields := rate_limit_fields(scope):
                    message["headers"] = [*message["headers"], *fields]
            await send(message)

        try:
            await self._app(scope, receive, send_with_fields)
        except asyncio.CancelledError:  # the service stops: `shared.http.server` responds
            status = 503
            raise
        finally:
            measure(route_of(scope), method, status, started)
            if (outcomes := scope.get(_OUTCOMES)) is not None:
                outcomes.labels(str(status)).inc()


def route_of(scope: Scope) -> str:
    """The path template of a request's route; never the path that the caller sent."""
    if (route := scope.get("route")) is not None:  # FastAPI sets it, Starlette does not
        return str(route.path)
    if (endpoint := scope.get("endpoint")) is not None:
        routes = (route.path_format for route in scope["app"].routes if getattr(route, "endpoint", None) == endpoint)
        return next(routes, "unmatched")
    return str(scope.get(FAST_PATH, "unmatched"))


def rate_limit_fields(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    """The `RateLimit` headers of the request's caller."""
    caller: CallObserver | None = scope.get(CALLER)
    return () if caller is None else caller.rate_limit_fields()


@lru_cache(maxsize=4096)
def _metrics_of(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return metrics.HTTP_REQUESTS.labels(route, method, str(status)), metrics.HTTP_SECONDS.labels(route, method)


def measure(route: str, method: str, status: int, started: float) -> None:
    """Count one call; `started` is a value of `time.perf_counter()`."""
    calls, seconds = _metrics_of(route, method, status)
    calls.inc()
    seconds.observe(time.perf_counter() - started)
