"""The audit's pure rules: the records to log, and the order of a timeline.

A valid event is logged even if its type is unknown. A dead letter is logged even if its content is unreadable, because
the log must show that the record was dead-lettered, and why. A timeline is ordered by time, but an effect never
precedes its cause: the clocks of different machines disagree.

An event that arrives again is a repeat if its values are equal, and a conflict if they differ. Times of observation
are not compared, because the retry of a call and a replay state other times. Defaults and the order of fields are not
compared either, because another version of a service may write them differently.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from shared.contracts import topics
from shared.contracts.envelope import Attributes, Headers, RecordId, decode_any
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    CASE_OPENED,
    CASE_WITHDRAWN,
    DEADLETTER_DISCARDED,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    LOSS_ACCEPTED,
    NOTICE_SUBMITTED,
    TYPES,
    Item,
    Notice,
)
from shared.contracts.ids import canonical, content_hash, derive, struct_hash, uuid_of
from shared.runtime.clock import from_text, from_text_or_none, to_text

DEADLETTER: Final = "deadletter"  # the type of a dead letter among a timeline's entries

_KNOWN_HEADERS: Final = frozenset(
    [f"ce_{name}" for name in ("specversion", "id", "type", "source", "time", "subject", "region", "dataschema")]
    + ["ce_correlationid", "ce_causationid", "traceparent", "content-type"]
)
_WHO_AND_WHEN: Final = frozenset(
    {"client", "reference", "received_at", "requested_at", "regions", "operating_model", "markets_by_region"}
)
"""Fields of a submission that state who sent it, when and where: another client may post the same item, and the
regions follow from the operating model of the moment."""
_NOT_COMPARED: Final[Mapping[str, frozenset[str]]] = {
    ITEM_SUBMITTED: _WHO_AND_WHEN,
    NOTICE_SUBMITTED: _WHO_AND_WHEN,
    APPEAL_SUBMITTED: _WHO_AND_WHEN,
    ITEM_WITHDRAWN: frozenset({"withdrawn_at", "client", "regions"}),
    CASE_OPENED: frozenset({"received_at", "due_at", "client", "requested_at"}),
    CASE_WITHDRAWN: frozenset({"withdrawn_at"}),
    LOSS_ACCEPTED: frozenset({"by", "note"}),
    DEADLETTER_DISCARDED: frozenset({"by", "why", "reason"}),
}
_FROM_THE_CLIENT: Final[Mapping[str, tuple[str, ...]]] = {
    ITEM_SUBMITTED: ("item",),
    NOTICE_SUBMITTED: ("notice",),
    APPEAL_SUBMITTED: ("appeal", "content_hash"),
    ITEM_WITHDRAWN: ("reason",),
    CASE_OPENED: ("item", "notice", "appeal"),
    CASE_WITHDRAWN: ("reason",),
}
"""The fields that repeat what the client said. The hash of an appeal covers more than its event has."""
_HASH_OF: Final[Mapping[str, Callable[[Any], str]]] = {
    ITEM_SUBMITTED: lambda event: content_hash(canonical(event.item)),
    NOTICE_SUBMITTED: lambda event: struct_hash(event.notice, always={"language"}),
}
"""The true hash of an event's content, as intake computes it."""
CONTENT: Final = "content"
VALUE: Final = "value"
CONFLICT_REASONS: Final = (CONTENT, VALUE)
_TYPED: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in TYPES.items()}
_CONTENT_FIELDS: Final = {
    ITEM_SUBMITTED: frozenset(Item.__struct_fields__),
    NOTICE_SUBMITTED: frozenset(Notice.__struct_fields__),
}
_canonical: Final = msgspec.json.Encoder(order="sorted").encode

_MAX_TEXT: Final = 2000
_MAX_NAME: Final = 249  # the limit of a Kafka topic's name
_MAX_SUBJECT: Final = 1024  # the limit in an event
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class LoggedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to append: `data` is its value exactly as received, `extensions` are the unknown headers."""

    attributes: Attributes
    data: bytes
    extensions: Headers
    source: RecordId


class LoggedDeadLetter(NamedTuple):
    """A dead-lettered record: its original position, the consumer group, the reason, and its readable attributes.

    `content` is a hash of the record: a topic that was created again has other records at the same positions.
    """

    source: RecordId
    group: str
    reason: str
    key: str | None
    time: str
    event_id: str | None
    subject: str | None
    content: bytes | None = None


class LoggedDiscard(NamedTuple):
    """The closure of a dead letter by an operator: `by` is the account's name, `why` the reason."""

    source: RecordId
    group: str
    content: bytes
    by: str
    why: str
    time: str


Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A number in a cursor: checked when the cursor is decoded."""


class LogHead(NamedTuple):
    """The number of events and of dead letters; entries below a head never change."""

    size: Natural
    deadletters: Natural


class LogTotals(NamedTuple):
    """The log's head, its events by type, and those of them that are conflicts."""

    head: LogHead
    by_type: dict[str, int]
    conflicts: dict[str, int]


