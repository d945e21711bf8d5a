"""Whether intake's memory stays flat: minutes of steady posting, then ten times as much at once, then its best again.

Single posts and batches come from processes of their own at a rate that does not follow the answers, while another
process follows the items' status. Intake runs with the small limits of a small machine, so that what it refuses in the
burst is told by its bounds and not by its connections. How much more was sent is told as it was: the clients share the
machine, and may not come to ten times. Sizes are read every second, after a tenth of the time in which caches fill.
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
from tests.bench.report import Figure, Mark
from tests.bench.rooms import Room
from tests.bench.stages import Bench
from tests.bench.usage import resident_mb
from tests.e2e import flood
from tests.e2e.flood import Plan, Said, Told

_LIMITS: Final = {"QUEUE_RECORDS": "400", "BATCH_CALLS": "4"}
_BEST_POSTS: Final = 3_000
_BEST_CONNECTIONS: Final = 64
_SHARE: Final = 0.2  # of its best, in single posts; and as many lines again
_LINES: Final = 50
_SLICE_SECONDS: Final = 30.0
_BURST: Final = 10
_BURST_SECONDS: Final = 30.0
_CLIENTS: Final = 3  # processes that post one by one in the burst
_CONNECTIONS: Final = 200  # of each
_MOST_ITEMS: Final = 90_000  # a client holds ready; it sends fewer in the time that it has
_FLAT: Final = Mark(50, "MB", below=True)
_REFUSED: Final = (429, 503)
_clock = SystemClock()


class Sizes(NamedTuple):
    """What a process's resident sizes were, in MB, in the order of time."""

    seen: list[float]

    def furthest(self, begin: float) -> float:
        """How far they went from where they began."""
        return max(abs(size - begin) for size in self.seen)


