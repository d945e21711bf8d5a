"""CloudEvents 1.0 in Kafka's binary mode: the record's value is the data, and `ce_*` headers are the attributes.

For a record that is not a valid event, decoding raises `Poison` with the reason, and no other error. Encoding is on
every hot path, so the headers that are constant for a source, type and region are built once. Ids are UUIDs, because
consumers store them as UUIDs.
Source: CloudEvents 1.0.2, section 3.1 (attributes), and its Kafka Protocol Binding, section 3.2.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from shared.contracts.events import TYPES, Struct
from shared.runtime.clock import from_text_or_none
from shared.runtime.errors import Poison, TooNew

Headers = list[tuple[str, bytes]]
D = TypeVar("D")
T = TypeVar("T")

GLOBAL: Final = "global"  # the region of events without a region

_encode_json = msgspec.json.Encoder(decimal_format="number").encode
_DECODERS: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in TYPES.items()}
_read_raw = msgspec.json.Decoder(msgspec.Raw).decode
REQUIRED: Final = ("ce_id", "ce_type", "ce_source", "ce_time", "ce_subject", "ce_region", "ce_correlationid")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_LONGEST: Final = 1024
_MOST_BYTES: Final = 2048  # a key of an index of PostgreSQL has at most 2,704 bytes
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """CloudEvents attributes. `correlation_id`: id of the first event about the item, notice or request;
    `causation_id`: id of the event that caused this one."""

    id: str
    type: str
    source: str
    time: str
    subject: str
    region: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None


class Event(msgspec.Struct, Generic[D], frozen=True, gc=False):
    """An event's data and attributes; the subject is the record's key."""

    attributes: Attributes
    data: D


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An event as a Kafka record."""

    key: bytes
    value: bytes
    headers: Headers