class Conflict(msgspec.Struct, frozen=True, gc=False):
    """An event with the id of another one and other values. `id` identifies these values. `reason` is `content` if the
    client said something else, and `value` if a service did."""

    id: str
    reason: str


class AppendResult(NamedTuple):
    """The head after an append, the number of new events by topic, the number of repeated events, and the number of
    conflicts by reason. Conflicts are new events, too. `discarded`: the number of newly discarded dead letters."""

    head: LogHead
    by_topic: dict[str, int]
    repeats: int
    conflicts: Mapping[str, int] = MappingProxyType({})
    discarded: int = 0


class LogPosition(NamedTuple):
    """The position of an entry: an event's sequence number and 0; a dead letter's number after its last event."""

    seq: Natural
    letter: Natural


class TimelineEntry(NamedTuple):
    """The order and size of an entry: `cause` is the id of the causing event, `size` the bytes of its data."""

    position: LogPosition
    id: str | None
    cause: str | None
    time: str
    size: int


def logged_topics(region: str) -> list[str]:
    """The topics that a region's log records: all, except the consumers' own state."""
    return [topics.CONTROL, *(topic(region) for topic in topics.REGIONAL if topic is not topics.parked)]


def parse_event(
    source: RecordId, headers: Sequence[tuple[str, bytes]], key: bytes | None, value: bytes | None, *, region: str
) -> LoggedEvent:
    """Parse an event of any type; raises Poison if the record is not an event of `region`."""
    attributes = decode_any(headers, key, value, region=region).attributes
    is_plain = dict(headers).keys() <= _KNOWN_HEADERS
    extensions = [] if is_plain else [header for header in headers if header[0] not in _KNOWN_HEADERS]
    return LoggedEvent(attributes, value or b"", extensions, source)


def parse_dead_letter(
    source: RecordId,
    headers: Sequence[tuple[str, bytes]],
    key: bytes | None,
    timestamp_ms: int,
    content: bytes | None = None,
) -> LoggedDeadLetter:
    """Parse a record of a dead-letter topic. Never fails: without readable headers, `source` is its own position.

    `content` is the hash of the original record.
    """
    found = dict(headers)
    topic = _text(found.get("dl_topic"), _MAX_NAME)
    partition, offset = _number(found.get("dl_partition"), 31), _number(found.get("dl_offset"), 63)
    subject = _text(found.get("ce_subject"), _MAX_SUBJECT + 1)
    return LoggedDeadLetter(
        source=source if topic is None or partition is None or offset is None else RecordId(topic, partition, offset),
        group=_text(found.get("dl_group"), _MAX_NAME) or "",
        reason=_text(found.get("dl_reason"), _MAX_TEXT) or "no reason was given",
        key=_text(key, _MAX_TEXT),
        time=_time(found.get("dl_time")) or _time_of(timestamp_ms),
        event_id=_id(found.get("ce_id")),
        subject=subject if subject is not None and len(subject) <= _MAX_SUBJECT else None,
        content=content,
    )


def parse_discard(
    source: RecordId, headers: Sequence[tuple[str, bytes]], timestamp_ms: int, content: bytes
) -> LoggedDiscard | None:
    """Parse a closing dead letter; None if it does not name the dead letter that it closes."""
    found = dict(headers)
    letter = parse_dead_letter(source, headers, None, timestamp_ms)
    if letter.source == source or not letter.group:
        return None
    by, why = (_text(found.get(name), _MAX_TEXT) or "" for name in ("dl_by", "dl_discarded"))
    return LoggedDiscard(letter.source, letter.group, content, by, why, letter.time)


def conflict(first: LoggedEvent, other: LoggedEvent) -> Conflict | None:
    """The conflict of `other` with the first event of the same id; None if `other` repeats it.

    The contents themselves are compared: what an event states about itself (`content_hash`) may be wrong.
    """
    if first.data == other.data and _links(first) == _links(other):
        return None
    known, values = _values(first), _values(other)
    compared = _canonical([_links(other), values])
    if _canonical([_links(first), known]) == compared:
        return None
    event_type = other.attributes.type
    said = _FROM_THE_CLIENT.get(event_type)
    is_content = (
        said is not None
        and event_type == first.attributes.type
        and [known.get(name) for name in said] != [values.get(name) for name in said]
        and not (known.get("content_hash") == values.get("content_hash") and "content_hash" in values)
        and _states_its_hash(first)
        and _states_its_hash(other)
    )
    identity = derive("conflict", other.attributes.id, content_hash(compared))
    return Conflict(identity, CONTENT if is_content else VALUE)


