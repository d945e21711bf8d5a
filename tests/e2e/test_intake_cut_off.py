"""What intake answered stands, whatever is taken from it: Kafka for a while, or its life (promises 1 and 9).

Under a load of single posts and batches every call gets 202 or a clear refusal, or, from a process that was killed, no
answer; and each item that was answered 202 is in Kafka exactly once per id. Nothing is sent twice here, so no id may be
there more than once. With PIEPOWDER_TEST_CUT_SECONDS Kafka stays away longer than the twenty seconds of `make test`.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final

import httpx
import msgspec
import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.system import System
from shared.contracts import ids, topics
from shared.contracts.events import ITEM_SUBMITTED
from shared.runtime.clock import SystemClock
from tests.bench.kafka import Watch
from tests.conftest import Servers, project_root
from tests.e2e.flood import Plan, Said, Told, item

CUT_SECONDS: Final = float(os.environ.get("PIEPOWDER_TEST_CUT_SECONDS", "20"))
BEFORE_SECONDS: Final = 4.0
AFTER_SECONDS: Final = 14.0  # a broker's start, and more
RATE: Final = 60  # single posts a second
BATCHES: Final = 4  # a second
LINES: Final = 20  # a batch
# As many calls as come while each waits for the ten seconds after which intake gives Kafka up.
CONNECTIONS: Final = 900
SLOWEST_SECONDS: Final = 45.0  # ten to give up what is under way, ten what waits behind it; others use the machine
WELL_SECONDS: Final = 60.0
READY_SECONDS: Final = 30.0  # two between looks, five until silence is believed; others use the machine

pytestmark = pytest.mark.timeout(240 + 4 * CUT_SECONDS)
_clock = SystemClock()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A Kafka that nobody else needs."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as own:
        yield own


@pytest.fixture(scope="module")
def system(kafka: LocalKafka, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The services on it."""
    own = Servers(kafka.bootstrap, servers.database_url)
    with System(own, ("eu", "us"), tmp_path_factory.mktemp("system"), databases=f"cut_{os.getpid()}") as running:
        yield running


async def test_while_kafka_is_stopped_each_post_is_taken_or_refused_and_what_was_taken_is_there_once(
    system: System, kafka: LocalKafka
) -> None:
    [node] = kafka.nodes

    async def stop_kafka() -> None:
        await asyncio.to_thread(node.stop)
        await asyncio.sleep(CUT_SECONDS)
        await asyncio.to_thread(node.start)

    posts, batches = await _under_load(system, "kafka", CUT_SECONDS, stop_kafka())
    assert {said.status for said in posts} == {202, 503}
    assert {said.status for said in batches} <= {200, 429, 503}
    assert {status for said in batches for status in said.statuses} <= {202, 429, 503}
    assert any(503 in (said.status, *said.statuses) for said in batches)
    await _holds(system, kafka, posts, batches)


async def test_a_kafka_that_stands_still_is_told_within_seconds(system: System, kafka: LocalKafka) -> None:
    [node] = kafka.nodes
    await _becomes_ready(system, 200)
    node.pause()
    try:
        lacking = await _becomes_ready(system, 503)
    finally:
        node.resume()
    assert re.search("Kafka at .* does not (answer|respond)", lacking), lacking
    await _becomes_ready(system, 200)
    await _is_well_again(system, "still")