class RecordId(NamedTuple):
    """The position of a record in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


def subject_of(platform: str, kind: str, subject_id: str) -> str:
    """The name of a subject, and its record key in every topic: `<platform>:<kind>:<the platform's id>`."""
    return f"{platform}:{kind}:{subject_id}"


@lru_cache(maxsize=1024)
def _constant_headers(event_type: str, source: str, region: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_dataschema", f"urn:piepowder:schema:{event_type}".encode()),
        ("ce_region", region.encode()),
    )


def encode(attributes: Attributes, data: Struct | msgspec.Raw) -> Encoded:
    """Encode an event as key, value and headers; `Raw` data, which is JSON already, is kept as it is."""
    key, event_id, correlation_id = attributes.subject.encode(), attributes.id.encode(), attributes.correlation_id
    headers = [
        *_constant_headers(attributes.type, attributes.source, attributes.region),
        ("ce_id", event_id),
        ("ce_time", attributes.time.encode()),
        ("ce_subject", key),
        ("ce_correlationid", event_id if correlation_id is attributes.id else correlation_id.encode()),
    ]
    if attributes.causation_id is not None:
        headers.append(("ce_causationid", attributes.causation_id.encode()))
    if attributes.traceparent is not None:
        headers.append(("traceparent", attributes.traceparent.encode()))
    return Encoded(key, _encode_json(data), headers)


def decode_attributes(headers: Sequence[tuple[str, bytes]], *, region: str | None = None) -> Attributes:
    """The attributes in a record's headers; raises Poison when one is missing or invalid, or of another region.

    An invalid `traceparent` is ignored, because it serves tracing only (W3C Trace Context, section 4.3).
    """
    found = dict(headers)
    try:
        attributes = Attributes(
            found["ce_id"].decode(),
            found["ce_type"].decode(),
            found["ce_source"].decode(),
            found["ce_time"].decode(),
            found["ce_subject"].decode(),
            found["ce_region"].decode(),
            found["ce_correlationid"].decode(),
            found["ce_causationid"].decode() if "ce_causationid" in found else None,
            _trace(found["traceparent"]) if "traceparent" in found else None,
        )
    except (KeyError, UnicodeDecodeError, AttributeError) as error:  # None is a header without a value
        raise Poison(_fault_in(found)) from error
    if found.get("ce_specversion") != b"1.0":
        raise Poison(f"ce_specversion is {found.get('ce_specversion')!r}, expected b'1.0'")
    if len(found) != len(headers):
        _reject_duplicates(headers)
    _check(attributes)
    if region is not None and attributes.region != region:
        raise Poison(f"the event belongs to region {attributes.region!r}, this topic to {region!r}")
    return attributes


def decode(
    headers: Sequence[tuple[str, bytes]], key: bytes | None, value: bytes | None, *, region: str | None = None
) -> Event[Any]:
    """The event in a record; raises Poison when it is not a valid event, TooNew when its type or version is unknown.

    With `region`, an event of another region is poison too. Unknown fields are ignored: a newer version has added them.
    """
    attributes = decode_attributes(headers, region=region)
    known = _DECODERS.get(attributes.type)
    if known is None:
        _data(_read_raw, attributes, key, value)
        raise TooNew(f"unknown event type {attributes.type!r}; known: {', '.join(sorted(TYPES))}")
    return Event(attributes, _data(known, attributes, key, value))


def decode_any(
    headers: Sequence[tuple[str, bytes]], key: bytes | None, value: bytes | None, *, region: str | None = None
) -> Event[msgspec.Raw]:
    """As `decode`, for an event of any type: its data must be JSON, and is not decoded."""
    attributes = decode_attributes(headers, region=region)
    data: msgspec.Raw = _data(_read_raw, attributes, key, value)
    try:
        bytes(data).decode()
    except UnicodeDecodeError as error:
        raise Poison(f"{attributes.type}: the value is not UTF-8: {error}") from error
    return Event(attributes, data)


def _data(read: Callable[[bytes], T], attributes: Attributes, key: bytes | None, value: bytes | None) -> T:
    if key != attributes.subject.encode():
        raise Poison(f"the record's key {key!r:.300} is not its subject {attributes.subject!r:.300}")
    if value is None:
        raise Poison("the record has no value")
    try:
        return read(value)
    except UnicodeDecodeError as error:
        raise Poison(f"{attributes.type}: the value is not UTF-8: {error}") from error
    except msgspec.DecodeError as error:
        raise Poison(f"{attributes.type}: {error}") from error
    except RecursionError as error:
        raise Poison(f"{attributes.type}: the JSON is nested too deeply") from error


def _trace(value: bytes) -> str | None:
    text = (value or b"").decode("ascii", "replace")
    return text if text.isprintable() and text.isascii() and text else None


def _check(attributes: Attributes) -> None:
    _check_id("ce_id", attributes.id)
    if attributes.correlation_id != attributes.id:
        _check_id("ce_correlationid", attributes.correlation_id)
    if attributes.causation_id is not None and attributes.causation_id != attributes.correlation_id:
        _check_id("ce_causationid", attributes.causation_id)
    if len(attributes.time) > 40 or not _is_time(attributes.time):
        raise Poison(f"ce_time is {attributes.time!r:.100}, expected RFC 3339 such as 2026-05-01T09:30:00.000Z")
    _check_constants(attributes.type, attributes.source, attributes.region)
    _check_text("ce_subject", attributes.subject)


def _check_id(name: str, value: str) -> None:
    if _UUID.fullmatch(value) is None:
        raise Poison(f"{name} is {value!r:.100}, expected a UUID in lower case")


@lru_cache(maxsize=4096)
def _is_time(text: str) -> bool:
    return from_text_or_none(text) is not None and _RFC3339.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _check_constants(event_type: str, source: str, region: str) -> None:
    _check_text("ce_type", event_type)
    _check_text("ce_source", source)
    _check_text("ce_region", region)


def _check_text(name: str, value: str) -> None:
    if not value or len(value) > _LONGEST:
        raise Poison(f"{name} has {len(value)} characters, expected 1 to {_LONGEST}")
    if not value.isascii() and (size := len(value.encode())) > _MOST_BYTES:
        raise Poison(f"{name} has {size} bytes, expected at most {_MOST_BYTES}")
    if not value.isprintable() and _CONTROL.search(value):
        raise Poison(f"{name} is {value!r:.300}, which holds a control character")


def _fault_in(found: Mapping[str, bytes | None]) -> str:
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        return f"not an event of Piepowder: header {', '.join(missing)} is missing"
    for name in (*REQUIRED, "ce_causationid"):
        value = found.get(name, b"")
        if value is None:
            return f"header {name} has no value"
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return f"header {name} is not UTF-8: {error}"
    raise AssertionError("the headers are valid")


def _reject_duplicates(headers: Sequence[tuple[str, bytes]]) -> None:
    counts = Counter(name for name, _ in headers)
    duplicates = sorted(name for name, n in counts.items() if n > 1 and name.startswith("ce_"))
    if duplicates:
        raise Poison(f"header {', '.join(duplicates)} occurs more than once")
