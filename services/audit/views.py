"""The REST views of stored events and dead letters. They are msgspec structs: data is returned exactly as stored."""

import msgspec


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the log. A dead letter has neither `seq` nor `id`, and its `source` is the consumer group.
    `conflict`: the log has several events with this id and different values."""

    seq: int | None
    id: str | None
    type: str
    time: str
    source: str
    subject: str
    region: str
    topic: str
    partition: int
    offset: int
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None = None
    extensions: dict[str, str | None] = {}
    conflict: bool = False
    data: msgspec.Raw


class DiscardView(msgspec.Struct, frozen=True):
    """The closure of a dead letter by an operator: the account's name, the reason and the time."""

    by: str
    why: str
    time: str


class DeadLetterView(msgspec.Struct, frozen=True):
    """A dead letter; `n` is its number among the dead letters of the log. `discarded` is null unless an operator closed
    it."""

    n: int
    topic: str
    partition: int
    offset: int
    group: str
    reason: str
    key: str | None
    time: str
    event_id: str | None
    subject: str | None
    discarded: DiscardView | None = None


class TimelineView(msgspec.Struct, frozen=True):
    """A page of a subject's timeline, oldest first, causes before effects; `next` is the cursor of the next page."""

    subject: str
    region: str
    events: list[EntryView]
    next: str | None


class EventPageView(msgspec.Struct, frozen=True):
    """Events by sequence number; `next` is the `after` of the next page, null at the end."""

    region: str
    events: list[EntryView]
    next: int | None


class ConflictPageView(msgspec.Struct, frozen=True):
    """Events with the id of an earlier event and other values, newest first; `next` is the cursor of the next page."""

    region: str
    conflicts: list[EntryView]
    next: str | None


class DeadLetterPageView(msgspec.Struct, frozen=True):
    """Dead-lettered records, newest first; `next` is the cursor of the next page."""

    region: str
    deadletters: list[DeadLetterView]
    next: str | None
