"""Dead letters: records that could not be handled, kept whole, with the reason and the place.

A place is a consumer group, topic, partition and offset. Each failure of a record is written once
(`shared.kafka.written_letters`); after a failed replay, the last dead letter of a place is valid. A receipt closes the
dead letter of its place: the record was replayed, and its group received it. A dead letter with `dl_discarded` closes
it too: an operator discarded the record (`shared.kafka.discards`). All have the record's key, so they are in one
partition, in order. (Dead letters of unreadable records have no key.)
"""

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

from aiokafka import TopicPartition

from shared.contracts import topics
from shared.contracts.envelope import Headers, RecordId
from shared.kafka.discards import Discard, discard_event
from shared.kafka.producer import Producer, Record
from shared.kafka.records import RawRecord
from shared.kafka.written_letters import LetterContent, LetterIdentity, StoredLetter, WrittenLetters, digest
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Poison, Transient

log = logging.getLogger(__name__)

PREFIX: Final = "dl_"
_MAX_REASON: Final = 2000


class NewDeadLetter(NamedTuple):
    """A record to dead-letter. `offset` is its original offset, not that of a replayed copy. `parked` is the offset
    from which its key is parked; None if the record is dead-lettered alone. With `discard`, it is closed at once."""

    record: RawRecord
    reason: str
    offset: int
    parked: int | None
    discard: Discard | None = None

    @property
    def place(self) -> RecordId:
        return RecordId(self.record.topic, self.record.partition, self.offset)

    @property
    def content(self) -> bytes:
        """The hash of the record."""
        return digest(self.record.key, self.record.value, self.record.headers)


class ReplayReceipt(NamedTuple):
    """A replayed copy that its group has received; `offset` is the original offset."""

    record: RawRecord
    offset: int


