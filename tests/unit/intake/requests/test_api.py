"""The REST API of business requests with a store in memory: responses, rights, and the state after rejected calls."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.intake.requests import api
from services.intake.requests.domain import lifecycle
from services.intake.requests.router_client import INVALID_CHANGE
from shared.runtime.errors import Transient
from tests.support.intake_requests import POLICY_SET, House, body, told

COMMANDS = ("submit", "withdraw", "approve", "reject", "deploy", "rollback", "review")
UNKNOWN = "6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    house.open()
    async with house.http:
        yield house


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - of others' doing
            await asyncio.sleep(0.001)


def faults(answer: httpx.Response, status: int) -> dict[str, str]:
    """The faults of a refusal, by pointer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {error["pointer"]: error["detail"] for error in answer.json()["errors"]}


def slug(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    kind: str = answer.json()["type"]
    return kind.removeprefix("urn:piepowder:problem:")


async def test_a_draft_is_checked_at_once_and_has_the_differences(house: House) -> None:
    answer = await house.call("POST", "", body(), idempotency_key='"one"')
    assert answer.status_code == 201
    request = answer.json()
    assert answer.headers["location"] == f"/v1/requests/{request['request_id']}"
    assert answer.headers["etag"] == '"1"'
    assert request["subject"] == f"piepowder:request:{request['request_id']}"
    assert (request["state"], request["version"], request["approvals_needed"]) == ("draft", 1, 2)
    assert request["check"]["verdict"] == "fits"
    assert request["check"]["differences"] == [{"what": "policies/a", "how": "added"}]
    shown = (await house.call("GET", f"/{request['request_id']}")).json()
    assert shown["change"]["policy_set"]["policies"][0]["id"] == "a"
    assert [step["kind"] for step in shown["history"]] == ["drafted"]
    assert told(house.store) == [("eu", "drafted")]
    assert house.woken == 1


async def test_an_invalid_change_is_rejected_with_pointers_below_change(house: House) -> None:
    house.router.error = INVALID_CHANGE("no", "/change/policy_set/policies/0/when/0")
    answer = await house.call("POST", "", body(), idempotency_key='"one"')
    assert faults(answer, 422) == {"/change/policy_set/policies/0/when/0": "no"}
    assert (house.store.requests, house.store.published) == ({}, [])


async def test_without_the_router_a_draft_is_stored_unchecked_and_cannot_be_submitted(house: House) -> None:
    house.router.error = Transient("The router at x does not answer.")
    answer = await house.call("POST", "", body(), idempotency_key='"one"')
    assert answer.status_code == 201
    assert answer.json()["check"]["verdict"] == "unchecked"
    assert "does not answer" in answer.json()["check"]["reason"]
    path = f"/{answer.json()['request_id']}"
    away = await house.call("POST", f"{path}/submit")
    assert (away.status_code, away.headers["retry-after"]) == (503, "2")
    assert (await house.call("GET", path)).json()["state"] == "draft"
    assert (await house.call("PATCH", path, {}, if_match='"1"')).json()["version"] == 1, "still unchecked"

    house.router.error = None
    checked = (await house.call("PATCH", path, {}, if_match='"1"')).json()
    assert (checked["version"], checked["check"]["verdict"]) == (2, "fits")
    assert (await house.call("POST", f"{path}/submit")).json()["state"] == "submitted"
    assert told(house.store) == [("eu", "drafted"), ("eu", "changed"), ("eu", "submitted")]


async def test_a_draft_is_checked_again_when_it_is_submitted(house: House) -> None:
    request_id = await house.draft()
    house.router.error = INVALID_CHANGE("no more", "/change/policy_set")
    assert faults(await house.call("POST", f"/{request_id}/submit"), 422) == {"/change/policy_set": "no more"}
    assert (await house.call("GET", f"/{request_id}")).json()["state"] == "draft"


async def test_without_a_change_the_router_is_not_called(house: House) -> None:
    given = body(kind="capacity", change=None, expected_items_per_day=9, expected_date="2026-06-01")
    answer = await house.call("POST", "", given, idempotency_key='"one"')
    assert (answer.json()["check"], answer.json()["change_hash"], house.router.asked) == ({}, "", [])


async def test_a_repeated_call_gets_the_same_response_even_after_the_draft_was_changed(house: House) -> None:
    first = await house.call("POST", "", body(), idempotency_key='"one"')
    await house.call("PATCH", f"/{first.json()['request_id']}", {"title": "Other"}, if_match='"1"')
    house.clock.advance(timedelta(days=4000))
    house.router.error = INVALID_CHANGE("no", "/change")
    again = await house.call("POST", "", json.dumps(body(), indent=2).encode(), idempotency_key='"one"')
    assert (again.status_code, again.content, again.headers["etag"]) == (201, first.content, '"1"')
    assert len(house.store.requests) == 1
    assert len(house.store.published) == 2


async def test_another_body_or_another_client_under_the_same_key(house: House) -> None:
    mine = await house.draft()
    answer = await house.call("POST", "", body(title="Other"), idempotency_key='"one"')
    assert slug(answer) == "idempotency-key-reused"
    assert faults(answer, 422).keys() == {"/header/idempotency-key"}
    assert await house.draft(by="lead-a") != mine


async def test_a_concurrent_repetition_is_rejected(house: House) -> None:
    house.router.held.clear()
    first = asyncio.ensure_future(house.call("POST", "", body(), idempotency_key='"one"'))
    await until(lambda: len(house.router.asked) == 1)
    second = await house.call("POST", "", body(), idempotency_key='"one"')
    house.router.held.set()
    assert (slug(second), second.status_code, (await first).status_code) == ("in-flight", 409, 201)
    assert (await house.call("POST", "", body(), idempotency_key='"one"')).content == (await first).content


@pytest.mark.parametrize(("given", "status"), [(None, 400), ("one", 422), ('""', 422), ('"a"b"', 422)])
async def test_a_draft_and_a_comment_need_a_quoted_idempotency_key(
    house: House, given: str | None, status: int
) -> None:
    request_id = await house.draft()
    headers = {} if given is None else {"idempotency_key": given}
    for path, content in (("", body()), (f"/{request_id}/comments", {"text": "x"})):
        assert faults(await house.call("POST", path, content, **headers), status).keys() == {"/header/idempotency-key"}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"regions": ["mars"], "markets": []}, "/regions/0"),
        ({"markets": ["US"]}, "/markets/0"),
        ({"kind": "policy"}, "/kind"),
        ({"expected_date": "2020-01-01"}, "/expected_date"),
        ({"change": {"policy_set": POLICY_SET | {"default_verdict": None}}}, "/change/policy_set/default_verdict"),
    ],
)
async def test_faults_of_a_draft_and_a_patch_have_pointers(house: House, change: dict[str, Any], pointer: str) -> None:
    assert pointer in faults(await house.call("POST", "", body(**change), idempotency_key='"bad"'), 422)
    request_id = await house.draft()
    assert pointer in faults(await house.call("PATCH", f"/{request_id}", change, if_match='"1"'), 422)
    assert len(house.store.published) == 1


