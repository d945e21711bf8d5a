"""Parked keys on real Kafka: they survive restarts and rebalances, and `piepowder replay` restores them in order."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError

from piepowder import replay
from piepowder.dead_letters import ReplayFilter, ReplayUnit
from piepowder.replay import DiscardRequest, RegionReplay, ReplayResult
from shared.contracts import topics
from shared.kafka import topic_admin
from shared.kafka.consumer import BatchConsumer, Received
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.parking import ParkedKeyStore
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.topic_admin import TopicSpec
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Poison
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff
from tests.support.in_memory_kafka import decode

WAIT = 30.0
ALL = ReplayFilter()


class ReplayGroup:
    """A consumer group of a region's submissions; its handler fails for the texts in `failing`."""

    def __init__(self, kafka: str, region: str, producer: KafkaProducer) -> None:
        self.kafka, self.region, self.producer = kafka, region, producer
        self.name = f"piepowder-router-{region}"
        self.topic = topics.submissions(region)
        self.failing: set[str] = set()
        self.handled: list[str] = []
        self.by: defaultdict[str, list[str]] = defaultdict(list)
        self.conditions = Readiness("test")
        self._members: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    async def post(self, *texts: str) -> None:
        """Send records; the key is the text before the number."""
        await self.producer.send([Record(self.topic, key_of(text), text.encode(), []) for text in texts])

    def start(self, instance: str = "0") -> None:
        clock, stop = SystemClock(), asyncio.Event()

        async def handle(batch: Sequence[Received[str]]) -> None:
            texts = [received.message for received in batch]
            if found := self.failing & set(texts):
                raise Poison(f"failing: {min(found)}")
            self.by[instance] += texts
            self.handled += [text for text in texts if text not in self.handled]

        member = BatchConsumer(
            bootstrap=self.kafka,
            group=self.name,
            topics=[self.topic],
            decode=decode,
            handle=handle,
            dead_letters=DeadLetterWriter(
                self.producer, topic=topics.deadletters(self.region), group=self.name, clock=clock
            ),
            parked=ParkedKeyStore(
                self.producer, bootstrap=self.kafka, topic=topics.parked(self.region), group=self.name
            ),
            readiness=self.conditions,
            clock=clock,
            instance=instance,
            backoff=Backoff(first=0.01, longest=0.05),
            drain_seconds=5,
        )
        self._members[instance] = stop, asyncio.create_task(member.run(stop))

    async def stop(self, *instances: str) -> None:
        for instance in instances or list(self._members):
            stop, running = self._members.pop(instance)
            stop.set()
            await asyncio.wait_for(running, 20)

    def task(self, instance: str = "0") -> "asyncio.Task[None]":
        return self._members[instance][1]

    async def reset(self) -> None:
        """Reset the group to its first offsets, after its stopped members have left it, which takes 15 s."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, group_id=self.name, enable_auto_commit=False)
        await consumer.start()
        places = [TopicPartition(self.topic, n) for n in range(6)]
        consumer.assign(places)

        async def committed() -> bool:
            try:
                await consumer.commit(dict.fromkeys(places, 0))
            except KafkaError:
                return False
            return True

        try:
            await until(committed)
        finally:
            await consumer.stop()

    async def replay_units(self, choice: ReplayFilter = ALL) -> list[ReplayUnit]:
        [found] = await replay.find(self.kafka, [self.region], choice)
        return found.units

    async def dead_lettered(self) -> list[int]:
        """The original offsets of the dead-lettered records."""
        return sorted(letter.id.offset for unit in await self.replay_units() for letter in unit.letters)

    async def replay(self, choice: ReplayFilter = ALL, *, leave: bool = False, wait: float = WAIT) -> ReplayResult:
        return await replay.replay(self.kafka, [self.region], choice, leave=leave, wait=wait)


def key_of(text: str) -> bytes:
    return text.removeprefix("bad").removeprefix("new").rstrip("0123456789").encode()


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.05)


@pytest.fixture
async def group(kafka: str, region: str) -> AsyncIterator[ReplayGroup]:
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    group = ReplayGroup(kafka, region, producer)
    yield group
    await group.stop()
    await producer.stop()


async def test_dead_lettered_records_are_replayed_in_order_after_a_restart(
    group: ReplayGroup,
) -> None:
    group.failing = {"a1"}
    await group.post("a0", "b0", "a1", "a2", "bada3", "a4")
    group.start()
    await until(lambda: {"a0", "b0"} <= set(group.handled))
    await group.post("b1")
    await until(lambda: "b1" in group.handled)
    await group.stop()
    group.start()
    await group.post("a5", "b2")
    await until(lambda: "b2" in group.handled)
    [chain, alone] = await group.replay_units()
    assert len(chain.letters) == 4
    assert (chain.reason, alone.reason) == ("failing: a1", "not a message")
    assert sorted(group.handled) == ["a0", "b0", "b1", "b2"]

    failed = await group.replay()
    assert failed.handled == 0
    assert len(failed.failed) == 5
    assert not failed.complete
    group.failing.clear()
    outcome = await group.replay(ReplayFilter(key="a", reason="failing"))
    assert (outcome.handled, outcome.complete) == (4, True)
    await group.post("a6")
    await until(lambda: "a6" in group.handled)
    assert [text for text in group.handled if text.startswith("a")] == ["a0", "a1", "a2", "a4", "a5", "a6"]
    assert [unit.reason for unit in await group.replay_units()] == ["not a message"]
    assert (await group.replay(ReplayFilter(key="a", reason="failing"))).handled == 0


async def test_a_key_stays_parked_when_its_partition_moves_to_another_member(group: ReplayGroup) -> None:
    """One member, then three, then each of them restarted: the later records of each key always wait."""
    keys = [f"k{letter}" for letter in "abcdefghij"]
    group.failing = {f"{key}0" for key in keys[:5]}
    numbers = itertools.count(1)
    await group.post(*(f"{key}0" for key in keys))

    async def another() -> None:
        n = next(numbers)
        await group.post(*(f"{key}{n}" for key in keys))
        await until(lambda: {f"{key}{n}" for key in keys[5:]} <= set(group.handled))

    group.start("a")
    await another()
    group.start("b")
    group.start("c")
    async with asyncio.timeout(60):
        while not (group.by["b"] and group.by["c"]):
            await another()
    for member in "abc":
        await group.stop(member)
        group.start(member)
    await another()
    posted = next(numbers)
    assert not [text for text in group.handled if text[:2] in keys[:5]]
    await until(lambda: _has(group, 5 * posted))
    units = await group.replay_units()
    assert {unit.lane.key.decode(): len(unit.letters) for unit in units} == dict.fromkeys(keys[:5], posted)

    group.failing.clear()
    outcome = await group.replay()
    assert (outcome.handled, outcome.complete) == (5 * posted, True)
    for key in keys:
        assert [text for text in group.handled if text.startswith(key)] == [f"{key}{n}" for n in range(posted)]


async def test_a_reset_dead_letters_nothing_twice_and_handles_nothing_parked(
    group: ReplayGroup,
) -> None:
    group.failing = {"a1"}
    await group.post("a0", "a1", "a2", "b0")
    group.start()
    await until(lambda: "b0" in group.handled)
    await until(lambda: _has(group, 2))
    await group.stop()
    before = await group.dead_lettered()
    group.failing.clear()
    await group.reset()
    group.start()
    await group.post("b1", "a3")
    await until(lambda: "b1" in group.handled)
    await until(lambda: _has(group, 3))
    assert group.by["0"].count("b0") == 2
    assert (await group.dead_lettered())[:2] == before
    assert [text for text in group.handled if text.startswith("a")] == ["a0"]
    assert (await group.replay()).handled == 3
    assert await group.dead_lettered() == []
    assert [text for text in group.handled if text.startswith("a")] == ["a0", "a1", "a2", "a3"]


async def _has(group: ReplayGroup, letters: int) -> bool:
    return sum(len(unit.letters) for unit in await group.replay_units()) >= letters


async def test_records_that_arrive_during_a_replay_are_replayed_after_it_in_order(group: ReplayGroup) -> None:
    group.failing = {"a0"}
    await group.post(*(f"a{n}" for n in range(50)))
    group.start()
    await until(lambda: _has(group, 50))
    group.failing.clear()
    posting = asyncio.create_task(_post_slowly(group, range(50, 120)))
    outcome = await group.replay()
    await posting
    while not outcome.complete or await group.dead_lettered():
        outcome = await group.replay()
    await until(lambda: len(group.handled) == 120)
    assert group.handled == [f"a{n}" for n in range(120)]


async def _post_slowly(group: ReplayGroup, numbers: Sequence[int]) -> None:
    for n in numbers:
        await group.post(f"a{n}")
        await asyncio.sleep(0.02)


async def test_two_replays_at_the_same_time_handle_each_record_once(group: ReplayGroup) -> None:
    group.failing = {"a0", "b0"}
    await group.post(*(f"{key}{n}" for n in range(20) for key in "abc"))
    group.start()
    await until(lambda: _has(group, 40))
    group.failing.clear()
    await asyncio.gather(group.replay(), group.replay())
    await until(lambda: _is_empty(group))
    for key in "abc":
        assert [text for text in group.handled if text.startswith(key)] == [f"{key}{n}" for n in range(20)]
    assert len(group.by["0"]) == len(set(group.by["0"]))


async def _is_empty(group: ReplayGroup) -> bool:
    return not await group.dead_lettered()


async def test_a_chain_in_a_partition_that_was_added_later_is_replayed_and_discarded_in_order(
    group: ReplayGroup,
) -> None:
    """The number of partitions is that of the cluster, not of the file with the topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=group.kafka)
    await admin.start()
    try:
        await admin.create_partitions({group.topic: NewPartitions(8)})

        async def are_added() -> bool:
            [described] = await admin.describe_topics([group.topic])
            return len(described["partitions"]) == 8 and all(p["leader"] >= 0 for p in described["partitions"])

        await until(are_added)
    finally:
        await admin.close()
    group.failing = {"a0"}
    producer = KafkaProducer(group.kafka, client_id="test")  # it knows the new partitions
    await producer.send([Record(group.topic, b"a", text.encode(), [], 7) for text in ("a0", "a1", "a2")])
    await producer.stop()
    group.start()
    await until(lambda: _has(group, 3))
    failed = await group.replay()
    assert (len(failed.failed), failed.blocked) == (3, [])
    request = DiscardRequest("ops", "junk")
    outcome = await replay.discard(group.kafka, [group.region], ALL, request, wait=WAIT)
    assert (outcome.discarded, outcome.handled, outcome.complete) == (1, 2, True)
    assert group.handled == ["a1", "a2"]


