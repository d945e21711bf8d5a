"""Parked keys: when a record cannot be handled, those of its key that follow it wait with it, and all others flow.

A record whose handling fails for good, or that is too new for its reader, is set aside, and so is every later one of
its key in that partition; what is no event at all is set aside alone. Which keys are parked is kept in a small
compacted topic, so it outlives every process, also of services without a database. A batch's letters are acknowledged
before the state, and the state before the offsets: whatever a crash cuts off, the batch is met again, and what is set
aside already is known by its offset.

Letters come back as copies behind everything in their topic, marked with the group they are for. Those of a parked key
form a chain: each names the one before, and is handled only when that one has been. The key is free again when the last
one was handled and nothing was set aside behind it: so no follower overtakes, however often a replay is broken off,
repeated, or run twice at a time. See docs/architecture/delivery-semantics.md.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts import topics
from shared.kafka.dead_letters import DeadLetters, Letter, RawRecord, Receipt
from shared.kafka.producer import Producer, Record
from shared.runtime import metrics
from shared.runtime.advice import command
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Fatal, Poison, TooNew, Transient

log = logging.getLogger(__name__)

REPLAY: Final = "dl_replay"
_READ_SECONDS: Final = 30.0


class Lane(NamedTuple):
    """What order is kept in: the records of a key in a partition."""

    topic: str
    partition: int
    key: bytes


class Parked(msgspec.Struct, frozen=True):
    """A lane that waits. All of it from offset `since` to `last` is set aside; of that, everything up to `back` (an
    original offset, -1 for none) came back and was handled. `reason` is why the first one was set aside, at `at`."""

    since: int
    last: int
    reason: str
    at: str
    back: int = -1


class Copy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a record that was put back says of itself: for which group, and the offset where it stood at first.

    In the chain of a parked key, `after` is the original offset of the one before (-1 before the first) and `end` marks
    the last one known; `leave` asks not to handle it but to leave it among the letters, alone. Outside of one, `after`
    is None; `parked` then says that it was set aside with its key, which was not seen to be parked.
    """

    group: str
    offset: int
    after: int | None = None
    end: bool = False
    leave: bool = False
    parked: bool = False


@dataclass
class Returned(ConsumerRecord[bytes | None, bytes | None]):  # type: ignore[misc]  # aiokafka has no types for it
    """A record that was put back for the group that reads it, as it was at first; `offset` is the copy's own."""

    copy: Copy


@dataclass
class Elsewhere(ConsumerRecord[bytes | None, bytes | None]):  # type: ignore[misc]  # aiokafka has no types for it
    """A record that was put back for another group. The group that reads it met the original in its turn, and has
    handled it or set it aside: it may meet it again, and sets no repeat aside."""


encode_copy = msgspec.json.Encoder().encode
_decode_copy = msgspec.json.Decoder(Copy).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Parked).decode