async def test_missing_fields_are_reported_on_submission(house: House) -> None:
    request_id = await house.draft(sponsor=None, rationale=None, change=None)
    assert faults(await house.call("POST", f"/{request_id}/submit"), 422).keys() == {
        "/sponsor",
        "/rationale",
        "/change/policy_set",
    }


async def test_a_patch_needs_the_version_that_it_changes(house: House) -> None:
    request_id = await house.draft()
    path = f"/{request_id}"
    missing = await house.call("PATCH", path, {"title": "x"})
    assert (slug(missing), missing.status_code) == ("precondition-required", 428)
    for tag in ('"2"', 'W/"1"', '"x"', '"2", "3"'):
        stale = await house.call("PATCH", path, {"title": "x"}, if_match=tag)
        assert (slug(stale), stale.status_code) == ("precondition-failed", 412)
    assert faults(await house.call("PATCH", path, {"title": "x"}, if_match="1"), 422).keys() == {"/header/if-match"}
    changed = await house.call("PATCH", path, {"title": "New"}, if_match='"0", "1"')
    assert (changed.status_code, changed.headers["etag"], changed.json()["title"]) == (200, '"2"', "New")
    assert (await house.call("PATCH", path, {"title": "New"}, if_match="*")).json()["version"] == 2, "nothing new"


