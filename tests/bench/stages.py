"""The four stages, each alone beside its floor.

What a consuming stage works on is put into its topic while the process is stopped (SIGSTOP), and its clock starts when
it may go on: so neither its start nor the filling is counted, and it stays warm from round to round. The first rounds
of each side are thrown away: for some seconds Kafka costs twice what it does once its code is compiled.
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
from tests.bench.flame import finished, sampling, shares
from tests.bench.kafka import Watch, bare_consumer, bare_producer, fill
from tests.bench.report import Figure, Mark, Round, of_rounds, percentile
from tests.bench.rooms import House, Room
from tests.bench.usage import Stretch, cpu_seconds, peak_mb

_WARM: Final = 3  # rounds that do not count
_LINES: Final = 1_000
_CALLS: Final = 4
_CONNECTIONS: Final = 256  # few would be what is measured: a post takes as long as its flush
_PUNCTUAL_SECONDS: Final = 5.0
_SINGLES_SHARE: Final = 20  # of the items, one of so many goes to the peer that takes them one by one
_SAMPLED_SECONDS: Final = 5.0  # of processor time, at least
_BATCH_KIND: Final = "application/x-ndjson"


T = TypeVar("T")


class Bench(NamedTuple):
    """What every stage has: where services run, a look at Kafka, how many rounds of how many items.

    `began` is when its servers were told to start (monotonic seconds). `pictures` is where flame graphs go, None when
    nothing is to be examined. `grown` items are behind a service at the end of `growth`, `stored` are in intake's
    database in `lookups`; `soak` is steady for so many `minutes`.
    """

    house: House
    watch: Watch
    producer: KafkaProducer
    rounds: int
    items: int
    say: Callable[[str], None]
    began: float
    pictures: Path | None
    grown: int
    stored: int
    minutes: float

    async def round(self, items: int, pids: Mapping[str, int], act: Awaitable[object]) -> Round:
        """Wait for `act`, and see what these processes and the servers cost meanwhile."""
        with Stretch(pids, self.house.trees) as stretch:
            await act
        return Round(items, stretch.seconds, stretch.cpu)

    async def examine(
        self,
        figure: Figure,
        room: Room,
        name: str,
        *,
        make: Callable[[str], T],
        put: Callable[[T], Awaitable[object]] | None = None,
        work: Callable[[T], Awaitable[object]],
        items: int | None = None,
        writes: Sequence[str] = (),
        database: str | None = None,
        reader: Room | None = None,
    ) -> None:
        """When it is wanted, weigh what one more round costs and sample some more; none of them counts in the figure.

        `make` makes a round's load, of a tag; `put` lays it ready for the service, which stands still meanwhile; `work`
        returns when it is done. `writes` are the topics that the service writes, `reader` is the process that consumes
        if it is another.
        """
        if self.pictures is None:
            return
        self.say(f"{figure.name}: what an item costs")
        meter, load = Meter(self.house.stack, reader or room, writes, database), make("weighed")
        async with meter.weighing(items or self.items):
            if put is not None:
                async with stopped(room):
                    await put(load)
            await resumed(room, work(load))
        self.say(f"{figure.name}: where its time goes")
        figure.flame, begun, number = f"{name}.svg", cpu_seconds(room.pid), 0
        async with sampling(room.pid, self.pictures / figure.flame):
            while cpu_seconds(room.pid) - begun < _SAMPLED_SECONDS:
                number += 1
                load = make(f"sampled{number}")
                if put is not None:  # while it runs: a process that is stopped cannot be sampled
                    await put(load)
                await room.while_alive(work(load))
        figure.cost = meter.cost
        figure.parts = shares(finished(self.pictures / figure.flame))

    async def publish_control(self) -> None:
        """Put the bench's operating model and its twenty policies into force."""
        await fill(self.producer, CONTROL, data.control())


