"""Routes that read requests strictly: `APIRouter(route_class=StrictRoute)`.

FastAPI reads a body before it resolves dependencies, and accepts duplicate object keys, NaN and unknown query
parameters. A `StrictRoute` first runs the security dependencies (`BeforeCall`), then returns 503 while a dependency is
not `Available`, then rejects unknown or repeated query parameters, enters `AroundCall` dependencies, and then decodes
the body strictly. FastAPI validates the decoded value as usual, so every fault of body, path, query and headers is in
one response.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shared.http import documents, encoded_bodies
from shared.http.bodies import decode_json
from shared.http.documents import Document
from shared.http.problems import BODY_PROBLEMS, BODY_TOO_LARGE, not_ready, problems
from shared.http.queries import require_query

CLIENT_CLOSED_REQUEST = 499
"""Status of a call whose client has disconnected: nobody receives it, but the metrics count it apart from refusals."""

MAX_BODY_BYTES: Final = 128 * 1024
BODY_SECONDS: Final = 30.0

T = TypeVar("T")
Handle: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class BeforeCall(ABC):
    """A security dependency that is checked before any part of the body is read."""

    @abstractmethod
    def check(self, request: Request, scopes: Sequence[str]) -> object:
        """Raise a Problem (401, 429, 503) or InputRejected (403) unless the caller has these scopes."""


class AroundCall(ABC):
    """A dependency that surrounds a call: entered after all checks and before the body is read, left at the end."""

    @abstractmethod
    def around(self, request: Request) -> AbstractContextManager[object]:
        """Raise a Problem on entry to refuse the call."""

    async def __call__(self) -> None:  # noqa: B027 - nothing is left to do
        """Do nothing. FastAPI calls a dependency; the route itself enters the context."""


class _DecodedRequest(Request):
    """A request whose JSON body was read and decoded."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._value = value

    async def json(self) -> Any:
        return self._value


class StrictRoute(APIRoute):
    """A route that authenticates first and reads strictly; `max_body_size` is in bytes.

    A body of type `Document` can be compressed and, if it has a default, blank. `app.state.body_seconds` is the time
    limit for a body.
    """

    def __init__(self, *given: Any, max_body_size: int | None = None, **named: Any) -> None:
        self.body_limit = max_body_size or MAX_BODY_BYTES  # FastAPI's own limit returns plain text, before a 401
        if _WITH_BODY & set(named.get("methods") or ()):
            named["responses"] = problems(*BODY_PROBLEMS) | (named.get("responses") or {})
        super().__init__(*given, **named)

    def get_route_handler(self) -> Handle:
        handle = super().get_route_handler()
        dependants = list(_flat(self.dependant))
        calls = [(cast("object", d.call), d.own_oauth_scopes or []) for d in dependants]
        security = [(call, scopes) for call, scopes in calls if isinstance(call, BeforeCall)]
        required = [call for call, _ in calls if isinstance(call, Available)]
        parameters = [name for d in dependants for field in d.query_params for name in _names(field)]
        around = [call for call, _ in calls if isinstance(call, AroundCall)]

        async def handle_strictly(request: Request) -> Response:
            for dependency, scopes in security:
                dependency.check(request, scopes)
            for available in required:
                available.of(request)
            require_query(request, parameters)
            with ExitStack() as stack:
                for each in around:
                    stack.enter_context(each.around(request))
                try:
                    return await handle(request if self.body_field is None else await self._decoded(request))
                except ClientDisconnect:
                    return Response(status_code=CLIENT_CLOSED_REQUEST)

        return handle_strictly

    async def _decoded(self, request: Request) -> Request:
        """Read and decode the body; raises a 408, 413 or 415 Problem, or InputRejected (400, 422)."""
        field = cast("Any", self.body_field).field_info
        is_document, is_required = get_origin(field.annotation) is Document, field.is_required()
        head = encoded_bodies.head(request)
        if not is_document:  # of several fields the first one counts, as for FastAPI
            head = head._replace(content_type=request.headers.get("content-type", ""))
        if head.length or (is_document and is_required):
            encoded_bodies.require(head, "application/json", coded=is_document)
        detail = f"The body exceeds the limit of {self.body_limit} bytes."
        too_large = partial(BODY_TOO_LARGE, detail, pointer="" if is_document else None)
        seconds = getattr(request.app.state, "body_seconds", BODY_SECONDS)
        text = await encoded_bodies.whole(request, head, seconds, limit=self.body_limit, too_large=too_large)
        if is_document:
            text = text.removeprefix(encoded_bodies.BYTE_ORDER_MARK)
        if not is_required and not text.strip():
            return _DecodedRequest(request, b"", None)
        if text:  # its length was not declared
            encoded_bodies.require(head, "application/json", coded=is_document)
        return _DecodedRequest(request, text, documents.decode(text) if is_document else decode_json(text))


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