async def test_of_two_changes_of_the_same_version_one_is_rejected(house: House) -> None:
    request_id = await house.draft()
    house.router.held.clear()
    change = {"change": {"policy_set": POLICY_SET | {"default_verdict": "review"}}}
    slow = asyncio.ensure_future(house.call("PATCH", f"/{request_id}", change, if_match='"1"'))
    await until(lambda: len(house.router.asked) == 2)
    assert (await house.call("PATCH", f"/{request_id}", {"title": "Quick"}, if_match='"1"')).status_code == 200
    house.router.held.set()
    assert (await slow).status_code == 412
    assert (await house.call("GET", f"/{request_id}")).json()["title"] == "Quick"


async def test_a_draft_that_was_changed_during_its_check_is_not_submitted(house: House) -> None:
    request_id = await house.draft()
    house.router.held.clear()
    submitting = asyncio.ensure_future(house.call("POST", f"/{request_id}/submit"))
    await until(lambda: len(house.router.asked) == 2)
    await house.call("PATCH", f"/{request_id}", {"title": "Quick"}, if_match='"1"')
    house.router.held.set()
    answer = await submitting
    assert (slug(answer), answer.status_code) == ("changed-meanwhile", 409)
    assert await house.does(request_id, "submit") == "submitted"


async def test_a_command_can_require_a_version(house: House) -> None:
    request_id = await house.draft()
    assert (await house.call("POST", f"/{request_id}/submit", if_match='"7"')).status_code == 412
    assert (await house.call("POST", f"/{request_id}/submit", if_match='"1"')).status_code == 200
    assert (await house.call("POST", f"/{request_id}/approve", by="lead-a", if_match='"1"')).status_code == 412
    assert (await house.call("POST", f"/{request_id}/approve", by="lead-a", if_match='"2"')).status_code == 200
    again = await house.call("POST", f"/{request_id}/approve", by="lead-a", if_match='"2"')
    assert (again.status_code, again.json()["version"]) == (200, 3), "it was done already"


async def test_two_people_who_are_neither_authors_nor_sponsors_must_approve(house: House) -> None:
    request_id = await house.draft()
    await house.call("PATCH", f"/{request_id}", {"title": "Better"}, by="lead-c", if_match='"1"')
    await house.does(request_id, "submit")
    for own in ("author", "moderation-lead", "lead-c"):
        for command in ("approve", "reject"):
            answer = await house.call("POST", f"/{request_id}/{command}", {"reason": "mine"}, by=own)
            assert (slug(answer), answer.status_code) == ("own-request", 403)
    assert await house.does(request_id, "approve", by="lead-a", reason="fine") == "submitted"
    assert await house.does(request_id, "approve", by="lead-a") == "submitted", "one person is one"
    assert await house.does(request_id, "approve", by="lead-b") == "approved"
    assert await house.does(request_id, "deploy", by="lead-b") == "deployed"
    assert await house.does(request_id, "review", by="lead-a", reason="well") == "reviewed"
    assert [name for _, name in told(house.store)] == [
        "drafted",
        "changed",
        "submitted",
        "endorsed",
        "approved",
        "deployed",
        "reviewed",
    ]
    shown = (await house.call("GET", f"/{request_id}")).json()
    assert [(mark["by"], mark.get("reason", "")) for mark in shown["approvals"]] == [("lead-a", "fine"), ("lead-b", "")]
    assert [step["version"] for step in shown["history"]] == [1, 2, 3, 4, 5, 6, 7]


async def test_the_other_final_states(house: House) -> None:
    rejected = await house.submitted(key="a")
    assert faults(await house.call("POST", f"/{rejected}/reject", by="lead-a"), 422).keys() == {"/reason"}
    assert await house.does(rejected, "reject", by="lead-a", reason="no") == "rejected"
    assert await house.does(rejected, "reject", by="lead-a", reason="no") == "rejected"
    withdrawn = await house.draft(key="b")
    assert slug(await house.call("POST", f"/{withdrawn}/withdraw", by="lead-a")) == "not-own-request"
    assert await house.does(withdrawn, "withdraw", by="moderation-lead") == "withdrawn"
    back = await house.submitted(key="c")
    for lead in ("lead-a", "lead-b"):
        await house.does(back, "approve", by=lead)
    await house.does(back, "deploy")
    assert faults(await house.call("POST", f"/{back}/rollback"), 422).keys() == {"/reason"}
    assert await house.does(back, "rollback", reason="too many reviews") == "rolled_back"


