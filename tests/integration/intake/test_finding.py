"""Queries of items by subject, reference and status, and long polling for a decision."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.contracts import topics
from shared.contracts.events import CASE_OPENED, DECISION_MADE
from tests.support.intake_process import Intake, case_of, decision_on, running_intake
from tests.support.servers import Servers

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
async def intake(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Intake]:
    async with running_intake(servers, f"find{os.getpid()}", tmp_path_factory.mktemp("finding")) as running:
        yield running


async def listed(intake: Intake, path: str = "/v1/items", *, key: str = "all", **params: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {intake.keys[key]}"}
    answer = await intake.http.get(path, params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def ids_of(intake: Intake, **params: Any) -> list[str]:
    """All pages of a list."""
    found, more = [], True
    while more:
        page = await listed(intake, **params)
        found += [item["item_id"] for item in page["items"]]
        more = page["next"] is not None
        params["cursor"] = page["next"]
    return found


async def posted(intake: Intake, *, key: str = "all", **change: Any) -> str:
    answer = await intake.send(intake.post(**change), key=key)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["item_id"])


async def decide(intake: Intake, item_id: str, subject: str, *regions: str) -> None:
    for region in regions:
        await intake.publish(topics.cases(region), region, CASE_OPENED, case_of(item_id), subject)
        await intake.publish(topics.decisions(region), region, DECISION_MADE, decision_on(item_id), subject)


async def test_a_subject_lists_all_versions_with_their_decisions_by_region(intake: Intake) -> None:
    versions = [await posted(intake, id="a/b:c ä", version=n) for n in (1, 2, 3)]
    for item_id in versions:
        for region in (intake.north, intake.south):
            await intake.wait_for_status(item_id, region, "submitted")
    await decide(intake, versions[0], "shop:product:a/b:c ä", intake.north)
    await intake.wait_for_status(versions[0], intake.north, "rejected")
    path = "/v1/subjects/shop/product/a/b:c%20%C3%A4"
    answer = await listed(intake, path)
    assert answer["subject"] == "shop:product:a/b:c ä"
    assert [version["version"] for version in answer["versions"]] == [3, 2, 1]
    first = answer["versions"][-1]
    assert first["regions"][intake.north]["decision"]["reasons"] == ["WEAPONS"]
    assert first["regions"][intake.south]["status"] == "submitted"
    assert answer["projection"].keys() == {"lag_seconds"}
    page = await listed(intake, path, limit=2)
    assert [version["version"] for version in page["versions"]] == [3, 2]
    rest = await listed(intake, path, limit=2, cursor=page["next"])
    assert ([version["version"] for version in rest["versions"]], rest["next"]) == ([1], None)
    own = await listed(intake, path, key="northern")
    assert [version["regions"].keys() for version in own["versions"]] == [{intake.north}] * 3
    for nobody in ("shop/product/none", "shop/thing/a", "shop/product/%00"):
        answer_ = await intake.get(f"/v1/subjects/{nobody}")
        assert (answer_.status_code, answer_.json()["type"]) == (404, "urn:piepowder:problem:not-found")


async def test_a_client_finds_only_its_own_items_by_reference(intake: Intake) -> None:
    mine = [await posted(intake, id=f"ref-{n}", reference="import 1", markets=["DE"]) for n in range(5)]
    theirs = await posted(intake, id="ref-5", reference="import 1", markets=["DE"], key="northern")
    for item_id in (*mine, theirs):
        await intake.wait_for_status(item_id, intake.north, "submitted")
    assert await ids_of(intake, reference="import 1", limit=2) == mine[::-1]
    assert await ids_of(intake, reference="import 1", key="northern") == [theirs]
    assert await ids_of(intake, reference="import 2") == []
    [item] = (await listed(intake, reference="import 1", key="northern"))["items"]
    assert (item["reference"], item["subject"]) == ("import 1", "shop:product:ref-5")
    assert "reference" not in (await intake.get(f"/v1/items/{theirs}")).json()


async def test_lists_contain_the_matching_items_newest_first(intake: Intake) -> None:
    items = {
        n: await posted(
            intake,
            platform="fair",
            id=f"list-{n}",
            kind=("product", "seller")[n % 2],
            markets=[("DE", "US")[n // 2 % 2]],
            version=None,
        )
        for n in range(8)
    }
    for n, item_id in items.items():
        await intake.wait_for_status(item_id, (intake.north, intake.south)[n // 2 % 2], "submitted")
    await decide(intake, items[1], "fair:seller:list-1", intake.north)
    await intake.wait_for_status(items[1], intake.north, "rejected")

    async def numbers(**params: Any) -> list[int]:
        known = {item_id: n for n, item_id in items.items()}
        return [known[item_id] for item_id in await ids_of(intake, platform="fair", **params)]

    assert await numbers() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert await numbers(limit=3) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert await numbers(kind="seller") == [7, 5, 3, 1]
    assert await numbers(region=intake.north) == [5, 4, 1, 0]
    assert await numbers(status="rejected") == [1]
    assert await numbers(status="submitted", kind="seller", limit=1) == [7, 5, 3]
    assert await numbers(status="approved") == []
    assert await numbers(key="northern") == [5, 4, 1, 0]
    assert await numbers(key="northern", status="submitted") == [5, 4, 0]
    third = (await intake.get(f"/v1/items/{items[3]}")).json()["received_at"]
    assert await numbers(received_after=third) == [7, 6, 5, 4, 3]
    assert await numbers(received_before=third) == [2, 1, 0]


@pytest.mark.parametrize(
    ("params", "status", "pointer"),
    [
        ({"colour": "red"}, 422, "/query/colour"),
        ({"status": "sold"}, 422, "/query/status"),
        ({"region": "mars"}, 422, "/query/region"),
        ({"region": "south"}, 403, "/query/region"),
        ({"platform": "Shop"}, 422, "/query/platform"),
        ({"kind": "ship"}, 422, "/query/kind"),
        ({"reference": ""}, 422, "/query/reference"),
        ({"reference": "a\x00b"}, 422, "/query/reference"),
        ({"reference": "x" * 201}, 422, "/query/reference"),
        ({"received_after": "yesterday"}, 422, "/query/received_after"),
        ({"received_before": "2026-05-01T00:00:00"}, 422, "/query/received_before"),
        ({"limit": "0"}, 422, "/query/limit"),
        ({"limit": "201"}, 422, "/query/limit"),
        ({"limit": "1e1"}, 422, "/query/limit"),
        ({"limit": ["1", "2"]}, 422, "/query/limit"),
        ({"cursor": "abc"}, 422, "/query/cursor"),
        ({"cursor": "MjAyNi0wNS0wMVQwOTozMDowMA"}, 422, "/query/cursor"),
        ({"cursor": "ä"}, 422, "/query/cursor"),
    ],
)
async def test_an_invalid_query_parameter_is_reported_with_its_pointer(
    intake: Intake, params: dict[str, Any], status: int, pointer: str
) -> None:
    if params.get("region") == "south":
        params = {"region": intake.south}
    headers = {"Authorization": f"Bearer {intake.keys['northern']}"}
    answer = await intake.http.get("/v1/items", params=params, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (status, pointer), answer.text


async def get_with_wait(
    intake: Intake, path: str, seconds: int, *, key: str = "all"
) -> tuple[str, dict[str, Any], float]:
    """GET with a wait; return the Preference-Applied header, the response and the seconds that it took."""
    headers = {"Authorization": f"Bearer {intake.keys[key]}", "Prefer": f"wait={seconds}"}
    loop = asyncio.get_running_loop()
    begun = loop.time()
    answer = await intake.http.get(path, headers=headers)
    return answer.headers.get("Preference-Applied", ""), answer.json(), loop.time() - begun


async def test_a_long_poll_waits_until_the_item_is_decided_in_every_region(intake: Intake) -> None:
    item_id = await posted(intake, id="awaited")
    call = asyncio.create_task(get_with_wait(intake, f"/v1/items/{item_id}", 30))
    for region in (intake.north, intake.south):
        await asyncio.sleep(0.3)
        assert not call.done()
        await decide(intake, item_id, "shop:product:awaited", region)
    applied, answer, seconds = await asyncio.wait_for(call, 20)
    assert (applied, seconds < 20) == ("wait=30", True)
    assert {status["status"] for status in answer["regions"].values()} == {"rejected"}
    applied, _, seconds = await get_with_wait(intake, f"/v1/items/{item_id}", 30)
    assert (applied, seconds < 10) == ("wait=30", True)


async def test_a_long_poll_without_a_decision_returns_the_status_in_time(intake: Intake) -> None:
    item_id = await posted(intake, id="undecided")
    applied, answer, seconds = await get_with_wait(intake, f"/v1/items/{item_id}", 1)
    assert (applied, answer["item_id"], 1 <= seconds < 10) == ("wait=1", item_id, True)
    nobody = "0" * 8 + "-0000-5000-8000-" + "0" * 12
    applied, answer, seconds = await get_with_wait(intake, f"/v1/items/{nobody}", 1)
    assert (answer["status"], 1 <= seconds < 10) == (404, True)


async def test_a_long_poll_waits_only_for_the_regions_of_the_key(intake: Intake) -> None:
    item_id = await posted(intake, id="half")
    await decide(intake, item_id, "shop:product:half", intake.north)
    _, answer, seconds = await get_with_wait(intake, f"/v1/items/{item_id}", 30, key="northern")
    assert (answer["regions"].keys(), seconds < 20) == ({intake.north}, True)


async def test_a_post_can_wait_for_the_decision_and_confirms_the_preference(intake: Intake) -> None:
    headers = {"Authorization": f"Bearer {intake.keys['all']}", "Prefer": "wait=30"}
    body = intake.post(id="at-once", markets=["DE"])
    call = asyncio.create_task(intake.http.post("/v1/items", json=body, headers=headers))
    item_id = await posted(intake, id="at-once", markets=["DE"])
    await decide(intake, item_id, "shop:product:at-once", intake.north)
    answer = await asyncio.wait_for(call, 20)
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=30")
    assert answer.json()["item_id"] == item_id
    assert answer.json()["status"]["regions"][intake.north]["status"] == "rejected"
    plain = await intake.http.post("/v1/items", json=body, headers={**headers, "Prefer": "respond-async"})
    assert (plain.status_code, "status" in plain.json(), "Preference-Applied" in plain.headers) == (202, False, False)
