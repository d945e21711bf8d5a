"""Every route rejects a caller without a valid key, the scope or the region, with a problem and without data.

The routes are those of the services' composition roots and OpenAPI documents, so no new route is forgotten. The tests
open no connection.
"""

import importlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args, get_origin

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp

from deploy import services
from shared.auth import clients
from shared.auth.clients import SCOPES
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL, Attributes, Event
from shared.contracts.events import CLIENT_CHANGED, ClientChanged, ClientKey
from shared.http import server
from shared.http.documents import Document
from shared.http.models import Body, View
from shared.http.route import Available, StrictRoute
from shared.runtime.clock import to_text

SERVICES = [service.name for service in services.SERVICES]
REGION = "eu"
CREATED_AT = to_text(datetime(2026, 5, 1, tzinfo=UTC))
PUBLIC_PATHS = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/start.js",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/favicon-32x32.png",
}
PROBLEM_FIELDS = {"type", "title", "status", "detail", "errors", "retry_after"}
FAST_PATH = "POST", "/v1/items"  # ignores the query
UUID = "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de"
KEYS = {
    name: ids.new_api_key("test")
    for name in (
        "right",
        "unknown",
        "expired",
        "revoked",
        "disabled",
        "other-region",
        *(f"all-but-{s}" for s in SCOPES),
    )
}


class BuiltService(NamedTuple):
    """The application that a service's composition root creates, its routes and its OpenAPI document."""

    app: ASGIApp
    routes: set[tuple[str, str]]
    document: dict[str, Any]


class Operation(NamedTuple):
    """An operation of an OpenAPI document."""

    method: str
    path: str
    definition: dict[str, Any]

    @property
    def scope(self) -> str:
        [requirement] = self.definition["security"]
        [[scope]] = requirement.values()
        return str(scope)

    def url(self) -> str:
        return re.sub(r"\{(\w+)\}", lambda name: UUID if name[1].endswith("_id") else "shop", self.path)


def client_changed(
    name: str, *, regions: list[str], scopes: frozenset[str] = SCOPES, **other: Any
) -> Event[ClientChanged]:
    key = {"expires_at": "", "revoked_at": ""} | {k: v for k, v in other.items() if k.endswith("_at")}
    client = ClientChanged(
        name=name.replace(":", "-"),
        revision=1,
        state=other.get("state", "active"),
        change="created",
        changed_by="test",
        scopes=sorted(scopes),
        regions=regions,
        keys=[ClientKey(sha256=ids.hash_api_key(KEYS[name]), created_at=CREATED_AT, **key)],
    )
    event_id = ids.event_id(client.name, CLIENT_CHANGED)
    subject = clients.subject(client.name)
    return Event(Attributes(event_id, CLIENT_CHANGED, "test", CREATED_AT, subject, GLOBAL, event_id), client)


CLIENTS = [
    client_changed("right", regions=[REGION]),
    client_changed("expired", regions=["*"], expires_at="2020-01-01T00:00:00Z"),
    client_changed("revoked", regions=["*"], revoked_at="2020-01-01T00:00:00Z"),
    client_changed("disabled", regions=["*"], state="disabled"),
    client_changed("other-region", regions=["mars"]),
    *(client_changed(f"all-but-{scope}", regions=["*"], scopes=SCOPES - {scope}) for scope in SCOPES),
]


async def build(name: str, monkeypatch: pytest.MonkeyPatch) -> BuiltService:
    """Create a service's application as `run` does, with the clients of this module; starts nothing."""
    served: list[Any] = []

    async def serve(app: ASGIApp, *_: object) -> bool:
        served.append(app)
        return True

    class Reader:
        def __init__(self, *, apply: Callable[..., None], caught_up: Callable[[], object], **_: object) -> None:
            for event in CLIENTS:
                apply(event)
            caught_up()
            self.run = None

    for variable in ("KAFKA", "DATABASE_URL", "CLIENTS_FILE", "REGION", "REGIONS"):
        monkeypatch.delenv(f"PIEPOWDER_{variable}", raising=False)
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr("shared.service.ControlReader", Reader)
    settings = importlib.import_module(f"services.{name}.settings").Settings()
    await importlib.import_module(f"services.{name}.app").run(settings)
    [app] = served
    inner = getattr(app, "_app", app)  # the FastAPI application inside intake's fast path
    return BuiltService(app, set(_routes(inner)), inner.openapi())


def _routes(router: Any) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        if hasattr(route, "original_router"):  # an included router
            yield from _routes(route.original_router)
        else:
            yield from ((method, route.path) for method in route.methods - {"HEAD"})


