"""Every route of every service against every caller who may not call it: refused, without data, and told as promised.

The routes are those of the services' own composition roots and of their OpenAPI documents, so that a new one cannot be
forgotten; nothing is connected to.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.types import ASGIApp

from deploy import services
from shared.auth import clients
from shared.auth.clients import SCOPES
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL, Attributes, Event
from shared.contracts.events import CLIENT_CHANGED, ClientChanged, ClientKey
from shared.http import server
from shared.runtime.clock import to_text

SERVICES = [service.name for service in services.SERVICES]
REGION = "eu"
CREATED_AT = to_text(datetime(2026, 5, 1, tzinfo=UTC))
OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect"}
PROBLEM = {"type", "title", "status", "detail", "errors", "retry_after"}
UUID = "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de"
KEYS = {
    name: ids.new_api_key("test")
    for name in ("right", "unknown", "expired", "revoked", "disabled", "elsewhere", *(f"all-but-{s}" for s in SCOPES))
}


class BuiltService(NamedTuple):
    """A service as its composition root makes it, and its OpenAPI document."""

    app: ASGIApp
    routes: set[tuple[str, str]]
    document: dict[str, Any]


class Operation(NamedTuple):
    """An operation of a document."""

    method: str
    path: str
    told: dict[str, Any]

    @property
    def scope(self) -> str:
        [requirement] = self.told["security"]
        [[scope]] = requirement.values()
        return str(scope)

    def url(self) -> str:
        return re.sub(r"\{(\w+)\}", lambda name: UUID if name[1].endswith("_id") else "shop", self.path)


def told(name: str, *, regions: list[str], scopes: frozenset[str] = SCOPES, **other: Any) -> Event[ClientChanged]:
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


TOLD = [
    told("right", regions=[REGION]),
    told("expired", regions=["*"], expires_at="2020-01-01T00:00:00Z"),
    told("revoked", regions=["*"], revoked_at="2020-01-01T00:00:00Z"),
    told("disabled", regions=["*"], state="disabled"),
    told("elsewhere", regions=["mars"]),
    *(told(f"all-but-{scope}", regions=["*"], scopes=SCOPES - {scope}) for scope in SCOPES),
]


async def build(name: str, monkeypatch: pytest.MonkeyPatch) -> BuiltService:
    """The service's application, as `run` makes it; the clients are told, and nothing is started."""
    served: list[Any] = []

    async def serve(app: ASGIApp, *_: object) -> bool:
        served.append(app)
        return True

    class Reader:
        def __init__(self, *, apply: Callable[..., None], missing: Callable[[], object], **_: object) -> None:
            for event in TOLD:
                apply(event)
            missing()
            self.run = None

    for variable in ("KAFKA", "DATABASE_URL", "CLIENTS_FILE", "REGION", "REGIONS"):
        monkeypatch.delenv(f"PIEPOWDER_{variable}", raising=False)
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr("shared.service.ControlReader", Reader)
    settings = importlib.import_module(f"services.{name}.settings").Settings()
    await importlib.import_module(f"services.{name}.app").run(settings)
    [app] = served
    inner = getattr(app, "_app", app)  # what is behind intake's shortcut
    return BuiltService(app, set(_routes(inner)), inner.openapi())


def _routes(router: Any) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        if hasattr(route, "original_router"):  # one that FastAPI includes
            yield from _routes(route.original_router)
        else:
            yield from ((method, route.path) for method in route.methods - {"HEAD"})


@pytest.fixture(params=SERVICES)
async def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BuiltService:
    return await build(request.param, monkeypatch)


def operations(service: BuiltService) -> list[Operation]:
    return [
        Operation(method.upper(), path, told_)
        for path, methods in service.document["paths"].items()
        for method, told_ in methods.items()
        if path.startswith("/v1/")
    ]


def test_every_route_is_in_the_document_and_all_but_the_probes_ask_for_one_scope(service: BuiltService) -> None:
    guarded = {(operation.method, operation.path) for operation in operations(service)}
    documented = {(method, re.sub(r":\w+\}", "}", path)) for method, path in service.routes}
    assert {path for method, path in documented if (method, path) not in guarded} == OPEN
    assert guarded <= documented
    for operation in operations(service):
        assert operation.scope in SCOPES, operation.path
        assert {"401", "403", "429"} <= operation.told["responses"].keys(), operation.path
    scheme = service.document["components"]["securitySchemes"]
    assert {(one["type"], one["scheme"]) for one in scheme.values()} == {("http", "bearer")}


async def test_whoever_may_not_call_a_route_gets_a_refusal_and_no_data(service: BuiltService) -> None:
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
                (f"Bearer {KEYS['elsewhere']}", {403, 404}),
            ]
            for authorization, statuses in table:
                answer = await call(operation, authorization)
                where = operation.method, operation.path, authorization, answer.text
                assert answer.status_code in statuses, where
                assert answer.headers["content-type"] == "application/problem+json", where
                assert answer.json().keys() <= PROBLEM, where
                assert ("www-authenticate" in answer.headers) == (answer.status_code == 401), where
            answer = await call(operation, f"Bearer {KEYS['right']}")
            assert answer.status_code not in (401, 403), (operation.method, operation.path, answer.text)
