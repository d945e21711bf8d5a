"""Intake keeps its responses true while Kafka is stopped or frozen, and when intake is killed (promises 1 and 9).

Under a load of single posts and batches each call gets 202 or a clear rejection; a killed process gives no response.
Kafka has each item with status 202 exactly once per id. The test sends nothing twice, so no id may be there twice.
PIEPOWDER_TEST_CUT_SECONDS sets how long Kafka is stopped, if not for the twenty seconds of `make test`.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final

import httpx
import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.system import System
from shared.contracts import ids, topics
from shared.contracts.events import ITEM_SUBMITTED
from shared.runtime.clock import SystemClock
from tests.bench.kafka import Watch
from tests.support.flood import CallResult, FloodPlan, item, running_flood
from tests.support.servers import Servers

CUT_SECONDS: Final = float(os.environ.get("PIEPOWDER_TEST_CUT_SECONDS", "20"))
AROUND_SECONDS: Final = 4.0  # of load before and after
RATE: Final = 60  # single posts a second
BATCHES: Final = 4  # a second
LINES: Final = 20  # per batch
MOST_SECONDS: Final = 180.0 + CUT_SECONDS  # the load ends earlier
# Enough for the calls that arrive while others wait ten seconds: then intake stops waiting for Kafka.
CONNECTIONS: Final = 900
SLOWEST_SECONDS: Final = 45.0  # ten for the calls in flight, ten for the calls behind them, and a busy machine
ACCEPTED_AGAIN_SECONDS: Final = 60.0
READY_SECONDS: Final = 30.0  # two between checks, five until a check times out, and a busy machine

pytestmark = pytest.mark.timeout(240 + 4 * CUT_SECONDS)
_clock = SystemClock()


@pytest.fixture(scope="module")
def system(own_kafka: LocalKafka, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The services on this Kafka."""
    own = Servers(own_kafka.bootstrap, servers.database_url)
    with System(own, ("eu", "us"), tmp_path_factory.mktemp("system"), databases=f"cut_{os.getpid()}") as running:
        yield running


async def test_while_kafka_is_stopped_posts_are_rejected_and_each_accepted_item_is_in_kafka_once(
    system: System, own_kafka: LocalKafka
) -> None:
    [node] = own_kafka.nodes

    async def stop_kafka() -> None:
        await asyncio.to_thread(node.stop)
        await asyncio.sleep(CUT_SECONDS)
        await asyncio.to_thread(node.start)

    posts, batches = await _under_load(system, "kafka", stop_kafka)
    assert {result.status for result in posts} == {202, 503}
    assert {result.status for result in batches} <= {200, 429, 503}
    assert {status for result in batches for status in result.statuses} <= {202, 429, 503}
    assert any(503 in (result.status, *result.statuses) for result in batches)
    await _check(system, own_kafka, posts, batches)


async def test_readiness_reports_a_frozen_kafka_within_seconds(system: System, own_kafka: LocalKafka) -> None:
    [node] = own_kafka.nodes
    await _until_readiness(system, 200)
    node.pause()
    try:
        reported = await _until_readiness(system, 503)
    finally:
        node.resume()
    assert re.search(f"Kafka at .* does not respond: {own_kafka.bootstrap}", reported), reported
    await _until_readiness(system, 200)
    await _until_accepted(system, "still")


async def test_when_intake_is_killed_repeatedly_each_accepted_item_is_in_kafka_once(
    system: System, own_kafka: LocalKafka
) -> None:
    intake = system.services["intake"]

    async def kill() -> None:
        for _ in range(3):
            await asyncio.to_thread(intake.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(intake.start)
            await asyncio.to_thread(system.wait_ready)
            await asyncio.sleep(1.5)

    posts, batches = await _under_load(system, "kill", kill)
    assert {result.status for result in posts} <= {0, 202, 503}
    assert {result.status for result in batches} <= {0, 200, 429, 503}
    assert any(result.status == 0 for result in [*posts, *batches])
    await _check(system, own_kafka, posts, batches)


async def _under_load(
    system: System, tag: str, disturb: Callable[[], Awaitable[None]]
) -> tuple[list[CallResult], list[CallResult]]:
    """The results of single posts and batches before, during and after a disturbance."""
    posts = _plan(system, f"{tag}-posts", rate=RATE, connections=CONNECTIONS)
    lines = _plan(system, f"{tag}-lines", rate=BATCHES, connections=60, lines=LINES)
    async with running_flood(posts) as first, running_flood(lines) as second:
        await asyncio.sleep(AROUND_SECONDS)
        await disturb()
        await _until_accepted(system, tag)
        await asyncio.sleep(AROUND_SECONDS)
        results = await asyncio.gather(first.stop(), second.stop())
    assert len(results[0].calls) < posts.count, "the load ended too early"
    return results[0].calls, results[1].calls


async def _check(system: System, kafka: LocalKafka, posts: list[CallResult], batches: list[CallResult]) -> None:
    calls = [*posts, *batches]
    statuses = Counter(result.status for result in posts), Counter(result.status for result in batches)
    lines = Counter(status for result in batches for status in result.statuses)
    slowest = [round(max(result.seconds for result in some), 1) for some in (posts, batches)]
    print(f"posts and batches {statuses}, lines {lines}, slowest {slowest} s")
    assert all(result.retry_after is not None for result in calls if result.status in (429, 503))
    assert not any(result.without_retry_after for result in batches)
    assert max(result.seconds for result in posts) < SLOWEST_SECONDS
    accepted = [item_id for result in calls for item_id in result.accepted]
    assert len(accepted) == len(set(accepted))
    assert len(accepted) > (RATE + BATCHES * LINES) * AROUND_SECONDS / 2, "there was no load"
    async with Watch.on(kafka.bootstrap) as watch:
        records = await watch.read([topics.submissions("eu")])
    arrived = Counter(dict(record.headers)["ce_id"].decode() for partition in records.values() for record in partition)
    wanted = [ids.event_id(item_id, ITEM_SUBMITTED, "eu") for item_id in accepted]
    assert {event_id: arrived[event_id] for event_id in wanted if arrived[event_id] != 1} == {}
    assert {event_id: n for event_id, n in arrived.items() if n > 1} == {}
    print(f"{len(accepted)} accepted, {len(arrived)} in Kafka")


def _plan(system: System, tag: str, *, rate: float, connections: int, lines: int = 0) -> FloodPlan:
    count = int(MOST_SECONDS * rate)
    return FloodPlan(system.url("intake"), system.key(), tag, "DE", count, rate, connections, lines)


async def _until_readiness(system: System, status: int) -> str:
    """Wait until intake's readiness has this status; the text of that response."""
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client, asyncio.timeout(READY_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                response = await client.get(f"{system.url('intake')}/readyz")
                if response.status_code == status:
                    return response.text
            await asyncio.sleep(0.2)


async def _until_accepted(system: System, tag: str) -> None:
    """Wait until intake accepts a post."""
    headers = {"Authorization": f"Bearer {system.key()}", "Content-Type": "application/json"}
    deadline, n = _clock.monotonic() + ACCEPTED_AGAIN_SECONDS, 0
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
        while True:
            n += 1
            body = item(f"{tag}-well", n, "DE")
            response = await client.post(f"{system.url('intake')}/v1/items", content=body)
            if response.status_code == 202:
                return
            assert _clock.monotonic() < deadline, response.text
            await asyncio.sleep(0.2)
