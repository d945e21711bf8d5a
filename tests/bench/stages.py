"""The four stages, each alone next to its floor.

The input of a consuming stage is written to its topic while the process is stopped (SIGSTOP), and the clock starts when
the process continues. So neither its start nor the filling counts, and the process stays warm from round to round. The
first rounds of each side are not counted: for some seconds Kafka costs twice as much, until its code is compiled.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from deploy.local.ports import free_ports
from shared.contracts import topics
from shared.contracts.envelope import Encoded
from shared.contracts.topics import CONTROL
from shared.kafka.producer import KafkaProducer
from tests.bench import calls, data, floors
from tests.bench.costs import Meter
from tests.bench.data import REGION, REGIONS, Life
from tests.bench.flame import frames, sampling, shares
from tests.bench.kafka import Watch, bare_consumer, bare_producer, fill
from tests.bench.report import WARM, Figure, Mark, Round, of_rounds, percentile
from tests.bench.services import Launcher, Service
from tests.bench.usage import Stretch, cpu_seconds, peak_mb

_LINES: Final = 1_000
_CALLS: Final = 4
_CONNECTIONS: Final = 256  # with fewer, the flush time of a post would be measured
_PUNCTUAL_SECONDS: Final = 5.0
_SINGLES_SHARE: Final = 20  # one in this number of items goes to the peer that processes single records
_SAMPLED_SECONDS: Final = 5.0  # of processor time, at least
_BATCH_KIND: Final = "application/x-ndjson"


T = TypeVar("T")


class Bench(NamedTuple):
    """The parts that every stage uses: services, Kafka, the number of rounds and of items.

    `began` is when the servers were started (monotonic seconds). `flame_graphs` is the folder for flame graphs, None
    without `--profile`. `growth` ends with `grown` items, `lookups` stores `stored` items in intake's database,
    and `soak` has a steady load for `minutes`.
    """

    launcher: Launcher
    watch: Watch
    producer: KafkaProducer
    rounds: int
    items: int
    say: Callable[[str], None]
    began: float
    flame_graphs: Path | None
    grown: int
    stored: int
    minutes: float

    async def round(self, items: int, pids: Mapping[str, int], act: Awaitable[object]) -> Round:
        """Wait for `act` and measure the processor time of these processes and of the servers."""
        with Stretch(pids, self.launcher.trees) as stretch:
            await act
        return Round(items, stretch.seconds, stretch.cpu)

    async def examine(
        self,
        figure: Figure,
        service: Service,
        name: str,
        *,
        make: Callable[[str], T],
        put: Callable[[T], Awaitable[object]] | None = None,
        work: Callable[[T], Awaitable[object]],
        items: int | None = None,
        writes: Sequence[str] = (),
        database: str | None = None,
        reader: Service | None = None,
    ) -> None:
        """If requested, measure the cost of one more round and sample some more rounds; none of them counts in the
        figure.

        `make` makes the load of a round with a tag; `put` prepares it for the service, which is stopped; `work` returns
        when it is processed. `writes` are the topics that the service writes; `reader` is the consuming process, if it
        is another.
        """
        if self.flame_graphs is None:
            return
        self.say(f"{figure.name}: the cost of an item")
        meter, load = Meter(self.launcher.stack, reader or service, writes, database), make("weighed")
        async with meter.weighing(items or self.items):
            if put is not None:
                async with stopped(service):
                    await put(load)
            await resumed(service, work(load))
        self.say(f"{figure.name}: its processor time by part")
        graph, begun, number = self.flame_graphs / f"{name}.svg", cpu_seconds(service.pid), 0
        async with sampling(service.pid, graph):
            while cpu_seconds(service.pid) - begun < _SAMPLED_SECONDS:
                number += 1
                load = make(f"sampled{number}")
                if put is not None:  # a stopped process cannot be sampled
                    await put(load)
                await service.while_alive(work(load))
        figure.cost = meter.cost
        figure.parts = shares(frames(graph.read_text(encoding="utf-8")))

    async def publish_control(self) -> None:
        """Publish the operating model and the twenty policies of the bench."""
        await fill(self.producer, CONTROL, data.control())


async def intake(bench: Bench) -> list[Figure]:
    """Lines per second through `POST /v1/items/batch`, with and without the projection in another process; single
    posts.

    The mark of the batches compares with a floor that uses lz4, aiokafka's usual codec. The service's own codec, zstd,
    makes both cheaper; its floor is reported too. Both are measured with the projection, and alone like the other
    stages.
    """
    await bench.launcher.topics(*REGIONS)
    await bench.publish_control()
    figures = []
    regions, database = ",".join(REGIONS), await bench.launcher.database("bench_intake")
    async with (
        bench.launcher.service("intake", REGIONS=regions, DATABASE_URL=database, PROJECTION="false") as service,
        bench.launcher.service("intake", label="projection", REGIONS=regions, DATABASE_URL=database) as projection,
    ):
        name = "intake: batch lines/s, its projection beside it; floor lz4"
        figures.append(await _batches(bench, service, name, tag="full", codec="lz4", following=projection))
        await _examine_intake(
            bench, figures[0], service, "intake-lines", projection=projection, database=database, items=bench.items
        )
        name = "intake: single posts/s, its projection beside it"
        posts = await _single_posts(bench, service, name, tag="one")
        await _examine_intake(
            bench, posts[0], service, "intake-posts", projection=projection, database=database, items=_posts(bench)
        )
        figures += posts
        figures += await _punctuality(bench, service, "its projection beside it", posts[0].measured / 2)
    [closed] = free_ports(1)
    nowhere = f"postgresql://nobody@127.0.0.1:{closed}/nothing"
    async with bench.launcher.service("intake", REGIONS=regions, DATABASE_URL=nowhere, unmet="database") as service:
        for codec in ("lz4", "zstd"):
            name = f"intake: batch lines/s, posting alone (no database); floor {codec}"
            figures.append(await _batches(bench, service, name, tag=f"alone{codec}", codec=codec))
        name = "intake: single posts/s, posting alone (no database)"
        posts = await _single_posts(bench, service, name, tag="onealone", followed=False)
        figures += posts
        figures += await _punctuality(bench, service, "posting alone", posts[0].measured / 2, followed=False)
    return figures


async def _batches(
    bench: Bench, service: Service, name: str, *, tag: str, codec: str, following: Service | None = None
) -> Figure:
    names = [topics.submissions(region) for region in REGIONS]
    floor_names = {name: f"bench.{name}" for name in names}
    await bench.launcher.plain_topics(*floor_names.values())
    pids = {"intake": service.pid} | ({"projection": following.pid} if following else {})
    stage, floor = [], []
    async with floor_producer(bench, codec) as producer:
        for number in range(bench.rounds + WARM):
            bench.say(f"{name}: round {number + 1} of {bench.rounds + WARM}")
            requests = _batch_calls(service, data.bodies(bench.items, tag=f"{tag}{number}"))
            before = await bench.watch.ends(names)
            sending = calls.send_all(service.url, requests, connections=_CALLS, wanted=200)
            stage.append(await bench.round(bench.items, pids, sending))
            lanes = floors.moved(await bench.watch.read(names, since=before), floor_names)
            assert sum(map(len, lanes.values())) >= bench.items, "every line is in Kafka"
            if following:
                await _caught_up(bench, names)
            floor.append(await bench.round(bench.items, {"client": os.getpid()}, floors.produce(producer, lanes)))
    peak = {service: peak_mb(pid) for service, pid in pids.items()}
    marks = (Mark(0.4), Mark(0.6)) if codec == "lz4" else (None, None)
    return of_rounds(name, "lines/s", stage[WARM:], floor[WARM:], mark=marks[0], next=marks[1], peak=peak)


async def _single_posts(bench: Bench, service: Service, name: str, *, tag: str, followed: bool = True) -> list[Figure]:
    """The same rounds next to two floors: the same application with an empty 202, and its web server alone."""
    names = [topics.submissions(region) for region in REGIONS]
    posts = _posts(bench)
    stage: list[Round] = []
    marks = {"application": Mark(0.5), "server": None}
    beside: dict[str, list[Round]] = {kind: [] for kind in marks}
    async with AsyncExitStack() as running:
        empty: dict[str, Service] = {}
        for kind in marks:
            [port] = free_ports(1)
            arguments = ["-m", "tests.bench.empty", str(port), kind]
            empty[kind] = await running.enter_async_context(
                bench.launcher.process(f"empty-{kind}", arguments, {}, port)
            )
        for number in range(bench.rounds + WARM):
            bench.say(f"{name}: round {number + 1} of {bench.rounds + WARM}")
            requests = _single_calls(service, data.bodies(posts, tag=f"{tag}{number}"))
            sending = calls.send_all(service.url, requests, connections=_CONNECTIONS, wanted=202)
            stage.append(await bench.round(posts, {"intake": service.pid}, sending))
            if followed:
                await _caught_up(bench, names)
            for kind, floor in empty.items():
                sending = calls.send_all(floor.url, requests, connections=_CONNECTIONS, wanted=202)
                beside[kind].append(await bench.round(posts, {"server": floor.pid}, sending))
    peak = {"intake": peak_mb(service.pid)}
    return [
        of_rounds(f"{name}; floor: empty {kind}", "posts/s", stage[WARM:], beside[kind][WARM:], next=mark, peak=peak)
        for kind, mark in marks.items()
    ]


async def _punctuality(
    bench: Bench, service: Service, beside: str, rate: float, *, followed: bool = True
) -> list[Figure]:
    """The latency of a single post from its due time, at half of the top rate.

    The same against an empty 202, in turns, shows the share of the machine and the client.
    """
    names = [topics.submissions(region) for region in REGIONS]
    posts = int(rate * _PUNCTUAL_SECONDS)
    tag = "timed" if followed else "timedalone"
    took: dict[str, list[list[float]]] = {"its 202": [], "an empty 202": []}
    [port] = free_ports(1)
    arguments = ["-m", "tests.bench.empty", str(port), "application"]
    async with bench.launcher.process("empty-punctual", arguments, {}, port) as floor:
        for number in range(bench.rounds + WARM):
            bench.say(f"intake: {posts:,} single posts, {rate:,.0f}/s: round {number + 1} of {bench.rounds + WARM}")
            requests = _single_calls(service, data.bodies(posts, tag=f"{tag}{number}"))
            for answer, url in zip(took, (service.url, floor.url), strict=True):
                timed = await calls.send_at(url, requests, rate=rate, connections=_CONNECTIONS)
                assert {one.answer.status for one in timed} == {202}, "every post is accepted"
                took[answer].append([one.took * 1e3 for one in timed])
                if followed:
                    await _caught_up(bench, names)
    what = f"a single post at half of the top rate, {rate:,.0f}/s, {beside}"
    return [
        Figure(
            name=f"{what}, from the intended send to {answer}, p{of_100}",
            unit="ms",
            values=[percentile(one, of_100 / 100) for one in rounds[WARM:]],
            mark=Mark(25, "ms", below=True) if (answer, of_100) == ("its 202", 99) else None,
        )
        for answer, rounds in took.items()
        for of_100 in (50, 99)
    ]


async def _examine_intake(
    bench: Bench,
    figure: Figure,
    service: Service,
    name: str,
    *,
    projection: Service,
    database: str,
    items: int,
) -> None:
    names, single = [topics.submissions(region) for region in REGIONS], name == "intake-posts"

    def make(tag: str) -> list[bytes]:
        bodies = data.bodies(items, tag=f"{name}-{tag}")
        return _single_calls(service, bodies) if single else _batch_calls(service, bodies)

    async def work(requests: Sequence[bytes]) -> None:
        connections, wanted = (_CONNECTIONS, 202) if single else (_CALLS, 200)
        await calls.send_all(service.url, requests, connections=connections, wanted=wanted)
        await _caught_up(bench, names)

    await bench.examine(
        figure,
        service,
        name,
        make=make,
        work=work,
        items=items,
        writes=names,
        database=database,
        reader=projection,
    )


def _batch_calls(service: Service, lines: Sequence[bytes]) -> list[bytes]:
    return [calls.post("/v1/items/batch", service.key, body, _BATCH_KIND) for body in data.ndjson(lines, _LINES)]


def _single_calls(service: Service, bodies: Sequence[bytes]) -> list[bytes]:
    return [calls.post("/v1/items", service.key, body) for body in bodies]


def _posts(bench: Bench) -> int:
    """The number of single posts in a round."""
    return max(1_000, bench.items // 4)


async def _caught_up(bench: Bench, names: Sequence[str]) -> None:
    """Wait until intake's projection has read everything, so that the floor does not run at the same time."""
    for region, name in zip(REGIONS, names, strict=True):
        await bench.watch.until_committed(f"piepowder-intake-{region}", [name])


