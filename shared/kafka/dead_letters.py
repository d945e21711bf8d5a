"""Records set aside, kept whole: the original key, value and headers, and why, by whom and from where.

A letter stands for a place. Those of one group, topic, partition and offset are one, of which the last one holds, so a
letter may be written twice; a receipt for the place closes it, because the record came back and was met. Both are
written under the record's key, so a place's letters and receipts stand in one partition, in their order.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition

from shared.contracts.envelope import Headers
from shared.kafka.producer import Producer, Record
from shared.runtime.clock import Clock, to_text

RawRecord: TypeAlias = ConsumerRecord[bytes | None, bytes | None]

PREFIX: Final = "dl_"
_LONGEST_REASON: Final = 2000


class Letter(NamedTuple):
    """A record to set aside. `offset` is where it stood at first, which is elsewhere once it was put back; `parked` the
    offset since which its key is parked, None when it is set aside alone."""

    record: RawRecord
    reason: str
    offset: int
    parked: int | None


class Receipt(NamedTuple):
    """A record that stood at `offset`, was set aside, put back, and met again."""

    record: RawRecord
    offset: int


class DeadLetters:
    """Sets records aside on a region's dead-letter topic for one group."""

    def __init__(self, producer: Producer, *, topic: str, group: str, clock: Clock) -> None:
        self.topic = topic
        self.group = group
        self._producer = producer
        self._clock = clock

    async def send(self, letters: Sequence[Letter], receipts: Sequence[Receipt] = ()) -> None:
        """Write all, and return when they are acknowledged; raises Transient when Kafka did not take them all."""
        records = [self._letter(letter) for letter in letters] + [self._receipt(receipt) for receipt in receipts]
        await self._producer.send(records)

    async def send_unread(self, tp: TopicPartition, offset: int, reason: str) -> None:
        """Say where a record stands that the client cannot read: it stays whole in its own topic, and nowhere else."""
        headers = self._about(tp.topic, tp.partition, offset, reason, unread="1")
        await self._producer.send([Record(self.topic, None, b"", headers)])

    def _letter(self, letter: Letter) -> Record:
        record, more = letter.record, {}
        if letter.parked is not None:
            more["parked"] = str(letter.parked)
        if record.offset != letter.offset:
            more["met"] = str(record.offset)
        headers = self._about(record.topic, record.partition, letter.offset, letter.reason, **more)
        return Record(self.topic, record.key, record.value, wrapped(record.headers) + headers)

    def _receipt(self, receipt: Receipt) -> Record:
        record, returned = receipt.record, str(receipt.record.offset)
        reason = f"put back, and met at {returned}"
        headers = self._about(record.topic, record.partition, receipt.offset, reason, returned=returned)
        return Record(self.topic, record.key, b"", headers)

    def _about(self, topic: str, partition: int, offset: int, reason: str, **more: str) -> Headers:
        about = {
            "reason": reason[:_LONGEST_REASON],
            "group": self.group,
            "topic": topic,
            "partition": str(partition),
            "offset": str(offset),
            "time": to_text(self._clock.now()),
            **more,
        }
        return [(PREFIX + name, text.encode()) for name, text in about.items()]


def wrapped(headers: Sequence[tuple[str, bytes]]) -> Headers:
    """A record's headers as its letter holds them; one that has a letter's name already is prefixed once more."""
    return [(PREFIX + name if name.startswith(PREFIX) else name, value) for name, value in headers]


def unwrapped(headers: Sequence[tuple[str, bytes]]) -> Headers:
    """The headers of the record that a letter holds."""
    twice = PREFIX + PREFIX
    return [
        (name.removeprefix(PREFIX), value)
        for name, value in headers
        if name.startswith(twice) or not name.startswith(PREFIX)
    ]
