"""The REST infrastructure of every service: error responses, strict decoding, authentication, OpenAPI, metrics."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Security
from prometheus_client import REGISTRY
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shared.auth.api_key import api_key
from shared.auth.authenticator import Authenticator, Caller
from shared.auth.clients_file import ClientEntry
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.http.app import FastPath, create_app
from shared.http.models import Body, View
from shared.http.problems import Problem, ProblemDetails
from shared.http.queries import IdempotencyKey, query_of
from shared.http.route import StrictRoute
from shared.runtime.errors import Fatal, Transient
from shared.runtime.readiness import Readiness
from shared.validation.faults import InputRejected, RejectionType

KEY = ids.new_api_key("test")
Reader = Annotated[Principal, Security(api_key, scopes=["a:read"])]
FORBIDDEN = RejectionType("forbidden", 403, "Forbidden")
router = APIRouter(prefix="/v1", route_class=StrictRoute)


class AmountBody(Body):
    amount: int


class AmountView(View):
    amount: int


@router.post("/bodies")
async def bodies(body: AmountBody) -> AmountView:
    return AmountView(amount=body.amount)


@router.post("/small", max_body_size=1_000)
async def small(body: AmountBody) -> AmountView:
    return AmountView(amount=body.amount)


@router.post("/keyed", max_body_size=2**20)
async def keyed(_: Reader, body: AmountBody, limit: int = 1) -> AmountView:
    return AmountView(amount=body.amount)


@router.post("/keyed-small", max_body_size=1_000)
async def keyed_small(_: Reader, body: AmountBody) -> AmountView:
    return AmountView(amount=body.amount)


@router.post("/rejected")
async def rejected(_: Reader, body: AmountBody) -> AmountView:
    raise FORBIDDEN(f"{body.amount} is not for you", "/amount")


@router.post("/idempotent")
async def idempotent(idempotency_key: IdempotencyKey = None) -> str | None:
    return idempotency_key


@pytest.fixture
def readiness() -> Readiness:
    return Readiness("test")


@pytest.fixture
def app(readiness: Readiness) -> FastAPI:
    app = create_app("test", "A service for tests.", readiness)
    client = ClientEntry("shop", ids.hash_api_key(KEY), frozenset({"a:read"}), frozenset({"eu"}))
    authenticator = app.state.authenticator = Authenticator([client])

    @app.get("/v1/transient")
    async def transient() -> None:
        raise Transient("the database does not respond.")

    @app.get("/v1/fatal")
    async def fatal() -> None:
        raise Fatal("the schema is another version's")

    @app.get("/v1/defect")
    async def defect() -> None:
        raise ZeroDivisionError

    @app.get("/v1/busy")
    async def busy() -> None:
        raise Problem(429, "busy", "Busy", "Too much at once.", retry_after=3)

    async def guarded(request: Request) -> Response:
        principal = authenticator.principal(request, request.query_params.get("scope", "a:read"))
        principal.require_region(request.query_params.get("region", "eu"), "/region")
        return Response(principal.name)

    app.add_route("/v1/guarded", guarded)
    app.include_router(router)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_service_with_a_missing_condition_is_alive_but_not_ready_and_names_the_condition(
    client: httpx.AsyncClient, readiness: Readiness
) -> None:
    readiness.set("database", "PostgreSQL does not respond")
    assert (await client.get("/healthz")).status_code == 200
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["conditions"] == {"database": "PostgreSQL does not respond"}
    readiness.set("database", None)
    assert (await client.get("/readyz")).json() == {"ready": True, "service": "test", "conditions": {"database": "ok"}}


async def test_a_service_with_a_stopped_topic_is_ready_and_names_the_topic_until_it_continues(
    client: httpx.AsyncClient, readiness: Readiness
) -> None:
    readiness.set_stopped("g", {"t": "Partition 0: too many records were rejected."})
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["stopped"] == {"g": {"t": "Partition 0: too many records were rejected."}}
    readiness.set_stopped("g", {})
    assert "stopped" not in (await client.get("/readyz")).json()


@pytest.mark.parametrize("path", ["transient", "fatal"])
async def test_a_missing_dependency_is_503_with_retry_after(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/v1/{path}")
    assert response.status_code == 503
    assert "schema" not in response.text
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:piepowder:problem:unavailable"


async def test_overload_is_429_with_retry_after(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/busy")
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


async def test_a_rejection_by_a_rule_is_a_problem_and_an_access_refusal(
    client: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[tuple[str, str, str]] = []

    def refuse(_: object, method: str, route: str, problem: ProblemDetails) -> None:
        refused.append((method, route, problem.type))

    monkeypatch.setattr(Caller, "refused", refuse)
    response = await client.post("/v1/rejected", json={"amount": 1}, headers={"authorization": f"Bearer {KEY}"})
    problem_type = "urn:piepowder:problem:forbidden"
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": problem_type,
        "title": "Forbidden",
        "status": 403,
        "detail": "/amount: 1 is not for you",
        "errors": [{"pointer": "/amount", "detail": "1 is not for you"}],
    }
    assert refused == [("POST", "/v1/rejected", problem_type)]


async def test_a_defect_is_a_problem_without_internals(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/defect")
    assert response.status_code == 500
    assert response.json()["type"] == "urn:piepowder:problem:defect"
    assert "ZeroDivision" not in response.text


@pytest.mark.parametrize("given", ["", '""', "bare", '"two', 'two"', '"a" "b"', '"sp ace"', '"ä"', f'"{"a" * 256}"'])
async def test_an_idempotency_key_is_a_quoted_string(client: httpx.AsyncClient, given: str) -> None:
    valid = await client.post("/v1/idempotent", headers={"Idempotency-Key": ' "lamps-2026" '})
    assert (valid.status_code, valid.json()) == (200, "lamps-2026")
    response = await client.post("/v1/idempotent", headers=[(b"Idempotency-Key", given.encode())])
    pointers = [error["pointer"] for error in response.json()["errors"]]
    assert (response.status_code, pointers) == (422, ["/header/idempotency-key"])


async def test_the_fault_of_a_body_has_a_pointer(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/bodies", json={"amount": "many"})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["pointer"] == "/amount"
    assert "integer" in error["detail"]


@pytest.mark.parametrize("path", ["/v1/small", "/v1/keyed-small"])
async def test_a_slow_or_large_body_is_rejected_before_its_end(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    app.state.body_seconds = 0.1

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"amount":'
        await asyncio.sleep(0.3)
        yield b"1}"

    async def large() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 500

    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    for content, status, slug in (
        (slow(), 408, "too-slow"),
        (large(), 413, "too-large"),
        (b" " * 1_001, 413, "too-large"),
    ):
        response = await client.post(path, content=content, headers=headers)
        assert (response.status_code, response.json()["type"]) == (status, f"urn:piepowder:problem:{slug}")
        assert (response.headers.get("connection") == "close") == (status == 408)
    assert (await client.post(path, json={"amount": 1}, headers=headers)).status_code == 200


async def test_a_caller_without_a_key_gets_401_before_the_size_of_the_body_is_checked(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/v1/keyed-small", content=b" " * 2_000)).status_code == 401


async def test_a_path_with_a_trailing_slash_is_not_found_and_not_redirected(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/transient/", headers={"host": "evil.example"})
    assert (response.status_code, response.json()["type"]) == (404, "urn:piepowder:problem:not-found")
    assert "location" not in response.headers


async def test_a_body_without_a_content_type_is_415_with_the_expected_type(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/keyed", content=b"{}", headers={"authorization": f"Bearer {KEY}"})
    assert (response.status_code, "Content-Type is missing;" in response.json()["detail"]) == (415, True)


async def test_an_unknown_route_and_a_wrong_method_are_problems(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/nothing")).json()["type"] == "urn:piepowder:problem:not-found"
    wrong = await client.put("/v1/bodies")
    assert wrong.status_code == 405
    assert wrong.json()["type"] == "urn:piepowder:problem:method-not-allowed"


async def test_calls_are_counted_by_route_and_not_by_path(client: httpx.AsyncClient) -> None:
    await client.post("/v1/bodies", json={"amount": 1})
    await client.get("/v1/guarded")
    await client.get("/v1/nothing/7d3f")
    text = (await client.get("/metrics")).text
    assert 'piepowder_http_requests_total{method="POST",route="/v1/bodies",status="200"}' in text
    assert 'piepowder_http_requests_total{method="GET",route="/v1/guarded",status="401"}' in text
    assert "7d3f" not in text


@pytest.mark.parametrize(
    ("header", "status", "message"),
    [
        (None, 401, "No API key"),
        ("Basic abc", 401, "No API key"),
        ("Bearer nonsense", 401, "check digits"),
        (f"Bearer {KEY[:-1]}{'0' if KEY[-1] != '0' else '1'}", 401, "check digits"),
        (f"Bearer {ids.new_api_key('test')}", 401, "Unknown API key"),
        (f"Bearer {KEY}", 200, "shop"),
    ],
    ids=["no key", "another scheme", "not a key", "a mistyped key", "an unknown key", "a known key"],
)
async def test_only_a_known_key_is_accepted(
    client: httpx.AsyncClient, header: str | None, status: int, message: str
) -> None:
    response = await client.get("/v1/guarded", headers={"authorization": header} if header else {})
    assert response.status_code == status
    assert message in response.text
    assert ("www-authenticate" in response.headers) == (status == 401)


async def test_a_key_is_limited_to_its_scopes_and_regions(client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    scope = await client.get("/v1/guarded", params={"scope": "a:write"}, headers=headers)
    assert (scope.status_code, scope.json()["type"]) == (403, "urn:piepowder:problem:missing-scope")
    region = await client.get("/v1/guarded", params={"region": "us"}, headers=headers)
    assert (region.status_code, region.json()["type"]) == (403, "urn:piepowder:problem:region-not-allowed")
    assert region.json()["errors"][0]["pointer"] == "/region"


async def test_the_key_is_checked_before_query_and_body(client: httpx.AsyncClient) -> None:
    for headers, status in (({}, 401), ({"authorization": f"Bearer {KEY}"}, 400)):
        response = await client.post("/v1/keyed?limit=many", content=b"{", headers=headers)
        assert response.status_code == (415 if headers else 401)
        json = {**headers, "content-type": "application/json"}
        assert (await client.post("/v1/keyed?limit=many", content=b"{", headers=json)).status_code == status
    assert (await client.post("/v1/keyed", json={"amount": 1}, headers=headers)).status_code == 200
    assert 'route="/v1/keyed"' in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("content", "status", "pointer", "message"),
    [
        (b'{"amount": 1, "amount": 2}', 422, "/amount", "duplicate object key"),
        (b'{"amount": 1, "of": [{"a/b": 1, "a/b": 1}]}', 422, "/of/0/a~1b", "duplicate object key"),
        (b'{"amount": 1, "body": {"x": 1, "x": 1}}', 422, "/body/x", "duplicate object key"),
        (b'{"amount": 1' + b"0" * 5_000 + b"}", 422, "/amount", "too large"),
        (b'{"amount": 1', 400, "", "truncated"),
        (b'{"amount": 1]', 400, "", "byte 12"),
        (b'{"amount": NaN}', 400, "", "byte 11"),
        (b'{"amount": "\\ud800 is half"}', 400, "", "surrogate"),
        (b'{"amount": "\xff"}', 400, "", "UTF-8"),
        (b"[" * 100_000, 400, "", "too deeply"),
        ('{"amount": 1}'.encode("utf-16"), 400, "", "byte 0"),
        (b"", 400, "", "empty"),
    ],
)
async def test_a_body_is_decoded_strictly_and_faults_have_pointers(
    client: httpx.AsyncClient, content: bytes, status: int, pointer: str, message: str
) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    response = await client.post("/v1/keyed", content=content, headers=headers)
    problem = response.json()
    slug = "malformed-json" if status == 400 else "invalid-request"
    assert (response.status_code, problem["type"]) == (status, f"urn:piepowder:problem:{slug}")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert message in problem["errors"][0]["detail"]


async def test_thousands_of_duplicate_names_are_rejected_in_bounded_time(client: httpx.AsyncClient) -> None:
    names = ",".join(f'"{n}":0' for n in range(40_000))
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    response = await client.post("/v1/keyed", content=f"{{{names},{names}}}", headers=headers, timeout=5)
    assert (response.status_code, len(response.json()["errors"])) == (422, 20)
    assert response.elapsed.total_seconds() < 5


async def test_unknown_and_repeated_query_parameters_are_rejected(client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    response = await client.post("/v1/keyed?limit=1&limit=1&x=1&a%2Fb=", json={"amount": 1}, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"pointer": "/query/x", "detail": "unknown query parameter; expected limit"},
        {"pointer": "/query/a~1b", "detail": "unknown query parameter; expected limit"},
        {"pointer": "/query/limit", "detail": "repeated query parameter"},
    ]
    assert (await client.post("/v1/keyed?limit=1", json={"amount": 1}, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"a=%ff", "not UTF-8"),
        (b"%ed%a0%80=1", "not UTF-8"),
        (b"a=\xe4", "not UTF-8"),
        ("ä=1".encode(), "not percent-encoded"),
    ],
)
async def test_a_query_that_is_not_percent_encoded_utf_8_is_rejected(query: bytes, message: str) -> None:
    with pytest.raises(InputRejected) as caught:
        query_of(Request({"type": "http", "query_string": query, "headers": []}))
    [fault] = caught.value.faults
    assert (caught.value.status, fault.pointer) == (422, "/query")
    assert message in fault.detail
    assert query_of(Request({"type": "http", "query_string": b"a=%c3%a4+b", "headers": []}))["a"] == "ä b"


@pytest.fixture
def errors() -> dict[str, Exception]:
    return {
        "problem": Problem(429, "busy", "Busy", "Too much at once.", retry_after=3, headers={"X-A": "b"}),
        "rejection": FORBIDDEN("not for you"),
        "transient": Transient("the database does not respond."),
        "fatal": Fatal("the schema is another version's"),
        "http": HTTPException(413, "too large", headers={"Connection": "close"}),
        "defect": ZeroDivisionError("no"),
    }


@pytest.mark.parametrize("outcome", ["ok", "problem", "rejection", "transient", "fatal", "http", "defect"])
async def test_the_fast_path_has_the_responses_and_metrics_of_the_framework(
    app: FastAPI, errors: dict[str, Exception], outcome: str
) -> None:
    async def fast(request: Request) -> Response:
        if request.query_params["outcome"] in errors:
            raise errors[request.query_params["outcome"]]
        return Response(b"got " + await request.body(), 202, headers={"X-B": "c"})

    app.add_route("/v1/fast", fast, methods=["POST"])
    fast_path = FastPath(app, {("POST", "/v1/fast"): fast})

    def counted(status: int) -> float:
        labels = {"route": "/v1/fast", "method": "POST", "status": str(status)}
        return REGISTRY.get_sample_value("piepowder_http_requests_total", labels) or 0.0

    responses = []
    for served in (app, fast_path):
        transport = httpx.ASGITransport(served, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post(f"/v1/fast?outcome={outcome}", content=b"a body")
            before = counted(response.status_code)
            again = await client.post(f"/v1/fast?outcome={outcome}", content=b"a body")
            assert counted(response.status_code) == before + 1
            assert (await client.get("/v1/fast")).status_code == 405
            assert (await client.get("/healthz")).status_code == 200
            responses.append((again.status_code, sorted(again.headers.items()), again.content))
    assert responses[0] == responses[1]


async def test_every_get_route_accepts_head(client: httpx.AsyncClient) -> None:
    for path, status in (("/healthz", 200), ("/v1/guarded", 401), ("/v1/busy", 429), ("/v1/keyed", 405)):
        assert (await client.head(path)).status_code == status
    assert (await client.put("/v1/busy")).headers["allow"] == "GET, HEAD"
    assert (await client.head("/v1/keyed")).headers["allow"] == "POST"
