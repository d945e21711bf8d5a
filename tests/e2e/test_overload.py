"""Under three times the load that intake can take, it rejects calls promptly and keeps its promises (1 and 9).

Intake runs with the small limits that an operator would set on a small machine: an accepted item then waits behind few
others, and all other calls are rejected at once with a Retry-After header.
"""

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Final

import pytest

from shared.contracts import ids, topics
from shared.contracts.events import ITEM_SUBMITTED
from shared.runtime.clock import SystemClock
from tests.bench.kafka import Watch
from tests.bench.report import percentile
from tests.e2e.conftest import Cell
from tests.e2e.steps import lag_seconds
from tests.support.flood import CallResult, FloodPlan, flood_in_process
from tests.support.servers import Servers

LIMITS: Final = {"PIEPOWDER_QUEUE_RECORDS": "60", "PIEPOWDER_BATCH_CALLS": "2"}
CLIENTS: Final = 3  # processes that send single posts; one more sends batches
CONNECTIONS: Final = 60  # per process
LINES: Final = 50  # per batch
BURST_SECONDS: Final = 5.0
MOST_CALLS: Final = 6_000  # per process

GROWTH_MB: Final = 64  # caches still fill in a warm process; the waiting records take less than 1 MB
LARGEST_MB: Final = 300
# An accepted call waits behind at most 60 records and the responses to about 200 connections: a few tenths of a second.
# The limits leave room for machines that run other programs too.
SLOWEST_SECONDS: Final = 5.0
NORMAL_SECONDS: Final = 0.5
ACCEPTED_AGAIN_SECONDS: Final = 10.0
CAUGHT_UP_SECONDS: Final = 60.0

_clock = SystemClock()


@pytest.mark.timeout(180)
async def test_overload_is_rejected_promptly_and_no_accepted_item_is_lost(cell: Cell, servers: Servers) -> None:
    intake = cell.system.services["intake"]
    assert intake.child.env is not None
    intake.child.env |= LIMITS
    intake.stop()
    intake.start()
    await asyncio.to_thread(cell.system.wait_ready)

    alone = (await flood_in_process(_plan(cell, "alone", count=100, rate=50, connections=1))).calls
    rate, warm = await _at_best(cell)
    assert {result.status for result in [*alone, *warm]} == {202}

    before = _resident_mb(cell)
    count = min(int(3 * rate * BURST_SECONDS / CLIENTS), MOST_CALLS)
    plans = [
        _plan(cell, f"burst{n}", count=count, rate=3 * rate / CLIENTS, connections=CONNECTIONS) for n in range(CLIENTS)
    ]
    plans.append(_plan(cell, "lines", count=500, rate=100, connections=12, lines=LINES))
    async with _watched(cell) as highest:
        *singles, lines = await asyncio.gather(*map(flood_in_process, plans))
    posts, batches = [result for flood in singles for result in flood.calls], lines.calls
    again = await _accepted_again(cell)

    calls = [*posts, *batches]
    assert len(calls) == sum(plan.count for plan in plans)
    assert {result.status for result in posts} <= {202, 429, 503}
    assert {result.status for result in batches} <= {200, 429, 503}
    assert {status for result in batches for status in result.statuses} <= {202, 429, 503}
    assert all(result.retry_after is not None for result in calls if result.status in (429, 503))
    assert not any(result.without_retry_after for result in batches)
    for kind in (posts, batches):
        assert sum(result.status == 429 for result in kind) > len(kind) / 4, "there was no overload"
        assert any(result.accepted for result in kind), "nothing was accepted"
    assert percentile([result.seconds for result in calls if result.accepted], 0.99) < SLOWEST_SECONDS
    assert median(result.seconds for result in again) < max(
        NORMAL_SECONDS, 5 * median(result.seconds for result in alone)
    )
    for name, size in highest.items():
        assert size < LARGEST_MB, name
        assert size < before[name] + GROWTH_MB, name

    accepted = [item for result in [*alone, *warm, *calls, *again] for item in result.accepted]
    assert len(accepted) == len(set(accepted))
    await _caught_up(cell)
    arrived = await _arrived(servers.kafka, cell.eu)
    wanted = {ids.event_id(item, ITEM_SUBMITTED, cell.eu) for item in accepted}
    assert {event: arrived[event] for event in wanted if arrived[event] != 1} == {}
    may_have = sum(result.status == 503 for result in posts) + LINES * sum(
        503 in [result.status, *result.statuses] for result in batches
    )
    assert len(arrived) <= len(wanted) + may_have, "an item that was rejected with 429 is in Kafka"


def _plan(cell: Cell, tag: str, *, count: int, rate: float, connections: int, lines: int = 0) -> FloodPlan:
    return FloodPlan(cell.url("intake"), cell.system.key(), tag, "DE", count, rate, connections, lines)


async def _at_best(cell: Cell) -> tuple[float, list[CallResult]]:
    """The rate of accepted single posts with as many calls in flight as the limits allow; and the results."""
    plans = [_plan(cell, f"best{n}", count=1_000, rate=1e6, connections=60 // CLIENTS - 1) for n in range(CLIENTS)]
    found = await asyncio.gather(*map(flood_in_process, plans))
    results = [result for flood in found for result in flood.calls]
    return len(results) / max(flood.seconds for flood in found), results


async def _accepted_again(cell: Cell) -> list[CallResult]:
    """The results of single posts when intake accepts calls again, which must be soon."""
    deadline, tries = _clock.monotonic() + ACCEPTED_AGAIN_SECONDS, 0
    while True:
        tries += 1
        found = (await flood_in_process(_plan(cell, f"again{tries}", count=20, rate=40, connections=1))).calls
        if all(result.status == 202 for result in found):
            return found
        assert _clock.monotonic() < deadline, Counter(result.status for result in found)


def _pids(cell: Cell) -> dict[str, int]:
    return {name: one.child.pid for name, one in cell.system.services.items() if one.child.pid is not None}


def _resident_mb(cell: Cell) -> dict[str, float]:
    """The resident size of each service process."""
    pids = _pids(cell)
    command = ["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids.values()))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    sizes = {int(pid): int(kilobytes) * 1024 / 1e6 for pid, kilobytes in map(str.split, lines)}
    return {name: sizes[pid] for name, pid in pids.items()}


@asynccontextmanager
async def _watched(cell: Cell) -> AsyncIterator[dict[str, float]]:
    """The largest resident size of each process until the end of the block."""
    highest: dict[str, float] = {}

    async def watch() -> None:
        while True:
            for name, size in (await asyncio.to_thread(_resident_mb, cell)).items():
                highest[name] = max(size, highest.get(name, 0.0))
            await asyncio.sleep(0.3)

    watching = asyncio.create_task(watch())
    try:
        yield highest
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _caught_up(cell: Cell) -> None:
    """Wait until no consumer has a lag."""
    deadline = _clock.monotonic() + CAUGHT_UP_SECONDS
    names = [service.name for service in cell.system.services.values() if service.spec.service.reads]
    while behind := {name: seconds for name in names if (seconds := lag_seconds(cell, name)) > 0}:
        assert _clock.monotonic() < deadline, behind
        await asyncio.sleep(0.3)


async def _arrived(kafka: str, region: str) -> Counter[str]:
    """The number of occurrences of each event in the region's submissions topic."""
    async with Watch.on(kafka) as watch:
        records = await watch.read([topics.submissions(region)])
    return Counter(dict(record.headers)["ce_id"].decode() for partition in records.values() for record in partition)