class DeadLetterWriter:
    """Writes one group's dead letters to a region's dead-letter topic.

    With the `bootstrap` servers of the topic, the writer knows the dead letters that are written already, also by other
    processes, and writes none twice.
    """

    def __init__(self, producer: Producer, *, topic: str, group: str, clock: Clock, bootstrap: str = "") -> None:
        self.topic = topic
        self.group = group
        self._producer = producer
        self._clock = clock
        self._written = WrittenLetters(bootstrap, topic, group, clock, self._stored) if bootstrap else None

    def partitions_assigned(self) -> None:
        """Note that another member may have written dead letters of this member's partitions."""
        if self._written is not None:
            self._written.forget()

    async def send(
        self, letters: Sequence[NewDeadLetter], receipts: Sequence[ReplayReceipt] = ()
    ) -> list[NewDeadLetter]:
        """Write all that are not written yet; return these after all are acknowledged. Raises Transient.

        Before the dead letters, it writes the events of those that are discarded. A discard is written even if it was
        written before: a failed call may have written only a part of it.
        """
        if discarded := [event for each in letters if (event := self._discard_event(each)) is not None]:
            await self._producer.send(discarded)
        fresh = await self._unwritten(letters)
        await self._send([self._letter(each) for each in fresh] + [self._receipt(receipt) for receipt in receipts])
        return fresh

    async def send_unreadable(self, tp: TopicPartition, offset: int, reason: str) -> bool:
        """Write the place of a record that the Kafka client cannot read; its content stays only in its own topic.

        Returns False if it was written before. Raises Transient.
        """
        identity = LetterIdentity(tp.topic, tp.partition, offset, offset)
        if self._written is not None:
            await self._written.read_since(0)  # the time of the record is not known
            if self._written.has(identity, LetterContent(None, in_chain=False)):
                return False
        headers = self._headers(tp.topic, tp.partition, offset, reason, unread="1")
        await self._send([Record(self.topic, None, b"", headers)])
        return True

    async def _unwritten(self, letters: Sequence[NewDeadLetter]) -> list[NewDeadLetter]:
        if self._written is None or not letters:
            return list(letters)
        await self._written.read_since(min(letter.record.timestamp for letter in letters))
        return [
            letter for letter in letters if letter.discard is not None or not self._written.has(*_identified(letter))
        ]

    async def _send(self, records: Sequence[Record]) -> None:
        try:
            await self._producer.send(records)
        except Transient:  # some of them may be stored
            self.partitions_assigned()
            raise
        except Poison as poison:
            if len(records) > 1:
                for record in records:
                    await self._send([record])
                return
            [record] = records
            log.error("a dead letter is too large for its topic; it is written without its value")
            reason = f"too large for the dead-letter topic ({poison.reason}): only its own topic has the record"
            headers = [header for header in record.headers if header[0].startswith(PREFIX)]
            await self._producer.send([record._replace(value=b"", headers=_unread(headers, reason))])

    def _stored(self, record: RawRecord) -> StoredLetter | None:
        """A dead letter or receipt of this group; None for any other record of the topic."""
        headers = dict(record.headers)
        if headers.get(PREFIX + "group") != self.group.encode():
            return None
        try:
            topic = headers[PREFIX + "topic"].decode()
            partition, offset = int(headers[PREFIX + "partition"]), int(headers[PREFIX + "offset"])
            met = int(headers.get(PREFIX + "met", offset))
        except (KeyError, AttributeError, TypeError, ValueError):
            return None
        identity = LetterIdentity(topic, partition, offset, met)
        if PREFIX + "returned" in headers:
            return StoredLetter(identity, None, closes=True)
        unread = PREFIX + "unread" in headers
        content = None if unread else digest(record.key, record.value, original_headers(record.headers))
        in_chain, closes = PREFIX + "parked" in headers, PREFIX + "discarded" in headers
        return StoredLetter(identity, LetterContent(content, in_chain), closes)

    def _letter(self, letter: NewDeadLetter) -> Record:
        record, more = letter.record, {}
        if letter.parked is not None:
            more["parked"] = str(letter.parked)
        if record.offset != letter.offset:
            more["met"] = str(record.offset)
        if letter.discard is not None:
            more |= {"discarded": letter.discard.why, "by": letter.discard.by}
        headers = self._headers(record.topic, record.partition, letter.offset, letter.reason, **more)
        return Record(self.topic, record.key, record.value, escape_headers(record.headers) + headers)

    def _discard_event(self, letter: NewDeadLetter) -> Record | None:
        if letter.discard is None:
            return None
        region, headers = topics.region_of(self.topic), letter.record.headers
        return discard_event(
            letter.discard, letter.place, region=region, group=self.group, headers=headers, content=letter.content
        )

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


def _identified(letter: NewDeadLetter) -> tuple[LetterIdentity, LetterContent]:
    record = letter.record
    identity = LetterIdentity(record.topic, record.partition, letter.offset, record.offset)
    return identity, LetterContent(letter.content, letter.parked is not None)


def discarded_letter(stored: RawRecord, discard: Discard) -> Record:
    """The record that closes a dead letter outside of a chain, for the partition of the dead letter.

    It repeats the dead letter, so that every reader can attribute it, for example to an item. Its time is not before
    that of the dead letter.
    """
    replaced = {PREFIX + name for name in ("reason", "time", "discarded", "by", "parked")}
    time = max(discard.at, (dict(stored.headers).get(PREFIX + "time") or b"").decode(errors="replace"))
    own = {"reason": discard.as_reason, "time": time, "discarded": discard.why, "by": discard.by}
    headers = [header for header in stored.headers if header[0] not in replaced]
    headers += [(PREFIX + name, text.encode()) for name, text in own.items()]
    return Record(stored.topic, stored.key, stored.value, headers, stored.partition)


def _unread(headers: Headers, reason: str) -> Headers:
    """The headers of a dead letter without content."""
    own = [(name, reason.encode() if name == PREFIX + "reason" else value) for name, value in headers]
    return [*own, (PREFIX + "unread", b"1")]


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
