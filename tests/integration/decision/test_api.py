"""The review API on real PostgreSQL: answers, refusals, and nothing that is a 500."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.decision import api
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.http.http import create_app
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from tests.integration.decision.test_cases import REGION, Service, running
from tests.support.decision_cases import encoded

WHO = {"reviewer": "r-1", "team": "in_house"}


def key(*scopes: str, regions: frozenset[str] = frozenset({"*"})) -> tuple[str, ClientEntry]:
    secret = ids.new_api_key("test")
    return secret, ClientEntry("console", ids.hash_api_key(secret), frozenset(scopes), regions)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with running(database_url) as parts:
        yield parts


def calls(service: Service | None, *scopes: str, regions: frozenset[str] = frozenset({"*"})) -> httpx.AsyncClient:
    readiness = Readiness("decision")
    readiness.set("database", "not connected yet")
    app = create_app("decision", "", readiness)
    desk = api.Desk(REGION, readiness)
    secret, client = key(*(scopes or (api.READ, api.WRITE)), regions=regions)
    api.add_routes(app, desk, Authenticator([client]))
    if service is not None:
        desk.open(service.store, service.reviews)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://decision", headers={"Authorization": f"Bearer {secret}"}
    )


def pointers(answer: httpx.Response) -> list[str]:
    return [error["pointer"] for error in answer.json()["errors"]]


async def test_a_reviewer_claims_holds_decides_and_may_repeat_it(service: Service) -> None:
    await service.open(encoded(REGION, "a"), encoded(REGION, "b", priority=9))
    async with calls(service) as client:
        claim = await client.post("/v1/claims", json=WHO)
        case, lease = claim.json()["case"], claim.json()["lease"]
        assert (claim.status_code, case["subject_id"], case["item"]["title"]) == (201, "a", "Uhr a")
        assert case["lease"] == {**WHO, "until": lease["until"]}
        path = f"/v1/cases/{case['case_id']}"
        assert (await client.post(f"{path}/heartbeat", json={"lease_token": lease["token"]})).status_code == 200
        body = {"lease_token": lease["token"], "action": "reject", "reasons": ["FAKE"], "note": "an ö\n"}
        made = await client.post(f"{path}/decisions", json=body)
        again = await client.post(f"{path}/decisions", json=body)
        assert (made.status_code, again.status_code) == (201, 200)
        assert made.json() == again.json()
        other = await client.post(f"{path}/decisions", json={**body, "reasons": ["OTHER"]})
        assert (other.status_code, other.json()["type"]) == (409, "urn:piepowder:problem:already-decided")
        shown = (await client.get(path)).json()
        assert (shown["state"], shown["lease"], shown["decisions"]) == ("decided", None, [made.json()])
        totals = (await client.get("/v1/totals")).json()
        assert totals["cases"] == {
            "waiting": 1,
            "decided": 1,
            **dict.fromkeys(("claimed", "superseded", "withdrawn", "closed"), 0),
        }
        assert totals["decisions"]["people"] == {"approve": 0, "reject": 1}


async def test_nothing_to_do_is_204(service: Service) -> None:
    async with calls(service) as client:
        answer = await client.post("/v1/claims", json=WHO)
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_queue_is_listed_by_pages_and_by_state(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}", due_in=n) for n in range(5)))
    async with calls(service) as client:
        await client.post("/v1/claims", json=WHO)
        path, seen = "/v1/queues/general/cases?limit=2", []
        page = (await client.get(path)).json()
        while True:
            seen += [case["subject_id"] for case in page["cases"]]
            if page["next"] is None:
                break
            page = (await client.get(path, params={"limit": 2, "cursor": page["next"]})).json()
        assert seen == [f"s{n}" for n in range(5)]
        claimed = (await client.get("/v1/queues/general/cases?state=claimed")).json()
        assert [case["subject_id"] for case in claimed["cases"]] == ["s0"]
        [queue] = (await client.get("/v1/queues")).json()["queues"]
        assert (queue["waiting"], queue["claimed"], queue["overdue"]) == (4, 1, 5)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"reviewer": "", "team": "x"}, ["/reviewer"]),
        ({"reviewer": "a\0", "team": "x" * 101}, ["/reviewer", "/team"]),
        ({"team": "x"}, ["/reviewer"]),
        ({**WHO, "lease_seconds": 4}, ["/lease_seconds"]),
        ({**WHO, "lease_seconds": "60"}, ["/lease_seconds"]),
        ({**WHO, "leaseSeconds": 60}, ["/leaseSeconds"]),
        ([], [""]),
    ],
)
async def test_a_claim_that_does_not_fit_says_where(body: Any, where: list[str]) -> None:
    async with calls(None) as client:
        answer = await client.post("/v1/claims", json=body)
    assert (answer.status_code, pointers(answer)) == (422, where)


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
async def test_a_decision_that_does_not_fit_says_where(body: Any, where: list[str]) -> None:
    async with calls(None) as client:
        path = f"/v1/cases/{ids.case_id('x', REGION, 'item')}/decisions"
        answer = await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, pointers(answer)) == (422, where)


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
async def test_a_body_that_is_no_json_or_too_large_is_refused(content: bytes, status: int) -> None:
    async with calls(None) as client:
        answer = await client.post("/v1/claims", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_queue_that_is_not_there_is_named_with_those_that_are(service: Service) -> None:
    await service.open(encoded(REGION))
    async with calls(service) as client:
        answer = await client.post("/v1/claims", json={**WHO, "queues": ["general", "nowhere\0"]})
    assert (answer.status_code, pointers(answer)) == (422, ["/queues/1"])
    assert "it has general" in answer.json()["detail"]


async def test_what_is_not_there_is_404(service: Service) -> None:
    nowhere = ids.case_id("x", REGION, "item")
    async with calls(service) as client:
        answers = [
            await client.get(f"/v1/cases/{nowhere}"),
            await client.get("/v1/queues/a%00b/cases"),
            await client.post(f"/v1/cases/{nowhere}/heartbeat", json={"lease_token": 1}),
            await client.post(f"/v1/cases/{nowhere}/release", json={"lease_token": 1}),
            await client.post(f"/v1/cases/{nowhere}/decisions", json={"lease_token": 1, "action": "approve"}),
        ]
    assert [answer.status_code for answer in answers] == [404] * 5


@pytest.mark.parametrize("cursor", ["x", "%00", "NQ==", "x" * 501, "OTk5OTk5OTk5IHggeQ=="])
async def test_a_cursor_of_another_list_is_refused(cursor: str) -> None:
    async with calls(None) as client:
        answer = await client.get(f"/v1/queues/general/cases?cursor={cursor}")
    assert (answer.status_code, pointers(answer)) == (422, ["/query/cursor"])


async def test_scopes_and_regions_are_checked(service: Service) -> None:
    async with calls(service, api.READ) as client:
        assert (await client.get("/v1/queues")).status_code == 200
        assert (await client.post("/v1/claims", json=WHO)).status_code == 403
    async with calls(service, regions=frozenset({"us"})) as client:
        assert (await client.get("/v1/totals")).json()["type"] == "urn:piepowder:problem:region-not-allowed"
    async with calls(service) as client:
        unknown = {"Authorization": "", "content-type": "application/json"}
        assert (await client.get("/v1/queues", headers=unknown)).status_code == 401
        assert (await client.post("/v1/claims", content=b"{", headers=unknown)).status_code == 401


async def test_before_the_database_answers_it_is_503_and_says_so() -> None:
    async with calls(None) as client:
        for answer in (await client.get("/v1/queues"), await client.post("/v1/claims", json=WHO)):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert "database" in answer.json()["detail"]


async def test_when_the_database_goes_away_it_is_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise Transient("PostgreSQL does not answer.")

    monkeypatch.setattr(service.database, "query", away)
    monkeypatch.setattr(service.database, "transaction", away)
    async with calls(service) as client:
        answers = [
            await client.get("/v1/totals"),
            await client.post(f"/v1/cases/{ids.case_id('x', REGION, 'item')}/heartbeat", json={"lease_token": 1}),
        ]
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "2")] * 2


async def test_every_route_is_described_with_an_example_and_its_errors() -> None:
    async with calls(None) as client:
        document = (await client.get("/openapi.json")).json()
    described = [
        route
        for path, operations in document["paths"].items()
        if path.startswith("/v1/")
        for route in operations.values()
    ]
    assert len(described) == 8
    for route in described:
        assert {"401", "403", "422", "503"} <= route["responses"].keys()
        [good] = [r for status, r in route["responses"].items() if status in ("200", "201")][-1:]
        assert good["content"]["application/json"]["example"]
        name = good["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][name]["properties"]


async def test_a_reviewer_who_is_named_must_be_the_one_who_claimed(service: Service) -> None:
    await service.open(encoded(REGION, "a"))
    async with calls(service) as client:
        claim = (await client.post("/v1/claims", json=WHO)).json()
        path, token = f"/v1/cases/{claim['case']['case_id']}", claim["lease"]["token"]
        for name, status in (("r-2", 409), ("r-1", 200)):
            answer = await client.post(f"{path}/heartbeat", json={"lease_token": token, "reviewer": name})
            assert answer.status_code == status, name
        body = {"lease_token": token, "action": "approve"}
        wrong = await client.post(f"{path}/decisions", json={**body, "reviewer": "r-2"})
        assert (wrong.status_code, wrong.json()["type"]) == (409, "urn:piepowder:problem:wrong-lease-token")
        guess = await client.post(f"{path}/decisions", json={**body, "lease_token": token + 1})
        assert f" {token}" not in guess.json()["detail"].replace(str(token + 1), "")
        assert (await client.post(f"{path}/decisions", json={**body, "reviewer": "r-1"})).status_code == 201
