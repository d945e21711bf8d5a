"""Dead letters: records that could not be handled, kept whole, with the reason and the place.

A place is a consumer group, topic, partition and offset. A dead letter may be written twice; the last one of a place is
valid. A receipt closes the dead letter of its place: the record was replayed, and its group received it. Both have the
record's key, so they are in one partition, in order. (Dead letters of unreadable records have no key.)
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from aiokafka import TopicPartition

from shared.contracts.envelope import Headers
from shared.kafka.producer import Producer, Record
from shared.kafka.records import RawRecord
from shared.runtime.clock import Clock, to_text

PREFIX: Final = "dl_"
_MAX_REASON: Final = 2000


class NewDeadLetter(NamedTuple):
    """A record to dead-letter. `offset` is its original offset, not that of a replayed copy. `parked` is the offset
    from which its key is parked; None if the record is dead-lettered alone."""

    record: RawRecord
    reason: str
    offset: int
    parked: int | None


class ReplayReceipt(NamedTuple):
    """A replayed copy that its group has received; `offset` is the original offset."""

    record: RawRecord
    offset: int


class DeadLetterWriter:
    """Writes one group's dead letters to a region's dead-letter topic."""

    def __init__(self, producer: Producer, *, topic: str, group: str, clock: Clock) -> None:
        self.topic = topic
        self.group = group
        self._producer = producer
        self._clock = clock

    async def send(self, letters: Sequence[NewDeadLetter], receipts: Sequence[ReplayReceipt] = ()) -> None:
        """Write all, and return after all are acknowledged; raises Transient."""
        records = [self._letter(letter) for letter in letters] + [self._receipt(receipt) for receipt in receipts]
        await self._producer.send(records)

    async def send_unreadable(self, tp: TopicPartition, offset: int, reason: str) -> None:
        """Write the place of a record that the Kafka client cannot read; its content stays only in its own topic."""
        headers = self._headers(tp.topic, tp.partition, offset, reason, unread="1")
        await self._producer.send([Record(self.topic, None, b"", headers)])

    def _letter(self, letter: NewDeadLetter) -> Record:
        record, more = letter.record, {}
        if letter.parked is not None:
            more["parked"] = str(letter.parked)
        if record.offset != letter.offset:
            more["met"] = str(record.offset)
        headers = self._headers(record.topic, record.partition, letter.offset, letter.reason, **more)
        return Record(self.topic, record.key, record.value, escape_headers(record.headers) + headers)

    def _receipt(self, receipt: ReplayReceipt) -> Record:
        record, returned = receipt.record, str(receipt.record.offset)
        reason = f"replayed, and received at {returned}"
        headers = self._headers(record.topic, record.partition, receipt.offset, reason, returned=returned)
        return Record(self.topic, record.key, b"", headers)

    def _headers(self, topic: str, partition: int, offset: int, reason: str, **more: str) -> Headers:
        texts = {
            "reason": reason[:_MAX_REASON],
            "group": self.group,
            "topic": topic,
            "partition": str(partition),
            "offset": str(offset),
            "time": to_text(self._clock.now()),
            **more,
        }
        return [(PREFIX + name, text.encode()) for name, text in texts.items()]


def escape_headers(headers: Sequence[tuple[str, bytes]]) -> Headers:
    """The record's headers for a dead letter: a name that starts with PREFIX gets a second PREFIX."""
    return [(PREFIX + name if name.startswith(PREFIX) else name, value) for name, value in headers]


def original_headers(headers: Sequence[tuple[str, bytes]]) -> Headers:
    """The headers of the record in a dead letter; the inverse of `escape_headers`."""
    escaped = PREFIX + PREFIX
    return [
        (name.removeprefix(PREFIX), value)
        for name, value in headers
        if name.startswith(escaped) or not name.startswith(PREFIX)
    ]