async def test_an_interrupted_replay_can_be_continued(group: ReplayGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_LETTERS", 7)
    group.failing = {"a0"}
    await group.post(*(f"a{n}" for n in range(30)))
    group.start()
    await until(lambda: _has(group, 30))
    group.failing.clear()
    async with RegionReplay(group.kafka, group.region) as cell:
        await cell.catch_up()
        under_way = asyncio.create_task(cell.replay(cell.selected(ALL), leave=False, wait=WAIT))
        await until(lambda: len(group.handled) >= 7)
        under_way.cancel()
        await asyncio.wait([under_way])
    assert 7 <= len(group.handled) < 30
    outcome = await group.replay()
    assert outcome.complete
    assert group.handled == [f"a{n}" for n in range(30)]


async def test_a_replay_can_leave_the_failing_record_behind(group: ReplayGroup) -> None:
    group.failing = {"a0"}
    await group.post("a0", "a1", "a2")
    group.start()
    await until(lambda: _has(group, 3))
    outcome = await group.replay(leave=True)
    assert (outcome.handled, outcome.kept, outcome.complete) == (2, 1, True)
    await group.post("a3")
    await until(lambda: group.handled == ["a1", "a2", "a3"])
    [alone] = await group.replay_units()
    assert alone.parked is None
    assert alone.reason == "left behind by a replay: failing: a0"


async def test_a_replay_without_a_running_group_reports_it_and_can_be_repeated(group: ReplayGroup) -> None:
    group.failing = {"a0"}
    await group.post("a0", "a1")
    group.start()
    await until(lambda: _has(group, 2))
    await group.stop()
    group.failing.clear()
    outcome = await group.replay(wait=1)
    assert (outcome.handled, len(outcome.pending), outcome.complete) == (0, 2, False)
    group.start()
    await until(lambda: group.handled == ["a0", "a1"])
    assert (await group.replay()).complete
    assert await group.dead_lettered() == []
    assert group.by["0"] == ["a0", "a1"]


async def test_a_record_of_many_megabytes_is_dead_lettered_and_replayed_whole(group: ReplayGroup) -> None:
    body = bytes(range(256)) * (15 * 1024)  # 3.75 MiB
    group.failing = {"a0"}
    await group.producer.send(
        [
            Record(group.topic, b"a", b"a0", []),
            Record(group.topic, b"a", b"a" + body.hex().encode()[: 3 * 2**20], [("x", b"\xff")]),
        ]
    )
    group.start()
    await until(lambda: _has(group, 2))
    group.failing.clear()
    outcome = await group.replay()
    assert (outcome.handled, outcome.complete) == (2, True)
    assert group.handled[1] == "a" + body.hex()[: 3 * 2**20]


async def test_dead_letters_that_cannot_be_replayed_are_reported_with_the_reason(group: ReplayGroup) -> None:
    letters = DeadLetterWriter(
        group.producer, topic=topics.deadletters(group.region), group=group.name, clock=SystemClock()
    )
    await letters.send_unreadable(TopicPartition(group.topic, 0), 3, "the client cannot read it")
    about = {"group": "piepowder-audit-x", "partition": "0", "offset": "7", "reason": "no event"}
    for topic in (topics.CONTROL, "somebody.elses"):
        headers = [(f"dl_{name}", text.encode()) for name, text in (about | {"topic": topic}).items()]
        await group.producer.send([Record(letters.topic, b"k", b"?", headers)])
    await group.producer.send([Record(letters.topic, b"k", b"?", [("dl_offset", b"many")])])
    outcome = await group.replay(wait=1)
    assert sorted(why.partition(":")[0] for _, why in outcome.blocked) == [
        "its old content would come into force again",
        "somebody.elses is not a topic of this region that accepts copies, or its cluster does not have it",
        "the Kafka client cannot read it",
    ]
    assert not outcome.complete
    [found] = await replay.find(group.kafka, [group.region], ALL)
    assert (len(found.units), found.counts.unknown) == (3, 1)


async def test_a_group_handles_nothing_until_it_has_read_its_parked_keys(
    group: ReplayGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = f"piepowder.parked.{group.region}-later"
    monkeypatch.setattr(topics, "parked", lambda _: missing)
    await group.post("a0")
    group.start()
    await until(lambda: missing in str(group.conditions.conditions))
    assert "topics`" in str(group.conditions.conditions)
    assert group.handled == []
    await topic_admin.ensure(group.kafka, [TopicSpec(missing, 1, 1, {"cleanup.policy": "compact"})])
    await until(lambda: group.handled == ["a0"])
    assert group.conditions.ready


def has_dead_letters(group: ReplayGroup, n: int) -> Callable[[], Awaitable[bool]]:
    async def met() -> bool:
        return len(await group.dead_lettered()) == n

    return met


@pytest.mark.parametrize("entry", ["{group}/{topic}/0/a", "{group}/oops", "{group}/{topic}/x/a"])
async def test_an_invalid_entry_stops_neither_the_service_nor_a_replay(group: ReplayGroup, entry: str) -> None:
    group.failing.add("b0")
    await group.post("b0", "b1")
    group.start()
    await until(has_dead_letters(group, 2))
    key = entry.format(group=group.name, topic=group.topic).encode()
    await group.producer.send([Record(topics.parked(group.region), key, b"junk", [])])
    await group.stop()
    await group.post("a0")
    group.start()
    await until(lambda: group.handled == ["a0"])
    group.failing.clear()
    outcome = await group.replay()
    assert outcome.complete
    await until(lambda: group.handled == ["a0", "b0", "b1"])
