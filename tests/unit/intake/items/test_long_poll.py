"""Long polling: one query serves all waiting calls, and each call ends as soon as its item is known."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import pytest

from services.intake.items import long_poll
from services.intake.items.domain.status import StatusFacts, SubmissionFact
from services.intake.items.long_poll import Known, LongPoll, preferred
from shared.runtime.errors import Transient

FACTS = StatusFacts(
    subject="shop:product:1",
    submission=SubmissionFact(position=0, content_hash="a", received_at="2026-05-01T09:30:00.000Z", client="shop"),
)


class Statuses:
    """A status store in memory; `after` has the number of the first lookup that finds each item."""

    def __init__(self, after: Mapping[str, int], *, fails: bool = False) -> None:
        self.lookups: list[int] = []
        self._after = after
        self._fails = fails

    async def of_items(self, item_ids: Sequence[str]) -> Mapping[str, Known]:
        self.lookups.append(len(item_ids))
        if self._fails:
            raise Transient("PostgreSQL does not respond.")
        known = {item: {"eu": FACTS} for item in item_ids if len(self.lookups) >= self._after.get(item, 10**9)}
        return {item: known.get(item, {}) for item in item_ids}


@pytest.fixture(autouse=True)
def short_poll_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_poll, "_POLL_SECONDS", 0.005)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=10", 10),
        ("respond-async, wait=5", 5),
        ('Wait = "7"', 7),
        ("wait=3; foo=bar", 3),
        ("wait=86400", 30),
        ("wait=99999999999999", 30),
        (f"wait={'9' * 5_000}", 30),
        ("wait=0000000000000007", 7),
        ("wait=10, wait=20", 10),
        ("wait=soon, wait=20", 0),
        ('foo="a, wait=5"', 0),
        ('foo="a, wait=5', 0),
        ('foo="a\\", wait=5", wait=6', 6),
        ('foo="a", wait=5', 5),
        ("foo; wait=5", 0),
        ('wait="5', 0),
        ("wait=5 6", 0),
        ("", 0),
        ("wait", 0),
        ("wait=soon", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("await=9", 0),
        ("return=minimal", 0),
    ],
)
def test_the_wait_preference_is_read_according_to_rfc_7240(prefer: str, seconds: int) -> None:
    assert preferred(prefer) == seconds


@pytest.mark.parametrize("part", ['"', '"\\', '"a,', ",", "wait ", 'a="b";', "wait=1, "])
def test_reading_preferences_takes_linear_time(part: str) -> None:
    started = time.process_time()
    preferred(part * (60_000 // len(part)))
    assert time.process_time() - started < 0.5


async def test_one_query_serves_all_waiting_calls_and_each_call_ends_with_its_own_item() -> None:
    items = [f"item-{n}" for n in range(500)]
    statuses, waiting_calls = Statuses({item: 2 + n // 100 for n, item in enumerate(items)}), LongPoll()
    ended: list[str] = []

    async def wait(item: str) -> None:
        assert await waiting_calls.until(statuses, item, bool, 30)
        ended.append(item)

    async with asyncio.timeout(20):
        await asyncio.gather(*(wait(item) for item in items for _ in range(2)))
    assert [int(item.partition("-")[2]) // 100 for item in ended] == sorted(
        n // 100 for n in range(500) for _ in range(2)
    )
    assert statuses.lookups == [500, 500, 400, 300, 200, 100]
    await asyncio.sleep(0.05)
    assert len(statuses.lookups) == 6  # no lookup without a waiting call


async def test_a_call_ends_at_its_timeout_and_the_next_call_is_served() -> None:
    statuses, waiting_calls = Statuses({"b": 1}), LongPoll()
    assert await waiting_calls.until(statuses, "a", bool, 0.03)
    assert await waiting_calls.until(statuses, "b", bool, 30)


async def test_calls_above_the_limit_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_poll, "_MAX_WAITING_CALLS", 3)
    waiting_calls = LongPoll()
    calls = [waiting_calls.until(Statuses({}), "a", bool, 0.05) for _ in range(5)]
    assert sorted(await asyncio.gather(*calls)) == [False, False, True, True, True]
    assert await waiting_calls.until(Statuses({}), "a", bool, 0.01)


async def test_a_database_error_ends_all_waiting_calls_and_a_later_call_tries_again() -> None:
    waiting_calls = LongPoll()
    calls = [waiting_calls.until(Statuses({}, fails=True), item, bool, 30) for item in "ab"]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Transient, Transient]
    assert await waiting_calls.until(Statuses({"a": 1}), "a", bool, 30)


async def test_the_call_of_a_disconnected_client_stops_waiting() -> None:
    statuses, waiting_calls = Statuses({}), LongPoll()
    call = asyncio.create_task(waiting_calls.until(statuses, "a", bool, 30))
    await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.sleep(0.02)
    lookups = len(statuses.lookups)
    await asyncio.sleep(0.03)
    assert len(statuses.lookups) == lookups
