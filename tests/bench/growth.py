"""Growth of the cost of an item: decision and audit with a million items.

The compared cost is the processor time of the service and of PostgreSQL for a twentieth of the items each: it includes
the background work of the database (vacuum, statistics, checkpoints), and little of the machine's other work. One item
in ten waits for a reviewer, so a million items leave 100,000 open cases; the cost of a claim and a decision among them
is compared too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import asyncpg
import msgspec

from shared.contracts import topics
from tests.bench import calls, data
from tests.bench.data import REGION, REGIONS, Life
from tests.bench.kafka import fill
from tests.bench.report import Figure, Mark, Round, cpu_an_item
from tests.bench.services import Service
from tests.bench.stages import Bench, resumed, stopped
from tests.bench.usage import peak_mb

_CHUNKS: Final = 5  # compared at the beginning (after one to warm up) and at the end
_ALL_CHUNKS: Final = 20 * _CHUNKS
_REVIEWERS: Final = 8
_MARK: Final = Mark(1.2, below=True)


async def growth(bench: Bench) -> list[Figure]:
    """The cost of the last items next to that of the first, in both services that store items."""
    return [*await _decision(bench), await _audit(bench)]


async def _decision(bench: Bench) -> list[Figure]:
    await bench.launcher.topics(*REGIONS)
    source, target, group = topics.cases(REGION), topics.decisions(REGION), f"piepowder-decision-{REGION}"
    url = await bench.launcher.database("bench_decision")
    connection = await asyncpg.connect(url)
    published, reviewed = 0, min(1_000, bench.grown // 2_000) // _REVIEWERS * _REVIEWERS

    async def put(lives: Sequence[Life]) -> None:
        nonlocal published
        published += sum(life.verdict != "review" for life in lives)
        await fill(bench.producer, source, [life.opened for life in lives])

    async def work() -> None:
        await bench.watch.until_committed(group, [source])
        await bench.watch.until_size(published, target)
        while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):  # noqa: ASYNC110 - the database must be polled
            await asyncio.sleep(0.01)

    async def review() -> Round:
        nonlocal published
        published += 2 * reviewed  # claimed, decided
        reviewers = (_review(service, f"r-{n}", reviewed // _REVIEWERS) for n in range(_REVIEWERS))
        return await bench.round(reviewed, {"decision": service.pid}, asyncio.gather(*reviewers))

    try:
        async with bench.launcher.service("decision", REGION=REGION, DATABASE_URL=url) as service:
            await _grow(bench, service, range(2), put, work)
            early = [await review() for _ in range(2)][1]
            first = await _grow(bench, service, range(2, 2 + _CHUNKS), put, work)
            await _grow(bench, service, range(2 + _CHUNKS, _ALL_CHUNKS - _CHUNKS), put, work)
            last = await _grow(bench, service, range(_ALL_CHUNKS - _CHUNKS, _ALL_CHUNKS), put, work)
            still_open = await connection.fetchval("SELECT count(*) FROM cases WHERE state IN ('waiting', 'claimed')")
            late = [await review() for _ in range(2)][1]
            peak = {"decision": peak_mb(service.pid)}
    finally:
        await connection.close()
    after = f"after {bench.grown:,} cases, {still_open:,} of them open"
    return [
        _compared(f"decision: a case, {after}; floor: the first ones", last, first, peak),
        _compared(
            f"decision: a claim and its decision over REST, {after}; floor: the first ones", [late], [early], peak
        ),
    ]


async def _audit(bench: Bench) -> Figure:
    await bench.launcher.topics(*REGIONS)
    names = [topics.submissions(REGION), topics.cases(REGION), topics.decisions(REGION)]
    group = f"piepowder-audit-{REGION}"

    async def put(lives: Sequence[Life]) -> None:
        await fill(bench.producer, names[0], [life.submitted for life in lives])
        await fill(bench.producer, names[1], [life.opened for life in lives])
        await fill(bench.producer, names[2], [life.decided for life in lives])

    async def work() -> None:
        await bench.watch.until_committed(group, names)

    url = await bench.launcher.database("bench_audit")
    async with bench.launcher.service("audit", REGION=REGION, DATABASE_URL=url) as service:
        await bench.watch.until_committed(group, names)
        await _grow(bench, service, range(2), put, work, events=len(names))
        first = await _grow(bench, service, range(2, 2 + _CHUNKS), put, work, events=len(names))
        await _grow(bench, service, range(2 + _CHUNKS, _ALL_CHUNKS - _CHUNKS), put, work, events=len(names))
        last = await _grow(bench, service, range(_ALL_CHUNKS - _CHUNKS, _ALL_CHUNKS), put, work, events=len(names))
        peak = {"audit": peak_mb(service.pid)}
    return _compared(f"audit: an event, after {bench.grown:,}; floor: the first ones", last, first, peak)


async def _grow(
    bench: Bench,
    service: Service,
    chunks: range,
    put: Callable[[Sequence[Life]], Awaitable[None]],
    work: Callable[[], Awaitable[None]],
    *,
    events: int = 1,
) -> list[Round]:
    """Let the service process these hundredths of all items, each with this number of `events`."""
    name = service.child.name
    bench.say(f"growth: {name}, {chunks.start} to {chunks.stop} % of {bench.grown:,}")
    items, rounds = bench.grown // _ALL_CHUNKS // events, []
    for chunk in chunks:
        lives = data.more_lives(range(chunk * items, (chunk + 1) * items), tag="grown")
        async with stopped(service):
            await put(lives)
        rounds.append(await bench.round(items * events, {name: service.pid}, resumed(service, work())))
    return rounds


async def _review(service: Service, reviewer: str, count: int) -> None:
    """Claim and decide one case after the other, as a reviewer's tool does."""
    connection = await calls.Connection.open(service.url)
    claim = msgspec.json.encode({"reviewer": reviewer, "team": "in_house"})
    try:
        for _ in range(count):
            answer = await connection.call(calls.post("/v1/claims", service.key, claim))
            assert answer.status == 201, answer.body
            claimed = msgspec.json.decode(answer.body)
            decision = msgspec.json.encode({"lease_token": claimed["lease"]["token"], "action": "approve"})
            path = f"/v1/cases/{claimed['case']['case_id']}/decisions"
            answer = await connection.call(calls.post(path, service.key, decision))
            assert answer.status == 201, answer.body
    finally:
        connection.close()


def _compared(name: str, last: Sequence[Round], first: Sequence[Round], peak: Mapping[str, float]) -> Figure:
    """The processor time per item of the service and PostgreSQL: of the last items next to that of the first."""
    return Figure(
        name=name,
        unit="µs",
        values=[_cost(last)],
        floors=[_cost(first)],
        mark=_MARK,
        cpu=cpu_an_item(last),
        floor_cpu=cpu_an_item(first),
        peak=peak,
    )


def _cost(rounds: Sequence[Round]) -> float:
    seconds = sum(cpu for one in rounds for name, cpu in one.cpu.items() if name != "Kafka")
    return seconds * 1e6 / sum(one.items for one in rounds)
