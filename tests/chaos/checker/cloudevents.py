"""Reads an event from a record, by the CloudEvents specification alone (1.0.2, Kafka binding, binary mode)."""

import uuid
from sys import intern
from typing import Any, NamedTuple

import msgspec

from tests.chaos.checker.history import Record

NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_NEEDED = ("id", "source", "type", "time", "subject", "region", "correlationid")


class Event(NamedTuple):
    """An event and its position."""

    id: str
    type: str
    source: str
    time: str
    subject: str
    region: str
    correlation_id: str
    causation_id: str
    data: dict[str, Any]
    record: Record

    @property
    def name(self) -> str:
        """The type without its family and version: `case.opened`."""
        return self.type.removeprefix("piepowder.").removesuffix(".v1")

    def __str__(self) -> str:
        return str(self.record)


def read_event(record: Record) -> Event | str:
    """The event, or the reason why the record is not an event."""
    found: dict[str, str] = {}
    for name, value in record.headers:
        if name.startswith("ce_"):
            if value is None or name in found:
                return f"header {name} is repeated or has no value"
            try:
                found[name[3:]] = value.decode()
            except UnicodeDecodeError:
                return f"header {name} is not UTF-8"
    missing = [name for name in (*_NEEDED, "specversion") if name not in found]
    if missing or found["specversion"] != "1.0":
        return f"header {missing or 'specversion'} is missing or of another version"
    for name in ("id", "correlationid", "causationid"):
        if name in found and not _is_uuid(found[name]):
            return f"header {name} is not a UUID"
    if record.key != found["subject"].encode():
        return "the key is not the subject"
    try:
        data = msgspec.json.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "the value is not JSON"
    if not isinstance(data, dict):
        return "the value is not a JSON object"
    return Event(
        found["id"],
        intern(found["type"]),
        intern(found["source"]),
        found["time"],
        intern(found["subject"]),
        intern(found["region"]),
        found["correlationid"],
        found.get("causationid", ""),
        data,
        record,
    )


def derived(*parts: str) -> str:
    """The id derived from these parts (UUID version 5)."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(parts)))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
