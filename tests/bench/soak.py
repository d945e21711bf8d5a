"""Intake's memory under a long load: minutes of steady posts, a burst of ten times the load, the best rate again.

Client processes send single posts and batches at a fixed rate, whatever the responses are, while another process
follows the status of the items. Intake runs with the limits of a small machine, so that its queue limits, and not the
number of connections, decide which calls of the burst are rejected. The report states how many calls the burst really
had: the clients share the machine, and may not reach ten times the load. Sizes are read every second, after a first
tenth of the time in which caches fill.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Final, NamedTuple

import msgspec

from shared.runtime.clock import SystemClock
from tests.bench import calls, data
from tests.bench.data import REGIONS
from tests.bench.report import WARM, Figure, Mark
from tests.bench.services import Service
from tests.bench.stages import Bench
from tests.bench.usage import resident_mb
from tests.support import flood
from tests.support.flood import CallResult, FloodPlan, FloodResult

_LIMITS: Final = {"QUEUE_RECORDS": "400", "BATCH_CALLS": "4"}
_BEST_POSTS: Final = 3_000
_BEST_CONNECTIONS: Final = 64
_SHARE: Final = 0.2  # of the best rate in single posts, and the same rate in lines of batches
_LINES: Final = 50
_SLICE_SECONDS: Final = 30.0
_BURST: Final = 10
_BURST_SECONDS: Final = 30.0
_CLIENTS: Final = 3  # processes that send single posts in the burst
_CONNECTIONS: Final = 200  # per process
_MOST_ITEMS: Final = 90_000  # that a client prepares; it may send fewer in its time
_FLAT: Final = Mark(50, "MB", below=True)
_REJECTED: Final = (429, 503)
_clock = SystemClock()


class Sizes(NamedTuple):
    """The resident sizes of a process in MB, in the order of time."""

    seen: list[float]

    def furthest(self, begin: float) -> float:
        """The largest difference from the first size."""
        return max(abs(size - begin) for size in self.seen)


class Soak:
    """One run: the processes whose sizes are read, and the load on them."""

    def __init__(self, bench: Bench, intake: Service, projection: Service) -> None:
        self._bench = bench
        self._intake = intake
        self._services = {"intake": intake, "projection": projection}
        self._slices = 0

    async def best(self, tag: str) -> list[float]:
        """The rate of single posts with a fixed number of calls in flight, for each round."""
        rates = []
        for number in range(self._bench.rounds + WARM):
            bodies = data.bodies(_BEST_POSTS, tag=f"{tag}{number}")
            requests = [calls.post("/v1/items", self._intake.key, body) for body in bodies]
            begun = _clock.monotonic()
            await calls.send_all(self._intake.url, requests, connections=_BEST_CONNECTIONS, wanted=202)
            rates.append(_BEST_POSTS / (_clock.monotonic() - begun))
        return rates[WARM:]

    async def steady(self, rate: float, seconds: float) -> tuple[list[FloodResult], list[FloodResult]]:
        """Send single posts at a rate, and lines of batches at the same rate, for `seconds`; the results of both."""
        posts, lines = [], []
        until = _clock.monotonic() + seconds
        while (left := until - _clock.monotonic()) > 1.0:
            slice_seconds = min(_SLICE_SECONDS, left)
            results = await asyncio.gather(
                flood.flood_in_process(self._plan(rate, slice_seconds, connections=60)),
                flood.flood_in_process(self._plan(rate / _LINES, slice_seconds, connections=2, lines=_LINES)),
            )
            posts.append(results[0])
            lines.append(results[1])
            sizes = ", ".join(f"{name} {size:.0f} MB" for name, size in self.sizes().items())
            self._bench.say(f"soak: {left - slice_seconds:.0f} s to go, {_rate(results[:1]):.0f} posts/s, {sizes}")
        return posts, lines

    async def burst(self, rate: float, seconds: float) -> tuple[list[FloodResult], list[FloodResult]]:
        """The same from more connections than intake serves at once; calls that are not sent in time are dropped."""
        plans = [self._plan(rate / _CLIENTS, seconds, connections=_CONNECTIONS) for _ in range(_CLIENTS)]
        plans.append(self._plan(rate / _LINES, seconds, connections=12, lines=_LINES))
        bounded = [
            msgspec.structs.replace(plan, count=min(plan.count, _MOST_ITEMS // max(1, plan.lines)), seconds=seconds)
            for plan in plans
        ]
        *posts, batches = await asyncio.gather(*map(flood.flood_in_process, bounded))
        return posts, [batches]

    def sizes(self) -> dict[str, float]:
        """The current resident size of each process in MB."""
        return {name: resident_mb(service.pid) for name, service in self._services.items()}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Mapping[str, Sizes]]:
        """The sizes of each process until the block ends."""
        sizes = {name: Sizes([]) for name in self._services}

        async def watch() -> None:
            while True:
                for name, size in self.sizes().items():
                    sizes[name].seen.append(size)
                await asyncio.sleep(1.0)

        watching = asyncio.create_task(watch())
        try:
            yield sizes
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    def _plan(self, rate: float, seconds: float, *, connections: int, lines: int = 0) -> FloodPlan:
        self._slices += 1
        count, tag = max(1, round(rate * seconds)), f"soak{self._slices}"
        return FloodPlan(self._intake.url, self._intake.key, tag, "DE", count, rate, connections, lines)


async def soak(bench: Bench) -> list[Figure]:
    """Sizes over `bench.minutes` at a steady rate and in a burst; rejections; the best rate before and after."""
    await bench.launcher.topics(*REGIONS)
    await bench.publish_control()
    regions, database = ",".join(REGIONS), await bench.launcher.database("bench_intake")
    seconds = bench.minutes * 60
    async with (
        bench.launcher.service(
            "intake", REGIONS=regions, DATABASE_URL=database, PROJECTION="false", **_LIMITS
        ) as intake,
        bench.launcher.service("intake", label="projection", REGIONS=regions, DATABASE_URL=database) as projection,
    ):
        run = Soak(bench, intake, projection)
        rate = _SHARE * median(await run.best("cold"))
        await run.steady(rate, seconds / 10)
        before = await run.best("before")
        begin = run.sizes()
        async with run.watched() as flat:
            posts, lines = await run.steady(rate, seconds)
        bench.say(f"soak: the burst, {_BURST * rate:.0f} posts and as many lines a second")
        async with run.watched() as strained:
            burst_posts, burst_lines = await run.burst(_BURST * rate, min(_BURST_SECONDS, seconds))
            after = await run.best("after")
    steady = [call for result in (*posts, *lines) for call in result.calls]
    burst = [call for result in (*burst_posts, *burst_lines) for call in result.calls]
    _check(steady)
    _check(burst)
    at = f"{bench.minutes:g} minutes at {_rate(posts):,.0f} posts/s and {_rate(lines):,.0f} lines/s"
    times = len(burst) / max(result.seconds for result in (*burst_posts, *burst_lines)) * seconds / len(steady)
    through = f"a burst of {times:.1f} times as many calls"
    figures = []
    for name in ("intake", "projection"):
        peak = {name: max(*flat[name].seen, *strained[name].seen)}
        figures += [
            Figure(name=f"{name}: resident size, {at}", unit="MB", values=flat[name].seen, peak=peak),
            _deviation(f"{name}: largest difference from the start, {at}", flat[name], begin[name]),
            _deviation(
                f"{name}: largest difference from the start, during {through} and after it", strained[name], begin[name]
            ),
        ]
    figures += [
        Figure(name=f"calls rejected, {at}", unit="%", values=[_rejected(steady)]),
        Figure(name=f"calls rejected, {through}: {len(burst):,} calls", unit="%", values=[_rejected(burst)]),
        Figure(
            name="rejections without Retry-After",
            unit="",
            values=[sum(map(without_retry_after, [*steady, *burst]))],
            mark=Mark(1, below=True),
        ),
        Figure(
            name="highest rate of single posts, after the burst; floor: before the load",
            unit="posts/s",
            values=after,
            floors=before,
            mark=Mark(0.9),
        ),
    ]
    return figures


def _check(calls: Sequence[CallResult]) -> None:
    """Raise AssertionError for a status that means neither acceptance nor "try again later"."""
    statuses = Counter(status for call in calls for status in (call.status, *call.statuses))
    others = statuses.keys() - {200, 202, *_REJECTED}
    assert not others, f"unexpected statuses: {dict(statuses)}"


def _deviation(name: str, sizes: Sizes, begin: float) -> Figure:
    return Figure(name=name, unit="MB", values=[sizes.furthest(begin)], mark=_FLAT)


def _rejected(calls: Sequence[CallResult]) -> float:
    return 100 * sum(call.status in _REJECTED for call in calls) / len(calls)


def without_retry_after(call: CallResult) -> int:
    """The number of rejections of a call without Retry-After."""
    return call.without_retry_after + (call.status in _REJECTED and call.retry_after is None)


def _rate(results: Sequence[FloodResult]) -> float:
    """Accepted items per second."""
    return sum(len(call.accepted) for result in results for call in result.calls) / sum(r.seconds for r in results)
