"""What the audit does: keep every record of its region's topics, and tell a subject's life from what was kept."""

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from services.audit import metrics
from services.audit.domain import (
    Appended,
    DeadLetter,
    Entry,
    Head,
    Natural,
    Place,
    Shown,
    Source,
    Step,
    dead_letter,
    entry,
    in_causal_order,
    page,
)
from shared.contracts import topics
from shared.contracts.envelope import GLOBAL
from shared.kafka.consumer import RawRecord, Received

Message: TypeAlias = Entry | DeadLetter | None

WINDOW: Final = 10_000  # entries of a subject that are put into causal order together
PAGE_BYTES: Final = 8 * 1024 * 1024


class Appending(Protocol):
    """Where events are kept."""

    async def append(self, entries: Sequence[Entry], letters: Sequence[DeadLetter]) -> Appended: ...


class Reading(Protocol):
    """What is kept."""

    async def head(self) -> Head: ...

    async def steps(self, subject: str, *, after: Place, upto: Head, limit: int) -> list[Step]: ...

    async def shown(self, steps: Sequence[Step]) -> list[Shown]: ...

    async def weights(self, *, after: int, limit: int) -> list[Step]: ...


class Decoder:
    """Tells what is to be kept of a record; raises Poison when it should be an event of `region` and is none.

    Nothing is of a dead letter's receipt: what it says, the event that came back says itself.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._deadletters = topics.deadletters(region)

    def __call__(self, record: RawRecord) -> Message:
        source = Source(record.topic, record.partition, record.offset)
        if record.topic == self._deadletters:
            if any(name == "dl_returned" for name, _ in record.headers):
                return None
            return dead_letter(source, record.headers, record.key, record.timestamp)
        region = GLOBAL if record.topic == topics.CONTROL else self._region
        return entry(source, record.headers, record.key, record.value, region=region)


class Keeper:
    """Appends batches of records, and counts."""

    def __init__(self, log: Appending, region: str) -> None:
        self._log = log
        self._region = region

    async def keep(self, batch: Sequence[Received[Message]]) -> None:
        """Append what is new in a batch, all or nothing; raises Transient when the database is away."""
        entries: list[Entry] = []
        letters: list[DeadLetter] = []
        for received in batch:
            message = received.message
            if isinstance(message, Entry):
                entries.append(message)
            elif message is not None:
                letters.append(message)
        appended = await self._log.append(entries, letters)
        for topic, n in appended.by_topic.items():
            metrics.AUDITED.labels(self._region, topic).inc(n)
        metrics.AUDIT_REPEATS.labels(self._region).inc(appended.repeats)
        metrics.AUDIT_SIZE.labels(self._region).set(appended.head.size)


class TimelinePosition(msgspec.Struct, frozen=True, array_like=True):
    """The start of a page of a timeline: `offset` entries into the window behind `after`, in the log of size `head`.

    The head is that of the first page, and the log up to a head never changes. Therefore pages neither repeat nor skip
    an entry while events are appended.
    """

    after: Place
    offset: Natural
    head: Head


async def timeline(
    log: Reading, subject: str, cursor: TimelinePosition | None, limit: int
) -> tuple[list[Shown], TimelinePosition | None]:
    """A page of a subject's life, oldest first and causes before effects, and where the next one begins.

    Order is made within windows of `WINDOW` entries, which follow the log's sequence.
    """
    begin = cursor or TimelinePosition(Place(0, 0), 0, await log.head())
    window = await log.steps(subject, after=begin.after, upto=begin.head, limit=WINDOW)
    steps = page(in_causal_order(window), begin.offset, limit, PAGE_BYTES)
    offset = begin.offset + len(steps)
    following: TimelinePosition | None = None
    if offset < len(window):
        following = msgspec.structs.replace(begin, offset=offset)
    elif len(window) == WINDOW:
        following = TimelinePosition(window[-1].place, 0, begin.head)
    return await log.shown(steps), following


async def tail(log: Reading, after: int, limit: int) -> tuple[list[Shown], int | None]:
    """Up to `limit` events behind sequence number `after`, and after which one to go on, None at the end."""
    found = await log.weights(after=after, limit=limit + 1)
    steps = page(found, 0, limit, PAGE_BYTES)
    following = steps[-1].place.seq if len(steps) < len(found) else None
    return await log.shown(steps), following
