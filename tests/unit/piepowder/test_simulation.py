"""Simulated reviewers decide only the cases of their pool, with reason codes that are valid now."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec
import pytest

from piepowder import simulation
from piepowder.client import Api, ApiError
from piepowder.simulation import Simulation
from tests.support.command import TEST_PROFILE
from tests.support.decision.cases import opened
from tests.support.review_session import shown

CASES = {
    case["case_id"]: case
    for case in (
        shown(
            opened("eu", f"s{n}")[1],
        )
        for n in range(6)
    )
}
IDS = [*CASES]


class Decision(httpx.AsyncBaseTransport):
    """The review API of a region. `codes` are the valid ones until the first decision arrives; then `later`."""

    def __init__(self, codes: Sequence[str] = ("OTHER",), later: Sequence[str] | None = None) -> None:
        self.waiting = list(IDS)
        self.decided: dict[str, list[str]] = {}
        self._codes = list(codes)
        self._later = later

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, msgspec.json.decode(request.content or b"{}", type=dict[str, Any])
        if path == "/v1/claims":
            chosen = [one for one in self.waiting if one in body.get("only_cases", self.waiting)]
            if not chosen:
                return httpx.Response(204)
            self.waiting.remove(chosen[0])
            return httpx.Response(201, json={"case": CASES[chosen[0]], "lease": {"token": 1, "until": ""}})
        if path == "/v1/reasons":
            return httpx.Response(200, json={"reasons": [{"code": code, "titles": []} for code in self._codes]})
        case_id, operation = path.split("/")[3:]
        if operation == "release":
            self.waiting.append(case_id)
            return httpx.Response(200, json={})
        if self._later is not None:
            self._codes, self._later = list(self._later), None
        if [code for code in body["reasons"] if code not in self._codes]:
            return httpx.Response(422, json={"type": "urn:piepowder:problem:unknown-reason", "detail": "Unknown."})
        self.decided[case_id] = body["reasons"]
        return httpx.Response(201, json={})


class Pool:
    """A pool of some cases."""

    def __init__(self, *case_ids: str) -> None:
        self._own = list(case_ids)

    def count(self, region: str) -> int:
        return len(self._own) if region == "eu" else 0

    def next(self, region: str) -> list[str]:
        return list(self._own) if region == "eu" else []

    def done(self, region: str, case_id: str) -> None:
        assert region == "eu"
        self._own.remove(case_id)


async def simulated(decision: Decision, **how: Any) -> Mapping[tuple[str, str], int]:
    async with Api(TEST_PROFILE, transport=decision) as api:
        truth = {f"shop:product:s{n}@1": "reject" for n in range(6)}
        return await simulation.simulate(Simulation(api=api, regions=["eu"], each=2, seed=1, truth=truth, **how), None)


async def test_only_cases_of_the_pool_are_decided() -> None:
    decision = Decision()
    await simulated(decision, pool=Pool(*IDS[1:4]))
    assert decision.decided.keys() == {*IDS[1:4]}
    assert decision.waiting == [IDS[0], *IDS[4:]]


async def test_an_empty_pool_decides_nothing_and_no_pool_decides_everything() -> None:
    decision = Decision()
    assert await simulated(decision, pool=Pool()) == {}
    assert decision.decided == {}
    await simulated(decision)
    assert decision.decided.keys() == CASES.keys()


async def test_some_cases_of_the_pool_are_left_for_the_person() -> None:
    decision = Decision()
    await simulated(decision, pool=Pool(*IDS[1:]), leave=3)
    assert len(decision.decided) == 2
    assert IDS[0] in decision.waiting


async def test_a_case_of_the_pool_that_somebody_else_holds_does_not_stop_the_others() -> None:
    decision = Decision()
    decision.waiting.remove(IDS[1])
    await simulated(decision, pool=Pool(*IDS[1:3]))
    assert decision.decided.keys() == {IDS[2]}


async def test_the_codes_are_read_again_when_another_set_is_in_force() -> None:
    decision = Decision(["OTHER", "OLD"], later=["OTHER"])
    for case in CASES.values():
        case["reasons"] = ["OLD"]
    try:
        await simulated(decision, pool=Pool(*IDS))
    finally:
        for case in CASES.values():
            case["reasons"] = []
    assert decision.decided.keys() == CASES.keys()
    assert {code for codes in decision.decided.values() for code in codes} == {"OTHER"}


async def test_a_code_that_is_refused_twice_is_an_error() -> None:
    decision = Decision(["OTHER"], later=[])
    with pytest.raises((ApiError, ExceptionGroup)):
        await simulated(decision)
