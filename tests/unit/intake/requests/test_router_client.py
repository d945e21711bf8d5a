"""The client of the router: a valid change, an invalid change, or no result."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, ProposedDifference
from services.intake.requests.router_client import RouterCheck
from shared.contracts.events import Policy, ProposedChange, ProposedPolicySet
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected

CHANGE = ProposedChange(
    policy_set=ProposedPolicySet(policies=[Policy(id="a", when=["true"], verdict="review")], default_verdict="approve")
)
CHECKED = {
    "in_force": {"operating_model": "om-1", "policy_set": None},
    "operating_model": None,
    "policy_set": {"changed": True, "differing": 300, "differences": [{"what": "policies/a", "how": "added"}]},
    "field_of_a_later_version": 1,
}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("pp_test_x\n")
    return path


async def check(respond: Callable[[httpx.Request], httpx.Response], key_file: Path | None) -> ChangeCheck:
    router = RouterCheck("http://router", key_file, transport=httpx.MockTransport(respond))
    try:
        return await router.check(CHANGE)
    finally:
        await router.stop()


async def test_the_change_is_sent_with_intakes_key_and_the_result_is_returned(key_file: Path) -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=CHECKED)

    difference = ProposedDifference(what="policies/a", how="added")
    fits = ChangeCheck(verdict=lifecycle.FITS, operating_model="om-1", differing=300, differences=[difference])
    assert await check(respond, key_file) == fits
    [request] = requests
    assert (request.method, request.url.path) == ("POST", "/v1/control/check")
    assert request.headers["authorization"] == "Bearer pp_test_x"
    assert json.loads(request.content) == {
        "policy_set": {"policies": [{"id": "a", "when": ["true"], "verdict": "review"}], "default_verdict": "approve"}
    }


async def test_faults_from_the_router_have_pointers_below_change(key_file: Path) -> None:
    errors = [{"pointer": "/policy_set/policies/0/when/0", "detail": "no"}, {"pointer": "", "detail": "empty"}]
    with pytest.raises(InputRejected) as raised:
        await check(lambda _: httpx.Response(422, json={"detail": "x", "errors": errors}), key_file)
    assert (raised.value.status, raised.value.slug) == (422, "unfit-change")
    assert [(fault.pointer, fault.detail) for fault in raised.value.faults] == [
        ("/change/policy_set/policies/0/when/0", "no"),
        ("/change", "empty"),
    ]
    with pytest.raises(InputRejected, match="/change: nothing"):
        await check(lambda _: httpx.Response(422, json={"detail": "nothing"}), key_file)


@pytest.mark.parametrize("status", [401, 403, 404, 413, 429, 500, 503])
async def test_any_other_status_is_a_transient_error(key_file: Path, status: int) -> None:
    with pytest.raises(Transient, match=rf"\({status}\): because"):
        await check(lambda _: httpx.Response(status, json={"detail": "because"}), key_file)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json={}),
        httpx.Response(502, content=b""),
        httpx.Response(302, headers={"Location": "http://elsewhere"}),
    ],
)
async def test_an_unreadable_response_is_a_transient_error(key_file: Path, response: httpx.Response) -> None:
    with pytest.raises(Transient, match="unreadable body"):
        await check(lambda _: response, key_file)


@pytest.fixture
def binary_file(tmp_path: Path) -> Path:
    path = tmp_path / "no-text"
    path.write_bytes(b"\xff")
    return path


async def test_an_unreachable_router_and_a_missing_key_are_reported(key_file: Path, binary_file: Path) -> None:
    def time_out(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("late", request=request)

    with pytest.raises(Transient, match="does not respond: no answer in time"):
        await check(time_out, key_file)
    with pytest.raises(Transient, match="PIEPOWDER_ROUTER_KEY_FILE"):
        await check(time_out, None)
    with pytest.raises(Transient, match="cannot be read"):
        await check(time_out, key_file.parent / "none")
    with pytest.raises(Transient, match="cannot be read"):
        await check(time_out, binary_file)