async def test_a_command_in_the_wrong_state_is_rejected_with_the_possible_commands(house: House) -> None:
    request_id = await house.draft()
    for command in ("approve", "reject", "deploy", "rollback", "review"):
        answer = await house.call("POST", f"/{request_id}/{command}", {"reason": "x"}, by="lead-a")
        assert (slug(answer), answer.status_code) == ("wrong-state", 409)
        assert "possible: submit, withdraw" in answer.json()["detail"]
    await house.does(request_id, "withdraw")
    ended = await house.call("POST", f"/{request_id}/submit")
    assert "this state is final" in ended.json()["detail"]
    assert slug(await house.call("PATCH", f"/{request_id}", {"title": "x"}, if_match="*")) == "wrong-state"
    assert len(house.store.published) == 2


async def test_comments_are_stored_once_in_order(house: House) -> None:
    request_id = await house.submitted()
    path = f"/{request_id}/comments"
    first = await house.call("POST", path, {"text": "How many?\nReally?"}, by="lead-a", idempotency_key='"1"')
    assert (first.status_code, first.headers["etag"]) == (201, '"3"')
    again = await house.call("POST", path, {"text": "How many?\nReally?"}, by="lead-a", idempotency_key='"1"')
    assert (again.status_code, again.content) == (201, first.content)
    other = await house.call("POST", path, {"text": "x"}, by="lead-a", idempotency_key='"1"')
    assert (slug(other), other.status_code) == ("idempotency-key-reused", 422)
    await house.call("POST", path, {"text": "Few."}, idempotency_key='"1"')
    shown = (await house.call("GET", f"/{request_id}")).json()
    assert [(c["by"], c["text"]) for c in shown["comments"]] == [("lead-a", "How many?\nReally?"), ("author", "Few.")]
    assert shown["version"] == 4
    assert told(house.store)[2:] == [("eu", "commented"), ("eu", "commented")]
    assert faults(await house.call("POST", path, {"text": ""}, idempotency_key='"2"'), 422).keys() == {"/text"}


async def test_events_are_published_only_in_the_regions_of_the_request(house: House) -> None:
    both = await house.draft(regions=["eu", "us"], markets=["DE", "US"])
    changed = await house.call("PATCH", f"/{both}", {"regions": ["us"], "markets": ["US"]}, if_match='"1"')
    assert changed.status_code == 200, changed.text
    await house.does(both, "submit")
    assert told(house.store) == [
        ("eu", "drafted"),
        ("us", "drafted"),
        ("us", "changed"),
        ("eu", "changed"),
        ("us", "submitted"),
    ]
    left = json.loads(house.store.published[3][1].value)
    assert left == {"request_id": both, "version": 2, "by": "author", "regions": ["us"]}


