"""Errors are problem details, and a service tells whether it lives, is ready, and how it is doing."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import REGISTRY
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shared import ids
from shared.auth import Authenticator, Client, keyed, require_region
from shared.errors import Transient
from shared.http import Problem, Shortcut, create_app, documented_answer, read_idempotency_key
from shared.readiness import Readiness

KEY = ids.new_api_key("test")


class Body(BaseModel):
    amount: int


@pytest.fixture
def readiness() -> Readiness:
    return Readiness("test")


@pytest.fixture
def app(readiness: Readiness) -> FastAPI:
    app = create_app("test", "A service for tests.", readiness)
    clients = Authenticator(
        [Client(name="shop", key_sha256=ids.hash_api_key(KEY), scopes=frozenset({"a:read"}), regions=frozenset({"eu"}))]
    )

    @app.get("/v1/transient")
    async def transient() -> None:
        raise Transient("the database is away.")

    @app.get("/v1/defect")
    async def defect() -> None:
        raise ZeroDivisionError

    @app.get("/v1/busy")
    async def busy() -> None:
        raise Problem(429, "busy", "Busy", "Too much at once.", retry_after=3)

    @app.post("/v1/bodies")
    async def bodies(body: Body) -> Body:
        return body

    async def guarded(request: Request) -> Response:
        client = clients.client(request, request.query_params.get("scope", "a:read"))
        require_region(client, request.query_params.get("region", "eu"), pointer="/region")
        return Response(client.name)

    app.add_route("/v1/guarded", guarded)
    v1 = APIRouter(route_class=keyed(clients, "a:read", "eu"))

    @v1.post("/v1/keyed")
    async def keyed_(body: Body, limit: int = 1) -> Body:
        return body

    app.include_router(v1)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_service_that_lives_but_lacks_something_is_not_ready_and_says_what(
    client: httpx.AsyncClient, readiness: Readiness
) -> None:
    readiness.set("database", "PostgreSQL does not answer")
    assert (await client.get("/healthz")).status_code == 200
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["conditions"] == {"database": "PostgreSQL does not answer"}
    readiness.set("database", None)
    assert (await client.get("/readyz")).json() == {"ready": True, "service": "test", "conditions": {"database": "ok"}}


async def test_what_is_away_is_503_with_a_time_to_come_back(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/transient")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:piepowder:problem:unavailable"


async def test_overload_is_429_with_a_time_to_come_back(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/busy")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


async def test_a_defect_is_a_problem_too_and_gives_nothing_away(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/defect")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:piepowder:problem:defect"
    assert "ZeroDivision" not in answer.text


@pytest.mark.parametrize("given", ["", '""', "bare", '"two', 'two"', '"a" "b"', '"sp ace"', '"ä"', f'"{"a" * 256}"'])
def test_an_idempotency_key_is_a_quoted_string(given: str) -> None:
    assert read_idempotency_key(' "lamps-2026" ') == "lamps-2026"
    with pytest.raises(Problem) as found:
        read_idempotency_key(given)
    assert (found.value.details.status, found.value.details.errors[0].pointer) == (422, "/header/idempotency-key")


class Lamp(msgspec.Struct):
    """A lamp."""

    watts: int


class Shop(msgspec.Struct):
    """What is in the shop."""

    lamps: list[Lamp]


def test_the_document_says_once_what_several_answers_share_and_takes_no_name_twice(app: FastAPI) -> None:
    async def answer() -> None: ...

    def answers(name: str, kind: type[msgspec.Struct]) -> None:
        app.add_api_route(f"/v1/{name}", answer, name=name, responses={200: documented_answer(kind, {})})

    answers("shops", Shop)
    answers("lamps", Lamp)
    document = app.openapi()
    schemas = document["components"]["schemas"]
    assert schemas["Shop"]["properties"]["lamps"]["items"] == {"$ref": "#/components/schemas/Lamp"}
    told = document["paths"]["/v1/lamps"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert told == {"$ref": "#/components/schemas/Lamp"}
    assert "$defs" not in str(document)

    another = msgspec.defstruct("Lamp", [("volts", int)])
    answers("other-lamps", another)
    app.openapi_schema = None
    with pytest.raises(AssertionError, match="two types of the API are named Lamp"):
        app.openapi()


async def test_a_body_that_does_not_fit_is_told_where(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/bodies", json={"amount": "many"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/amount"
    assert "integer" in error["detail"]


async def test_an_unknown_route_and_a_wrong_method_are_problems(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/nothing")).json()["type"] == "urn:piepowder:problem:not-found"
    wrong = await client.put("/v1/bodies")
    assert wrong.status_code == 405
    assert wrong.json()["type"] == "urn:piepowder:problem:method-not-allowed"


async def test_calls_are_counted_by_route_never_by_path(client: httpx.AsyncClient) -> None:
    await client.post("/v1/bodies", json={"amount": 1})
    await client.get("/v1/guarded")
    await client.get("/v1/nothing/7d3f")
    text = (await client.get("/metrics")).text
    assert 'piepowder_http_requests_total{method="POST",route="/v1/bodies",status="200"}' in text
    assert 'piepowder_http_requests_total{method="GET",route="/v1/guarded",status="401"}' in text
    assert "7d3f" not in text


@pytest.mark.parametrize(
    ("header", "status", "says"),
    [
        (None, 401, "No API key"),
        ("Basic abc", 401, "No API key"),
        ("Bearer nonsense", 401, "check digits"),
        (f"Bearer {KEY[:-1]}{'0' if KEY[-1] != '0' else '1'}", 401, "check digits"),
        (f"Bearer {ids.new_api_key('test')}", 401, "not known"),
        (f"Bearer {KEY}", 200, "shop"),
    ],
)
async def test_only_a_known_key_opens(client: httpx.AsyncClient, header: str | None, status: int, says: str) -> None:
    answer = await client.get("/v1/guarded", headers={"authorization": header} if header else {})
    assert answer.status_code == status
    assert says in answer.text
    assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_a_key_opens_only_its_scopes_and_regions(client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    scope = await client.get("/v1/guarded", params={"scope": "a:write"}, headers=headers)
    assert (scope.status_code, scope.json()["type"]) == (403, "urn:piepowder:problem:missing-scope")
    region = await client.get("/v1/guarded", params={"region": "us"}, headers=headers)
    assert (region.status_code, region.json()["type"]) == (403, "urn:piepowder:problem:region-not-allowed")
    assert region.json()["errors"][0]["pointer"] == "/region"


async def test_who_calls_is_asked_before_what_was_sent(client: httpx.AsyncClient) -> None:
    for headers, status in (({}, 401), ({"authorization": f"Bearer {KEY}"}, 422)):
        answer = await client.post("/v1/keyed?limit=many", content=b"{", headers=headers)
        assert answer.status_code == min(status, 415)
        json = {**headers, "content-type": "application/json"}
        assert (await client.post("/v1/keyed?limit=many", content=b"{", headers=json)).status_code == status
    assert (await client.post("/v1/keyed", json={"amount": 1}, headers=headers)).status_code == 200
    assert 'route="/v1/keyed"' in (await client.get("/metrics")).text


@pytest.fixture
def errors() -> dict[str, Exception]:
    return {
        "problem": Problem(429, "busy", "Busy", "Too much at once.", retry_after=3, headers={"X-A": "b"}),
        "transient": Transient("the database is away."),
        "http": HTTPException(413, "too large", headers={"Connection": "close"}),
        "defect": ZeroDivisionError("no"),
    }


@pytest.mark.parametrize("outcome", ["ok", "problem", "transient", "http", "defect"])
async def test_the_shortcut_answers_and_counts_as_the_framework_does(
    app: FastAPI, errors: dict[str, Exception], outcome: str
) -> None:
    async def fast(request: Request) -> Response:
        if request.query_params["outcome"] in errors:
            raise errors[request.query_params["outcome"]]
        return Response(b"got " + await request.body(), 202, headers={"X-B": "c"})

    app.add_route("/v1/fast", fast, methods=["POST"])
    short = Shortcut(app, {("POST", "/v1/fast"): fast})

    def counted(status: int) -> float:
        labels = {"route": "/v1/fast", "method": "POST", "status": str(status)}
        return REGISTRY.get_sample_value("piepowder_http_requests_total", labels) or 0.0

    answers = []
    for served in (app, short):
        transport = httpx.ASGITransport(served, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post(f"/v1/fast?outcome={outcome}", content=b"a body")
            before = counted(answer.status_code)
            again = await client.post(f"/v1/fast?outcome={outcome}", content=b"a body")
            assert counted(answer.status_code) == before + 1
            assert (await client.get("/v1/fast")).status_code == 405
            assert (await client.get("/healthz")).status_code == 200
            answers.append((again.status_code, sorted(again.headers.items()), again.content))
    assert answers[0] == answers[1]