def unmarked(record: RawRecord, group: str) -> RawRecord:
    """A record without the mark of a replay: `Returned` when it was put back for `group`, else `Elsewhere`."""
    if not record.headers or record.headers[-1][0] != REPLAY:
        return record
    try:
        copy = _decode_copy(record.headers[-1][1] or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return record
    clean = vars(replace(record, headers=record.headers[:-1]))
    return Returned(**clean, copy=copy) if copy.group == group else Elsewhere(**clean)


class ParkedKeys:
    """A group's parked keys, as the topic `piepowder.parked.<region>` keeps them. `limit` bounds how many one process
    holds."""

    def __init__(self, producer: Producer, *, bootstrap: str, topic: str, group: str, limit: int = 10_000) -> None:
        self.limit = limit
        self._producer = producer
        self._bootstrap = bootstrap
        self._topic = topic
        self._group = group

    async def read(self) -> dict[Lane, Parked]:
        """All of them, up to where the topic ends now; raises Transient when it cannot be read, Fatal when an entry of
        the group is none."""
        return parked_lanes(await read_whole(self._bootstrap, self._topic, f"{self._group}-parked"), self._group)

    async def write(self, changed: Mapping[Lane, Parked | None]) -> None:
        """Keep what these lanes are now, None for free; returns when acknowledged, raises Transient when not."""
        await self._producer.send(
            [
                Record(self._topic, _entry(self._group, lane), None if parked is None else _encode(parked), [])
                for lane, parked in changed.items()
            ]
        )


class Parking:
    """What a group sets aside.

    A batch begins with `begin`. Of its records, in their order, each is either refused (it does not decode), or handled
    if it `admits` it, and then `failed` or `handled`. `settle` makes all of it durable, before offsets are committed.
    Without `keys` every record is set aside alone: that is for a reader to whom order means nothing.
    """

    def __init__(self, deadletters: DeadLetters, keys: ParkedKeys | None, clock: Clock) -> None:
        self.failures = 0
        self.waiting = 0
        self._deadletters = deadletters
        self._store = keys
        self._clock = clock
        self._keys: dict[Lane, Parked] = {}
        self._assigned = 0
        self._learned = 0
        self._letters: list[Letter] = []
        self._receipts: list[Receipt] = []
        self._changed: set[Lane] = set()

    @property
    def any(self) -> bool:
        """Whether any key is parked."""
        return bool(self._keys)

    @property
    def stale(self) -> bool:
        """Whether partitions were assigned since it was learned what is parked in them."""
        return self._learned != self._assigned

    def assigned(self) -> None:
        """Partitions were assigned: who had them may have parked keys."""
        self._assigned += 1

    async def learn(self, held: Collection[TopicPartition]) -> None:
        """Read what is parked in the partitions held; raises Transient when it cannot be read."""
        assigned = self._assigned
        if self._store is not None:
            lanes = await self._store.read()
            self._keys = {lane: parked for lane, parked in lanes.items() if TopicPartition(*lane[:2]) in held}
            self._show()
        self._learned = assigned

    def begin(self) -> None:
        """A batch begins; what an abandoned one left is forgotten."""
        self.failures = self.waiting = 0
        self._letters, self._receipts, self._changed = [], [], set()

    def refuse(self, record: RawRecord, poison: Poison) -> None:
        """A record does not decode."""
        if isinstance(record, Elsewhere):
            self.waiting += 1
            return
        lane = Lane(record.topic, record.partition, record.key or b"")
        if isinstance(poison, TooNew) or _is_linked(record) or _in_chain(record, self._keys.get(lane)):
            if self.admits(record):
                self.failed(record, poison.reason)
            return
        self.failures += 1
        self._met(record)
        self._set_aside(record, poison.reason)

    def admits(self, record: RawRecord) -> bool:
        """Whether a record's turn has come; if not, what becomes of it is noted."""
        lane = Lane(record.topic, record.partition, record.key or b"")
        parked = self._keys.get(lane)
        if isinstance(record, Returned) and parked is not None and _in_chain(record, parked):
            return self._in_turn(record, record.copy, lane, parked)
        if _is_linked(record):  # of a chain that has come back already
            self.waiting += 1
            return False
        if parked is None or record.offset < parked.since:
            return True
        self._met(record)
        self.waiting += 1
        if record.offset > parked.last and not isinstance(record, Elsewhere):
            place = f"{record.topic}[{record.partition}]@{parked.since}"
            self._set_aside(record, f"follows {place}, which is parked: {parked.reason}", parked.since)
            self._put(lane, msgspec.structs.replace(parked, last=record.offset))
        return False

    def failed(self, record: RawRecord, reason: str) -> None:
        """A record cannot be handled; raises Fatal when that is one parked key too many."""
        if isinstance(record, Elsewhere):
            self.waiting += 1
            return
        self.failures += 1
        lane = Lane(record.topic, record.partition, record.key or b"")
        parked = self._keys.get(lane)
        if isinstance(record, Returned) and parked is not None and _in_chain(record, parked):
            self._set_aside(record, reason, parked.since, first=record.copy.offset)
            self._put(lane, msgspec.structs.replace(parked, reason=reason))
            return
        self._met(record)
        if self._store is None or record.key is None or record.topic in (topics.CONTROL, self._deadletters.topic):
            self._set_aside(record, reason)
            return
        if parked is None and len(self._keys) >= self._store.limit:
            raise Fatal(
                f"{len(self._keys)} keys of {self._deadletters.group} are parked, as many as it may hold, and one more"
                f" record cannot be handled ({reason}): see `{command('replay')}`, mend the cause, and start it again;"
                " or raise PIEPOWDER_PARKED_KEYS"
            )
        self._set_aside(record, reason, record.offset)
        self._put(lane, Parked(record.offset, record.offset, reason, to_text(self._clock.now())))

    def handled(self, record: RawRecord) -> None:
        """A record's effects are durable."""
        if not isinstance(record, Returned):
            return
        self._met(record)
        metrics.RETURNED.labels(self._deadletters.group, record.topic).inc()
        lane = Lane(record.topic, record.partition, record.key or b"")
        parked = self._keys.get(lane)
        if parked is not None and _in_chain(record, parked):
            self._advance(lane, parked, record.copy)

    async def settle(self) -> None:
        """Make durable what became of the batch; raises Transient when Kafka did not take it all."""
        if self._letters or self._receipts:
            await self._deadletters.send(self._letters, self._receipts)
            for letter in self._letters:
                self._tell(letter)
            self._letters, self._receipts = [], []
        if self._changed and self._store is not None:
            await self._store.write({lane: self._keys.get(lane) for lane in self._changed})
            self._changed = set()
            self._show()

    def close(self) -> None:
        """The group is read here no more."""
        self._keys = {}
        self._show()

    def _in_turn(self, record: RawRecord, copy: Copy, lane: Lane, parked: Parked) -> bool:
        if copy.after == parked.back and not copy.leave:
            return True
        self.waiting += 1
        if copy.after == parked.back:
            self._set_aside(record, f"left behind by a replay: {parked.reason}", first=copy.offset)
            self._advance(lane, parked, copy)
        elif copy.offset > parked.back:
            reason = "put back before it was its turn: one that it follows could not be handled, or is still set aside"
            self._set_aside(record, reason, parked.since, first=copy.offset)
            self._put(lane, parked)  # told once more, for whoever puts records back by what it was
        return False

    def _advance(self, lane: Lane, parked: Parked, copy: Copy) -> None:
        if copy.end and copy.offset >= parked.last:
            del self._keys[lane]
            self._changed.add(lane)
            log.info("a key is parked no more", extra={"topic": lane.topic, "partition": lane.partition})
        else:
            self._put(lane, msgspec.structs.replace(parked, back=copy.offset))

    def _put(self, lane: Lane, parked: Parked) -> None:
        self._keys[lane] = parked
        self._changed.add(lane)

    def _met(self, record: RawRecord) -> None:
        """Outside of a chain a copy stands for itself, whatever becomes of it: its letter is closed."""
        if isinstance(record, Returned):
            self._receipts.append(Receipt(record, record.copy.offset))

    def _set_aside(
        self, record: RawRecord, reason: str, parked: int | None = None, *, first: int | None = None
    ) -> None:
        letter = Letter(record, reason, record.offset if first is None else first, parked)
        if record.topic == self._deadletters.topic and _is_about(record, self._deadletters.topic):
            self._tell(letter)  # it stays where it stands: letters about letters would never end
        else:
            self._letters.append(letter)

    def _tell(self, letter: Letter) -> None:
        record = letter.record
        metrics.DEADLETTERED.labels(self._deadletters.group, record.topic).inc()
        about = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "event_id": (dict(record.headers).get("ce_id") or b"").decode(errors="replace"),
            "reason": letter.reason,
        }
        if letter.parked is None:
            log.error("dead-lettered", extra=about)
        elif letter.parked == record.offset:
            log.error("dead-lettered, and its key is parked", extra=about)
        else:
            log.warning("dead-lettered with its parked key", extra=about)

    def _show(self) -> None:
        if self._store is not None:
            metrics.PARKED_KEYS.labels(self._deadletters.group).set(len(self._keys))


