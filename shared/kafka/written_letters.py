"""The dead letters that a group has written already, so that none is written twice.

A dead letter is written before the offsets are committed. After a crash in between, and after a reset of the group, the
group receives the record again. Its dead letter is then known by its identity: group, topic, partition and offset, and
the copy's own offset if it was a replayed copy, because each failed replay of a record has a dead letter of its own.
The content is compared too (a hash): a topic that was deleted and created again has other records at these offsets.

The dead-letter topic has up to 90 days of whole records, so it is not read at each assignment. It is read when the
group rejects the first record afterwards, and only from the time of the oldest rejected record on: a dead letter is
not older than its record. In normal operation, these are the last minutes. Times are of several clocks, so at least the
last `_LEAST` records of each partition are read too: no clock matters while the topic has no more.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from shared.kafka.closing import close
from shared.kafka.records import RawRecord
from shared.kafka.whole_topic import assign_from_beginning, next_records, no_such_topic
from shared.runtime.clock import Clock
from shared.runtime.errors import Transient
from shared.runtime.user_errors import cause

_CLOCK_SKEW_MS: Final = 3_600_000  # Kafka rejects records that are more than an hour ahead of its own clock
_LEAST: Final = 1_000  # records of a partition that are read whatever their time
_PATIENCE: Final = 30.0  # seconds without a record
_LIMIT: Final = 200_000  # known dead letters; of more, some may be written again, which is harmless


class LetterIdentity(NamedTuple):
    """The identity of a dead letter of a group; `met` is the offset at which the group received the record or copy."""

    topic: str
    partition: int
    offset: int
    met: int


class LetterContent(NamedTuple):
    """`digest` is a hash of the record, None for an unreadable one; `in_chain`: its key was parked."""

    digest: bytes | None
    in_chain: bool


class StoredLetter(NamedTuple):
    """A record of the dead-letter topic; `content` is None for a receipt.

    `closes`: a receipt or a discard, which closes the dead letter of its place.
    """

    identity: LetterIdentity
    content: LetterContent | None
    closes: bool = False


class WrittenLetters:
    """The dead letters of one group in a region's dead-letter topic. `parse` reads a record of the topic; it returns
    None for a record of another group."""

    def __init__(
        self, bootstrap: str, topic: str, group: str, clock: Clock, parse: Callable[[RawRecord], StoredLetter | None]
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._group = group
        self._clock = clock
        self._parse = parse
        self._written: dict[LetterIdentity, LetterContent] = {}
        self._closed: set[tuple[str, int, int]] = set()
        self._since: int | None = None

    def forget(self) -> None:
        """Read the topic again before the next answer: another process, or a failed call, may have written to it."""
        self._since = None

    async def read_since(self, oldest_ms: int) -> None:
        """Know all dead letters of records that are not older than this time; raises Transient."""
        if self._since is not None and self._since <= max(0, oldest_ms):
            return
        since = max(0, min(oldest_ms, int(self._clock.now().timestamp() * 1000)) - _CLOCK_SKEW_MS)
        self._written, self._closed = {}, set()
        try:
            async for record in self._records(since):
                self._add(record)
        except (KafkaError, OSError, TimeoutError) as error:
            raise Transient(f"the topic {self._topic} cannot be read from Kafka: {cause(error)}.") from error
        self._since = since

    def has(self, identity: LetterIdentity, content: LetterContent) -> bool:
        """True if this dead letter is written. A dead letter of a parked key must also be open, because the key waits
        for its replay."""
        if self._written.get(identity) != content:
            return False
        return not (content.in_chain and identity[:3] in self._closed)

    def _add(self, record: RawRecord) -> None:
        letter = self._parse(record)
        if letter is None:
            return
        if letter.closes:
            self._closed.add(letter.identity[:3])
        if letter.content is not None and len(self._written) < _LIMIT:
            if not letter.closes:
                self._closed.discard(letter.identity[:3])
            self._written[letter.identity] = letter.content

    async def _records(self, since_ms: int) -> AsyncIterator[RawRecord]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=f"{self._group}-written",
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=8 * 2**20,
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                await consumer.start()
                if self._topic not in await consumer.topics():
                    raise Transient(no_such_topic(self._topic))
                ends = await assign_from_beginning(consumer, self._topic)
                starts = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
            for tp, end in ends.items():
                first, found = await consumer.position(tp), starts[tp]
                consumer.seek(tp, max(first, min(end - _LEAST, end if found is None else found.offset)))
                while await consumer.position(tp) < end:
                    records: list[RawRecord] = []
                    async with asyncio.timeout(_PATIENCE):
                        while not records and await consumer.position(tp) < end:
                            records = await next_records(consumer, tp)
                    for record in records:
                        yield record
                    await asyncio.sleep(0)
        finally:
            await close(consumer)


def digest(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> bytes:
    """A hash of a record's content."""
    found = blake2b(digest_size=16)
    for part in (key, value, *(each for name, text in headers for each in (name.encode(), text))):
        found.update(b"-" if part is None else len(part).to_bytes(8, "big") + part)
    return found.digest()
