"""A storm of records on one topic, on real Kafka: the group stops this topic only, until an operator decides.

`piepowder stopped` is called as its functions; tests/e2e/test_record_storm.py runs the commands of the runbook.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from piepowder import replay, stopped
from piepowder.dead_letters import ReplayFilter
from piepowder.stopped import RangeRequest, RangeResult, StopFilter
from piepowder.topic_reading import new_consumer, read_to_end
from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, RawRecord, Received, TransactionalHandler
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.parking import ParkedKeyStore
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.stop_store import StopStore
from shared.kafka.stored_positions import Moves
from shared.postgres.database import Database
from shared.postgres.positions import SCHEMA, SESSION, PositionTable
from shared.runtime import metrics
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Poison
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff
from tests.support.consumer_group import read_all, until
from tests.support.in_memory_kafka import decode

STORM = 13_000
FAILING = RangeRequest(None, None, only_failing=True, reason="dead-lettered by an operator: test")


class StormGroup:
    """A group that reads a region's submissions and cases; its handler fails for texts that start with `poison`."""

    def __init__(self, kafka: str, region: str, producer: KafkaProducer, service: str = "router") -> None:
        self.kafka, self.region, self.producer = kafka, region, producer
        self.service, self.name = service, f"piepowder-{service}-{region}"
        self.topic, self.other = topics.submissions(region), topics.cases(region)
        self.readiness = Readiness("test")
        self.handled: list[str] = []
        self.received: Counter[str] = Counter()
        self.positions: PositionTable | None = None
        self._members: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    async def post(self, *texts: str, topic: str = "", key: str | None = None) -> None:
        """Send records; the key is the text, or the given one."""
        await self.producer.send([Record(topic or self.topic, (key or t).encode(), t.encode(), []) for t in texts])

    def start(
        self,
        instance: str = "0",
        *,
        limit: int = 10_000,
        reads: Sequence[str] = (),
        parse: Callable[[RawRecord], str] = decode,
        error: Exception = Poison("the text is poison"),  # noqa: B008 - constant
    ) -> None:
        clock, stop = SystemClock(), asyncio.Event()
        letters, states = topics.deadletters(self.region), topics.parked(self.region)

        async def handle(batch: Sequence[Received[str]]) -> None:
            texts = [received.message for received in batch]
            self.received.update(texts)
            if any(text.startswith("poison") for text in texts):
                raise error
            self.handled += texts

        async def handle_with_moves(batch: Sequence[Received[str]], moves: Moves) -> None:
            await handle(batch)
            assert self.positions is not None
            await self.positions.advance(moves)

        stored = self.positions and TransactionalHandler(handle_with_moves, self.positions)
        member = BatchConsumer(
            bootstrap=self.kafka,
            group=self.name,
            topics=reads or [self.topic, self.other],
            decode=parse,
            handle=stored or handle,
            dead_letters=DeadLetterWriter(
                self.producer, topic=letters, group=self.name, clock=clock, bootstrap=self.kafka
            ),
            parked=ParkedKeyStore(self.producer, bootstrap=self.kafka, topic=states, group=self.name, limit=limit),
            stops=StopStore(self.producer, bootstrap=self.kafka, topic=states, group=self.name),
            readiness=self.readiness,
            clock=clock,
            instance=instance,
            backoff=Backoff(first=0.01, longest=0.05),
            drain_seconds=5,
        )
        self._members[instance] = stop, asyncio.create_task(member.run(stop))

    async def stop(self) -> None:
        for stop, _ in self._members.values():
            stop.set()
        for _, running in self._members.values():
            await asyncio.wait_for(running, 20)
        self._members = {}

    async def crash(self) -> None:
        """End the members without a commit, a flush or a leave."""
        for _, running in self._members.values():
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        self._members = {}

    @property
    def alive(self) -> bool:
        return not any(running.done() for _, running in self._members.values())

    @property
    def stop_text(self) -> str:
        """The text of `/readyz` about the submissions; empty if they are not stopped."""
        return self.readiness.stopped.get(self.name, {}).get(self.topic, "")

    async def wait_stopped(self) -> None:
        await until(lambda: bool(self.stop_text) or not self.alive)
        assert self.alive

    async def others_continue(self, text: str) -> None:
        """Another topic of the same group is handled."""
        await self.post(text, topic=self.other)
        await until(lambda: text in self.handled)

    async def letters(self) -> list[tuple[str, int, int]]:
        """The places of all dead letters, each as often as it is written."""
        found = []
        for record in await everything(self.kafka, topics.deadletters(self.region)):
            headers = dict(record.headers)
            if "dl_returned" not in headers:
                place = headers["dl_topic"].decode(), int(headers["dl_partition"]), int(headers["dl_offset"])
                found.append(place)
        return found

    async def letters_once(self) -> int:
        """The number of dead letters, none of which is written twice."""
        found = await self.letters()
        repeated = {place: n for place, n in Counter(found).items() if n > 1}
        assert not repeated
        return len(found)

    async def entries(self) -> list[stopped.StoppedPartition]:
        return await stopped.find(self.kafka, [self.region], StopFilter())

    async def dead_letter(self, request: RangeRequest = FAILING, *, partition: int | None = None) -> list[RangeResult]:
        wanted = StopFilter(self.topic, self.service, partition)
        return await stopped.dead_letter(self.kafka, [self.region], wanted, request, wait=30)

    async def resume(self) -> int:
        return len(await stopped.resume(self.kafka, [self.region], StopFilter(self.topic)))