def contexts(service: BuiltService) -> list[Any]:
    """The routes of the API, each with what its `include_router` adds."""
    inner: Any = getattr(service.app, "_app", service.app)
    return [context for context in iter_route_contexts(inner.routes) if (context.path or "").startswith("/v1/")]


def calls_of(dependant: Dependant) -> list[object]:
    return [dependant.call, *(call for each in dependant.dependencies for call in calls_of(each))]


@pytest.fixture(params=SERVICES)
async def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BuiltService:
    return await build(request.param, monkeypatch)


def operations(service: BuiltService) -> list[Operation]:
    return [
        Operation(method.upper(), path, definition)
        for path, methods in service.document["paths"].items()
        for method, definition in methods.items()
        if path.startswith("/v1/")
    ]


def test_every_route_is_documented_and_requires_one_scope_except_the_public_paths(service: BuiltService) -> None:
    guarded = {(operation.method, operation.path) for operation in operations(service)}
    documented = {(method, re.sub(r":\w+\}", "}", path)) for method, path in service.routes}
    assert {path for method, path in documented if (method, path) not in guarded} == PUBLIC_PATHS
    assert guarded <= documented
    for operation in operations(service):
        assert operation.scope in SCOPES, operation.path
        assert {"401", "403", "429"} <= operation.definition["responses"].keys(), operation.path
    schemes = service.document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme["scheme"]) for scheme in schemes.values()} == {("http", "bearer")}


def test_every_route_reads_strictly_and_has_its_dependencies_itself(service: BuiltService) -> None:
    assert contexts(service)
    for context in contexts(service):
        route = context.original_route
        assert isinstance(route, StrictRoute), context.path
        # The route class does not see dependencies of `include_router`: FastAPI would run them after the body is read.
        assert calls_of(context.dependant) == calls_of(route.dependant), context.path


def test_bodies_and_responses_of_routes_are_strict_models(service: BuiltService) -> None:
    for context in contexts(service):
        route = context.original_route
        assert route.response_model is None or issubclass(route.response_model, View), context.path
        if route.body_field is not None:
            annotation = route.body_field.field_info.annotation
            [model] = get_args(annotation) if get_origin(annotation) is Document else [annotation]
            assert issubclass(model, Body), context.path


async def test_every_route_checks_the_key_and_then_the_query_before_the_body(
    service: BuiltService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        raise AssertionError("the body is read")

    for kind in (Available, *Available.__subclasses__()):  # as if the database were connected
        monkeypatch.setattr(kind, "of", lambda *_: None)
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for operation in operations(service):
            if (operation.method, operation.path) == FAST_PATH:
                continue
            for authorization, status in (("", 401), (f"Bearer {KEYS['right']}", 422)):
                response = await http.request(
                    operation.method,
                    f"{operation.url()}?unknown=1",
                    headers={"authorization": authorization, "content-type": "application/json"},
                    content=None if operation.method in ("GET", "DELETE") else endless(),
                )
                assert response.status_code == status, (operation.method, operation.path, response.text)
                pointers = [error["pointer"] for error in response.json().get("errors", [])]
                assert pointers == ([] if status == 401 else ["/query/unknown"]), operation.path


async def test_a_caller_without_permission_gets_a_problem_and_no_data(service: BuiltService) -> None:
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def call(operation: Operation, authorization: str | None) -> httpx.Response:
            headers = {"content-type": "application/json"} | (
                {} if authorization is None else {"authorization": authorization}
            )
            return await http.request(operation.method, operation.url(), headers=headers, content=b"{}")

        for operation in operations(service):
            table: list[tuple[str | None, set[int]]] = [
                (None, {401}),
                ("", {401}),
                ("Basic eDp4", {401}),
                (f"Basic {KEYS['right']}", {401}),
                ("Bearer", {401}),
                (f"Bearer {KEYS['right']}x", {401}),
                (f"Bearer {KEYS['right'].lower()}", {401}),
                ("Bearer a.b.c", {401}),
                *((f"Bearer {KEYS[name]}", {401}) for name in ("unknown", "expired", "revoked", "disabled")),
                (f"Bearer {KEYS[f'all-but-{operation.scope}']}", {403}),
                (f"Bearer {KEYS['other-region']}", {403, 404}),
            ]
            for authorization, statuses in table:
                response = await call(operation, authorization)
                where = operation.method, operation.path, authorization, response.text
                assert response.status_code in statuses, where
                assert response.headers["content-type"] == "application/problem+json", where
                assert response.json().keys() <= PROBLEM_FIELDS, where
                assert ("www-authenticate" in response.headers) == (response.status_code == 401), where
            response = await call(operation, f"Bearer {KEYS['right']}")
            assert response.status_code not in (401, 403), (operation.method, operation.path, response.text)
