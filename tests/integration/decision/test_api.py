"""The review API on PostgreSQL: responses and problems, and never a 500."""

from typing import Any

import httpx
import pytest

from services.decision.domain.leases import LeaseLimits
from services.decision.handlers.leases import LeaseCases
from shared.contracts import ids
from shared.runtime.errors import Transient
from tests.support.decision.cases import encoded
from tests.support.decision.domain import on_control, policy_set
from tests.support.decision.rest import REVIEWER, api_client
from tests.support.decision.service import REGION, Service


def pointers(response: httpx.Response) -> list[str]:
    return [error["pointer"] for error in response.json()["errors"]]


async def test_a_reviewer_claims_extends_decides_and_may_repeat_the_decision(service: Service) -> None:
    await service.open(encoded(REGION, "a"), encoded(REGION, "b", priority=9))
    async with api_client(service) as client:
        claim = await client.post("/v1/claims", json=REVIEWER)
        case, lease = claim.json()["case"], claim.json()["lease"]
        assert (claim.status_code, case["subject_id"], case["item"]["title"]) == (201, "a", "Uhr a")
        assert case["lease"] == {**REVIEWER, "until": lease["until"]}
        path = f"/v1/cases/{case['case_id']}"
        assert (await client.post(f"{path}/heartbeat", json={"lease_token": lease["token"]})).status_code == 200
        body = {"lease_token": lease["token"], "action": "reject", "reasons": ["FAKE"], "note": "an ö\n"}
        made = await client.post(f"{path}/decisions", json=body)
        again = await client.post(f"{path}/decisions", json=body)
        assert (made.status_code, again.status_code) == (201, 200)
        assert made.json() == again.json()
        service.reasons.apply(on_control(policy_set(2, lamps=["LAMP"])))
        service.reasons.caught_up()
        assert (await client.post(f"{path}/decisions", json=body)).json() == made.json(), "another set is in force"
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


async def test_a_claim_without_a_waiting_case_is_204(service: Service) -> None:
    async with api_client(service) as client:
        response = await client.post("/v1/claims", json=REVIEWER)
    assert (response.status_code, response.content) == (204, b"")


async def test_a_claim_above_the_limit_is_429_with_retry_after(service: Service) -> None:
    await service.open(encoded(REGION, "a"), encoded(REGION, "b"))
    limited = LeaseCases(service.store.leases, region=REGION, wake=lambda: None, limits=LeaseLimits(client=1))
    async with api_client(service._replace(leases=limited)) as client:
        assert (await client.post("/v1/claims", json=REVIEWER)).status_code == 201
        refused = await client.post("/v1/claims", json={**REVIEWER, "reviewer": "r-2"})
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:piepowder:problem:too-many-leases")
    assert refused.headers["retry-after"] == "30"
    assert "'console' holds 1 open leases" in refused.json()["detail"]


@pytest.mark.parametrize("field", ["reviewer", "team"])
@pytest.mark.parametrize("name", [" ", "r-1 ", "Zoe\u0308", "r\u200b"])
async def test_a_name_of_a_claim_with_a_second_spelling_is_422(service: Service, field: str, name: str) -> None:
    async with api_client(service) as client:
        response = await client.post("/v1/claims", json={**REVIEWER, field: name})
    assert (response.status_code, pointers(response)) == (422, [f"/{field}"])


async def test_a_queue_is_listed_in_pages_and_by_state(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}", due_in=n) for n in range(5)))
    async with api_client(service) as client:
        await client.post("/v1/claims", json=REVIEWER)
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


async def test_an_unknown_queue_is_422_and_the_detail_names_the_known_queues(service: Service) -> None:
    await service.open(encoded(REGION))
    async with api_client(service) as client:
        response = await client.post("/v1/claims", json={**REVIEWER, "queues": ["general", "nowhere\0"]})
    assert (response.status_code, pointers(response)) == (422, ["/queues/1"])
    assert "its queues: general" in response.json()["detail"]


async def test_an_unknown_case_or_queue_is_404(service: Service) -> None:
    nowhere = ids.case_id("x", REGION, "item")
    async with api_client(service) as client:
        responses = [
            await client.get(f"/v1/cases/{nowhere}"),
            await client.get("/v1/queues/a%00b/cases"),
            await client.post(f"/v1/cases/{nowhere}/heartbeat", json={"lease_token": 1}),
            await client.post(f"/v1/cases/{nowhere}/release", json={"lease_token": 1}),
            await client.post(f"/v1/cases/{nowhere}/decisions", json={"lease_token": 1, "action": "approve"}),
        ]
    assert [response.status_code for response in responses] == [404] * 5


async def test_scopes_and_regions_are_checked(service: Service) -> None:
    async with api_client(service, "reviews:read") as client:
        assert (await client.get("/v1/queues")).status_code == 200
        assert (await client.post("/v1/claims", json=REVIEWER)).status_code == 403
    async with api_client(service, regions=frozenset({"us"})) as client:
        assert (await client.get("/v1/totals")).json()["type"] == "urn:piepowder:problem:region-not-allowed"
    async with api_client(service) as client:
        unknown = {"Authorization": "", "content-type": "application/json"}
        assert (await client.get("/v1/queues", headers=unknown)).status_code == 401
        assert (await client.post("/v1/claims", content=b"{", headers=unknown)).status_code == 401


async def test_a_call_while_the_database_is_down_is_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise Transient("PostgreSQL does not answer.")

    monkeypatch.setattr(service.database, "query", away)
    monkeypatch.setattr(service.database, "transaction", away)
    async with api_client(service) as client:
        responses = [
            await client.get("/v1/totals"),
            await client.post(f"/v1/cases/{ids.case_id('x', REGION, 'item')}/heartbeat", json={"lease_token": 1}),
        ]
    assert [(response.status_code, response.headers["retry-after"]) for response in responses] == [(503, "2")] * 2