def parked_lanes(records: Sequence[RawRecord], group: str) -> dict[Lane, Parked]:
    """The lanes of a group that records of a `parked` topic leave parked; raises Fatal when an entry is none."""
    mine = f"{group}/".encode()
    entries = {record.key: record for record in records if record.key is not None and record.key.startswith(mine)}
    lanes: dict[Lane, Parked] = {}
    for entry, record in entries.items():
        if record.value is None:
            continue
        try:
            _, topic, partition, key = entry.split(b"/", 3)
            lanes[Lane(topic.decode(), int(partition), key)] = _decode(record.value)
        except (ValueError, msgspec.DecodeError) as error:
            raise Fatal(
                f"{record.topic}[{record.partition}]@{record.offset} does not say what {group} has parked: {error!r}"
            ) from error
    return lanes


async def read_whole(bootstrap: str, topic: str, client_id: str) -> list[RawRecord]:
    """Every record of a small topic up to where it ends now; raises Transient when it cannot be read."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, client_id=client_id, enable_auto_commit=False, fetch_max_wait_ms=100
    )
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await consumer.start()
            if topic not in await consumer.topics():
                raise Transient(f"the topic {topic} does not exist: create it with `{command('topics')}`")
            consumer.assign([TopicPartition(topic, 0)])  # the client learns of a topic's partitions when it has one
            await consumer.end_offsets([TopicPartition(topic, 0)])
            places = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            found: list[RawRecord] = []
            while not all([await consumer.position(place) >= end for place, end in ends.items()]):
                for lane in (await consumer.getmany(timeout_ms=100)).values():
                    found += lane
            return found
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"Kafka at {bootstrap} does not give {topic}: {error!r}") from error
    finally:
        await consumer.stop()


def _entry(group: str, lane: Lane) -> bytes:
    return f"{group}/{lane.topic}/{lane.partition}/".encode() + lane.key


def _in_chain(record: RawRecord, parked: Parked | None) -> bool:
    """Whether a record is a copy in the chain of its key, as far as that is parked now."""
    if not isinstance(record, Returned) or parked is None or record.offset <= parked.since:
        return False
    return _is_linked(record) or (record.copy.parked and record.copy.offset >= parked.since)


def _is_linked(record: RawRecord) -> bool:
    return isinstance(record, Returned) and record.copy.after is not None


def _is_about(letter: RawRecord, topic: str) -> bool:
    return dict(letter.headers).get("dl_topic") == topic.encode()