class Soak:
    """One run: who is watched, and what was said so far."""

    def __init__(self, bench: Bench, intake: Room, projection: Room) -> None:
        self._bench = bench
        self._intake = intake
        self._rooms = {"intake": intake, "projection": projection}
        self._slices = 0

    async def best(self, tag: str) -> list[float]:
        """How many single posts a second are taken when there are always some under way, in each round."""
        rates = []
        for number in range(self._bench.rounds + 1):
            bodies = data.bodies(_BEST_POSTS, tag=f"{tag}{number}")
            requests = [calls.post("/v1/items", self._intake.key, body) for body in bodies]
            begun = _clock.monotonic()
            await calls.send_all(self._intake.url, requests, connections=_BEST_CONNECTIONS, wanted=202)
            rates.append(_BEST_POSTS / (_clock.monotonic() - begun))
        return rates[1:]

    async def steady(self, rate: float, seconds: float) -> tuple[list[Told], list[Told]]:
        """So many single posts a second, and as many lines, for so long; what was said to both."""
        posts, lines = [], []
        until = _clock.monotonic() + seconds
        while (left := until - _clock.monotonic()) > 1.0:
            slice_seconds = min(_SLICE_SECONDS, left)
            told = await asyncio.gather(
                flood.carried_out(self._plan(rate, slice_seconds, connections=60)),
                flood.carried_out(self._plan(rate / _LINES, slice_seconds, connections=2, lines=_LINES)),
            )
            posts.append(told[0])
            lines.append(told[1])
            sizes = ", ".join(f"{name} {size:.0f} MB" for name, size in self.sizes().items())
            self._bench.say(f"soak: {left - slice_seconds:.0f} s to go, {_rate(told[:1]):.0f} posts/s, {sizes}")
        return posts, lines

    async def burst(self, rate: float, seconds: float) -> tuple[list[Told], list[Told]]:
        """The same, from more connections than intake has places; what no connection came to is not sent."""
        plans = [self._plan(rate / _CLIENTS, seconds, connections=_CONNECTIONS) for _ in range(_CLIENTS)]
        plans.append(self._plan(rate / _LINES, seconds, connections=12, lines=_LINES))
        bounded = [
            msgspec.structs.replace(plan, count=min(plan.count, _MOST_ITEMS // max(1, plan.lines)), seconds=seconds)
            for plan in plans
        ]
        *posts, batches = await asyncio.gather(*map(flood.carried_out, bounded))
        return posts, [batches]

    def sizes(self) -> dict[str, float]:
        """What each process's resident size is now, in MB."""
        return {name: resident_mb(room.pid) for name, room in self._rooms.items()}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Mapping[str, Sizes]]:
        """The sizes of each process until the block ends."""
        sizes = {name: Sizes([]) for name in self._rooms}

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

    def _plan(self, rate: float, seconds: float, *, connections: int, lines: int = 0) -> Plan:
        self._slices += 1
        count, tag = max(1, round(rate * seconds)), f"soak{self._slices}"
        return Plan(self._intake.url, self._intake.key, tag, "DE", count, rate, connections, lines)


async def soak(bench: Bench) -> list[Figure]:
    """Sizes over `bench.minutes` at a steady rate and through a burst; refusals; the best rate after beside before."""
    await bench.house.topics(*REGIONS)
    await bench.publish_control()
    regions, database = ",".join(REGIONS), await bench.house.database("bench_intake")
    seconds = bench.minutes * 60
    async with (
        bench.house.service("intake", REGIONS=regions, DATABASE_URL=database, PROJECTION="false", **_LIMITS) as intake,
        bench.house.service("intake", label="projection", REGIONS=regions, DATABASE_URL=database) as projection,
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
    said = [one for told in (*posts, *lines) for one in told.said]
    burst = [one for told in (*burst_posts, *burst_lines) for one in told.said]
    _check(said)
    _check(burst)
    at = f"{bench.minutes:g} minutes at {_rate(posts):,.0f} posts/s and {_rate(lines):,.0f} lines/s"
    times = len(burst) / max(told.seconds for told in (*burst_posts, *burst_lines)) * seconds / len(said)
    through = f"a burst of {times:.1f} times as many calls"
    figures = []
    for name in ("intake", "projection"):
        peak = {name: max(*flat[name].seen, *strained[name].seen)}
        figures += [
            Figure(name=f"{name}: resident size, {at}", unit="MB", values=flat[name].seen, peak=peak),
            _deviation(f"{name}: how far it went from where it began, {at}", flat[name], begin[name]),
            _deviation(f"{name}: the same, in {through} and after it", strained[name], begin[name]),
        ]
    figures += [
        Figure(name=f"calls refused, {at}", unit="%", values=[_refused(said)]),
        Figure(name=f"calls refused, {through}: {len(burst):,} calls", unit="%", values=[_refused(burst)]),
        Figure(
            name="refusals without Retry-After",
            unit="",
            values=[sum(map(impatient, [*said, *burst]))],
            mark=Mark(1, below=True),
        ),
        Figure(
            name="single posts/s at its best, after the burst; floor: before it all",
            unit="posts/s",
            values=after,
            floors=before,
            mark=Mark(0.9),
        ),
    ]
    return figures


def _check(said: Sequence[Said]) -> None:
    """Raises AssertionError for an answer that is neither taken nor a refusal to come back."""
    answers = Counter(status for one in said for status in (one.status, *one.statuses))
    others = answers.keys() - {200, 202, *_REFUSED}
    assert not others, f"answered otherwise than taken or refused: {dict(answers)}"


def _deviation(name: str, sizes: Sizes, begin: float) -> Figure:
    return Figure(name=name, unit="MB", values=[sizes.furthest(begin)], mark=_FLAT)


def _refused(said: Sequence[Said]) -> float:
    return 100 * sum(one.status in _REFUSED for one in said) / len(said)


def impatient(said: Said) -> int:
    return said.impatient + (said.status in _REFUSED and said.retry_after is None)


def _rate(told: Sequence[Told]) -> float:
    """Items a second that were taken."""
    return sum(len(one.accepted) for run in told for one in run.said) / sum(run.seconds for run in told)
