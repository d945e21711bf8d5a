"""The main job through every service, as users see it: post, status, review, decision, timeline, metrics."""

import json
from typing import Any

import httpx
import pytest

from shared.contracts.events import ITEM_WITHDRAWN
from tests.e2e.conftest import Cell
from tests.e2e.steps import item, until, until_status

pytestmark = pytest.mark.timeout(120)


def test_an_item_is_decided_by_policy_in_every_region_that_owns_its_markets(cell: Cell) -> None:
    answer = cell.client.post(f"{cell.url('intake')}/v1/items", json=item(id="both/1", markets=["DE", "US"]))
    assert answer.status_code == 202, answer.text
    posted = answer.json()
    assert set(posted["regions"]) == {cell.eu, cell.us}
    for region in (cell.eu, cell.us):
        found = until_status(cell, posted["item_id"], region, "approved")
        assert found["decision"]["automated"] is True
        assert found["decision"]["policy_set"].startswith("ps-")
        timeline = until(
            lambda region=region: cell.client.get(  # type: ignore[misc]  # a lambda's default has no type
                f"{cell.url('audit', region)}/v1/subjects/web/product/both/1/timeline"
            ),
            lambda body: len(body["events"]) == 3,
        )
        assert [event["type"].split(".", 1)[1] for event in timeline["events"]] == [
            "item.submitted.v1",
            "case.opened.v1",
            "decision.made.v1",
        ]
        first = timeline["events"][0]
        assert timeline["events"][1]["causation_id"] == first["id"]
        assert timeline["events"][2]["causation_id"] == timeline["events"][1]["id"]
        assert {event["correlation_id"] for event in timeline["events"]} == {first["id"]}


def test_the_same_post_again_is_the_same_item_and_no_second_case(cell: Cell) -> None:
    body = item(id="again")
    first, second = (cell.client.post(f"{cell.url('intake')}/v1/items", json=body) for _ in range(2))
    assert first.json() == second.json()
    until_status(cell, first.json()["item_id"], cell.eu, "approved")
    timeline = until(
        lambda: cell.client.get(f"{cell.url('audit', cell.eu)}/v1/subjects/web/product/again/timeline"),
        lambda body: len(body.get("events", ())) >= 3,
    )
    assert len({event["id"] for event in timeline["events"]}) == len(timeline["events"])


def test_an_item_that_a_policy_sends_to_people_is_claimed_and_decided_once(cell: Cell) -> None:
    posted = review_item(cell, "ring-1", 1)
    waiting = until_status(cell, posted["item_id"], cell.eu, "in_review")
    decision = cell.url("decision", cell.eu)
    claim = cell.client.post(
        f"{decision}/v1/claims", json={"reviewer": "r-7", "team": "t-2", "queues": [waiting["queue"]]}
    )
    assert claim.status_code == 201, claim.text
    case, lease = claim.json()["case"], claim.json()["lease"]
    assert case["item_id"] == posted["item_id"]
    assert case["trace"]["matched"]
    body = {"lease_token": lease["token"], "action": "reject", "reasons": ["COUNTERFEIT"], "note": "no such maker"}
    made, repeated = (cell.client.post(f"{decision}/v1/cases/{case['case_id']}/decisions", json=body) for _ in range(2))
    assert (made.status_code, repeated.status_code) == (201, 200)
    assert made.json() == repeated.json()
    other = cell.client.post(f"{decision}/v1/cases/{case['case_id']}/decisions", json={**body, "action": "approve"})
    assert other.status_code == 409
    found = until_status(cell, posted["item_id"], cell.eu, "rejected")
    assert found["decision"]["automated"] is False
    assert found["decision"]["team"] == "t-2"


def test_a_newer_version_supersedes_a_waiting_one_and_an_older_one_changes_nothing(cell: Cell) -> None:
    first = review_item(cell, "ring-2", 5)
    until_status(cell, first["item_id"], cell.eu, "in_review")
    second = review_item(cell, "ring-2", 6)
    until_status(cell, second["item_id"], cell.eu, "in_review")
    until_status(cell, first["item_id"], cell.eu, "superseded")
    late = review_item(cell, "ring-2", 4)
    until_status(cell, late["item_id"], cell.eu, "superseded")
    until_status(cell, second["item_id"], cell.eu, "in_review")


