"""Isolation of clients: every route of intake, called by a client of another platform, and the routes of notices and
appeals by another client of the same platform, on real Kafka and PostgreSQL."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shared.auth.clients import OF_PLATFORMS
from shared.contracts import ids
from tests.support import intake_complaints
from tests.support.intake_process import NDJSON, Intake, post, rejected_item, running_intake, wait_for_complaint
from tests.support.servers import Servers

pytestmark = pytest.mark.timeout(120)

EMPTY: dict[str, dict[str, Any]] = {"/v1/items": {"items": [], "next": None}}


@pytest.fixture(scope="module")
async def intake(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Intake]:
    async with running_intake(servers, f"wrong{os.getpid()}", tmp_path_factory.mktemp("wrong")) as running:
        yield running


@pytest.fixture(scope="module")
async def objects(intake: Intake) -> dict[str, str]:
    """The path parameters of an item of the platform `shop`, its notice and its appeal."""
    item_id = await rejected_item(intake, "w1")
    body = intake_complaints.notice(id="w1", markets=["DE"])
    notice_id = (await post(intake, "notices", body)).json()["notice_id"]
    appeal_id = (await post(intake, "appeals", intake_complaints.appeal(item_id=item_id))).json()["appeal_id"]
    await wait_for_complaint(intake, "notices", notice_id, intake.north, "submitted")
    await wait_for_complaint(intake, "appeals", appeal_id, intake.north, "submitted")
    return {
        "item_id": item_id,
        "notice_id": notice_id,
        "appeal_id": appeal_id,
        "platform": "shop",
        "kind": "product",
        "id": "w1",
        "name": "shop",
        "request_id": item_id,
        "key_id": "0" * 12,
    }


def valid_body(path: str, objects: dict[str, str], intake: Intake) -> tuple[str, bytes]:
    """The content type and a valid body for a route."""
    if path == "/v1/items/batch":
        return NDJSON, json.dumps(intake.post(id="w1", version=7)).encode()
    bodies: dict[str, Any] = {
        "/v1/items": intake.post(id="w1", version=7),
        "/v1/notices": intake_complaints.notice(id="w1"),
        "/v1/appeals": intake_complaints.appeal(item_id=objects["item_id"], reference="not mine"),
    }
    return "application/json", json.dumps(bodies.get(path, {})).encode()


async def call(intake: Intake, method: str, path: str, objects: dict[str, str], key: str) -> httpx.Response:
    kind, body = valid_body(path, objects, intake)
    headers = {"Authorization": f"Bearer {intake.keys[key]}"}
    if method in ("POST", "PATCH", "PUT"):
        headers["Content-Type"] = kind
    content = body if method in ("POST", "PATCH", "PUT") else None
    return await intake.http.request(method, path.format(**objects), headers=headers, content=content)


async def test_a_client_of_another_platform_reads_and_changes_nothing(intake: Intake, objects: dict[str, str]) -> None:
    document = (await intake.http.get("/openapi.json")).json()
    before = (await intake.get(f"/v1/subjects/shop/product/{objects['id']}")).json()["versions"]
    asked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/v1/"):
                continue
            asked += 1
            answer = await call(intake, method.upper(), path, objects, "fair")
            where = method, path, answer.text
            if method == "get" and path in EMPTY:
                assert {name: answer.json()[name] for name in EMPTY[path]} == EMPTY[path], where
                continue
            if path == "/v1/items/batch":
                assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [403], where
                continue
            [requirement] = operation["security"]
            [[scope]] = requirement.values()
            assert answer.status_code in ((403, 404) if scope in OF_PLATFORMS else (403,)), where
            assert answer.json().keys() <= {"type", "title", "status", "detail", "errors"}, where
            # a response may repeat the subject of the request
            text = answer.text if "{kind}" not in path else answer.text.replace("shop:product:w1", "")
            assert not any(of in text for of in ("shop:product:w1", "FAKE", "r-1", "complaint-1", "report-1")), where
    assert asked >= 25
    after = (await intake.get(f"/v1/subjects/shop/product/{objects['id']}")).json()["versions"]
    assert [(item["item_id"], item["regions"]) for item in after] == [(i["item_id"], i["regions"]) for i in before]


async def test_a_long_poll_for_an_item_of_another_platform_behaves_as_for_an_unknown_item(
    intake: Intake, objects: dict[str, str]
) -> None:
    assert (await intake.status(objects["item_id"], intake.north))["status"] == "rejected"
    for item_id in (objects["item_id"], ids.derive("nobody")):
        begun = asyncio.get_running_loop().time()
        headers = {"Authorization": f"Bearer {intake.keys['fair']}", "Prefer": "wait=1"}
        answer = await intake.http.get(f"/v1/items/{item_id}", headers=headers)
        assert answer.status_code == 404
        assert asyncio.get_running_loop().time() - begun >= 1


async def test_each_client_can_read_its_own_objects(intake: Intake, objects: dict[str, str]) -> None:
    for path in ("/v1/items/{item_id}", "/v1/subjects/{platform}/{kind}/{id}", "/v1/notices/{notice_id}"):
        assert (await call(intake, "GET", path, objects, "all")).status_code == 200, path
    own = await intake.send(intake.post(platform="fair", id="own"), key="fair")
    assert own.status_code == 202, own.text
    await intake.wait_for_status(own.json()["item_id"], intake.north, "submitted")
    listed = await intake.get("/v1/items", key="fair")
    assert [item["item_id"] for item in listed.json()["items"]] == [own.json()["item_id"]]
    others = await intake.get("/v1/items?platform=shop", key="fair")
    assert (others.status_code, others.json()["errors"][0]["pointer"]) == (403, "/query/platform")


async def test_another_client_of_the_platform_reads_its_items_but_not_notices_of_others(
    intake: Intake, objects: dict[str, str]
) -> None:
    assert (await intake.get(f"/v1/items/{objects['item_id']}", key="northern")).status_code == 200
    for path in ("/v1/notices/{notice_id}", "/v1/appeals/{appeal_id}"):
        answer = await call(intake, "GET", path, objects, "northern")
        assert answer.status_code == 404, answer.text
        assert "shop:product" not in answer.text