@pytest.fixture
async def storm(kafka: str, region: str) -> AsyncIterator[StormGroup]:
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    storm = StormGroup(kafka, region, producer)
    yield storm
    await storm.crash()
    await producer.stop()


def gauge(storm: StormGroup, reason: str = "rejected") -> float:
    return float(metrics.STOPPED_PARTITIONS.labels(storm.name, storm.topic, reason)._value.get())


async def until_more_is_dead_lettered(storm: StormGroup) -> None:
    counter = metrics.DEADLETTERED.labels(storm.name, storm.topic)._value
    before = counter.get()
    await until(lambda: bool(counter.get() > before))


async def test_undecodable_records_stop_one_topic_across_restarts_until_their_range_is_dead_lettered(
    storm: StormGroup,
) -> None:
    await storm.post(*(f"bad{n}" for n in range(STORM)))
    await storm.post(*(f"late{n}" for n in range(12)))
    storm.start()
    await storm.wait_stopped()
    await storm.others_continue("case1")
    assert storm.readiness.ready
    assert "were rejected" in storm.stop_text
    assert "record-storm.md" in storm.stop_text
    assert gauge(storm) == 6
    first = await storm.letters_once()
    assert 1800 <= first <= 4000

    for n in range(3):
        await (storm.stop() if n else storm.crash())
        storm.start()
        await storm.wait_stopped()
        await storm.others_continue(f"case after restart {n}")
    assert await storm.letters_once() == first, "a restart dead-letters nothing more"

    results = await storm.dead_letter()
    assert {(r.passed, r.tp.topic) for r in results} == {(True, storm.topic)}
    assert sum(r.letters for r in results) == STORM - first
    await until(lambda: len([text for text in storm.handled if text.startswith("late")]) == 12)
    assert (storm.stop_text, gauge(storm), await storm.entries()) == ("", 0, [])
    assert await storm.letters_once() == STORM
    await storm.post("afterwards")
    await until(lambda: "afterwards" in storm.handled)


async def test_a_range_is_dead_lettered_with_its_events_once_also_when_the_group_crashes_and_the_command_is_repeated(
    storm: StormGroup,
) -> None:
    await storm.post(*(f"bad{n}" for n in range(3000)), "ok", *(f"bad{n}" for n in range(3000)), key="k")
    await storm.post("behind", key="k")
    storm.start()
    await storm.wait_stopped()
    [found] = [each for each in await storm.entries() if each.end > 0]
    await storm.stop()

    request = RangeRequest(0, 6000, only_failing=False, reason="dead-lettered by an operator: test")
    asked = asyncio.create_task(storm.dead_letter(request, partition=found.tp.partition))
    for _ in range(3):
        storm.start()
        await until_more_is_dead_lettered(storm)
        await storm.crash()
    storm.start()
    [result] = await asked
    assert (result.passed, result.wanted.first, result.wanted.last) == (True, found.committed, 6000)
    assert await storm.letters_once() == 6002, "6,001 records, and one that follows the event of its key"
    assert storm.handled == []
    [again] = await storm.dead_letter(request, partition=found.tp.partition)
    assert (again.passed, again.letters) == (True, 6001)
    assert await storm.letters_once() == 6002
    [parked] = [u for u in (await replay.find(storm.kafka, [storm.region], ReplayFilter()))[0].units if u.parked]
    assert parked.letters[0].reason == "dead-lettered by an operator: test"
    result_of_replay = await replay.replay(
        storm.kafka, [storm.region], ReplayFilter(reason="operator"), leave=False, wait=30
    )
    assert (result_of_replay.handled, storm.handled) == (2, ["ok", "behind"])


