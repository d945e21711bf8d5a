"""The lag in responses is never less than the real lag, and invalid cursors are rejected."""

import base64
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from starlette.requests import Request

from services.intake.items.domain.status import StatusFacts
from services.intake.items.queries import Asking, Following, not_known, projection
from services.intake.items.store import ItemStatusStore
from services.intake.items.views import ProjectionAnswer
from shared.auth.authenticator import Authenticator
from shared.auth.principal import Principal
from shared.http.http import Problem
from shared.runtime.clock import ManualClock
from shared.runtime.readiness import Readiness

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ITEM = "0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10"


class Overtaken:
    """Statuses that the projection goes on with between any two looks, up to this very moment."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._followed = {"eu": clock.now()}

    def _go_on(self) -> None:
        self._clock.advance(timedelta(seconds=5))
        self._followed = {"eu": self._clock.now()}

    async def handled_until(self) -> dict[str, datetime]:
        followed = dict(self._followed)
        self._go_on()
        return followed

    async def of_item(self, _: str) -> dict[str, StatusFacts]:
        self._go_on()
        return {}


class Anybody:
    def principal(self, _: Request, scope: str) -> Principal:
        return Principal("shop", frozenset({scope}), frozenset({"eu"}))


class Untouched:
    """Statuses that nobody is to ask."""


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-05-01T12:00:00", "yesterday"]
)
@pytest.mark.parametrize("call", ["items", "subject"])
async def test_a_cursor_with_an_invalid_time_is_rejected(moment: str, call: str) -> None:
    following = Following(["eu"])
    following.statuses = cast("ItemStatusStore", Untouched())
    asking = Asking(following, cast("Authenticator", Anybody()), Readiness("test"), ManualClock(NOON))
    cursor = base64.urlsafe_b64encode(f"{moment} {ITEM}".encode())
    path = {"platform": "shop", "kind": "product", "id": "1"}
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "path_params": path}
    with pytest.raises(Problem) as refused:
        await getattr(asking, call)(Request({**scope, "query_string": b"cursor=" + cursor}))
    assert [error.pointer for error in refused.value.details.errors] == ["/query/cursor"]
    assert refused.value.details.status == 422


async def test_the_lag_is_read_before_the_facts() -> None:
    clock = ManualClock(NOON)
    following = Following(["eu"])
    following.statuses = cast("ItemStatusStore", Overtaken(clock))
    asking = Asking(following, cast("Authenticator", Anybody()), Readiness("test"), clock)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "path_params": {"item_id": ITEM}}
    with pytest.raises(Problem) as unknown:
        await asking.item(Request(scope))
    assert unknown.value.details.status == 404
    assert "in the last 10 s may be missing" in unknown.value.details.detail


def test_the_lag_is_that_of_the_slowest_region_and_unknown_while_one_region_is_unknown() -> None:
    clock = ManualClock(NOON)
    followed = {"eu": NOON - timedelta(seconds=2), "us": NOON - timedelta(seconds=7), "jp": NOON}
    assert projection(followed, ["eu", "us"], clock).lag_seconds == 7
    assert projection(followed, ["eu"], clock).lag_seconds == 2
    assert projection(followed, ["eu", "br"], clock).lag_seconds is None
    assert projection({}, ["eu"], clock).lag_seconds is None
    assert projection(followed, [], clock).lag_seconds is None


@pytest.mark.parametrize(
    ("lag", "said"), [(2.5, "in the last 2.5 s may be missing"), (None, "is followed yet: it may still come")]
)
def test_a_404_states_the_lag_of_the_projection(lag: float | None, said: str) -> None:
    details = not_known("item", "item 'x'", ProjectionAnswer(lag)).details
    assert details.status == 404
    assert details.detail.startswith("No item 'x' is known to this key, in its regions and for its platforms. ")
    assert said in details.detail