async def intake(bench: Bench) -> list[Figure]:
    """Lines a second through `POST /v1/items/batch`, while another process follows the status, and alone; single posts.

    The batches' marks are held against a floor that compresses with lz4, aiokafka's usual codec; the service's own,
    zstd, makes both cheaper, and its floor stands beside. Both with the projection beside it and alone, as the other
    stages run.
    """
    await bench.house.topics(*REGIONS)
    await bench.publish_control()
    figures = []
    regions, database = ",".join(REGIONS), await bench.house.database("bench_intake")
    async with (
        bench.house.service("intake", REGIONS=regions, DATABASE_URL=database, PROJECTION="false") as room,
        bench.house.service("intake", label="projection", REGIONS=regions, DATABASE_URL=database) as projection,
    ):
        name = "intake: batch lines/s, its projection beside it; floor lz4"
        figures.append(await _batches(bench, room, name, tag="full", codec="lz4", following=projection))
        await _examine_intake(
            bench, figures[0], room, "intake-lines", projection=projection, database=database, items=bench.items
        )
        name = "intake: single posts/s, its projection beside it"
        posts = await _single_posts(bench, room, name, tag="one")
        await _examine_intake(
            bench, posts[0], room, "intake-posts", projection=projection, database=database, items=_posts(bench)
        )
        figures += posts
        figures += await _punctuality(bench, room, "its projection beside it", posts[0].measured / 2)
    [closed] = free_ports(1)
    nowhere = f"postgresql://nobody@127.0.0.1:{closed}/nothing"
    async with bench.house.service("intake", REGIONS=regions, DATABASE_URL=nowhere, lacking="database") as room:
        for codec in ("lz4", "zstd"):
            name = f"intake: batch lines/s, posting alone (no database); floor {codec}"
            figures.append(await _batches(bench, room, name, tag=f"alone{codec}", codec=codec))
        name = "intake: single posts/s, posting alone (no database)"
        posts = await _single_posts(bench, room, name, tag="onealone", followed=False)
        figures += posts
        figures += await _punctuality(bench, room, "posting alone", posts[0].measured / 2, followed=False)
    return figures


async def _batches(
    bench: Bench, room: Room, name: str, *, tag: str, codec: str, following: Room | None = None
) -> Figure:
    names = [topics.submissions(region) for region in REGIONS]
    floor_names = {name: f"bench.{name}" for name in names}
    await bench.house.plain_topics(*floor_names.values())
    pids = {"intake": room.pid} | ({"projection": following.pid} if following else {})
    stage, floor = [], []
    async with _bare_producer(bench, codec) as producer:
        for number in range(bench.rounds + _WARM):
            bench.say(f"{name}: round {number + 1} of {bench.rounds + _WARM}")
            requests = _batch_calls(room, data.bodies(bench.items, tag=f"{tag}{number}"))
            before = await bench.watch.ends(names)
            sending = calls.send_all(room.url, requests, connections=_CALLS, wanted=200)
            stage.append(await bench.round(bench.items, pids, sending))
            lanes = floors.moved(await bench.watch.read(names, since=before), floor_names)
            assert sum(map(len, lanes.values())) >= bench.items, "every line is in Kafka"
            if following:
                await _caught_up(bench, names)
            floor.append(await bench.round(bench.items, {"client": os.getpid()}, floors.produce(producer, lanes)))
    peak = {service: peak_mb(pid) for service, pid in pids.items()}
    marks = (Mark(0.4), Mark(0.6)) if codec == "lz4" else (None, None)
    return of_rounds(name, "lines/s", stage[_WARM:], floor[_WARM:], mark=marks[0], next=marks[1], peak=peak)


async def _single_posts(bench: Bench, room: Room, name: str, *, tag: str, followed: bool = True) -> list[Figure]:
    """The same rounds beside two floors: the same application, which answers an empty 202, and its web server alone."""
    names = [topics.submissions(region) for region in REGIONS]
    posts = _posts(bench)
    stage: list[Round] = []
    marks = {"application": Mark(0.5), "server": None}
    beside: dict[str, list[Round]] = {kind: [] for kind in marks}
    async with AsyncExitStack() as running:
        empty: dict[str, Room] = {}
        for kind in marks:
            [port] = free_ports(1)
            arguments = ["-m", "tests.bench.empty", str(port), kind]
            empty[kind] = await running.enter_async_context(bench.house.process(f"empty-{kind}", arguments, {}, port))
        for number in range(bench.rounds + _WARM):
            bench.say(f"{name}: round {number + 1} of {bench.rounds + _WARM}")
            requests = _single_calls(room, data.bodies(posts, tag=f"{tag}{number}"))
            sending = calls.send_all(room.url, requests, connections=_CONNECTIONS, wanted=202)
            stage.append(await bench.round(posts, {"intake": room.pid}, sending))
            if followed:
                await _caught_up(bench, names)
            for kind, floor in empty.items():
                sending = calls.send_all(floor.url, requests, connections=_CONNECTIONS, wanted=202)
                beside[kind].append(await bench.round(posts, {"server": floor.pid}, sending))
    peak = {"intake": peak_mb(room.pid)}
    return [
        of_rounds(f"{name}; floor: empty {kind}", "posts/s", stage[_WARM:], beside[kind][_WARM:], next=mark, peak=peak)
        for kind, mark in marks.items()
    ]


