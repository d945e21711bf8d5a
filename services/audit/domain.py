"""What an auditor is shown, and in which order: pure rules about events and dead letters.

An event is kept whatever its type, known or not, as long as it is an event; a dead letter is kept whatever it holds,
because it is garbage by its nature and the trail must show that it was set aside, and why. A timeline goes by time, yet
an effect never stands before its cause: clocks of different machines disagree, causes do not.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from shared.contracts.envelope import Attributes, Headers, decode_any
from shared.runtime.clock import from_text, to_text

DEADLETTER: Final = "deadletter"  # the type of a timeline's entry that is no event of ours

_NAMED: Final = frozenset(
    [f"ce_{name}" for name in ("specversion", "id", "type", "source", "time", "subject", "region", "dataschema")]
    + ["ce_correlationid", "ce_causationid", "traceparent", "content-type"]
)
_LONGEST_TEXT: Final = 2000
_LONGEST_NAME: Final = 249  # as of a Kafka topic
_LONGEST_SUBJECT: Final = 1024  # as of an event
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Source(NamedTuple):
    """Where a record stood."""

    topic: str
    partition: int
    offset: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event to append: its attributes, its value exactly as received, the headers beyond ours, where it stood."""

    attributes: Attributes
    data: bytes
    extensions: Headers
    source: Source


class DeadLetter(NamedTuple):
    """That a record was set aside: where it stood, by which group, why, and what can be read of it."""

    source: Source
    group: str
    reason: str
    key: str | None
    time: str
    event_id: str | None
    subject: str | None


Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Checked where a number is decoded from a cursor."""


class Head(NamedTuple):
    """How much there is: events, and dead letters. What is there at a head stays as it is."""

    size: Natural
    deadletters: Natural


class Appended(NamedTuple):
    """What an append did: the head after it, the events that were new, by topic, and how many were not."""

    head: Head
    by_topic: dict[str, int]
    repeats: int


class Place(NamedTuple):
    """Where an entry stands: an event at its sequence number, a dead letter behind the events there were by then."""

    seq: Natural
    letter: Natural


class Step(NamedTuple):
    """What decides an entry's place in a timeline: `cause` is the id of the event that brought it about, `weight` the
    bytes of its data."""

    place: Place
    id: str | None
    cause: str | None
    time: str
    weight: int


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as a reader gets it. A dead letter has neither `seq` nor `id`; its source is the group."""

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
    data: msgspec.Raw


def entry(
    source: Source, headers: Sequence[tuple[str, bytes]], key: bytes | None, value: bytes | None, *, region: str
) -> Entry:
    """The event in a record, of any type; raises Poison when it is not an event of `region`."""
    attributes = decode_any(headers, key, value, region=region).attributes
    ours = dict(headers).keys() <= _NAMED
    extensions = [] if ours else [header for header in headers if header[0] not in _NAMED]
    return Entry(attributes, value or b"", extensions, source)


def dead_letter(
    source: Source, headers: Sequence[tuple[str, bytes]], key: bytes | None, timestamp_ms: int
) -> DeadLetter:
    """What a record of a dead-letter topic says. Never fails: where it says nothing, it stands for itself."""
    found = dict(headers)
    topic = _text(found.get("dl_topic"), _LONGEST_NAME)
    partition, offset = _number(found.get("dl_partition"), 31), _number(found.get("dl_offset"), 63)
    subject = _text(found.get("ce_subject"), _LONGEST_SUBJECT + 1)
    return DeadLetter(
        source=source if topic is None or partition is None or offset is None else Source(topic, partition, offset),
        group=_text(found.get("dl_group"), _LONGEST_NAME) or "",
        reason=_text(found.get("dl_reason"), _LONGEST_TEXT) or "no reason was given",
        key=_text(key, _LONGEST_TEXT),
        time=_time(found.get("dl_time")) or _moment(timestamp_ms),
        event_id=_id(found.get("ce_id")),
        subject=subject if subject is not None and len(subject) <= _LONGEST_SUBJECT else None,
    )


def in_causal_order(steps: Sequence[Step]) -> list[Step]:
    """`steps` by time, then place, but each after its cause; causes that go in a circle are broken at the earliest."""
    ids = {step.id for step in steps if step.id is not None}
    effects: defaultdict[str | None, list[Step]] = defaultdict(list)
    ready: list[tuple[datetime, Place, Step]] = []
    held: dict[Place, Step] = {}
    for step in steps:
        if step.cause in ids and step.cause != step.id:
            effects[step.cause].append(step)
            held[step.place] = step
        else:
            ready.append(_ranked(step))
    heapq.heapify(ready)
    circles = iter(sorted(map(_ranked, held.values())))
    ordered: list[Step] = []
    while len(ordered) < len(steps):
        if not ready:
            ready.append(next(circle for circle in circles if circle[1] in held))
            del held[ready[0][1]]
        step = heapq.heappop(ready)[2]
        ordered.append(step)
        for effect in effects.get(step.id, ()) if step.id is not None else ():
            if held.pop(effect.place, None) is not None:
                heapq.heappush(ready, _ranked(effect))
    return ordered


def page(steps: Sequence[Step], offset: int, limit: int, weight: int) -> Sequence[Step]:
    """Up to `limit` of `steps` from `offset` on, and of some `weight` bytes of data at most; one at least."""
    end, total = offset, 0
    for step in steps[offset : offset + limit]:
        total += step.weight
        if total > weight and end > offset:
            break
        end += 1
    return steps[offset:end]


def _ranked(step: Step) -> tuple[datetime, Place, Step]:
    return from_text(step.time), step.place, step


def _text(value: bytes | None, longest: int) -> str | None:
    """As PostgreSQL can keep it: without NUL, whatever is not UTF-8 replaced."""
    return None if value is None else value[: 4 * longest].decode(errors="replace").replace("\0", "\ufffd")[:longest]


def _number(value: bytes | None, bits: int) -> int | None:
    if value is None or not value.isdigit() or len(value) > 19:
        return None
    number = int(value)
    return number if number < 2**bits else None


def _id(value: bytes | None) -> str | None:
    text = (value or b"").decode(errors="replace")
    try:
        return text if str(UUID(text)) == text else None
    except ValueError:
        return None


def _time(value: bytes | None) -> str | None:
    text = (value or b"").decode(errors="replace")
    try:
        return to_text(from_text(text))
    except ValueError:
        return None


def _moment(milliseconds: int) -> str:
    try:
        return to_text(_EPOCH + timedelta(milliseconds=max(0, milliseconds)))
    except OverflowError:
        return to_text(_EPOCH)
