"""`piepowder withdraw`: the result in each region, and failures."""

import asyncio

import httpx
import pytest

from piepowder.client import Api
from piepowder.withdraw import withdraw
from shared.runtime.user_errors import UserError
from tests.support.command import TEST_PROFILE


class Intake:
    """Responds as intake does; each read of an item returns the next of `states`, by region."""

    def __init__(self, *states: dict[str, str], deletes: int = 202) -> None:
        self._states = list(states)
        self._deletes = deletes
        self.reasons: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.reasons.append(request.url.params.get("reason"))
            if self._deletes != 202:
                return httpx.Response(self._deletes, json={"title": "No", "detail": "No item 'x' is known."})
            regions = {region: {"event_id": "e"} for region in ("eu", "us")}
            return httpx.Response(202, json={"item_id": "i", "subject": "s:product:1", "regions": regions})
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return httpx.Response(200, json={"regions": {region: {"status": status} for region, status in state.items()}})


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _: sleep(0))


async def withdrawn(intake: Intake, reason: str = "") -> dict[str, str]:
    async with Api(TEST_PROFILE, transport=httpx.MockTransport(intake)) as api:
        return (await withdraw(api, "i", reason)).regions


async def test_a_withdrawal_waits_for_its_effect_and_reports_earlier_decisions() -> None:
    intake = Intake({"eu": "in_review"}, {"eu": "in_review", "us": "approved"}, {"eu": "withdrawn", "us": "approved"})
    result = await withdrawn(intake, "sold")
    assert result == {"eu": "withdrawn", "us": "approved before the withdrawal; the decision stays"}
    assert intake.reasons == ["sold"]


async def test_a_slow_withdrawal_is_shown_with_its_current_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piepowder.withdraw._PATIENCE", 0.05)
    assert await withdrawn(Intake({"eu": "in_review"})) == {"eu": "in_review", "us": "submitted"}


async def test_an_unknown_item_is_reported_with_advice() -> None:
    with pytest.raises(UserError, match="Give an item's id"):
        await withdrawn(Intake(deletes=404))
