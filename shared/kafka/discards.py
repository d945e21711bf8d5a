"""Discards: an operator closes a dead letter for good, because its record is junk.

A discard consists of three records, written in this order, so an interrupted command is repeated without harm:

- the event `piepowder.deadletter.discarded.v1` on `piepowder.access.<region>`: who, why, and which record;
- the entry of the place on `piepowder.parked.<region>`. A group that is reset to earlier offsets passes over the record
  whose place and content it names, so the record can neither park its key again nor have an effect;
- the closing dead letter, with the header `dl_discarded`, in the partition of the dead letter that it closes.

For a record in a chain, the group itself writes them when it receives the copy that the command sends
(`shared.kafka.parking`): only the group knows the state of the key. For any other, the command writes them.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, RecordId, decode_attributes, encode, subject_of
from shared.contracts.events import DEADLETTER_DISCARDED, DeadLetterDiscarded
from shared.kafka.producer import Record, record
from shared.kafka.records import RawRecord
from shared.runtime.errors import Poison

SOURCE: Final = "piepowder/command"
MAX_WHY: Final = 500  # characters
_PREFIX: Final = "discarded/"


class Discard(msgspec.Struct, frozen=True):
    """The decision of an operator: `by` is the account's name, `why` the reason, `at` the time (RFC 3339).

    `reason` is the reason for which the record was dead-lettered.
    """

    by: str
    why: str
    at: str
    reason: str

    @property
    def as_reason(self) -> str:
        """The reason of the closing dead letter, and so of the item's status; it does not name the operator."""
        return f"discarded: {self.why}"


class _Entry(msgspec.Struct, frozen=True):
    content: str
    at: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Entry).decode


def discard_event(
    discard: Discard, place: RecordId, *, region: str, group: str, headers: Sequence[tuple[str, bytes]], content: bytes
) -> Record:
    """The event of a discard, with an id that a repetition derives again.

    `headers` are those of the dead-lettered record: the event names its subject and its cause. `content` is the hash of
    the record, empty if only its own topic has it.
    """
    try:
        original = decode_attributes(headers)
    except Poison:
        original = None
    event_id = ids.event_id(
        f"{group}/{place.topic}/{place.partition}/{place.offset}/{content.hex()}", DEADLETTER_DISCARDED
    )
    attributes = Attributes(
        id=event_id,
        type=DEADLETTER_DISCARDED,
        source=SOURCE,
        time=discard.at,
        subject=subject_of("piepowder", "group", group) if original is None else original.subject,
        region=region,
        correlation_id=event_id if original is None else original.correlation_id,
        causation_id=None if original is None else original.id,
    )
    discarded = DeadLetterDiscarded(
        group=group,
        topic=place.topic,
        partition=place.partition,
        offset=place.offset,
        content=content.hex(),
        event_id="" if original is None else original.id,
        reason=discard.reason,
        by=discard.by,
        why=discard.why,
    )
    return record(topics.access(region), encode(attributes, discarded))


def discard_entry(topic: str, group: str, place: RecordId, content: bytes, at: str) -> Record:
    """The entry of a discarded record in the topic of parked keys."""
    key = f"{_PREFIX}{group}/{place.topic}/{place.partition}/{place.offset}".encode()
    return Record(topic, key, _encode(_Entry(content.hex(), at)), [])


def discarded_records(records: Sequence[RawRecord], group: str) -> Mapping[RecordId, bytes]:
    """The hash of the content of each record that was discarded for a group, by its place.

    An entry that cannot be read is ignored: without it, the record is dead-lettered again, and not lost.
    """
    prefix, found = f"{_PREFIX}{group}/".encode(), dict[RecordId, bytes]()
    for each in records:
        if each.key is None or not each.key.startswith(prefix):
            continue
        try:
            topic, partition, offset = each.key[len(prefix) :].decode().split("/")
            place = RecordId(topic, int(partition), int(offset))
            if each.value is None:
                found.pop(place, None)
            else:
                found[place] = bytes.fromhex(_decode(each.value).content)
        except (ValueError, msgspec.DecodeError, RecursionError):
            continue
    return found