async def _punctuality(bench: Bench, room: Room, beside: str, rate: float, *, followed: bool = True) -> list[Figure]:
    """How long a single post takes from the moment it was to be sent, when so many a second are, half of the best.

    The same against an empty 202, in turns, says how much of it is the machine's and the client's.
    """
    names = [topics.submissions(region) for region in REGIONS]
    posts = int(rate * _PUNCTUAL_SECONDS)
    tag = "timed" if followed else "timedalone"
    took: dict[str, list[list[float]]] = {"its 202": [], "an empty 202": []}
    [port] = free_ports(1)
    arguments = ["-m", "tests.bench.empty", str(port), "application"]
    async with bench.house.process("empty-punctual", arguments, {}, port) as floor:
        for number in range(bench.rounds + 1):
            bench.say(f"intake: {posts:,} single posts, {rate:,.0f}/s: round {number} of {bench.rounds}")
            requests = _single_calls(room, data.bodies(posts, tag=f"{tag}{number}"))
            for answer, url in zip(took, (room.url, floor.url), strict=True):
                timed = await calls.send_at(url, requests, rate=rate, connections=_CONNECTIONS)
                assert {one.answer.status for one in timed} == {202}, "every post is taken"
                took[answer].append([one.took * 1e3 for one in timed])
                if followed:
                    await _caught_up(bench, names)
    what = f"a single post at half of the top rate, {rate:,.0f}/s, {beside}"
    return [
        Figure(
            name=f"{what}, from the intended send to {answer}, p{of_100}",
            unit="ms",
            values=[percentile(one, of_100 / 100) for one in rounds[1:]],
            mark=Mark(25, "ms", below=True) if (answer, of_100) == ("its 202", 99) else None,
        )
        for answer, rounds in took.items()
        for of_100 in (50, 99)
    ]


async def _examine_intake(
    bench: Bench, figure: Figure, room: Room, name: str, *, projection: Room, database: str, items: int
) -> None:
    names, single = [topics.submissions(region) for region in REGIONS], name == "intake-posts"

    def make(tag: str) -> list[bytes]:
        bodies = data.bodies(items, tag=f"{name}-{tag}")
        return _single_calls(room, bodies) if single else _batch_calls(room, bodies)

    async def work(requests: Sequence[bytes]) -> None:
        connections, wanted = (_CONNECTIONS, 202) if single else (_CALLS, 200)
        await calls.send_all(room.url, requests, connections=connections, wanted=wanted)
        await _caught_up(bench, names)

    await bench.examine(
        figure,
        room,
        name,
        make=make,
        work=work,
        items=items,
        writes=names,
        database=database,
        reader=projection,
    )


def _batch_calls(room: Room, lines: Sequence[bytes]) -> list[bytes]:
    return [calls.post("/v1/items/batch", room.key, body, _BATCH_KIND) for body in data.ndjson(lines, _LINES)]


def _single_calls(room: Room, bodies: Sequence[bytes]) -> list[bytes]:
    return [calls.post("/v1/items", room.key, body) for body in bodies]


