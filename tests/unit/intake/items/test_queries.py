"""The lag in responses is never less than the real lag, and invalid cursors are rejected."""

import base64
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from services.intake.items.api import item_cursor
from services.intake.items.domain.status import StatusFacts
from services.intake.items.queries import ItemQueries, not_found
from services.intake.items.store import ItemStatusStore
from services.intake.items.views import ProjectionView
from services.intake.items.waiting import WaitingStore
from shared.auth.principal import Principal
from shared.runtime.clock import ManualClock
from shared.validation.faults import InputRejected

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SHOP = Principal("shop", frozenset({"items:read"}), frozenset({"eu"}))
ITEM = "0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10"


class AdvancingStatuses:
    """A status store; after each read, the clock and the projection advance by 5 s."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._handled_until = {"eu": clock.now()}

    def _advance(self) -> None:
        self._clock.advance(timedelta(seconds=5))
        self._handled_until = {"eu": self._clock.now()}

    async def handled_until(self) -> dict[str, datetime]:
        handled_until = dict(self._handled_until)
        self._advance()
        return handled_until

    async def of_item(self, _: str) -> dict[str, StatusFacts]:
        self._advance()
        return {}


def queries(statuses: object, clock: ManualClock, *regions: str) -> ItemQueries:
    return ItemQueries(cast("ItemStatusStore", statuses), cast("WaitingStore", None), regions or ["eu"], clock)


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-05-01T12:00:00", "yesterday"]
)
def test_a_cursor_with_an_invalid_time_is_rejected(moment: str) -> None:
    cursor = base64.urlsafe_b64encode(f'["{moment}","{ITEM}"]'.encode()).decode()
    with pytest.raises(InputRejected) as rejection:
        item_cursor(cursor)
    assert [fault.pointer for fault in rejection.value.faults] == ["/query/cursor"]
    assert rejection.value.status == 422


async def test_the_lag_is_read_before_the_facts() -> None:
    clock = ManualClock(NOON)
    with pytest.raises(InputRejected) as unknown:
        await queries(AdvancingStatuses(clock), clock).item(SHOP, ITEM, 0)
    assert unknown.value.status == 404
    assert "Submissions of the last 10 s may be missing" in str(unknown.value)


def test_the_slowest_region_determines_the_lag_and_one_unknown_region_makes_it_unknown() -> None:
    clock = ManualClock(NOON)
    lag = queries(None, clock, "eu", "br").lag
    handled_until = {"eu": NOON - timedelta(seconds=2), "us": NOON - timedelta(seconds=7), "jp": NOON}
    assert lag(handled_until, ["eu", "us"]).lag_seconds == 7
    assert lag(handled_until, ["eu"]).lag_seconds == 2
    assert lag(handled_until, ["eu", "br"]).lag_seconds is None
    assert lag({}, ["eu"]).lag_seconds is None
    assert lag(handled_until, []).lag_seconds is None, "the lag of all served regions"


@pytest.mark.parametrize(
    ("lag", "expected"), [(2.5, "of the last 2.5 s may be missing"), (None, "does not include all submissions yet")]
)
def test_a_404_states_the_lag_of_the_projection(lag: float | None, expected: str) -> None:
    rejection = not_found("item 'x'", ProjectionView(lag_seconds=lag))
    assert rejection.status == 404
    assert str(rejection).startswith("No item 'x' is known to this key, in its regions and for its platforms. ")
    assert expected in str(rejection)
