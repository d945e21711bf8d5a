"""At three times what intake can take, it refuses in time, and nothing else changes (promises 1 and 9).

Intake runs with small limits, as an operator would set them on a small machine: then what is accepted waits behind few
others, and the rest is told at once to come back.
"""

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.contracts import ids, topics
from shared.contracts.events import ITEM_SUBMITTED
from shared.runtime.clock import SystemClock
from tests.bench.kafka import Watch
from tests.bench.report import percentile
from tests.e2e.conftest import Cell
from tests.e2e.flood import Plan, Said, carried_out
from tests.support.servers import Servers

LIMITS: Final = {"PIEPOWDER_QUEUE_RECORDS": "60", "PIEPOWDER_BATCH_CALLS": "2"}
CLIENTS: Final = 3  # processes that post one by one, and one that posts batches
CONNECTIONS: Final = 60  # of each
LINES: Final = 50  # a batch
BURST_SECONDS: Final = 5.0
MOST_CALLS: Final = 6_000  # of each

GROWTH_MB: Final = 64  # of a process that is warm: its caches still fill, while what waits is less than a megabyte
LARGEST_MB: Final = 300
# What is accepted waits behind at most 60 records and the answers to some two hundred connections: a few tenths of a
# second of a busy machine's time. The bounds are for machines that others use too.
SLOWEST_SECONDS: Final = 5.0
NORMAL_SECONDS: Final = 0.5
WELL_SECONDS: Final = 10.0
CAUGHT_UP_SECONDS: Final = 60.0

_clock = SystemClock()


@pytest.mark.timeout(180)
async def test_three_times_too_much_is_refused_in_time_and_nothing_accepted_is_lost(
    cell: Cell, servers: Servers
) -> None:
    intake = cell.system.services["intake"]
    assert intake.child.env is not None
    intake.child.env |= LIMITS
    intake.stop()
    intake.start()
    await asyncio.to_thread(cell.system.wait_ready)

    alone = (await carried_out(_plan(cell, "alone", count=100, rate=50, connections=1))).said
    rate, warm = await _at_best(cell)
    assert {said.status for said in [*alone, *warm]} == {202}

    before = _resident_mb(cell)
    count = min(int(3 * rate * BURST_SECONDS / CLIENTS), MOST_CALLS)
    plans = [
        _plan(cell, f"burst{n}", count=count, rate=3 * rate / CLIENTS, connections=CONNECTIONS) for n in range(CLIENTS)
    ]
    plans.append(_plan(cell, "lines", count=500, rate=100, connections=12, lines=LINES))
    async with _watched(cell) as highest:
        *singles, lines = await asyncio.gather(*map(carried_out, plans))
    posts, batches = [said for told in singles for said in told.said], lines.said
    again = await _taken_again(cell)

    calls = [*posts, *batches]
    assert len(calls) == sum(plan.count for plan in plans)
    assert {said.status for said in posts} <= {202, 429, 503}
    assert {said.status for said in batches} <= {200, 429, 503}
    assert {status for said in batches for status in said.statuses} <= {202, 429, 503}
    assert all(said.retry_after is not None for said in calls if said.status in (429, 503))
    assert not any(said.impatient for said in batches)
    for kind in (posts, batches):
        assert sum(said.status == 429 for said in kind) > len(kind) / 4, "it was too much"
        assert any(said.accepted for said in kind), "and some was taken"
    assert percentile([said.took for said in calls if said.accepted], 0.99) < SLOWEST_SECONDS
    assert median(said.took for said in again) < max(NORMAL_SECONDS, 5 * median(said.took for said in alone))
    for name, size in highest.items():
        assert size < LARGEST_MB, name
        assert size < before[name] + GROWTH_MB, name

    accepted = [item for said in [*alone, *warm, *calls, *again] for item in said.accepted]
    assert len(accepted) == len(set(accepted))
    await _caught_up(cell)
    arrived = await _arrived(servers.kafka, cell.eu)
    wanted = {ids.event_id(item, ITEM_SUBMITTED, cell.eu) for item in accepted}
    assert {event: arrived[event] for event in wanted if arrived[event] != 1} == {}
    may_have = sum(said.status == 503 for said in posts) + LINES * sum(
        503 in [said.status, *said.statuses] for said in batches
    )
    assert len(arrived) <= len(wanted) + may_have, "what was refused with 429 was not sent"


def _plan(cell: Cell, tag: str, *, count: int, rate: float, connections: int, lines: int = 0) -> Plan:
    return Plan(cell.url("intake"), cell.system.key(), tag, "DE", count, rate, connections, lines)


async def _at_best(cell: Cell) -> tuple[float, list[Said]]:
    """How many single posts a second are taken, when as many are under way as fit; and what was said to them."""
    plans = [_plan(cell, f"best{n}", count=1_000, rate=1e6, connections=60 // CLIENTS - 1) for n in range(CLIENTS)]
    found = await asyncio.gather(*map(carried_out, plans))
    said = [one for told in found for one in told.said]
    return len(said) / max(told.seconds for told in found), said


async def _taken_again(cell: Cell) -> list[Said]:
    """What is said to single posts, once the first is taken; that is soon."""
    deadline, tries = _clock.monotonic() + WELL_SECONDS, 0
    while True:
        tries += 1
        found = (await carried_out(_plan(cell, f"again{tries}", count=20, rate=40, connections=1))).said
        if all(said.status == 202 for said in found):
            return found
        assert _clock.monotonic() < deadline, Counter(said.status for said in found)


def _pids(cell: Cell) -> dict[str, int]:
    return {name: one.child.pid for name, one in cell.system.services.items() if one.child.pid is not None}


def _resident_mb(cell: Cell) -> dict[str, float]:
    """The resident size of each service's process."""
    pids = _pids(cell)
    command = ["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids.values()))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    sizes = {int(pid): int(kilobytes) * 1024 / 1e6 for pid, kilobytes in map(str.split, lines)}
    return {name: sizes[pid] for name, pid in pids.items()}


@asynccontextmanager
async def _watched(cell: Cell) -> AsyncIterator[dict[str, float]]:
    """The largest size that each process has had, as it is known at the end of the block."""
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
    """Wait, bounded, until no consumer is behind any more."""
    deadline = _clock.monotonic() + CAUGHT_UP_SECONDS
    names = [name for name in cell.system.services if name.split("-")[0] in ("router", "decision", "audit")]
    while behind := {name: seconds for name in names if (seconds := lag_seconds(cell, name)) > 0}:
        assert _clock.monotonic() < deadline, behind
        await asyncio.sleep(0.3)


def lag_seconds(cell: Cell, name: str) -> float:
    """The largest lag that a service shows, of all its consumers; 0 when it shows none."""
    families = text_string_to_metric_families(cell.client.get(f"{cell.url(name)}/metrics").text)
    return max(
        (
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "piepowder_consumer_lag_seconds"
        ),
        default=0.0,
    )


async def _arrived(kafka: str, region: str) -> Counter[str]:
    """How often each event is on the region's topic of submissions."""
    async with Watch.on(kafka) as watch:
        lanes = await watch.read([topics.submissions(region)])
    return Counter(dict(record.headers)["ce_id"].decode() for lane in lanes.values() for record in lane)