def _posts(bench: Bench) -> int:
    """How many single posts stand for a round's items."""
    return max(1_000, bench.items // 4)


async def _caught_up(bench: Bench, names: Sequence[str]) -> None:
    """Wait until intake's projection has read what was sent, so that the floor does not run beside it."""
    for region, name in zip(REGIONS, names, strict=True):
        await bench.watch.until_committed(f"piepowder-intake-{region}", [name])


async def router(bench: Bench) -> list[Figure]:
    """Items a second from submissions to cases, with twenty policies; the floor passes on the same cases."""
    await bench.house.topics(*REGIONS)
    await bench.publish_control()
    source, target, group = topics.submissions(REGION), topics.cases(REGION), f"piepowder-router-{REGION}"
    floor_source, floor_target = "bench.router.in", "bench.router.out"
    await bench.house.plain_topics(floor_source, floor_target)
    submitted = [life.submitted for life in data.lives(bench.items, tag="routed")]
    stage, floor = [], []
    async with (
        bench.house.service("router", REGIONS=REGION) as room,
        _peer(bench, "faststream_batch") as batches,
        _peer(bench, "one_by_one") as singles,
        _bare_producer(bench) as producer,
    ):
        await bench.watch.until_committed(group, [source])
        for number in range(bench.rounds + _WARM):
            bench.say(f"router: round {number + 1} of {bench.rounds + _WARM}")
            before = await bench.watch.ends([target])
            async with stopped(room):
                await fill(bench.producer, source, submitted)
            working = bench.watch.until_committed(group, [source])
            stage.append(await bench.round(bench.items, {"router": room.pid}, resumed(room, working)))
            outputs = floors.moved(await bench.watch.read([target], since=before), {target: floor_target})
            assert sum(map(len, outputs.values())) == bench.items, "every item became a case"
            begin = await bench.watch.ends([floor_source])
            await fill(bench.producer, floor_source, submitted)
            async with _bare_consumer(bench) as consumer:
                working = floors.pass_on(consumer, begin, producer, outputs, bench.items)
                floor.append(await bench.round(bench.items, {"client": os.getpid()}, working))
            cases = {record.value for lane in outputs.values() for record in lane}
            await batches.round(submitted, cases)
            await singles.round(submitted[: max(200, bench.items // _SINGLES_SHARE)], cases)
        peak = {"router": peak_mb(room.pid)}
        name = "router: items/s, 20 policies"
        figure = of_rounds(name, "items/s", stage[_WARM:], floor[_WARM:], mark=Mark(0.25), next=Mark(0.3), peak=peak)

        await bench.examine(
            figure,
            room,
            "router",
            make=lambda _: submitted,
            put=lambda load: fill(bench.producer, source, load),
            work=lambda _: bench.watch.until_committed(group, [source]),
            writes=[target],
        )
    figures = [figure]
    for who, peer, mark in (("FastStream's batch subscriber", batches, 3), ("one record at a time", singles, 50)):
        name = f"router: items/s, beside the same stage as {who}"
        figures.append(of_rounds(name, "items/s", stage[_WARM:], peer.rounds[_WARM:], next=Mark(mark), peak={}))
    return figures


class _Peer:
    """The router's stage as others would write it, with topics and a group of its own; takes turns with the router."""

    def __init__(self, bench: Bench, room: Room, source: str, target: str, group: str) -> None:
        self.rounds: list[Round] = []
        self._bench = bench
        self._room = room
        self._source = source
        self._target = target
        self._group = group

    async def round(self, submitted: Sequence[Encoded], cases: Collection[bytes | None]) -> None:
        """Let it work on these; what it makes of them must be of `cases`, each once."""
        bench = self._bench
        before = await bench.watch.ends([self._target])
        async with stopped(self._room):
            await fill(bench.producer, self._source, submitted)
        working = bench.watch.until_committed(self._group, [self._source])
        pids = {"peer": self._room.pid}
        self.rounds.append(await bench.round(len(submitted), pids, resumed(self._room, working)))
        made = [
            record.value for lane in (await bench.watch.read([self._target], since=before)).values() for record in lane
        ]
        assert len(made) == len({*made} & {*cases}) == len(submitted), "every item became the same case"


@asynccontextmanager
async def _peer(bench: Bench, name: str) -> AsyncIterator[_Peer]:
    source, target, group = f"bench.{name}.in", f"bench.{name}.out", f"bench-{name}"
    await bench.house.plain_topics(source, target)
    async with bench.house.peer(name, bench.house.stack.kafka, source, target, group) as room:
        yield _Peer(bench, room, source, target, group)


async def decision(bench: Bench) -> list[Figure]:
    """Cases a second from the topic to stored and published; the floor inserts the same rows into the same table."""
    await bench.house.topics(*REGIONS)
    source, target, group = topics.cases(REGION), topics.decisions(REGION), f"piepowder-decision-{REGION}"
    url = await bench.house.database("bench_decision")
    stage, floor = [], []
    async with (
        bench.house.service("decision", REGION=REGION, DATABASE_URL=url) as room,
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
            while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox) AS bench"):  # noqa: ASYNC110 - it tells who asks
                await asyncio.sleep(0.01)

        for number in range(bench.rounds + _WARM):
            bench.say(f"decision: round {number + 1} of {bench.rounds + _WARM}")
            lives = data.lives(bench.items, tag=f"case{number}")
            async with stopped(room):
                await put(lives)
            stage.append(await bench.round(bench.items, {"decision": room.pid}, resumed(room, work(lives))))
            rows = await connection.fetch("SELECT * FROM cases WHERE subject LIKE $1", f"%:case{number}-%")
            assert len(rows) == bench.items, "every case is stored"
            working = floors.insert(connection, table, columns, types, rows)
            floor.append(await bench.round(bench.items, {"client": os.getpid()}, working))
        await connection.execute(f"DROP TABLE {table}")
        name, peak = "decision: cases/s, stored and published (90 % decided at once)", {"decision": peak_mb(room.pid)}
        figure = of_rounds(name, "cases/s", stage[_WARM:], floor[_WARM:], next=Mark(0.3), peak=peak)
        await bench.examine(
            figure,
            room,
            "decision",
            make=lambda tag: data.lives(bench.items, tag=tag),
            put=put,
            work=work,
            writes=[target],
            database=url,
        )
    return [figure]


async def audit(bench: Bench) -> list[Figure]:
    """Events a second from three topics to the log; the floor copies the same rows into the same table."""
    await bench.house.topics(*REGIONS)
    group = f"piepowder-audit-{REGION}"
    names = [topics.submissions(REGION), topics.cases(REGION), topics.decisions(REGION)]
    url = await bench.house.database("bench_audit")
    count = bench.items // 3 * 3
    stage, floor = [], []
    async with (
        bench.house.service("audit", REGION=REGION, DATABASE_URL=url) as room,
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

        for number in range(bench.rounds + _WARM):
            bench.say(f"audit: round {number + 1} of {bench.rounds + _WARM}")
            lives = data.lives(bench.items // 3, tag=f"kept{number}")
            size = await connection.fetchval("SELECT size FROM head")
            async with stopped(room):
                await put(lives)
            stage.append(await bench.round(count, {"audit": room.pid}, resumed(room, work(lives))))
            rows = await connection.fetch("SELECT * FROM log WHERE seq > $1 ORDER BY seq", size)
            assert len(rows) == count, "every event is in the log"
            copying = floors.copy(connection, table, columns, rows)
            floor.append(await bench.round(count, {"client": os.getpid()}, copying))
        await connection.execute(f"DROP TABLE {table}")
        name, peak = "audit: events/s", {"audit": peak_mb(room.pid)}
        figure = of_rounds(name, "events/s", stage[_WARM:], floor[_WARM:], next=Mark(0.4), peak=peak)
        await bench.examine(
            figure,
            room,
            "audit",
            make=lambda tag: data.lives(bench.items // 3, tag=tag),
            put=put,
            work=work,
            database=url,
        )
    return [figure]


@asynccontextmanager
async def stopped(room: Room) -> AsyncIterator[None]:
    """The service stands still, and still does at the end."""
    room.child.pause()
    yield


async def resumed(room: Room, working: Awaitable[object]) -> None:
    room.child.resume()
    await room.while_alive(working)


@asynccontextmanager
async def _bare_producer(bench: Bench, codec: str = "zstd") -> AsyncIterator[Any]:
    producer = bare_producer(bench.house.stack.kafka, codec)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _bare_consumer(bench: Bench) -> AsyncIterator[Any]:
    consumer = bare_consumer(bench.house.stack.kafka, "bench-router")
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
