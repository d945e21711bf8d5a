"""The four stages, each alone beside its floor.

What a consuming stage works on is put into its topic while the process is stopped (SIGSTOP), and its clock starts when
it may go on: so neither its start nor the filling is counted, and it stays warm from round to round. The first round of
each side is thrown away.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg

from deploy.local.ports import free_ports
from shared.kafka import topics
from shared.kafka.producer import KafkaProducer
from shared.kafka.topics import CONTROL
from tests.bench import calls, data, floors
from tests.bench.data import REGION, REGIONS
from tests.bench.kafka import Watch, bare_consumer, bare_producer, fill
from tests.bench.report import Figure, Mark, Round, of_rounds
from tests.bench.rooms import House, Room
from tests.bench.usage import Stretch, peak_mb

_LINES: Final = 1_000
_CALLS: Final = 4
_CONNECTIONS: Final = 32
_BATCH_KIND: Final = "application/x-ndjson"


class Bench(NamedTuple):
    """What every stage has: where services run, a look at Kafka, how many rounds of how many items.

    `began` is when its servers were told to start (monotonic seconds).
    """

    house: House
    watch: Watch
    producer: KafkaProducer
    rounds: int
    items: int
    say: Callable[[str], None]
    began: float

    async def round(self, items: int, pids: Mapping[str, int], act: Awaitable[object]) -> Round:
        """Wait for `act`, and see what these processes and the servers cost meanwhile."""
        with Stretch(pids, self.house.trees) as stretch:
            await act
        return Round(items, stretch.seconds, stretch.cpu)

    async def publish_control(self) -> None:
        """Put the bench's operating model and its twenty policies into force."""
        await fill(self.producer, CONTROL, data.control())


async def intake(bench: Bench) -> list[Figure]:
    """Lines a second through `POST /v1/items/batch`, with and without following the items' status; single posts."""
    await bench.house.topics(*REGIONS)
    await bench.publish_control()
    figures = []
    async with bench.house.service("intake", REGIONS=",".join(REGIONS)) as room:
        name = "intake: batch lines/s, its status projection running"
        figures.append(await _batches(bench, room, name, tag="full", following=True))
        name = "intake: single posts/s, its status projection running"
        figures.append(await _single_posts(bench, room, name, tag="one"))
    [closed] = free_ports(1)
    nowhere = f"postgresql://nobody@127.0.0.1:{closed}/nothing"
    async with bench.house.service(
        "intake", REGIONS=",".join(REGIONS), DATABASE_URL=nowhere, lacking="database"
    ) as room:
        name = "intake: batch lines/s, posting alone (no database)"
        figures.append(await _batches(bench, room, name, tag="alone", following=False))
    return figures


async def _batches(bench: Bench, room: Room, name: str, *, tag: str, following: bool) -> Figure:
    names = [topics.submissions(region) for region in REGIONS]
    floor_names = {name: f"bench.{name}" for name in names}
    await bench.house.plain_topics(*floor_names.values())
    stage, floor = [], []
    async with _bare_producer(bench) as producer:
        for number in range(bench.rounds + 1):
            bench.say(f"{name}: round {number} of {bench.rounds}")
            lines = data.bodies(bench.items, tag=f"{tag}{number}")
            requests = [
                calls.post("/v1/items/batch", room.key, body, _BATCH_KIND) for body in data.ndjson(lines, _LINES)
            ]
            before = await bench.watch.ends(names)
            sending = calls.send_all(room.url, requests, connections=_CALLS, wanted=200)
            stage.append(await bench.round(bench.items, {"intake": room.pid}, sending))
            lanes = floors.moved(await bench.watch.read(names, since=before), floor_names)
            assert sum(map(len, lanes.values())) >= bench.items, "every line is in Kafka"
            if following:
                await _caught_up(bench, names)
            floor.append(await bench.round(bench.items, {"client": os.getpid()}, floors.produce(producer, lanes)))
    peak = {"intake": peak_mb(room.pid)}
    asked = Mark(0.4) if following else None
    return of_rounds(name, "lines/s", stage[1:], floor[1:], mark=asked, next=Mark(0.6), peak=peak)


