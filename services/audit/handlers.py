"""The audit's commands and queries: append every record of the region's topics, and read timelines and the log."""

import logging
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from services.audit import metrics
from services.audit.domain import (
    CONFLICT_REASONS,
    AppendResult,
    LoggedDeadLetter,
    LoggedDiscard,
    LoggedEvent,
    LogHead,
    LogPosition,
    Natural,
    TimelineEntry,
    in_causal_order,
    page,
    parse_dead_letter,
    parse_discard,
    parse_event,
)
from services.audit.views import EntryView
from shared.contracts import topics
from shared.contracts.envelope import GLOBAL, RecordId
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.dead_letters import original_headers
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.kafka.written_letters import digest

log = logging.getLogger(__name__)

ParsedRecord: TypeAlias = LoggedEvent | LoggedDeadLetter | LoggedDiscard | None

WINDOW: Final = 10_000  # entries of a subject that are put into causal order together
PAGE_BYTES: Final = 8 * 1024 * 1024


class EntryWriter(Protocol):
    """The log, for appending."""

    async def append(
        self,
        logged: Sequence[LoggedEvent],
        letters: Sequence[LoggedDeadLetter],
        moves: Moves = NO_MOVES,
        discards: Sequence[LoggedDiscard] = (),
    ) -> AppendResult: ...


class EntryReader(Protocol):
    """The log, for reading."""

    async def head(self) -> LogHead: ...

    async def timeline_entries(
        self, subject: str, *, after: LogPosition, upto: LogHead, limit: int
    ) -> list[TimelineEntry]: ...

    async def views(self, entries: Sequence[TimelineEntry]) -> list[EntryView]: ...

    async def event_sizes(self, *, after: int, limit: int) -> list[TimelineEntry]: ...

    async def conflict_sizes(self, *, before: int, limit: int) -> list[TimelineEntry]: ...


class AppendRecords:
    """Appends batches of the region's records to the log."""

    def __init__(self, store: EntryWriter, region: str) -> None:
        self._store = store
        self._region = region
        self._deadletters = topics.deadletters(region)
        for reason in CONFLICT_REASONS:
            metrics.AUDIT_CONFLICTS.labels(region, reason)

    def decode(self, record: RawRecord) -> ParsedRecord:
        """Parse a record; raises Poison if it is not an event of the region.

        None for the receipt of a replayed dead letter (`dl_returned`): the replayed event itself is logged. A closing
        dead letter (`dl_discarded`) is a discard; its event is logged, too.
        """
        source = RecordId(record.topic, record.partition, record.offset)
        if record.topic == self._deadletters:
            if any(name == "dl_returned" for name, _ in record.headers):
                return None
            content = digest(record.key, record.value, original_headers(record.headers))
            if any(name == "dl_discarded" for name, _ in record.headers):
                return parse_discard(source, record.headers, record.timestamp, content)
            return parse_dead_letter(source, record.headers, record.key, record.timestamp, content)
        region = GLOBAL if record.topic == topics.CONTROL else self._region
        return parse_event(source, record.headers, record.key, record.value, region=region)

    async def handle(self, batch: Sequence[Received[ParsedRecord]], moves: Moves = NO_MOVES) -> None:
        """Append the new entries of a batch, all or nothing; raises Transient while PostgreSQL does not respond."""
        logged: list[LoggedEvent] = []
        letters: list[LoggedDeadLetter] = []
        discards: list[LoggedDiscard] = []
        for received in batch:
            message = received.message
            if isinstance(message, LoggedEvent):
                logged.append(message)
            elif isinstance(message, LoggedDiscard):
                discards.append(message)
            elif message is not None:
                letters.append(message)
        appended = await self._store.append(logged, letters, moves, discards)
        for topic, n in appended.by_topic.items():
            metrics.AUDITED.labels(self._region, topic).inc(n)
        metrics.AUDIT_REPEATS.labels(self._region).inc(appended.repeats)
        if appended.discarded:
            metrics.AUDIT_DISCARDED.labels(self._region).inc(appended.discarded)
        for reason, n in appended.conflicts.items():
            metrics.AUDIT_CONFLICTS.labels(self._region, reason).inc(n)
            log.error("events have the ids of others and other values", extra={"reason": reason, "events": n})
        metrics.AUDIT_SIZE.labels(self._region).set(appended.head.size)


class TimelinePosition(msgspec.Struct, frozen=True, array_like=True):
    """The start of a timeline's page: `offset` in the window after position `after`, among the entries below `head`.

    All pages use the head of the first page. Entries below a head never change, so pages neither repeat nor skip an
    entry while the log grows.
    """

    after: LogPosition
    offset: Natural
    head: LogHead


async def timeline(
    store: EntryReader, subject: str, start: TimelinePosition | None, limit: int
) -> tuple[list[EntryView], TimelinePosition | None]:
    """A page of a subject's timeline, oldest first and causes before effects, and the start of the next page.

    Causal order applies within windows of `WINDOW` entries; the windows follow the order of the log.
    """
    start = start or TimelinePosition(LogPosition(0, 0), 0, await store.head())
    window = await store.timeline_entries(subject, after=start.after, upto=start.head, limit=WINDOW)
    entries = page(in_causal_order(window), start.offset, limit, PAGE_BYTES)
    offset = start.offset + len(entries)
    following: TimelinePosition | None = None
    if offset < len(window):
        following = msgspec.structs.replace(start, offset=offset)
    elif len(window) == WINDOW:
        following = TimelinePosition(window[-1].position, 0, start.head)
    return await store.views(entries), following


async def tail(store: EntryReader, after: int, limit: int) -> tuple[list[EntryView], int | None]:
    """Up to `limit` events after sequence number `after`, and the next `after`, None at the end of the log."""
    found = await store.event_sizes(after=after, limit=limit + 1)
    entries = page(found, 0, limit, PAGE_BYTES)
    following = entries[-1].position.seq if len(entries) < len(found) else None
    return await store.views(entries), following


async def conflicts(store: EntryReader, before: int, limit: int) -> tuple[list[EntryView], int | None]:
    """Up to `limit` conflicts below sequence number `before`, newest first, and the next `before`, None at the end."""
    found = await store.conflict_sizes(before=before, limit=limit + 1)
    entries = page(found, 0, limit, PAGE_BYTES)
    following = entries[-1].position.seq if len(entries) < len(found) else None
    return await store.views(entries), following
