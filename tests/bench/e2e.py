"""All services together, as `make run` starts them: the time until the first decision, items per second, the latency of
a decision at half of that rate, and the real listings from the first post to the last line of the audit log.

An item is done when a policy has decided it, or it waits in a queue, and all of that is audited. For the real listings
there are reviewers too; then an item is done when it is decided.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from deploy.local.system import System
from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing
from shared.contracts import topics
from shared.runtime.clock import SystemClock
from tests.bench import calls, data
from tests.bench.data import REGIONS
from tests.bench.kafka import Watch, bare_consumer
from tests.bench.report import WARM, Figure, Mark, Round, cpu_an_item, percentile
from tests.bench.stages import Bench
from tests.bench.usage import Stretch, peak_mb

LISTINGS: Final = Path(__file__).parents[3] / "shared" / "data" / "listings-d8-amazon.csv"
_LINES: Final = 1_000
_CALLS: Final = 4
_CONNECTIONS: Final = 256  # with fewer, the flush time of a post would be measured
_FEW_LINES: Final = 20
_FEW_CALLS: Final = 12  # at a time; intake accepts 16 batch calls by default
_OPEN_LOOP_SECONDS: Final = 10.0
_LATE_SECONDS: Final = 20.0
_REVIEWERS: Final = 4  # in each region
_POLL_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 0.5  # of a reviewer who finds no case
_clock = SystemClock()


class _Named(msgspec.Struct):
    item_id: str


class _Decided(msgspec.Struct):
    item_id: str
    automated: bool = False
    decision_id: str = ""


_read_receipt = msgspec.json.Decoder(_Named).decode
_read_decided = msgspec.json.Decoder(_Decided).decode


class Arrivals:
    """The arrival time of the first decision about each item, read from Kafka (monotonic seconds)."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.any = asyncio.Event()

    @asynccontextmanager
    async def listening(self, bootstrap: str) -> AsyncIterator[None]:
        """Read the decisions topics from their current end until the block ends."""
        consumer = bare_consumer(bootstrap, None, *map(topics.decisions, REGIONS))
        await consumer.start()
        await consumer.seek_to_end()
        reading = asyncio.create_task(self._read(consumer))
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            await consumer.stop()

    async def _read(self, consumer: Any) -> None:
        while True:
            found = await consumer.getmany(timeout_ms=100)
            now = _clock.monotonic()
            for lane in found.values():
                for record in lane:
                    said = _read_decided(record.value)
                    if said.decision_id:
                        self.seen.setdefault(said.item_id, now)
                        self.any.set()


async def end_to_end(bench: Bench) -> list[Figure]:
    """The figures of the whole system."""
    folder = bench.launcher.folder / "system"
    system = System(bench.launcher.stack, REGIONS, folder, report=bench.say)
    try:
        await asyncio.to_thread(system.start)
        figures = [await _first_decision(bench, system), *await _real_listings(bench, system)]
        throughput = await _throughput(bench, system)
        figures.append(throughput)
        for lines in (_FEW_LINES, 1):
            figures += await _latency(bench, system, throughput.measured / 2, lines)
        peak = {name: peak_mb(pid) for name, pid in _pids(system).items()}
        restarts = {name: service.restarts for name, service in system.services.items() if service.restarts}
        assert not restarts, f"services ended unexpectedly: {restarts}"
    finally:
        await asyncio.to_thread(system.stop)
    largest = Figure(
        name="end to end: memory of the largest service",
        unit="MB",
        values=[max(peak.values())],
        mark=Mark(300, "MB", below=True),
        next=Mark(300, "MB", below=True),
        peak=peak,
    )
    return [*figures, largest]


async def _first_decision(bench: Bench, system: System) -> Figure:
    arrivals = Arrivals()
    async with arrivals.listening(bench.launcher.stack.kafka):
        [request] = _posts(system, data.bodies(1, tag="first"))
        await calls.send_all(system.url("intake"), [request], connections=1, wanted=202)
        async with asyncio.timeout(_LATE_SECONDS):
            await arrivals.any.wait()
    return Figure(
        name="from nothing running (cache warm, no data) to the first decision",
        unit="s",
        values=[_clock.monotonic() - bench.began],
        mark=Mark(30, "s", below=True),
    )