async def _single_posts(bench: Bench, room: Room, name: str, *, tag: str) -> Figure:
    names = [topics.submissions(region) for region in REGIONS]
    posts = max(1_000, bench.items // 4)
    [port] = free_ports(1)
    stage, floor = [], []
    async with bench.house.process("empty", ["-m", "tests.bench.empty", str(port)], {}, port) as empty:
        for number in range(bench.rounds + 1):
            bench.say(f"{name}: round {number} of {bench.rounds}")
            bodies = data.bodies(posts, tag=f"{tag}{number}")
            requests = [calls.post("/v1/items", room.key, body) for body in bodies]
            sending = calls.send_all(room.url, requests, connections=_CONNECTIONS, wanted=202)
            stage.append(await bench.round(posts, {"intake": room.pid}, sending))
            await _caught_up(bench, names)
            sending = calls.send_all(empty.url, requests, connections=_CONNECTIONS, wanted=202)
            floor.append(await bench.round(posts, {"server": empty.pid}, sending))
    return of_rounds(name, "posts/s", stage[1:], floor[1:], next=Mark(0.5), peak={"intake": peak_mb(room.pid)})


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
    async with bench.house.service("router", REGIONS=REGION) as room, _bare_producer(bench) as producer:
        await bench.watch.until_committed(group, [source])
        for number in range(bench.rounds + 1):
            bench.say(f"router: round {number} of {bench.rounds}")
            before = await bench.watch.ends([target])
            async with _stopped(room):
                await fill(bench.producer, source, submitted)
            working = bench.watch.until_committed(group, [source])
            stage.append(await bench.round(bench.items, {"router": room.pid}, _resumed(room, working)))
            outputs = floors.moved(await bench.watch.read([target], since=before), {target: floor_target})
            assert sum(map(len, outputs.values())) == bench.items, "every item became a case"
            begin = await bench.watch.ends([floor_source])
            await fill(bench.producer, floor_source, submitted)
            async with _bare_consumer(bench) as consumer:
                working = floors.pass_on(consumer, begin, producer, outputs, bench.items)
                floor.append(await bench.round(bench.items, {"client": os.getpid()}, working))
        peak = {"router": peak_mb(room.pid)}
    name = "router: items/s, 20 policies"
    return [of_rounds(name, "items/s", stage[1:], floor[1:], mark=Mark(0.25), next=Mark(0.3), peak=peak)]


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
        for number in range(bench.rounds + 1):
            bench.say(f"decision: round {number} of {bench.rounds}")
            lives = data.lives(bench.items, tag=f"case{number}")
            published = await bench.watch.size(target) + sum(life.verdict != "review" for life in lives)
            async with _stopped(room):
                await fill(bench.producer, source, [life.opened for life in lives])

            async def until_told(published: int = published) -> None:
                await bench.watch.until_committed(group, [source])
                await bench.watch.until_size(published, target)
                while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):  # noqa: ASYNC110 - it tells who asks
                    await asyncio.sleep(0.01)

            stage.append(await bench.round(bench.items, {"decision": room.pid}, _resumed(room, until_told())))
            rows = await connection.fetch("SELECT * FROM cases WHERE subject LIKE $1", f"%:case{number}-%")
            assert len(rows) == bench.items, "every case is stored"
            working = floors.insert(connection, table, columns, types, rows)
            floor.append(await bench.round(bench.items, {"client": os.getpid()}, working))
        peak = {"decision": peak_mb(room.pid)}
    name = "decision: cases/s, stored and published (90 % decided at once)"
    return [of_rounds(name, "cases/s", stage[1:], floor[1:], next=Mark(0.3), peak=peak)]


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
        for number in range(bench.rounds + 1):
            bench.say(f"audit: round {number} of {bench.rounds}")
            lives = data.lives(bench.items // 3, tag=f"kept{number}")
            size = await connection.fetchval("SELECT size FROM head")
            async with _stopped(room):
                await fill(bench.producer, names[0], [life.submitted for life in lives])
                await fill(bench.producer, names[1], [life.opened for life in lives])
                await fill(bench.producer, names[2], [life.decided for life in lives])
            working = bench.watch.until_committed(group, names)
            stage.append(await bench.round(count, {"audit": room.pid}, _resumed(room, working)))
            rows = await connection.fetch("SELECT * FROM log WHERE seq > $1 ORDER BY seq", size)
            assert len(rows) == count, "every event is in the log"
            copying = floors.copy(connection, table, columns, rows)
            floor.append(await bench.round(count, {"client": os.getpid()}, copying))
        peak = {"audit": peak_mb(room.pid)}
    return [of_rounds("audit: events/s", "events/s", stage[1:], floor[1:], next=Mark(0.4), peak=peak)]


@asynccontextmanager
async def _stopped(room: Room) -> AsyncIterator[None]:
    """The service stands still, and still does at the end."""
    room.child.pause()
    yield


async def _resumed(room: Room, working: Awaitable[object]) -> None:
    room.child.resume()
    await working


@asynccontextmanager
async def _bare_producer(bench: Bench) -> AsyncIterator[Any]:
    producer = bare_producer(bench.house.stack.kafka)
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