async def test_a_range_of_a_service_with_a_database_starts_at_its_stored_position_whatever_a_tool_has_committed(
    storm: StormGroup, database_url: str
) -> None:
    audit = StormGroup(storm.kafka, storm.region, storm.producer, "audit")
    database = await Database.connect(database_url, settings=SESSION)
    try:
        async with database.held() as connection:
            for statement in SCHEMA:
                await connection.execute(statement)
        audit.positions = PositionTable(database)
        await audit.post(*(f"bad{n}" for n in range(STORM)))
        audit.start()
        await audit.wait_stopped()
        await audit.stop()
        await commit(audit, {TopicPartition(audit.topic, n): STORM for n in range(6)})  # ahead of every record
        assert [each.committed for each in await audit.entries()] == [STORM] * 6
        await audit.dead_letter()
        audit.start()
        await until(
            lambda: metrics.DEADLETTERED.labels(audit.name, audit.topic)._value.get() == STORM or bool(audit.stop_text)
        )
        assert audit.stop_text == ""
        assert await audit.letters_once() == STORM
    finally:
        await audit.crash()
        await database.close()


async def test_a_resumed_topic_continues_at_its_next_record_and_stops_again_while_the_storm_lasts(
    storm: StormGroup,
) -> None:
    await storm.post(*(f"new{n}" for n in range(9000)))
    storm.start()
    await storm.wait_stopped()
    first = await storm.letters_once()
    assert await storm.resume() == 6
    await until(lambda: storm.stop_text == "")
    await storm.wait_stopped()
    second = await storm.letters_once()
    assert first < second < 9000
    await storm.stop()
    storm.start(parse=lambda record: (record.value or b"").decode())  # a newer version knows these events
    await storm.wait_stopped()
    assert await storm.resume() == 6
    await until(lambda: len(storm.handled) == 9000 - second)
    assert await storm.letters_once() == second


@pytest.mark.parametrize("error", [Poison("the text is poison"), RuntimeError("a defect")])
async def test_a_storm_of_records_that_the_handler_rejects_stops_the_topic(storm: StormGroup, error: Exception) -> None:
    await storm.post(*(f"poison{n}" for n in range(5000)))
    storm.start(error=error)
    await storm.wait_stopped()
    await storm.others_continue("case1")
    assert 1800 <= await storm.letters_once() <= 4000


async def test_a_storm_on_one_key_waits_behind_its_first_record_and_stops_nothing(storm: StormGroup) -> None:
    await storm.post("poison0", *(f"ok{n}" for n in range(STORM)), key="k")
    await storm.post("other")
    storm.start()
    await until(lambda: "other" in storm.handled)
    await storm.others_continue("case1")
    await until(lambda: metrics.DEADLETTERED.labels(storm.name, storm.topic)._value.get() == STORM + 1)
    assert storm.stop_text == ""
    assert await storm.letters_once() == STORM + 1


@pytest.mark.parametrize("value", [None, b""])
async def test_a_storm_of_empty_values_stops_the_topic(storm: StormGroup, value: bytes | None) -> None:
    await storm.producer.send([Record(storm.topic, str(n).encode(), value, []) for n in range(5000)])

    def parse(record: RawRecord) -> str:
        if not record.value:
            raise Poison("the record has no value")
        return decode(record)

    storm.start(parse=parse)
    await storm.wait_stopped()
    await storm.others_continue("case1")


async def test_a_decoder_with_a_defect_dead_letters_the_record_instead_of_ending_the_service(
    storm: StormGroup,
) -> None:
    def parse(record: RawRecord) -> str:
        if record.value == b"strange":
            raise KeyError("a defect of the decoder")
        return decode(record)

    await storm.post("strange", "ok")
    storm.start(parse=parse)
    await until(lambda: "ok" in storm.handled)
    [letter] = await read_all(storm.kafka, topics.deadletters(storm.region), 1)
    assert b"a defect of the decoder" in dict(letter.headers)["dl_reason"]