async def test_lists_are_pages_and_filtered(house: House) -> None:
    made = []
    for n in range(5):
        house.clock.advance(timedelta(seconds=1))
        sponsor = "a" if n % 2 else "b"
        made.append(await house.draft(key=str(n), title=f"Request {n}", sponsor=sponsor))
    other = await house.draft(key="us", regions=["us"], markets=["US"], kind="capacity", change=None)
    await house.does(made[0], "submit")

    async def listed(query: str, by: str = "author") -> list[str]:
        answer = await house.call("GET", f"?{query}", by=by)
        assert answer.status_code == 200, answer.text
        return [request["request_id"] for request in answer.json()["requests"]]

    assert {*await listed("")} == {*made, other}
    assert await listed("state=submitted") == [made[0]]
    assert await listed("kind=capacity") == await listed("region=us") == await listed("", by="of-us") == [other]
    assert await listed("sponsor=a&region=eu") == [made[3], made[1]]
    assert await listed("region=eu&limit=2") == [made[4], made[3]]
    found, cursor = [], ""
    while True:
        page = (await house.call("GET", f"?region=eu&limit=2{cursor}")).json()
        found += [request["request_id"] for request in page["requests"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == made[::-1]
    assert "rationale" not in page["requests"][0]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("state=open", "/query/state"),
        ("kind=x", "/query/kind"),
        ("region=mars", "/query/region"),
        ("limit=0", "/query/limit"),
        ("limit=201", "/query/limit"),
        ("limit=x", "/query/limit"),
        ("limit=²", "/query/limit"),
        ("cursor=x", "/query/cursor"),
        ("cursor=////", "/query/cursor"),
        ("sponsor=%00", "/query/sponsor"),
        ("stat=draft", "/query/stat"),
        ("state=draft&state=draft", "/query/state"),
    ],
)
async def test_an_invalid_query_parameter_has_its_pointer(house: House, query: str, pointer: str) -> None:
    assert faults(await house.call("GET", f"?{query}"), 422).keys() == {pointer}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"title": "\xff"}', 400),
        (b"[" * 10_000, 400),
        (b"7", 422),
        (b"{}" * (1 << 20), 413),
    ],
)
async def test_an_invalid_body_is_rejected(house: House, text: bytes, status: int) -> None:
    request_id = await house.draft()
    key = {"idempotency_key": '"bad"'}
    assert (await house.call("POST", "", text, **key)).status_code == status
    assert (await house.call("PATCH", f"/{request_id}", text, if_match='"1"')).status_code == status
    assert (await house.call("POST", f"/{request_id}/comments", text, **key)).status_code == status
    for command in COMMANDS if text else ():
        assert (await house.call("POST", f"/{request_id}/{command}", text)).status_code == status
    assert len(house.store.published) == 1


async def test_the_content_type_of_a_body_must_be_json(house: House) -> None:
    request_id = await house.draft()
    given = {"content_type": "text/plain", "idempotency_key": '"x"', "if_match": '"1"'}
    for method, path in (("POST", ""), ("PATCH", f"/{request_id}"), ("POST", f"/{request_id}/submit")):
        assert (await house.call(method, path, b"{}", **given)).status_code == 415
    for path in ("", f"/{request_id}/comments"):
        assert (await house.call("POST", path, **given)).status_code == 415


async def test_a_slow_sender_gets_408(house: House) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    headers = {
        "Authorization": f"Bearer {house.keys['author']}",
        "Content-Type": "application/json",
        "Idempotency-Key": '"slow"',
    }
    answer = await house.http.post("/v1/requests", content=slowly(), headers=headers)
    assert (slug(answer), answer.status_code) == ("too-slow", 408)


def routes(request_id: str) -> list[tuple[str, str]]:
    changing = [("POST", f"/{request_id}/{name}") for name in (*COMMANDS, "comments")]
    return [("GET", f"/{request_id}"), ("PATCH", f"/{request_id}"), *changing]


async def test_calls_without_key_scope_or_region_get_no_data(house: House) -> None:
    """Every route: 401 without a key, 403 without the scope, 404 in another region."""
    request_id = await house.draft()
    sent = {"idempotency_key": '"x"', "if_match": '"1"'}
    for method, path in [("POST", ""), ("GET", ""), *routes(request_id)]:
        content = None if method == "GET" else {"reason": "x"} if path.rpartition("/")[2] in COMMANDS else {"text": "x"}
        assert (await house.call(method, path, content, by="", **sent)).status_code == 401
        scoped = await house.call(method, path, content, by="nothing", **sent)
        assert (slug(scoped), scoped.status_code) == ("missing-scope", 403)
        if path:
            foreign = await house.call(method, path, content, by="of-us", **sent)
            assert (slug(foreign), foreign.status_code) == ("not-found", 404), (method, path)
            assert "lamps" not in foreign.text
    assert (await house.call("GET", "", by="of-us")).json() == {"requests": [], "next": None}
    assert slug(await house.call("GET", "?region=eu", by="of-us")) == "region-not-allowed"
    posted = await house.call("POST", "", body(), by="of-us", **sent)
    assert slug(posted) == "region-not-allowed"
    assert faults(posted, 403).keys() == {"/regions/0"}
    assert len(house.store.published) == 1


