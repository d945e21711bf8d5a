"""The figures of `make bench`: ratios, marks, percentiles, processor time, and the data that it posts."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from unittest.mock import patch

import msgspec
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.local.ports import free_ports
from services.intake.items.domain import status as intake_status
from services.intake.items.domain.status import Status, StatusFacts
from shared.contracts.envelope import decode
from shared.contracts.events import CaseOpened, DecisionMade, ItemSubmitted
from tests.bench import calls, data, empty, lookups, machine, soak
from tests.bench.report import Figure, Mark, Round, of_rounds, percentile, table
from tests.bench.usage import Stretch, cpu_seconds, peak_mb, resident_mb, tree_cpu_seconds
from tests.support.flood import CallResult


def test_a_ratio_compares_medians_so_one_disturbed_round_does_not_change_it() -> None:
    stage = [Round(100, 1.0), Round(100, 1.1), Round(100, 50.0)]
    floor = [Round(100, 0.5), Round(100, 0.5), Round(100, 0.01)]
    figure = of_rounds("router", "items/s", stage, floor, mark=Mark(0.5), peak={})
    assert figure.ratio == pytest.approx((100 / 1.1) / (100 / 0.5))
    assert "**no**" in figure.cells()


def test_the_table_has_the_processor_time_per_item_of_the_stage_and_its_floor() -> None:
    stage = [Round(1000, 1.0, {"router": 0.04, "kafka": 0.01})]
    floor = [Round(1000, 1.0, {"client": 0.01})]
    figure = of_rounds("router", "items/s", stage, floor, peak={"router": 123.0})
    text = table([figure])
    assert "router 40, kafka 10 (floor: client 10)" in text
    assert "router 123" in text


def test_a_mark_can_be_an_upper_bound() -> None:
    assert Mark(30, "s", below=True).met(29.9)
    assert not Mark(30, "s", below=True).met(30.0)
    assert str(Mark(3000, "items/s")) == "≥ 3,000 items/s"


def test_without_a_floor_the_measured_value_is_compared_with_the_mark() -> None:
    figure = Figure(name="end to end", unit="items/s", values=[2500.0, 3500.0, 3100.0], next=Mark(3000, "items/s"))
    assert "≥ 3,000 items/s (met)" in figure.cells()
    assert "3,100 (2,500–3,500) items/s" in figure.cells()


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_a_stretch_counts_the_processor_time_of_a_process_and_of_its_tree() -> None:
    before = cpu_seconds(os.getpid())
    with Stretch({"own": os.getpid()}, {"tree": os.getpid()}) as stretch:
        while cpu_seconds(os.getpid()) < before + 0.2:
            sum(range(10_000))
    assert stretch.cpu["own"] >= 0.1
    assert stretch.cpu["tree"] >= 0.1
    assert stretch.seconds >= 0.1
    assert tree_cpu_seconds(os.getpid()) >= before
    assert 5 < resident_mb(os.getpid()) <= peak_mb(os.getpid()) < 10_000


def test_an_ended_process_has_zero_usage() -> None:
    gone = 2**22 + 1
    assert (cpu_seconds(gone), tree_cpu_seconds(gone), peak_mb(gone), resident_mb(gone)) == (0.0, 0.0, 0.0, 0.0)


def test_posts_have_the_stated_size_and_each_has_its_own_subject() -> None:
    bodies = data.bodies(300, tag="a", region="us")
    posts = [msgspec.json.decode(body) for body in bodies]
    assert len({post["id"] for post in posts}) == 300
    assert all(not data.MARKETS["us"].isdisjoint(post["markets"]) for post in posts)
    assert 700 < sum(map(len, bodies)) / 300 < 1_000
    assert data.bodies(300, tag="a", region="us") == bodies


def test_a_life_decodes_as_the_events_that_the_services_publish() -> None:
    lives = data.lives(20, tag="b")
    for life in lives:
        submitted, opened, decided = (
            decode(one.headers, one.key, one.value, region="eu") for one in (life.submitted, life.opened, life.decided)
        )
        assert isinstance(submitted.data, ItemSubmitted)
        assert isinstance(opened.data, CaseOpened)
        assert isinstance(decided.data, DecisionMade)
        assert opened.attributes.causation_id == submitted.attributes.id
        assert decided.attributes.causation_id == opened.attributes.id
    assert [life.verdict for life in lives].count("review") == 2


def test_the_machine_is_described_with_its_cores_and_versions() -> None:
    text = "\n".join(machine.describe())
    assert "cores" in text
    assert "Kafka 4." in text
    assert "Python 3." in text


async def test_the_client_reads_all_responses_of_a_connection() -> None:
    async with _empty_server() as url:
        bodies = await calls.send_all(url, [calls.post("/x", "k", b"{}")] * 50, connections=3, wanted=202)
        assert bodies == [b""] * 50


async def test_the_client_raises_for_an_unexpected_status() -> None:
    async with _empty_server() as url:
        with pytest.raises(ExceptionGroup) as refused:
            await calls.send_all(url, [calls.post("/x", "k", b"{}")], connections=1, wanted=200)
        assert "202, expected 200" in str(refused.value.exceptions[0])


async def test_the_latency_includes_the_wait_for_a_connection() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await empty.server(scope, receive, send)

    async with _empty_server(slow) as url:
        timed = await calls.send_at(url, [calls.post("/x", "k", b"{}")] * 6, rate=1_000, connections=1)
    assert [one.answer.status for one in timed] == [202] * 6
    assert timed[0].took >= 0.05
    assert timed[-1].took >= 6 * 0.05 - 0.01


async def test_the_client_reports_a_disconnect() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"9")]})
        raise OSError

    async with _empty_server(broken) as url:
        with pytest.raises(ConnectionError, match="disconnected"):
            await calls.send_at(url, [calls.post("/x", "k", b"{}")] * 3, rate=100, connections=1)


@pytest.mark.parametrize("status", [one for one in Status if one != Status.PARKED])
def test_lookups_stores_the_facts_that_the_projection_would_store(status: Status) -> None:
    own = {"1": "shop:product:1", "2": "0" * 64, "3": "2026-05-01T09:30:00.000Z", "5": 'eu","us', "7": "12"}
    text = re.sub(r"%(\d)\$s", lambda place: own.get(place[1], "x"), lookups.template(status))
    facts = msgspec.json.decode(text, type=StatusFacts)
    assert intake_status.status(facts) == status
    assert facts.submission is not None
    assert (facts.submission.regions, facts.submission.position) == (["eu", "us"], 12)


def test_the_largest_difference_of_a_size_can_be_an_increase_or_a_decrease() -> None:
    assert soak.Sizes([100.0, 96.0, 109.0]).furthest(100.0) == 9.0
    assert soak.Sizes([100.0, 70.0, 109.0]).furthest(100.0) == 30.0


def test_a_rejection_without_a_retry_after_header_is_counted() -> None:
    calls = [CallResult(202, 0.1), CallResult(429, 0.1, 1), CallResult(503, 0.1)]
    batch = CallResult(200, 0.1, None, [], [202, 429], 1)
    assert [soak.without_retry_after(call) for call in [*calls, batch]] == [0, 0, 1, 1]


@asynccontextmanager
async def _empty_server(app: ASGIApp = empty.server) -> AsyncIterator[str]:
    [port] = free_ports(1)
    server = uvicorn.Server(empty.config(app, port))
    with patch.object(server, "capture_signals", nullcontext):
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        await serving