async def test_when_intake_is_killed_again_and_again_what_was_taken_is_there_once(
    system: System, kafka: LocalKafka
) -> None:
    intake = system.services["intake"]

    async def kill() -> None:
        for _ in range(3):
            await asyncio.to_thread(intake.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(intake.start)
            await asyncio.to_thread(system.wait_ready)
            await asyncio.sleep(1.5)

    posts, batches = await _under_load(system, "kill", 12.0, kill())
    assert {said.status for said in posts} <= {0, 202, 503}
    assert {said.status for said in batches} <= {0, 200, 503}
    assert any(said.status == 0 for said in [*posts, *batches])
    await _holds(system, kafka, posts, batches)


async def _under_load(
    system: System, tag: str, seconds: float, trouble: Coroutine[Any, Any, None]
) -> tuple[list[Said], list[Said]]:
    """What is said to single posts and batches while there is trouble, and for a while before and after."""
    whole = BEFORE_SECONDS + seconds + AFTER_SECONDS
    plans = [
        _plan(system, f"{tag}-posts", count=int(RATE * whole), rate=RATE, connections=CONNECTIONS),
        _plan(system, f"{tag}-lines", count=int(BATCHES * whole), rate=BATCHES, connections=60, lines=LINES),
    ]
    loading = [asyncio.create_task(_carried_out(plan, whole)) for plan in plans]
    await asyncio.sleep(BEFORE_SECONDS)
    await trouble
    posts, batches = (told.said for told in await asyncio.gather(*loading))
    assert (len(posts), len(batches)) == (plans[0].count, plans[1].count)
    await _is_well_again(system, tag)
    return posts, batches


async def _holds(system: System, kafka: LocalKafka, posts: list[Said], batches: list[Said]) -> None:
    calls = [*posts, *batches]
    told = Counter(said.status for said in posts), Counter(said.status for said in batches)
    lines = Counter(status for said in batches for status in said.statuses)
    slowest = [round(max(said.took for said in some), 1) for some in (posts, batches)]
    print(f"posts and batches {told}, lines {lines}, slowest {slowest} s")
    assert all(said.retry_after is not None for said in calls if said.status in (429, 503))
    assert not any(said.impatient for said in batches)
    assert max(said.took for said in posts) < SLOWEST_SECONDS
    accepted = [item_id for said in calls for item_id in said.accepted]
    assert len(accepted) == len(set(accepted))
    assert len(accepted) > (RATE + BATCHES * LINES) * BEFORE_SECONDS / 2, "there was a load"
    async with Watch.on(kafka.bootstrap) as watch:
        lanes = await watch.read([topics.submissions("eu")])
    arrived = Counter(dict(record.headers)["ce_id"].decode() for lane in lanes.values() for record in lane)
    wanted = [ids.event_id(item_id, ITEM_SUBMITTED, "eu") for item_id in accepted]
    assert {event_id: arrived[event_id] for event_id in wanted if arrived[event_id] != 1} == {}
    assert {event_id: n for event_id, n in arrived.items() if n > 1} == {}
    print(f"{len(accepted)} accepted, {len(arrived)} in Kafka")


def _plan(system: System, tag: str, *, count: int, rate: float, connections: int, lines: int = 0) -> Plan:
    return Plan(system.url("intake"), system.key(), tag, "DE", count, rate, connections, lines)


async def _carried_out(plan: Plan, seconds: float) -> Told:
    """Carry a plan out in a process of its own."""
    client = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.e2e.flood"],
        cwd=project_root(),
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
        timeout=seconds * 2 + WELL_SECONDS,
    )
    return msgspec.json.decode(client.stdout, type=Told)


async def _becomes_ready(system: System, status: int) -> str:
    """Wait, bounded, until intake's readiness is answered with this status; what it says then."""
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client, asyncio.timeout(READY_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                answer = await client.get(f"{system.url('intake')}/readyz")
                if answer.status_code == status:
                    return answer.text
            await asyncio.sleep(0.2)


async def _is_well_again(system: System, tag: str) -> None:
    """Wait, bounded, until a post is taken."""
    headers = {"Authorization": f"Bearer {system.key()}", "Content-Type": "application/json"}
    deadline, n = _clock.monotonic() + WELL_SECONDS, 0
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
        while True:
            n += 1
            body = item(f"{tag}-well", n, "DE")
            answer = await client.post(f"{system.url('intake')}/v1/items", content=body)
            if answer.status_code == 202:
                return
            assert _clock.monotonic() < deadline, answer.text
            await asyncio.sleep(0.2)