async def _throughput(bench: Bench, system: System) -> Figure:
    rounds = []
    for number in range(bench.rounds + WARM):
        bench.say(f"end to end: round {number + 1} of {bench.rounds + WARM}")
        requests = _batches(system, data.bodies(bench.items, tag=f"all{number}"))
        with Stretch(_pids(system), bench.launcher.trees) as stretch:
            await calls.send_all(system.url("intake"), requests, connections=_CALLS, wanted=200)
            await _through(bench.watch, system)
        rounds.append(Round(bench.items, stretch.seconds, stretch.cpu))
    return Figure(
        name="end to end: items/s, decided or in a queue, and audited",
        unit="items/s",
        values=[one.rate for one in rounds[WARM:]],
        next=Mark(3_000, "items/s"),
        cpu=cpu_an_item(rounds[WARM:]),
    )


async def _latency(bench: Bench, system: System, rate: float, lines: int) -> list[Figure]:
    """Send calls of `lines` lines (1: single posts), each at its time, whatever the earlier responses are (open
    loop)."""
    count = int(min(rate * _OPEN_LOOP_SECONDS, bench.items))
    what = "single posts" if lines == 1 else f"calls of {lines} lines"
    bench.say(f"end to end: {count} items in {what}, {rate:.0f} items a second")
    bodies = data.bodies(count, tag=f"timed{lines}")
    requests = _posts(system, bodies) if lines == 1 else _batches(system, bodies, lines)
    arrivals = Arrivals()
    async with arrivals.listening(bench.launcher.stack.kafka):
        timed = await calls.send_at(
            system.url("intake"),
            requests,
            rate=rate / lines,
            connections=_CONNECTIONS if lines == 1 else _FEW_CALLS,
        )
        await _through(bench.watch, system)
        await asyncio.sleep(0.5)
    refused = Counter(one.answer.status for one in timed if one.answer.status not in (200, 202))
    assert not refused, f"posts were rejected: {dict(refused)}"
    answered: dict[str, float] = {}
    meant: dict[str, float] = {}
    for one in timed:
        for line in one.answer.body.splitlines():
            item_id = _read_receipt(line).item_id
            answered[item_id], meant[item_id] = one.done, one.due
    decided = answered.keys() & arrivals.seen.keys()
    after_202 = [arrivals.seen[item] - answered[item] for item in decided]
    after_due = [arrivals.seen[item] - meant[item] for item in decided]
    bench.say(f"end to end: {len(decided):,} of {count:,} decided by policy")
    at = f"at {rate:,.0f} items/s in {what}"
    figures = []
    for begins, values in (("the 202", after_202), ("the intended send", after_due)):
        name = f"{at}: from {begins} to the decision event"
        mark = Mark(1, "s", below=True) if values is after_due else None
        figures.append(Figure(name=f"{name}, p50", unit="s", values=[percentile(values, 0.5)]))
        figures.append(Figure(name=f"{name}, p99", unit="s", values=[percentile(values, 0.99)], next=mark))
    return figures