async def test_a_named_reviewer_must_be_the_holder_of_the_lease(service: Service) -> None:
    await service.open(encoded(REGION, "a"))
    async with api_client(service) as client:
        claim = (await client.post("/v1/claims", json=REVIEWER)).json()
        path, token = f"/v1/cases/{claim['case']['case_id']}", claim["lease"]["token"]
        for name, status in (("r-2", 409), ("r-1", 200)):
            response = await client.post(f"{path}/heartbeat", json={"lease_token": token, "reviewer": name})
            assert response.status_code == status, name
        body = {"lease_token": token, "action": "approve"}
        wrong = await client.post(f"{path}/decisions", json={**body, "reviewer": "r-2"})
        assert (wrong.status_code, wrong.json()["type"]) == (409, "urn:piepowder:problem:wrong-lease-token")
        guess = await client.post(f"{path}/decisions", json={**body, "lease_token": token + 1})
        assert f" {token}" not in guess.json()["detail"].replace(str(token + 1), "")
        assert (await client.post(f"{path}/decisions", json={**body, "reviewer": "r-1"})).status_code == 201


async def test_an_unknown_reason_is_422_and_the_valid_ones_are_listed(service: Service) -> None:
    await service.open(encoded(REGION, "a"))
    async with api_client(service) as client:
        listed = (await client.get("/v1/reasons")).json()
        assert listed["policy_set"] == "ps-1"
        titles = {reason["code"]: reason["titles"] for reason in listed["reasons"]}
        assert (titles["WEAPONS"], titles["OTHER"]) == (["Policy weapons"], ["Ground of notices: other"])
        claim = (await client.post("/v1/claims", json=REVIEWER)).json()
        path, token = f"/v1/cases/{claim['case']['case_id']}/decisions", claim["lease"]["token"]
        for action in ("reject", "approve"):
            refused = await client.post(path, json={"lease_token": token, "action": action, "reasons": ["FAKE", "Q"]})
            assert (refused.status_code, refused.json()["type"]) == (422, "urn:piepowder:problem:unknown-reason")
            assert pointers(refused) == ["/reasons/1"]
            assert [code for code in titles if code not in refused.json()["detail"]] == []
        body = {"lease_token": token, "action": "reject", "reasons": ["FAKE", "OTHER"]}
        assert (await client.post(path, json=body)).status_code == 201


async def test_without_a_policy_set_a_reason_is_503_with_retry_after(service: Service) -> None:
    await service.open(encoded(REGION, "a"))
    service.reasons.codes = None
    async with api_client(service) as client:
        assert (await client.get("/v1/reasons")).status_code == 503
        claim = (await client.post("/v1/claims", json=REVIEWER)).json()
        path, token = f"/v1/cases/{claim['case']['case_id']}/decisions", claim["lease"]["token"]
        refused = await client.post(path, json={"lease_token": token, "action": "reject", "reasons": ["FAKE"]})
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:piepowder:problem:no-policy-set")
        assert refused.headers["retry-after"] == "5"
        assert (await client.post(path, json={"lease_token": token, "action": "approve"})).status_code == 201


async def test_a_skipped_case_is_not_claimed_again_and_a_claim_may_name_its_cases(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}", due_in=n) for n in range(3)))
    async with api_client(service) as client:
        waiting = (await client.get("/v1/queues/general/cases")).json()["cases"]
        first, second, third = (case["case_id"] for case in waiting)

        async def claimed(**how: Any) -> str | None:
            response = await client.post("/v1/claims", json={**REVIEWER, **how})
            if response.status_code == 204:
                return None
            assert response.status_code == 201, response.text
            claim = response.json()
            case_id: str = claim["case"]["case_id"]
            await client.post(f"/v1/cases/{case_id}/release", json={"lease_token": claim["lease"]["token"]})
            return case_id

        assert await claimed() == first
        assert await claimed(skipped_cases=[first, second]) == third
        assert await claimed(skipped_cases=[first, second, third]) is None
        assert await claimed(only_cases=[third, second]) == second
        assert await claimed(only_cases=[third, second], skipped_cases=[second]) == third
        for wrong in (["x"], [first] * 1001, [None]):
            assert (await client.post("/v1/claims", json={**REVIEWER, "only_cases": wrong})).status_code == 422


async def test_the_decisions_on_a_subject_are_listed_with_their_reviewers(service: Service) -> None:
    subject = {"platform": "shop", "kind": "product", "subject_id": "a/b ä"}
    await service.open(*(encoded(REGION, "a/b ä", version=n, verdict="approve", due_in=n) for n in range(3)))
    async with api_client(service) as client:
        first = (await client.get("/v1/decisions", params={**subject, "limit": 2})).json()
        rest = (await client.get("/v1/decisions", params={**subject, "cursor": first["next"]})).json()
        assert [case["version"] for case in (*first["cases"], *rest["cases"])] == [2, 1, 0]
        assert [made["automated"] for case in first["cases"] for made in case["decisions"]] == [True, True]
        assert rest["next"] is None
        assert (await client.get("/v1/decisions", params={**subject, "kind": "seller"})).json()["cases"] == []
        for wrong in ({"subject_id": "a\0"}, {"limit": 51}, {"cursor": "x"}, {"platform": ""}):
            response = await client.get("/v1/decisions", params={**subject, **wrong})
            assert response.status_code == 422, wrong