async def test_a_key_of_one_of_the_regions_can_read_a_request_but_not_change_it(house: House) -> None:
    request_id = await house.draft(regions=["eu", "us"])
    assert (await house.call("GET", f"/{request_id}", by="of-eu")).status_code == 200
    for method, path in routes(request_id)[1:]:
        content = (
            {"title": "x"} if method == "PATCH" else {"text": "x"} if path.endswith("comments") else {"reason": "x"}
        )
        answer = await house.call(method, path, content, by="of-eu", idempotency_key='"x"', if_match='"1"')
        assert (slug(answer), answer.status_code) == ("region-not-allowed", 403), path
    moved = await house.draft(key="two", by="of-eu")
    away = await house.call("PATCH", f"/{moved}", {"regions": ["us"], "markets": []}, by="of-eu", if_match='"1"')
    assert slug(away) == "region-not-allowed"


async def test_unknown_paths_are_404_and_unknown_methods_405(house: House) -> None:
    for unknown in (UNKNOWN, "x", "%00", "0" * 500):
        for method, path in routes(unknown):
            content = None if method == "GET" else {"text": "x"} if path.endswith("comments") else {"reason": "x"}
            answer = await house.call(method, path, content, idempotency_key='"x"', if_match='"1"')
            assert (slug(answer), answer.status_code) == ("not-found", 404), (method, path, answer.text)
    assert (await house.call("DELETE", f"/{await house.draft()}")).status_code == 405


async def test_calls_get_503_until_the_database_is_connected(house: House) -> None:
    request_id = await house.draft()
    house.close()
    house.readiness.set("database", "away")
    for method, path in [("POST", ""), ("GET", ""), *routes(request_id)]:
        answer = await house.call(method, path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "database: away" in answer.text


async def test_concurrent_calls_above_the_limit_get_429(house: House) -> None:
    house.router.held.clear()
    calls = [
        asyncio.ensure_future(house.call("POST", "", body(), idempotency_key=f'"{n}"'))
        for n in range(api._MAX_CALLS + 3)
    ]
    await until(lambda: len(house.router.asked) == api._MAX_CALLS and sum(call.done() for call in calls) == 3)
    house.router.held.set()
    answers = [await call for call in calls]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(refused), {answer.headers["retry-after"] for answer in refused}) == (3, {"1"})
    assert sorted({answer.status_code for answer in answers}) == [201, 429]


async def test_every_route_is_documented_with_its_errors_and_an_example(house: House) -> None:
    document = house.app.openapi()
    paths, schemas = document["paths"], document["components"]["schemas"]

    def example(content: dict[str, Any]) -> Any:
        reference = content["schema"].get("$ref", "").rpartition("/")[2]
        return content.get("example") or content.get("examples") or schemas[reference]["examples"][0]

    asked = {(method, path) for path, item in paths.items() if "requests" in path for method in item}
    assert len(asked) == 12
    for method, path in asked:
        operation = paths[path][method]
        assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys()
        assert operation["security"]
        for response in operation["responses"].values():
            assert all(map(example, response.get("content", {}).values()))
        assert all(map(example, operation.get("requestBody", {}).get("content", {}).values()))
    draft = example(paths["/v1/requests"]["post"]["requestBody"]["content"]["application/json"])
    assert (await house.call("POST", "", draft, idempotency_key='"example"')).status_code == 201


def test_every_command_is_a_route_with_its_scope(house: House) -> None:
    """The table of `docs/architecture/requests.md`."""
    expected = {
        "submit": "requests:write",
        "withdraw": "requests:write",
        "approve": "requests:decide",
        "reject": "requests:decide",
        "review": "requests:decide",
        "deploy": "requests:deploy",
        "rollback": "requests:deploy",
    }
    paths = house.app.openapi()["paths"]
    operations = {name: paths[f"/v1/requests/{{request_id}}/{name}"]["post"] for name in lifecycle.RULES}
    assert {name: next(iter(o["security"][0].values())) for name, o in operations.items()} == {
        name: [scope] for name, scope in expected.items()
    }