def test_an_item_is_withdrawn_before_its_decision_and_stays_so_until_a_newer_version(cell: Cell) -> None:
    posted = review_item(cell, "ring-3", 1)
    waiting = until_status(cell, posted["item_id"], cell.eu, "in_review")
    url = f"{cell.url('intake')}/v1/items/{posted['item_id']}"
    first, again = (cell.client.delete(url, params={"reason": reason}) for reason in ("sold", "sold again"))
    assert (first.status_code, again.status_code) == (202, 202), first.text
    assert first.json() == again.json()
    found = until_status(cell, posted["item_id"], cell.eu, "withdrawn")
    assert found["reason"] == "sold"
    case = cell.client.get(f"{cell.url('decision', cell.eu)}/v1/cases/{waiting['case_id']}").json()
    assert (case["state"], case["decisions"]) == ("withdrawn", [])
    timeline = until(
        lambda: cell.client.get(f"{cell.url('audit', cell.eu)}/v1/subjects/web/product/ring-3/timeline"),
        lambda body: len(body.get("events", ())) == 7,
    )
    kinds = [event["type"].removeprefix("piepowder.") for event in timeline["events"]]
    assert sorted(kinds) == [
        "case.closed.v1",
        "case.opened.v1",
        *["case.withdrawn.v1"] * 2,
        "item.submitted.v1",
        *["item.withdrawn.v1"] * 2,
    ]
    reasons = [(e["data"]["reason"], e["conflict"]) for e in timeline["events"] if e["type"] == ITEM_WITHDRAWN]
    assert sorted(reasons) == [("sold", True), ("sold again", True)], "the log keeps what was said second"
    review_item(cell, "ring-3", 1)
    newer = review_item(cell, "ring-3", 2)
    until_status(cell, newer["item_id"], cell.eu, "in_review")
    until_status(cell, posted["item_id"], cell.eu, "withdrawn")


def test_one_bad_line_among_thousands_is_named_and_the_rest_accepted(cell: Cell) -> None:
    lines = [json.dumps(item(id=f"bulk-{n}")) for n in range(3000)]
    lines[1234] = lines[1234].replace('"markets": ["DE"]', '"markets": ["XX"]')
    lines[2000] = lines[2000][:40]
    answer = cell.client.post(
        f"{cell.url('intake')}/v1/items/batch",
        content="\n".join(lines).encode(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 200, answer.text
    verdicts = [json.loads(line) for line in answer.text.splitlines()]
    refused = [verdict for verdict in verdicts if verdict["status"] != 202]
    assert len(verdicts) == 3000
    assert [verdict["line"] for verdict in refused] == [1235, 2001]
    assert refused[0]["errors"][0]["pointer"] == "/markets/0"


def test_every_service_rejects_a_call_without_a_key(cell: Cell) -> None:
    routes = [
        ("POST", f"{cell.url('intake')}/v1/items"),
        ("GET", f"{cell.url('intake')}/v1/totals"),
        ("GET", f"{cell.url('router')}/v1/control"),
        ("POST", f"{cell.url('router')}/v1/control"),
        ("POST", f"{cell.url('decision', cell.eu)}/v1/claims"),
        ("GET", f"{cell.url('decision', cell.eu)}/v1/queues"),
        ("GET", f"{cell.url('audit', cell.eu)}/v1/totals"),
        ("GET", f"{cell.url('audit', cell.eu)}/v1/subjects/web/product/again/timeline"),
    ]
    called = {url.partition("/v1")[0] for _, url in routes}
    for service in cell.system.services.values():
        assert service.url in called or service.spec.region == cell.us or service.name == "intake-projection"
    for method, url in routes:
        answer = httpx.request(method, url, json={} if method == "POST" else None)
        assert answer.status_code == 401, url
        assert answer.headers["content-type"] == "application/problem+json"


def test_every_service_is_ready_and_has_metrics(cell: Cell) -> None:
    for service in cell.system.services.values():
        assert cell.client.get(f"{service.url}/healthz").json()["status"] == "alive"
        assert cell.client.get(f"{service.url}/readyz").json()["ready"] is True
        assert "piepowder_ready" in cell.client.get(f"{service.url}/metrics").text
        description = cell.client.get(f"{service.url}/openapi.json").json()
        assert any(path.startswith("/v1/") for path in description["paths"])


def review_item(cell: Cell, subject: str, version: int) -> Any:
    """Post an item that the sample's policies send to people."""
    body = item(
        id=subject,
        version=version,
        title="Replica Rolex watch 1:1 copy",
        brand="Rolex",
        price={"amount_minor": 4900, "currency": "EUR"},
    )
    answer = cell.client.post(f"{cell.url('intake')}/v1/items", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()
