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
from tests.support.intake_requests import POLICY_SET, RequestService, body, published_events

COMMANDS = ("submit", "withdraw", "approve", "reject", "deploy", "rollback", "review")
UNKNOWN = "6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11"


@pytest.fixture
async def service() -> AsyncIterator[RequestService]:
    service = RequestService()
    service.connect_database()
    async with service.http:
        yield service


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - another task makes it true
            await asyncio.sleep(0.001)


def faults(response: httpx.Response, status: int) -> dict[str, str]:
    """The faults of an error response, by pointer."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return {error["pointer"]: error["detail"] for error in response.json()["errors"]}


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    kind: str = response.json()["type"]
    return kind.removeprefix("urn:piepowder:problem:")


async def test_a_draft_is_checked_at_once_and_has_the_differences(service: RequestService) -> None:
    response = await service.call("POST", "", body(), idempotency_key='"one"')
    assert response.status_code == 201
    request = response.json()
    assert response.headers["location"] == f"/v1/requests/{request['request_id']}"
    assert response.headers["etag"] == '"1"'
    assert request["subject"] == f"piepowder:request:{request['request_id']}"
    assert (request["state"], request["version"], request["approvals_needed"]) == ("draft", 1, 2)
    assert request["check"]["verdict"] == "fits"
    assert request["check"]["differences"] == [{"what": "policies/a", "how": "added"}]
    shown = (await service.call("GET", f"/{request['request_id']}")).json()
    assert shown["change"]["policy_set"]["policies"][0]["id"] == "a"
    assert [step["kind"] for step in shown["history"]] == ["drafted"]
    assert published_events(service.store) == [("eu", "drafted")]
    assert service.woken == 1


async def test_an_invalid_change_is_rejected_with_pointers_below_change(service: RequestService) -> None:
    service.router.error = INVALID_CHANGE("no", "/change/policy_set/policies/0/when/0")
    response = await service.call("POST", "", body(), idempotency_key='"one"')
    assert faults(response, 422) == {"/change/policy_set/policies/0/when/0": "no"}
    assert (service.store.requests, service.store.published) == ({}, [])


async def test_without_the_router_a_draft_is_stored_unchecked_and_cannot_be_submitted(service: RequestService) -> None:
    service.router.error = Transient("The router at x does not response.")
    response = await service.call("POST", "", body(), idempotency_key='"one"')
    assert response.status_code == 201
    assert response.json()["check"]["verdict"] == "unchecked"
    assert "does not response" in response.json()["check"]["reason"]
    path = f"/{response.json()['request_id']}"
    away = await service.call("POST", f"{path}/submit")
    assert (away.status_code, away.headers["retry-after"]) == (503, "2")
    assert (await service.call("GET", path)).json()["state"] == "draft"
    assert (await service.call("PATCH", path, {}, if_match='"1"')).json()["version"] == 1, (
        "no new version without a check"
    )

    service.router.error = None
    checked = (await service.call("PATCH", path, {}, if_match='"1"')).json()
    assert (checked["version"], checked["check"]["verdict"]) == (2, "fits")
    assert (await service.call("POST", f"{path}/submit")).json()["state"] == "submitted"
    assert published_events(service.store) == [("eu", "drafted"), ("eu", "changed"), ("eu", "submitted")]


async def test_a_draft_is_checked_again_when_it_is_submitted(service: RequestService) -> None:
    request_id = await service.draft()
    service.router.error = INVALID_CHANGE("unfit", "/change/policy_set")
    assert faults(await service.call("POST", f"/{request_id}/submit"), 422) == {"/change/policy_set": "unfit"}
    assert (await service.call("GET", f"/{request_id}")).json()["state"] == "draft"


async def test_without_a_change_the_router_is_not_called(service: RequestService) -> None:
    given = body(kind="capacity", change=None, expected_items_per_day=9, expected_date="2026-06-01")
    response = await service.call("POST", "", given, idempotency_key='"one"')
    assert (response.json()["check"], response.json()["change_hash"], service.router.checked) == ({}, "", [])


async def test_a_repeated_call_gets_the_same_response_even_after_the_draft_was_changed(service: RequestService) -> None:
    first = await service.call("POST", "", body(), idempotency_key='"one"')
    await service.call("PATCH", f"/{first.json()['request_id']}", {"title": "Other"}, if_match='"1"')
    service.clock.advance(timedelta(days=4000))
    service.router.error = INVALID_CHANGE("no", "/change")
    again = await service.call("POST", "", json.dumps(body(), indent=2).encode(), idempotency_key='"one"')
    assert (again.status_code, again.content, again.headers["etag"]) == (201, first.content, '"1"')
    assert len(service.store.requests) == 1
    assert len(service.store.published) == 2


async def test_an_idempotency_key_belongs_to_one_body_and_one_client(service: RequestService) -> None:
    mine = await service.draft()
    response = await service.call("POST", "", body(title="Other"), idempotency_key='"one"')
    assert slug(response) == "idempotency-key-reused"
    assert faults(response, 422).keys() == {"/header/idempotency-key"}
    assert await service.draft(by="lead-a") != mine


async def test_a_concurrent_repetition_is_rejected(service: RequestService) -> None:
    service.router.may_respond.clear()
    first = asyncio.ensure_future(service.call("POST", "", body(), idempotency_key='"one"'))
    await until(lambda: len(service.router.checked) == 1)
    second = await service.call("POST", "", body(), idempotency_key='"one"')
    service.router.may_respond.set()
    assert (slug(second), second.status_code, (await first).status_code) == ("in-flight", 409, 201)
    assert (await service.call("POST", "", body(), idempotency_key='"one"')).content == (await first).content


@pytest.mark.parametrize(("given", "status"), [(None, 400), ("one", 422), ('""', 422), ('"a"b"', 422)])
async def test_a_draft_and_a_comment_need_a_quoted_idempotency_key(
    service: RequestService, given: str | None, status: int
) -> None:
    request_id = await service.draft()
    headers = {} if given is None else {"idempotency_key": given}
    for path, content in (("", body()), (f"/{request_id}/comments", {"text": "x"})):
        assert faults(await service.call("POST", path, content, **headers), status).keys() == {
            "/header/idempotency-key"
        }


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
async def test_faults_of_a_draft_and_a_patch_have_pointers(
    service: RequestService, change: dict[str, Any], pointer: str
) -> None:
    assert pointer in faults(await service.call("POST", "", body(**change), idempotency_key='"bad"'), 422)
    request_id = await service.draft()
    assert pointer in faults(await service.call("PATCH", f"/{request_id}", change, if_match='"1"'), 422)
    assert len(service.store.published) == 1


async def test_missing_fields_are_reported_on_submission(service: RequestService) -> None:
    request_id = await service.draft(sponsor=None, rationale=None, change=None)
    assert faults(await service.call("POST", f"/{request_id}/submit"), 422).keys() == {
        "/sponsor",
        "/rationale",
        "/change/policy_set",
    }


async def test_a_patch_needs_the_version_that_it_changes(service: RequestService) -> None:
    request_id = await service.draft()
    path = f"/{request_id}"
    missing = await service.call("PATCH", path, {"title": "x"})
    assert (slug(missing), missing.status_code) == ("precondition-required", 428)
    for tag in ('"2"', 'W/"1"', '"x"', '"2", "3"'):
        stale = await service.call("PATCH", path, {"title": "x"}, if_match=tag)
        assert (slug(stale), stale.status_code) == ("precondition-failed", 412)
    assert faults(await service.call("PATCH", path, {"title": "x"}, if_match="1"), 422).keys() == {"/header/if-match"}
    changed = await service.call("PATCH", path, {"title": "New"}, if_match='"0", "1"')
    assert (changed.status_code, changed.headers["etag"], changed.json()["title"]) == (200, '"2"', "New")
    assert (await service.call("PATCH", path, {"title": "New"}, if_match="*")).json()["version"] == 2, (
        "no difference, no new version"
    )


async def test_one_of_two_changes_of_the_same_version_is_rejected(service: RequestService) -> None:
    request_id = await service.draft()
    service.router.may_respond.clear()
    change = {"change": {"policy_set": POLICY_SET | {"default_verdict": "review"}}}
    slow = asyncio.ensure_future(service.call("PATCH", f"/{request_id}", change, if_match='"1"'))
    await until(lambda: len(service.router.checked) == 2)
    assert (await service.call("PATCH", f"/{request_id}", {"title": "Quick"}, if_match='"1"')).status_code == 200
    service.router.may_respond.set()
    assert (await slow).status_code == 412
    assert (await service.call("GET", f"/{request_id}")).json()["title"] == "Quick"


async def test_a_draft_that_was_changed_during_its_check_is_not_submitted(service: RequestService) -> None:
    request_id = await service.draft()
    service.router.may_respond.clear()
    submitting = asyncio.ensure_future(service.call("POST", f"/{request_id}/submit"))
    await until(lambda: len(service.router.checked) == 2)
    await service.call("PATCH", f"/{request_id}", {"title": "Quick"}, if_match='"1"')
    service.router.may_respond.set()
    response = await submitting
    assert (slug(response), response.status_code) == ("changed-meanwhile", 409)
    assert await service.perform(request_id, "submit") == "submitted"


async def test_a_command_can_require_a_version(service: RequestService) -> None:
    request_id = await service.draft()
    assert (await service.call("POST", f"/{request_id}/submit", if_match='"7"')).status_code == 412
    assert (await service.call("POST", f"/{request_id}/submit", if_match='"1"')).status_code == 200
    assert (await service.call("POST", f"/{request_id}/approve", by="lead-a", if_match='"1"')).status_code == 412
    assert (await service.call("POST", f"/{request_id}/approve", by="lead-a", if_match='"2"')).status_code == 200
    again = await service.call("POST", f"/{request_id}/approve", by="lead-a", if_match='"2"')
    assert (again.status_code, again.json()["version"]) == (200, 3), "a repeated approval adds no version"


async def test_two_people_who_are_neither_authors_nor_sponsors_must_approve(service: RequestService) -> None:
    request_id = await service.draft()
    await service.call("PATCH", f"/{request_id}", {"title": "Better"}, by="lead-c", if_match='"1"')
    await service.perform(request_id, "submit")
    for own in ("author", "moderation-lead", "lead-c"):
        for command in ("approve", "reject"):
            response = await service.call("POST", f"/{request_id}/{command}", {"reason": "mine"}, by=own)
            assert (slug(response), response.status_code) == ("own-request", 403)
    assert await service.perform(request_id, "approve", by="lead-a", reason="fine") == "submitted"
    assert await service.perform(request_id, "approve", by="lead-a") == "submitted", "a person counts once"
    assert await service.perform(request_id, "approve", by="lead-b") == "approved"
    assert [name for _, name in published_events(service.store)] == [
        "drafted",
        "changed",
        "submitted",
        "endorsed",
        "approved",
    ]
    shown = (await service.call("GET", f"/{request_id}")).json()
    assert [(mark["by"], mark.get("reason", "")) for mark in shown["approvals"]] == [("lead-a", "fine"), ("lead-b", "")]
    assert [step["version"] for step in shown["history"]] == [1, 2, 3, 4, 5]


async def test_no_call_states_that_a_change_is_in_force_or_was_taken_back(service: RequestService) -> None:
    request_id = await service.submitted()
    for lead in ("lead-a", "lead-b"):
        await service.perform(request_id, "approve", by=lead)
    before = (await service.call("GET", f"/{request_id}")).content
    for remark in ({}, {"reason": "it is time"}):
        deployed = await service.call("POST", f"/{request_id}/deploy", remark)
        assert (slug(deployed), deployed.status_code) == ("change-by-hand", 409)
        assert "the request stays approved" in deployed.json()["detail"]
        assert "POST /v1/control" in deployed.json()["detail"]
    for command in ("rollback", "review"):
        early = await service.call("POST", f"/{request_id}/{command}", {"reason": "x"}, by="lead-a")
        assert (slug(early), early.status_code) == ("wrong-state", 409)
        assert early.json()["detail"].endswith("possible: withdraw")
    assert (await service.call("GET", f"/{request_id}")).content == before
    assert published_events(service.store)[-1][1] == "approved"
    assert await service.perform(request_id, "withdraw") == "withdrawn"


async def test_a_request_can_end_rejected_or_withdrawn(service: RequestService) -> None:
    rejected = await service.submitted(key="a")
    assert faults(await service.call("POST", f"/{rejected}/reject", by="lead-a"), 422).keys() == {"/reason"}
    assert await service.perform(rejected, "reject", by="lead-a", reason="no") == "rejected"
    assert await service.perform(rejected, "reject", by="lead-a", reason="no") == "rejected"
    withdrawn = await service.draft(key="b")
    assert slug(await service.call("POST", f"/{withdrawn}/withdraw", by="lead-a")) == "not-own-request"
    assert await service.perform(withdrawn, "withdraw", by="moderation-lead") == "withdrawn"


async def test_a_command_in_the_wrong_state_is_rejected_with_the_possible_commands(service: RequestService) -> None:
    request_id = await service.draft()
    for command in ("approve", "reject", "deploy", "rollback", "review"):
        response = await service.call("POST", f"/{request_id}/{command}", {"reason": "x"}, by="lead-a")
        assert (slug(response), response.status_code) == ("wrong-state", 409)
        assert "possible: submit, withdraw" in response.json()["detail"]
    await service.perform(request_id, "withdraw")
    ended = await service.call("POST", f"/{request_id}/submit")
    assert "this state is final" in ended.json()["detail"]
    assert slug(await service.call("PATCH", f"/{request_id}", {"title": "x"}, if_match="*")) == "wrong-state"
    assert len(service.store.published) == 2


async def test_comments_are_stored_once_in_order(service: RequestService) -> None:
    request_id = await service.submitted()
    path = f"/{request_id}/comments"
    first = await service.call("POST", path, {"text": "How many?\nReally?"}, by="lead-a", idempotency_key='"1"')
    assert (first.status_code, first.headers["etag"]) == (201, '"3"')
    again = await service.call("POST", path, {"text": "How many?\nReally?"}, by="lead-a", idempotency_key='"1"')
    assert (again.status_code, again.content) == (201, first.content)
    other = await service.call("POST", path, {"text": "x"}, by="lead-a", idempotency_key='"1"')
    assert (slug(other), other.status_code) == ("idempotency-key-reused", 422)
    await service.call("POST", path, {"text": "Few."}, idempotency_key='"1"')
    shown = (await service.call("GET", f"/{request_id}")).json()
    assert [(c["by"], c["text"]) for c in shown["comments"]] == [("lead-a", "How many?\nReally?"), ("author", "Few.")]
    assert shown["version"] == 4
    assert published_events(service.store)[2:] == [("eu", "commented"), ("eu", "commented")]
    assert faults(await service.call("POST", path, {"text": ""}, idempotency_key='"2"'), 422).keys() == {"/text"}


async def test_events_are_published_only_in_the_regions_of_the_request(service: RequestService) -> None:
    both = await service.draft(regions=["eu", "us"], markets=["DE", "US"])
    changed = await service.call("PATCH", f"/{both}", {"regions": ["us"], "markets": ["US"]}, if_match='"1"')
    assert changed.status_code == 200, changed.text
    await service.perform(both, "submit")
    assert published_events(service.store) == [
        ("eu", "drafted"),
        ("us", "drafted"),
        ("us", "changed"),
        ("eu", "changed"),
        ("us", "submitted"),
    ]
    changed_event = json.loads(service.store.published[3][1].value)
    assert changed_event == {"request_id": both, "version": 2, "by": "author", "regions": ["us"]}


async def test_lists_are_paged_and_filtered(service: RequestService) -> None:
    made = []
    for n in range(5):
        service.clock.advance(timedelta(seconds=1))
        sponsor = "a" if n % 2 else "b"
        made.append(await service.draft(key=str(n), title=f"Request {n}", sponsor=sponsor))
    other = await service.draft(key="us", regions=["us"], markets=["US"], kind="capacity", change=None)
    await service.perform(made[0], "submit")

    async def listed(query: str, by: str = "author") -> list[str]:
        response = await service.call("GET", f"?{query}", by=by)
        assert response.status_code == 200, response.text
        return [request["request_id"] for request in response.json()["requests"]]

    assert {*await listed("")} == {*made, other}
    assert await listed("state=submitted") == [made[0]]
    assert await listed("kind=capacity") == await listed("region=us") == await listed("", by="us-only") == [other]
    assert await listed("sponsor=a&region=eu") == [made[3], made[1]]
    assert await listed("region=eu&limit=2") == [made[4], made[3]]
    found, cursor = [], ""
    while True:
        page = (await service.call("GET", f"?region=eu&limit=2{cursor}")).json()
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
async def test_an_invalid_query_parameter_has_its_pointer(service: RequestService, query: str, pointer: str) -> None:
    assert faults(await service.call("GET", f"?{query}"), 422).keys() == {pointer}


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
async def test_an_invalid_body_is_rejected(service: RequestService, text: bytes, status: int) -> None:
    request_id = await service.draft()
    key = {"idempotency_key": '"bad"'}
    assert (await service.call("POST", "", text, **key)).status_code == status
    assert (await service.call("PATCH", f"/{request_id}", text, if_match='"1"')).status_code == status
    assert (await service.call("POST", f"/{request_id}/comments", text, **key)).status_code == status
    for command in COMMANDS if text else ():
        assert (await service.call("POST", f"/{request_id}/{command}", text)).status_code == status
    assert len(service.store.published) == 1


async def test_the_content_type_of_a_body_must_be_json(service: RequestService) -> None:
    request_id = await service.draft()
    given = {"content_type": "text/plain", "idempotency_key": '"x"', "if_match": '"1"'}
    for method, path in (("POST", ""), ("PATCH", f"/{request_id}"), ("POST", f"/{request_id}/submit")):
        assert (await service.call(method, path, b"{}", **given)).status_code == 415
    for path in ("", f"/{request_id}/comments"):
        assert (await service.call("POST", path, **given)).status_code == 415


async def test_a_slow_sender_gets_408(service: RequestService) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    headers = {
        "Authorization": f"Bearer {service.keys['author']}",
        "Content-Type": "application/json",
        "Idempotency-Key": '"slow"',
    }
    response = await service.http.post("/v1/requests", content=slowly(), headers=headers)
    assert (slug(response), response.status_code) == ("too-slow", 408)


def routes(request_id: str) -> list[tuple[str, str]]:
    changing = [("POST", f"/{request_id}/{name}") for name in (*COMMANDS, "comments")]
    return [("GET", f"/{request_id}"), ("PATCH", f"/{request_id}"), *changing]


async def test_calls_without_key_scope_or_region_get_no_data(service: RequestService) -> None:
    """Every route: 401 without a key, 403 without the scope, 404 in another region."""
    request_id = await service.draft()
    sent = {"idempotency_key": '"x"', "if_match": '"1"'}
    for method, path in [("POST", ""), ("GET", ""), *routes(request_id)]:
        content = None if method == "GET" else {"reason": "x"} if path.rpartition("/")[2] in COMMANDS else {"text": "x"}
        assert (await service.call(method, path, content, by="", **sent)).status_code == 401
        scoped = await service.call(method, path, content, by="without-scope", **sent)
        assert (slug(scoped), scoped.status_code) == ("missing-scope", 403)
        if path:
            foreign = await service.call(method, path, content, by="us-only", **sent)
            assert (slug(foreign), foreign.status_code) == ("not-found", 404), (method, path)
            assert "lamps" not in foreign.text
    assert (await service.call("GET", "", by="us-only")).json() == {"requests": [], "next": None}
    assert slug(await service.call("GET", "?region=eu", by="us-only")) == "region-not-allowed"
    posted = await service.call("POST", "", body(), by="us-only", **sent)
    assert slug(posted) == "region-not-allowed"
    assert faults(posted, 403).keys() == {"/regions/0"}
    assert len(service.store.published) == 1


async def test_a_key_of_one_of_the_regions_can_read_a_request_but_not_change_it(service: RequestService) -> None:
    request_id = await service.draft(regions=["eu", "us"])
    assert (await service.call("GET", f"/{request_id}", by="eu-only")).status_code == 200
    for method, path in routes(request_id)[1:]:
        content = (
            {"title": "x"} if method == "PATCH" else {"text": "x"} if path.endswith("comments") else {"reason": "x"}
        )
        response = await service.call(method, path, content, by="eu-only", idempotency_key='"x"', if_match='"1"')
        assert (slug(response), response.status_code) == ("region-not-allowed", 403), path
    moved = await service.draft(key="two", by="eu-only")
    away = await service.call("PATCH", f"/{moved}", {"regions": ["us"], "markets": []}, by="eu-only", if_match='"1"')
    assert slug(away) == "region-not-allowed"


async def test_unknown_paths_are_404_and_unknown_methods_405(service: RequestService) -> None:
    for unknown in (UNKNOWN, "x", "%00", "0" * 500):
        for method, path in routes(unknown):
            content = None if method == "GET" else {"text": "x"} if path.endswith("comments") else {"reason": "x"}
            response = await service.call(method, path, content, idempotency_key='"x"', if_match='"1"')
            assert (slug(response), response.status_code) == ("not-found", 404), (method, path, response.text)
    assert (await service.call("DELETE", f"/{await service.draft()}")).status_code == 405


async def test_calls_get_503_until_the_database_is_connected(service: RequestService) -> None:
    request_id = await service.draft()
    service.disconnect_database()
    service.readiness.set("database", "not connected")
    for method, path in [("POST", ""), ("GET", ""), *routes(request_id)]:
        response = await service.call(method, path)
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert "database: not connected" in response.text


async def test_concurrent_calls_above_the_limit_get_429(service: RequestService) -> None:
    service.router.may_respond.clear()
    calls = [
        asyncio.ensure_future(service.call("POST", "", body(), idempotency_key=f'"{n}"'))
        for n in range(api._MAX_CALLS + 3)
    ]
    await until(lambda: len(service.router.checked) == api._MAX_CALLS and sum(call.done() for call in calls) == 3)
    service.router.may_respond.set()
    responses = [await call for call in calls]
    rejected = [response for response in responses if response.status_code == 429]
    assert (len(rejected), {response.headers["retry-after"] for response in rejected}) == (3, {"1"})
    assert sorted({response.status_code for response in responses}) == [201, 429]


async def test_every_route_is_documented_with_its_errors_and_an_example(service: RequestService) -> None:
    document = service.app.openapi()
    paths, schemas = document["paths"], document["components"]["schemas"]

    def example(content: dict[str, Any]) -> Any:
        reference = content["schema"].get("$ref", "").rpartition("/")[2]
        return content.get("example") or content.get("examples") or schemas[reference]["examples"][0]

    documented = {(method, path) for path, item in paths.items() if "requests" in path for method in item}
    assert len(documented) == 12
    for method, path in documented:
        operation = paths[path][method]
        assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys()
        assert operation["security"]
        for response in operation["responses"].values():
            assert all(map(example, response.get("content", {}).values()))
        assert all(map(example, operation.get("requestBody", {}).get("content", {}).values()))
    draft = example(paths["/v1/requests"]["post"]["requestBody"]["content"]["application/json"])
    assert (await service.call("POST", "", draft, idempotency_key='"example"')).status_code == 201


def test_every_command_is_a_route_with_its_scope(service: RequestService) -> None:
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
    paths = service.app.openapi()["paths"]
    operations = {name: paths[f"/v1/requests/{{request_id}}/{name}"]["post"] for name in lifecycle.RULES}
    assert {name: next(iter(o["security"][0].values())) for name, o in operations.items()} == {
        name: [scope] for name, scope in expected.items()
    }