async def _real_listings(bench: Bench, system: System) -> list[Figure]:
    if not LISTINGS.exists():
        bench.say("end to end: the real listings are not measured, ../shared/data is absent")
        return []
    with open_import(str(LISTINGS), FileOptions(platform="amazon", lenient=True)) as listings:
        lines = [line.body for line in listings.read() if isinstance(line, Listing)]
    bench.say(f"end to end: {len(lines)} real listings, {_REVIEWERS} reviewers in each region")
    requests = _batches(system, lines)
    before = await _decided(system)
    open_before = await _open(system)
    reviewing = [
        asyncio.create_task(_review(system, region, f"r-{number}"))
        for region in REGIONS
        for number in range(_REVIEWERS)
    ]
    try:
        with Stretch(_pids(system), bench.launcher.trees) as stretch:
            answers = await calls.send_all(system.url("intake"), requests, connections=_CALLS, wanted=200)
            await _through(bench.watch, system)
            while await _open(system):  # noqa: ASYNC110 - a service must be polled
                await asyncio.sleep(_POLL_SECONDS)
            await _through(bench.watch, system)
    finally:
        for one in reviewing:
            one.cancel()
        ended = await asyncio.gather(*reviewing, return_exceptions=True)
    if failed := [one for one in ended if isinstance(one, Exception)]:
        raise failed[0]
    accepted = sum(answer.count(b'"status":202') for answer in answers)
    by = await _decided(system) - before
    assert by.total() == accepted + open_before, f"{accepted} accepted, {open_before} were open, decided {dict(by)}"
    name = f"{accepted:,} real listings decided ({by['people']:,} by reviewers, REST) and audited"
    mark = Mark(30, "s", below=True)
    cpu = cpu_an_item([Round(accepted, stretch.seconds, stretch.cpu)])
    return [Figure(name=name, unit="s", values=[stretch.seconds], mark=mark, cpu=cpu)]


async def _review(system: System, region: str, reviewer: str) -> None:
    """A reviewer who claims and approves every waiting case, until cancelled."""
    connection = await calls.Connection.open(system.url("decision", region))
    claim = msgspec.json.encode({"reviewer": reviewer, "team": "in_house"})
    try:
        while True:
            answer = await connection.call(calls.post("/v1/claims", system.key(), claim))
            if answer.status == 204:
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            assert answer.status == 201, answer.body
            claimed = msgspec.json.decode(answer.body)
            decision = msgspec.json.encode({"lease_token": claimed["lease"]["token"], "action": "approve"})
            path = f"/v1/cases/{claimed['case']['case_id']}/decisions"
            answer = await connection.call(calls.post(path, system.key(), decision))
            assert answer.status in (201, 409), answer.body
    finally:
        connection.close()


async def _through(watch: Watch, system: System) -> None:
    """Wait until every service has processed all events, the outboxes are empty, and audit has read all topics."""
    for region in REGIONS:
        await watch.until_committed(f"piepowder-router-{region}", [topics.submissions(region)])
    for region in REGIONS:
        await watch.until_committed(f"piepowder-decision-{region}", [topics.cases(region)])
    for region in REGIONS:
        decisions = (await _totals(system, region))["decisions"]
        # a reviewer's decision has two events: claimed, decided
        expected = sum(decisions["policy"].values()) + 2 * sum(decisions["people"].values())
        await watch.until_size(expected, topics.decisions(region))
    for region in REGIONS:
        names = [topics.submissions(region), topics.cases(region), topics.decisions(region)]
        await watch.until_committed(f"piepowder-audit-{region}", names)


async def _totals(system: System, region: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {system.key()}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=30.0) as client:
        answer = await client.get(f"{system.url('decision', region)}/v1/totals")
    totals: dict[str, Any] = answer.raise_for_status().json()
    return totals


async def _decided(system: System) -> Counter[str]:
    """The number of decisions by `policy` and by `people`, in all regions."""
    found: Counter[str] = Counter()
    for region in REGIONS:
        decisions = (await _totals(system, region))["decisions"]
        found.update({by: sum(decisions[by].values()) for by in ("policy", "people")})
    return found


async def _open(system: System) -> int:
    """The number of waiting or claimed cases, in all regions."""
    states = [(await _totals(system, region))["cases"] for region in REGIONS]
    return sum(cases.get("waiting", 0) + cases.get("claimed", 0) for cases in states)


def _batches(system: System, lines: Sequence[bytes], size: int = _LINES) -> list[bytes]:
    bodies = data.ndjson(lines, size)
    return [calls.post("/v1/items/batch", system.key(), body, "application/x-ndjson") for body in bodies]


def _posts(system: System, bodies: Sequence[bytes]) -> list[bytes]:
    return [calls.post("/v1/items", system.key(), body) for body in bodies]


def _pids(system: System) -> Mapping[str, int]:
    return {name: one.child.pid for name, one in system.services.items() if one.child.pid is not None}
