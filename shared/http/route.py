"""Routes that read requests strictly: `APIRouter(route_class=StrictRoute)`.

FastAPI reads a body before it resolves dependencies, and accepts duplicate object keys, NaN and unknown query
parameters. A `StrictRoute` first runs the security dependencies (`BeforeBody`), then returns 503 while a dependency is
not `Available`, then rejects unknown or repeated query parameters, and then decodes the body strictly. FastAPI
validates the decoded value as usual, so every fault of body, path, query and headers is in one response.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shared.http.bodies import MAX_BODY_BYTES, decode_json, read_body, require_json
from shared.http.problems import BODY_PROBLEMS, not_ready, problems
from shared.http.queries import require_query

CLIENT_CLOSED_REQUEST = 499
"""Status of a call whose client has disconnected: nobody receives it, but the metrics count it apart from refusals."""

T = TypeVar("T")
Handle: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class BeforeBody(ABC):
    """A security dependency that is checked before any part of the body is read."""

    @abstractmethod
    def check(self, request: Request, scopes: Sequence[str]) -> object:
        """Raise a Problem (401, 403, 429, 503) unless the caller is authenticated and has these scopes."""


class StrictRequest(Request):
    """A request whose JSON body is bounded in size and time, and decoded strictly."""

    def __init__(self, request: Request, limit: int) -> None:
        super().__init__(request.scope, request.receive)
        self.limit = limit
        self._value: Any = None

    async def body(self) -> bytes:
        """The body; raises a 413 or 408 Problem."""
        if not hasattr(self, "_body"):
            self._body = await read_body(self.stream(), self.headers.get("content-length"), self.limit)
        return self._body

    async def json(self) -> Any:
        """The decoded body; raises a 400 or 422 Problem."""
        if self._value is None:
            self._value = decode_json(await self.body())
        return self._value


class StrictRoute(APIRoute):
    """A route that authenticates first and reads strictly; `max_body_size` is in bytes."""

    def __init__(self, *given: Any, max_body_size: int | None = None, **named: Any) -> None:
        self.body_limit = max_body_size or MAX_BODY_BYTES  # FastAPI's own limit returns plain text, before a 401
        if _WITH_BODY & set(named.get("methods") or ()):
            named["responses"] = problems(*BODY_PROBLEMS) | (named.get("responses") or {})
        super().__init__(*given, **named)

    def get_route_handler(self) -> Handle:
        handle = super().get_route_handler()
        dependants = list(_flat(self.dependant))
        calls = [(cast("object", d.call), d.own_oauth_scopes or []) for d in dependants]
        security = [(call, scopes) for call, scopes in calls if isinstance(call, BeforeBody)]
        required = [call for call, _ in calls if isinstance(call, Available)]
        parameters = [name for d in dependants for field in d.query_params for name in _names(field)]
        has_body = self.body_field is not None

        async def handle_strictly(request: Request) -> Response:
            for dependency, scopes in security:
                dependency.check(request, scopes)
            for available in required:
                available.of(request)
            require_query(request, parameters)
            if not has_body:
                return await handle(request)
            try:
                return await self.handle_body(request, handle)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)

        return handle_strictly

    async def handle_body(self, request: Request, handle: Handle) -> Response:
        """Decode the body, then let FastAPI validate it and call the operation."""
        require_json(request)
        request = StrictRequest(request, self.body_limit)
        await request.json()
        return await handle(request)


class Available(Generic[T]):
    """A dependency that needs the database to be available: `Annotated[Store, Depends(available_store)]`.

    The composition root sets the value with `provide` and removes it with `withdraw`. Without a value, a call gets a
    503 Problem that names the missing conditions.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def provide(self, app: Any, value: T) -> None:
        """Store the value in `app`, the FastAPI application."""
        setattr(app.state, self._name, value)

    def withdraw(self, app: Any) -> None:
        """Remove the value: later calls return 503."""
        setattr(app.state, self._name, None)

    async def __call__(self, request: Request) -> T:
        """The value; raises a 503 Problem without one."""
        return self.of(request)

    def of(self, request: Request) -> T:
        """The value, for a handler outside of FastAPI's dependencies; raises a 503 Problem without one."""
        value = self.peek(request)
        if value is None:
            raise not_ready(request.app.state.readiness)
        return value

    def peek(self, request: Request) -> T | None:
        """The value, or None without one."""
        value: T | None = getattr(request.app.state, self._name, None)
        return value


def _flat(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for child in dependant.dependencies:
        yield from _flat(child)


def _names(field: Any) -> Iterator[str]:
    """The names of a query parameter: a model has one per field."""
    fields = getattr(field.field_info.annotation, "model_fields", None)
    if fields is None:
        yield field.alias
    else:
        yield from (info.alias or name for name, info in fields.items())