def _states_its_hash(event: LoggedEvent) -> bool:
    """True if the hash that an event states is that of its content, or cannot be checked."""
    if (hash_of := _HASH_OF.get(event.attributes.type)) is None:
        return True
    try:
        decoded: Any = _TYPED[event.attributes.type](event.data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return _has_unknown_fields(event) or hash_of(decoded) == decoded.content_hash


def _has_unknown_fields(event: LoggedEvent) -> bool:
    """True if a newer version has added fields to the content: this one does not know its hash."""
    [part] = _FROM_THE_CLIENT[event.attributes.type]
    known = _CONTENT_FIELDS[event.attributes.type]
    return not msgspec.json.decode(event.data)[part].keys() <= known


def _links(event: LoggedEvent) -> tuple[str | None, ...]:
    """The attributes that have to be equal: all but the time, and the trace."""
    a = event.attributes
    return a.type, a.source, a.subject, a.region, a.correlation_id, a.causation_id


def _values(event: LoggedEvent) -> dict[str, Any]:
    """The compared fields of an event's data, without fields that have their default."""
    event_type = event.attributes.type
    data = _decoded(event_type, event.data)
    ignored = _NOT_COMPARED.get(event_type, frozenset())
    values = {name: value for name, value in data.items() if name not in ignored}
    if event_type == APPEAL_SUBMITTED and isinstance(appeal := values.get("appeal"), dict):
        # its `decision` states what intake's projection knew about the decision
        named = appeal.get("decision")
        values["appeal"] = appeal | {"decision": named.get("decision_id") if isinstance(named, dict) else named}
    return values


def _decoded(event_type: str, data: bytes) -> dict[str, Any]:
    """The data as an object; data that is no object is the field `data` of one."""
    value: object = data.decode(errors="replace")
    for decode in (_TYPED.get(event_type), msgspec.json.decode):
        if decode is not None:
            try:
                value = msgspec.to_builtins(decode(data))
                break
            except (msgspec.DecodeError, RecursionError):  # the log has events of every version
                continue
    return value if isinstance(value, dict) else {"data": value}


def in_causal_order(entries: Sequence[TimelineEntry]) -> list[TimelineEntry]:
    """Order entries by time, then position, but each after its cause; a cycle is cut at its earliest entry."""
    ids = {entry.id for entry in entries if entry.id is not None}
    effects: defaultdict[str | None, list[TimelineEntry]] = defaultdict(list)
    ready: list[tuple[datetime, LogPosition, TimelineEntry]] = []
    blocked: dict[LogPosition, TimelineEntry] = {}
    for entry in entries:
        if entry.cause in ids and entry.cause != entry.id:
            effects[entry.cause].append(entry)
            blocked[entry.position] = entry
        else:
            ready.append(_ranked(entry))
    heapq.heapify(ready)
    by_rank = iter(sorted(map(_ranked, blocked.values())))
    ordered: list[TimelineEntry] = []
    while len(ordered) < len(entries):
        if not ready:  # a cycle
            ready.append(next(ranked for ranked in by_rank if ranked[1] in blocked))
            del blocked[ready[0][1]]
        entry = heapq.heappop(ready)[2]
        ordered.append(entry)
        for effect in effects.get(entry.id, ()) if entry.id is not None else ():
            if blocked.pop(effect.position, None) is not None:
                heapq.heappush(ready, _ranked(effect))
    return ordered


def page(entries: Sequence[TimelineEntry], offset: int, limit: int, max_bytes: int) -> Sequence[TimelineEntry]:
    """Up to `limit` entries from `offset` on, with at most `max_bytes` of data together; at least one."""
    end, total = offset, 0
    for entry in entries[offset : offset + limit]:
        total += entry.size
        if total > max_bytes and end > offset:
            break
        end += 1
    return entries[offset:end]


def _ranked(entry: TimelineEntry) -> tuple[datetime, LogPosition, TimelineEntry]:
    return from_text(entry.time), entry.position, entry


def _text(value: bytes | None, limit: int) -> str | None:
    """Text that PostgreSQL can store: NUL and bytes that are not UTF-8 are replaced."""
    return None if value is None else value[: 4 * limit].decode(errors="replace").replace("\0", "\ufffd")[:limit]


def _number(value: bytes | None, bits: int) -> int | None:
    if value is None or not value.isdigit() or len(value) > 19:
        return None
    number = int(value)
    return number if number < 2**bits else None


def _id(value: bytes | None) -> str | None:
    text = (value or b"").decode(errors="replace")
    return text if uuid_of(text) == text else None


def _time(value: bytes | None) -> str | None:
    time = from_text_or_none((value or b"").decode(errors="replace"))
    return None if time is None else to_text(time)


def _time_of(milliseconds: int) -> str:
    try:
        return to_text(_EPOCH + timedelta(milliseconds=max(0, milliseconds)))
    except OverflowError:
        return to_text(_EPOCH)
