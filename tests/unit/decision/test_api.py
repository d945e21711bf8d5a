"""The review API without a database: invalid requests, problems and the OpenAPI document."""

import json
from typing import Any

import httpx
import pytest

from services.decision.domain import rejections
from shared.contracts import ids
from shared.validation.faults import RejectionType
from tests.support.decision.domain import received_case
from tests.support.decision.memory import MemoryService
from tests.support.decision.rest import REVIEWER, api_client

REGION = "eu"


def pointers(response: httpx.Response) -> list[str]:
    return [error["pointer"] for error in response.json()["errors"]]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"reviewer": "", "team": "x"}, ["/reviewer"]),
        ({"reviewer": "a\0", "team": "x" * 101}, ["/reviewer", "/team"]),
        ({"team": "x"}, ["/reviewer"]),
        ({**REVIEWER, "lease_seconds": 4}, ["/lease_seconds"]),
        ({**REVIEWER, "lease_seconds": "60"}, ["/lease_seconds"]),
        ({**REVIEWER, "leaseSeconds": 60}, ["/leaseSeconds"]),
        ([], [""]),
    ],
)
async def test_an_invalid_claim_is_422_with_pointers(body: Any, where: list[str]) -> None:
    async with api_client(MemoryService()) as client:
        response = await client.post("/v1/claims", json=body)
    assert (response.status_code, pointers(response)) == (422, where)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"lease_token": 1, "action": "reject"}, ["/reasons"]),
        ({"lease_token": 1, "action": "ban"}, ["/action"]),
        ({"lease_token": 0, "action": "approve"}, ["/lease_token"]),
        ({"lease_token": 2**63, "action": "approve"}, ["/lease_token"]),
        ({"lease_token": 1, "action": "reject", "reasons": ["no such form"]}, ["/reasons/0"]),
        ({"lease_token": 1, "action": "reject", "reasons": ["A"] * 21}, ["/reasons"]),
        ({"lease_token": 1, "action": "approve", "note": "x" * 5001}, ["/note"]),
        ({"lease_token": 1, "action": "approve", "note": "a\0b"}, ["/note"]),
    ],
)
async def test_an_invalid_decision_is_422_with_pointers(body: Any, where: list[str]) -> None:
    async with api_client(MemoryService()) as client:
        path = f"/v1/cases/{ids.case_id('x', REGION, 'item')}/decisions"
        response = await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (response.status_code, pointers(response)) == (422, where)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"reviewer": ', 400),
        (b"\xc3(", 400),
        (b"[" * 100_000, 400),
        (b'{"reviewer": "\\ud800"}', 400),
        (b'{"reviewer": "a", "reviewer": "b"}', 422),
        (b"x" * 200_000, 413),
    ],
)
async def test_a_body_that_is_invalid_json_or_too_large_is_rejected(content: bytes, status: int) -> None:
    async with api_client(MemoryService()) as client:
        response = await client.post("/v1/claims", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("cursor", ["x", "%00", "NQ==", "x" * 501, "OTk5OTk5OTk5IHggeQ=="])
async def test_an_invalid_cursor_is_422(cursor: str) -> None:
    async with api_client(MemoryService()) as client:
        response = await client.get(f"/v1/queues/general/cases?cursor={cursor}")
    assert (response.status_code, pointers(response)) == (422, ["/query/cursor"])


async def test_a_call_before_the_database_is_connected_is_503() -> None:
    async with api_client(None) as client:
        for response in (await client.get("/v1/queues"), await client.post("/v1/claims", json=REVIEWER)):
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")
            assert "database" in response.json()["detail"]


async def test_every_operation_is_documented_with_an_example_and_its_problems() -> None:
    async with api_client(None) as client:
        document = (await client.get("/openapi.json")).json()
    described = [
        route
        for path, operations in document["paths"].items()
        if path.startswith("/v1/")
        for route in operations.values()
    ]
    assert len(described) == 11
    for route in described:
        assert {"401", "403", "422", "503"} <= route["responses"].keys()
        [success] = [r for status, r in route["responses"].items() if status in ("200", "201")][-1:]
        assert success["content"]["application/json"]["example"]
        name = success["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][name]["properties"]


@pytest.mark.parametrize("header", ['"a"', ' "a" ', '"a"\t'])
async def test_an_idempotency_key_may_have_whitespace_around_it(header: str) -> None:
    service = MemoryService()
    await service.open(received_case())
    async with api_client(service) as client:
        response = await client.post("/v1/claims", json=REVIEWER, headers={"Idempotency-Key": header})
    assert response.status_code == 201


@pytest.mark.parametrize("header", ["", "a", '"', '""', '"a b"', '"a", "b"'])
async def test_an_invalid_idempotency_key_is_422_with_its_pointer(header: str) -> None:
    async with api_client(MemoryService()) as client:
        response = await client.post("/v1/claims", json=REVIEWER, headers={"Idempotency-Key": header})
    assert (response.status_code, pointers(response)) == (422, ["/header/idempotency-key"])


async def test_every_reason_for_a_rejected_command_is_a_documented_problem() -> None:
    reasons = {kind.slug for kind in vars(rejections).values() if isinstance(kind, RejectionType)}
    assert len(reasons) >= 15
    async with api_client(None) as client:
        document = (await client.get("/openapi.json")).text
    assert {reason for reason in reasons if f'"urn:piepowder:problem:{reason}"' not in document} == set()