async def router(bench: Bench) -> list[Figure]:
    """Items per second from submissions to cases, with twenty policies; the floor forwards the same cases."""
    await bench.launcher.topics(*REGIONS)
    await bench.publish_control()
    source, target, group = topics.submissions(REGION), topics.cases(REGION), f"piepowder-router-{REGION}"
    floor_source, floor_target = "bench.router.in", "bench.router.out"
    await bench.launcher.plain_topics(floor_source, floor_target)
    submitted = [life.submitted for life in data.lives(bench.items, tag="routed")]
    stage, floor = [], []
    async with (
        bench.launcher.service("router", REGIONS=REGION) as service,
        _peer(bench, "faststream_batch") as batches,
        _peer(bench, "one_by_one") as singles,
        floor_producer(bench) as producer,
    ):
        await bench.watch.until_committed(group, [source])
        for number in range(bench.rounds + WARM):
            bench.say(f"router: round {number + 1} of {bench.rounds + WARM}")
            before = await bench.watch.ends([target])
            async with stopped(service):
                await fill(bench.producer, source, submitted)
            working = bench.watch.until_committed(group, [source])
            stage.append(await bench.round(bench.items, {"router": service.pid}, resumed(service, working)))
            outputs = floors.moved(await bench.watch.read([target], since=before), {target: floor_target})
            assert sum(map(len, outputs.values())) == bench.items, "every item became a case"
            begin = await bench.watch.ends([floor_source])
            await fill(bench.producer, floor_source, submitted)
            async with floor_consumer(bench) as consumer:
                working = floors.pass_on(consumer, begin, producer, outputs, bench.items)
                floor.append(await bench.round(bench.items, {"client": os.getpid()}, working))
            cases = {record.value for lane in outputs.values() for record in lane}
            await batches.round(submitted, cases)
            await singles.round(submitted[: max(200, bench.items // _SINGLES_SHARE)], cases)
        peak = {"router": peak_mb(service.pid)}
        name = "router: items/s, 20 policies"
        figure = of_rounds(name, "items/s", stage[WARM:], floor[WARM:], mark=Mark(0.25), next=Mark(0.3), peak=peak)

        await bench.examine(
            figure,
            service,
            "router",
            make=lambda _: submitted,
            put=lambda load: fill(bench.producer, source, load),
            work=lambda _: bench.watch.until_committed(group, [source]),
            writes=[target],
        )
    figures = [figure]
    for who, peer, mark in (("FastStream's batch subscriber", batches, 3), ("one record at a time", singles, 50)):
        name = f"router: items/s, beside the same stage as {who}"
        figures.append(of_rounds(name, "items/s", stage[WARM:], peer.rounds[WARM:], next=Mark(mark), peak={}))
    return figures


class _Peer:
    """The router's stage as a peer implements it, with its own topics and group; it takes turns with the router."""

    def __init__(self, bench: Bench, service: Service, source: str, target: str, group: str) -> None:
        self.rounds: list[Round] = []
        self._bench = bench
        self._service = service
        self._source = source
        self._target = target
        self._group = group

    async def round(self, submitted: Sequence[Encoded], cases: Collection[bytes | None]) -> None:
        """Let it process these records; its output must be `cases`, each once."""
        bench = self._bench
        before = await bench.watch.ends([self._target])
        async with stopped(self._service):
            await fill(bench.producer, self._source, submitted)
        working = bench.watch.until_committed(self._group, [self._source])
        pids = {"peer": self._service.pid}
        self.rounds.append(await bench.round(len(submitted), pids, resumed(self._service, working)))
        made = [
            record.value for lane in (await bench.watch.read([self._target], since=before)).values() for record in lane
        ]
        assert len(made) == len({*made} & {*cases}) == len(submitted), "every item became the same case"


@asynccontextmanager
async def _peer(bench: Bench, name: str) -> AsyncIterator[_Peer]:
    source, target, group = f"bench.{name}.in", f"bench.{name}.out", f"bench-{name}"
    await bench.launcher.plain_topics(source, target)
    async with bench.launcher.peer(name, bench.launcher.stack.kafka, source, target, group) as service:
        yield _Peer(bench, service, source, target, group)


async def decision(bench: Bench) -> list[Figure]:
    """Cases per second from the topic to stored and published; the floor inserts the same rows into the same table."""
    await bench.launcher.topics(*REGIONS)
    source, target, group = topics.cases(REGION), topics.decisions(REGION), f"piepowder-decision-{REGION}"
    url = await bench.launcher.database("bench_decision")
    stage, floor = [], []
    async with (
        bench.launcher.service("decision", REGION=REGION, DATABASE_URL=url) as service,
        _connection(url) as connection,
    ):
        await bench.watch.until_committed(group, [source])
        table, columns, types = await floors.like(connection, "cases")
        published = 0

        async def put(lives: Sequence[Life]) -> None:
            nonlocal published
            published = await bench.watch.size(target) + sum(life.verdict != "review" for life in lives)
            await fill(bench.producer, source, [life.opened for life in lives])

        async def work(_: Sequence[Life]) -> None:
            await bench.watch.until_committed(group, [source])
            await bench.watch.until_size(published, target)
            while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox) AS bench"):  # noqa: ASYNC110 - the database must be polled
                await asyncio.sleep(0.01)

        for number in range(bench.rounds + WARM):
            bench.say(f"decision: round {number + 1} of {bench.rounds + WARM}")
            lives = data.lives(bench.items, tag=f"case{number}")
            async with stopped(service):
                await put(lives)
            stage.append(await bench.round(bench.items, {"decision": service.pid}, resumed(service, work(lives))))
            rows = await connection.fetch("SELECT * FROM cases WHERE subject LIKE $1", f"%:case{number}-%")
            assert len(rows) == bench.items, "every case is stored"
            working = floors.insert(connection, table, columns, types, rows)
            floor.append(await bench.round(bench.items, {"client": os.getpid()}, working))
        await connection.execute(f"DROP TABLE {table}")
        name, peak = (
            "decision: cases/s, stored and published (90 % decided at once)",
            {"decision": peak_mb(service.pid)},
        )
        figure = of_rounds(name, "cases/s", stage[WARM:], floor[WARM:], next=Mark(0.3), peak=peak)
        await bench.examine(
            figure,
            service,
            "decision",
            make=lambda tag: data.lives(bench.items, tag=tag),
            put=put,
            work=work,
            writes=[target],
            database=url,
        )
    return [figure]


async def audit(bench: Bench) -> list[Figure]:
    """Events per second from three topics to the log; the floor copies the same rows into the same table."""
    await bench.launcher.topics(*REGIONS)
    group = f"piepowder-audit-{REGION}"
    names = [topics.submissions(REGION), topics.cases(REGION), topics.decisions(REGION)]
    url = await bench.launcher.database("bench_audit")
    count = bench.items // 3 * 3
    stage, floor = [], []
    async with (
        bench.launcher.service("audit", REGION=REGION, DATABASE_URL=url) as service,
        _connection(url) as connection,
    ):
        await bench.watch.until_committed(group, names)
        table, columns, _ = await floors.like(connection, "log")

        async def put(lives: Sequence[Life]) -> None:
            await fill(bench.producer, names[0], [life.submitted for life in lives])
            await fill(bench.producer, names[1], [life.opened for life in lives])
            await fill(bench.producer, names[2], [life.decided for life in lives])

        async def work(_: Sequence[Life]) -> None:
            await bench.watch.until_committed(group, names)

        for number in range(bench.rounds + WARM):
            bench.say(f"audit: round {number + 1} of {bench.rounds + WARM}")
            lives = data.lives(bench.items // 3, tag=f"kept{number}")
            size = await connection.fetchval("SELECT size FROM head")
            async with stopped(service):
                await put(lives)
            stage.append(await bench.round(count, {"audit": service.pid}, resumed(service, work(lives))))
            rows = await connection.fetch("SELECT * FROM log WHERE seq > $1 ORDER BY seq", size)
            assert len(rows) == count, "every event is in the log"
            copying = floors.copy(connection, table, columns, rows)
            floor.append(await bench.round(count, {"client": os.getpid()}, copying))
        await connection.execute(f"DROP TABLE {table}")
        name, peak = "audit: events/s", {"audit": peak_mb(service.pid)}
        figure = of_rounds(name, "events/s", stage[WARM:], floor[WARM:], next=Mark(0.4), peak=peak)
        await bench.examine(
            figure,
            service,
            "audit",
            make=lambda tag: data.lives(bench.items // 3, tag=tag),
            put=put,
            work=work,
            database=url,
        )
    return [figure]


@asynccontextmanager
async def stopped(service: Service) -> AsyncIterator[None]:
    """Stop the service during the block, and leave it stopped."""
    service.child.pause()
    yield


async def resumed(service: Service, working: Awaitable[object]) -> None:
    """Let the service continue, and wait for `working`."""
    service.child.resume()
    await service.while_alive(working)


@asynccontextmanager
async def floor_producer(bench: Bench, codec: str = "zstd") -> AsyncIterator[Any]:
    """The plain producer of a floor."""
    producer = bare_producer(bench.launcher.stack.kafka, codec)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def floor_consumer(bench: Bench) -> AsyncIterator[Any]:
    """The plain consumer of a floor."""
    consumer = bare_consumer(bench.launcher.stack.kafka, "bench-router")
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
