"""Durable stops of the circuit breaker, and ranges of records that an operator dead-letters.

The state of a stopped partition is one entry of the compacted topic `piepowder.parked.<region>`, beside the group's
parked keys, so it survives restarts and rebalances, also in services without a database:

- `Stop`: the group does not read the partition. The group writes it.
- `DeadLetterRange`: the group reads the partition again, and dead-letters the records of a range. An operator writes it
  with `piepowder stopped dead-letter`, and the group deletes it after the range.
- no entry: the group reads the partition. An operator deletes a stop with `piepowder stopped resume`.

The group itself writes the dead letters of a range, because only it knows which keys it has parked, and which records
it has dead-lettered before. So the command writes one small record; it may be interrupted and repeated.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
from aiokafka import TopicPartition

from shared.kafka.producer import Producer, Record
from shared.kafka.records import RawRecord
from shared.kafka.whole_topic import read_whole

_PREFIX: Final = "stopped/"


class Stop(msgspec.Struct, frozen=True, tag="stopped"):
    """A partition that a group does not read, from its committed offset on."""

    reason: str
    at: str


class DeadLetterRange(msgspec.Struct, frozen=True, tag="dead-letter"):
    """The records from offset `first` to `last` are dead-lettered with `reason`.

    `only_failing`: only those that the group cannot handle; it handles the others.
    """

    first: int
    last: int
    reason: str
    at: str
    only_failing: bool = False

    def has(self, offset: int) -> bool:
        return self.first <= offset <= self.last


StopEntry: TypeAlias = Stop | DeadLetterRange

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Stop | DeadLetterRange).decode


class StopStore:
    """The entries of a group in the topic `piepowder.parked.<region>`."""

    def __init__(self, producer: Producer, *, bootstrap: str, topic: str, group: str) -> None:
        self._producer = producer
        self._bootstrap = bootstrap
        self._topic = topic
        self._group = group

    async def read(self) -> dict[TopicPartition, StopEntry]:
        """All entries at this moment; raises Transient."""
        records = await read_whole(self._bootstrap, self._topic, f"{self._group}-stopped")
        return stop_entries(records).get(self._group, {})

    async def write(self, changed: Mapping[TopicPartition, StopEntry | None]) -> None:
        """Store new entries, None for a partition that is read; returns when all are acknowledged, raises Transient."""
        await self._producer.send([stop_record(self._topic, self._group, tp, entry) for tp, entry in changed.items()])


def stop_record(topic: str, group: str, tp: TopicPartition, entry: StopEntry | None) -> Record:
    """The record of an entry in the topic of parked keys."""
    key = f"{_PREFIX}{group}/{tp.topic}/{tp.partition}".encode()
    return Record(topic, key, None if entry is None else _encode(entry), [])


def stop_entries(records: Sequence[RawRecord]) -> dict[str, dict[TopicPartition, StopEntry]]:
    """The entries of every group, from all records of a topic of parked keys.

    An entry that cannot be read is a stop: nobody knows what it was, and an operator can delete it.
    """
    found: dict[str, dict[TopicPartition, StopEntry]] = {}
    for record in records:
        if record.key is None or not record.key.startswith(_PREFIX.encode()):
            continue
        try:
            _, group, topic, partition = record.key.decode().split("/")
            tp = TopicPartition(topic, int(partition))
        except ValueError:
            continue  # no group reads such a partition
        entries = found.setdefault(group, {})
        entries.pop(tp, None)
        if record.value is not None:
            entries[tp] = _read(record.value)
    return found


def _read(value: bytes) -> StopEntry:
    try:
        entry: StopEntry = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Stop(f"The entry of this stop is invalid: {error}.", "")
    return entry