async def test_above_the_limit_of_parked_keys_one_partition_stops_and_continues_when_a_key_is_free(
    storm: StormGroup,
) -> None:
    await storm.post(*(f"poison{n}" for n in range(40)))
    storm.start(limit=10)
    await storm.wait_stopped()
    await storm.others_continue("case1")
    assert storm.readiness.ready
    assert "PIEPOWDER_PARKED_KEYS" in storm.stop_text
    assert await storm.letters_once() == 10
    await storm.stop()
    storm.start(limit=10)
    await storm.wait_stopped()
    assert await storm.letters_once() == 10
    await storm.stop()
    storm.start(limit=100)
    await until(lambda: metrics.PARKED_KEYS.labels(storm.name)._value.get() == 40)
    assert storm.stop_text == ""
    assert await storm.letters_once() == 40


async def test_a_stopped_partition_stays_stopped_when_it_moves_to_another_member(storm: StormGroup) -> None:
    await storm.post(*(f"bad{n}" for n in range(STORM)))
    storm.start()
    await storm.wait_stopped()
    first = await storm.letters_once()
    storm.start("1")
    await storm.others_continue("case1")
    await until(lambda: len(storm.readiness.conditions) > 0 and storm.readiness.ready)
    await storm.others_continue("case2")
    assert await storm.letters_once() == first
    assert sum(r.letters for r in await storm.dead_letter()) == STORM - first


async def test_after_a_reset_no_dead_letter_is_written_twice_and_the_breaker_stays_closed(storm: StormGroup) -> None:
    await storm.post(*(f"bad{n}" for n in range(6000)))
    storm.start()
    await storm.wait_stopped()
    await storm.dead_letter()
    await storm.post("ok", "poison1")
    await until(lambda: "ok" in storm.handled and metrics.PARKED_KEYS.labels(storm.name)._value.get() == 1)
    assert await storm.letters_once() == 6001
    await storm.stop()
    await reset(storm)
    storm.start()
    await until(lambda: storm.handled.count("ok") == 2)
    await storm.post("end")
    await until(lambda: "end" in storm.handled)
    assert (storm.stop_text, await storm.letters_once()) == ("", 6001)


async def test_a_storm_of_dead_letters_stops_their_topic_and_writes_no_dead_letter_about_a_dead_letter_twice(
    storm: StormGroup,
) -> None:
    letters = topics.deadletters(storm.region)
    await storm.producer.send([Record(letters, str(n).encode(), b"bad", []) for n in range(5000)])
    storm.start(reads=[letters, storm.other])
    await until(lambda: letters in storm.readiness.stopped.get(storm.name, {}))
    await storm.others_continue("case1")
    written = [r for r in await everything(storm.kafka, letters) if dict(r.headers).get("dl_topic")]
    assert 1800 <= len(written) <= 4500
    results = await stopped.dead_letter(storm.kafka, [storm.region], StopFilter(letters), FAILING, wait=30)
    assert all(result.passed for result in results)
    await storm.others_continue("case2")
    await until(lambda: storm.readiness.stopped == {})
    about = Counter(
        (dict(r.headers)["dl_partition"], dict(r.headers)["dl_offset"])
        for r in await everything(storm.kafka, letters)
        if dict(r.headers).get("dl_topic")
    )
    assert set(about.values()) == {1}
    assert len(about) == 5000


async def everything(kafka: str, topic: str) -> list[RawRecord]:
    """All records of a topic at this moment."""
    consumer = new_consumer(kafka, "test", topic)
    await consumer.start()
    try:
        return [record async for record in read_to_end(consumer)]
    finally:
        await consumer.stop()


async def reset(storm: StormGroup) -> None:
    """Reset the group to its first offsets."""
    await commit(storm, {TopicPartition(topic, n): 0 for topic in (storm.topic, storm.other) for n in range(6)})


async def commit(storm: StormGroup, offsets: dict[TopicPartition, int]) -> None:
    """Commit offsets as a tool does, after the group's stopped members have left it, which takes 15 s."""
    consumer = AIOKafkaConsumer(bootstrap_servers=storm.kafka, group_id=storm.name, enable_auto_commit=False)
    await consumer.start()
    consumer.assign(list(offsets))
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    await consumer.commit(offsets)
                except KafkaError:
                    await asyncio.sleep(0.2)
                else:
                    return
    finally:
        await consumer.stop()
