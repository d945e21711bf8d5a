"""`piepowder withdraw`: the result in each region, and failures."""

import asyncio

import httpx
import pytest

from piepowder.client import Api
from piepowder.withdraw import withdraw
from shared.runtime.user_errors import UserError
from tests.support.command import TEST_PROFILE
from tests.support.fake_intake import FakeIntake


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _: sleep(0))


async def withdrawn(intake: FakeIntake, reason: str = "") -> dict[str, str]:
    async with Api(TEST_PROFILE, transport=httpx.MockTransport(intake)) as api:
        return (await withdraw(api, "i", reason)).regions


async def test_a_withdrawal_waits_for_its_effect_and_reports_earlier_decisions() -> None:
    intake = FakeIntake(
        {"eu": "in_review"}, {"eu": "in_review", "us": "approved"}, {"eu": "withdrawn", "us": "approved"}
    )
    result = await withdrawn(intake, "sold")
    assert result == {"eu": "withdrawn", "us": "approved before the withdrawal; the decision stays"}
    assert intake.reasons == ["sold"]


async def test_a_slow_withdrawal_is_shown_with_its_current_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piepowder.withdraw._PATIENCE", 0.05)
    assert await withdrawn(FakeIntake({"eu": "in_review"})) == {"eu": "in_review", "us": "submitted"}


async def test_an_unknown_item_is_reported_with_advice() -> None:
    with pytest.raises(UserError, match="Give an item's id"):
        await withdrawn(FakeIntake(deletes=404))
