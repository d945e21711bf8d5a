"""Parked keys: when a record cannot be handled, the later records of its key wait with it; all other keys continue.

A record is dead-lettered when its handling fails for good, or when this reader does not know the type or version of its
event. Then its key is parked: every later record of the key in that partition is dead-lettered too. A record that is
not a valid event is dead-lettered alone. A small compacted topic holds the parked keys, so they survive a restart,
also in services without a database. For each batch, Kafka acknowledges the dead letters first, then the parked keys,
then the offsets. After a crash between these steps the group receives the batch again, and recognises dead-lettered
records by their offset.

A replay appends copies of dead-lettered records to their original partition, marked with the group that must handle
them. The copies of a parked key form a chain: each copy names its predecessor, and is handled only after it. The key is
free again when the last copy was handled and no later record was dead-lettered. A copy may carry the discard of an
operator instead: its dead letter is closed, the record has no effect, and the chain continues
(`shared.kafka.discards`). So no record overtakes an earlier one of its key, even when a replay is interrupted,
repeated, or run twice at once. See docs/architecture/delivery-semantics.md.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

import msgspec
from aiokafka import ConsumerRecord, TopicPartition

from shared.contracts import topics
from shared.contracts.envelope import RecordId
from shared.kafka.dead_letters import DeadLetterWriter, NewDeadLetter, ReplayReceipt
from shared.kafka.discards import Discard, discard_entry, discarded_records
from shared.kafka.producer import Producer, Record
from shared.kafka.records import RawRecord, Received
from shared.kafka.whole_topic import read_whole
from shared.kafka.written_letters import digest
from shared.runtime import metrics
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import PiepowderError, Poison, TooNew

log = logging.getLogger(__name__)

M = TypeVar("M")

REPLAY_HEADER: Final = "dl_replay"


class KeyPartition(NamedTuple):
    """A key in a partition: the records whose order is kept."""

    topic: str
    partition: int
    key: bytes


class Parked(msgspec.Struct, frozen=True):
    """State of a parked key. Its records from offset `since` to `last` were dead-lettered.

    `back` is the original offset of the last completed copy of the chain, -1 for none. `reason` explains the last
    failure; `at` is the time when the key was parked.
    """

    since: int
    last: int
    reason: str
    at: str
    back: int = -1


class ReplayMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """Header of a replayed copy.

    `group`: the group that must handle the copy.
    `offset`: the original offset of the record.
    `after`: the original offset of the predecessor in the chain; -1 for the first copy, None outside of a chain.
    `end`: the copy is the last known one of its chain.
    `leave`: the copy is not handled; it is dead-lettered outside of the chain, which continues.
    `parked`: the dead letter belongs to a parked key, but the key was no longer parked when the replay read it, so the
    copy names no predecessor.
    `discard`: the copy is not handled; its dead letter is closed, and the chain continues.
    """

    group: str
    offset: int
    after: int | None = None
    end: bool = False
    leave: bool = False
    parked: bool = False
    discard: Discard | None = None


@dataclass
class ReplayedRecord(ConsumerRecord[bytes | None, bytes | None]):  # type: ignore[misc]  # aiokafka has no types for it
    """A copy that was replayed for this group, with its original headers; `offset` is the copy's own."""

    mark: ReplayMark


@dataclass
class OtherGroupsReplay(ConsumerRecord[bytes | None, bytes | None]):  # type: ignore[misc]  # aiokafka has no types
    """A copy that was replayed for another group.

    This group has already handled or dead-lettered the original. The copy is therefore a repeat: it may be handled
    again, and is never dead-lettered.
    """


_encode = encode_mark = msgspec.json.Encoder().encode
_decode_mark = msgspec.json.Decoder(ReplayMark).decode
_decode = msgspec.json.Decoder(Parked).decode


def parse_replayed(record: RawRecord, group: str) -> RawRecord:
    """The record without its replay header: a `ReplayedRecord` for `group`, else an `OtherGroupsReplay`.

    A record without a valid replay header is returned as it is.
    """
    if not record.headers or record.headers[-1][0] != REPLAY_HEADER:
        return record
    try:
        mark = _decode_mark(record.headers[-1][1] or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return record
    original = vars(replace(record, headers=record.headers[:-1]))
    return ReplayedRecord(**original, mark=mark) if mark.group == group else OtherGroupsReplay(**original)


class ParkedKeysFull(PiepowderError):  # noqa: N818 - it ends no service: the loop stops the record's partition
    """One more key would have to be parked than the process may hold; nothing of the batch may be committed."""

    def __init__(self, record: RawRecord, message: str) -> None:
        super().__init__(message)
        self.tp = TopicPartition(record.topic, record.partition)
        self.offset = record.offset


class GroupState(NamedTuple):
    """A group's parked keys, and the records that an operator discarded for it: the hash of the content by place."""

    parked: Mapping[KeyPartition, Parked]
    discarded: Mapping[RecordId, bytes]

    @classmethod
    def of(cls, records: Sequence[RawRecord], group: str) -> "GroupState":
        """The state in all records of a topic of parked keys."""
        return cls(parked_keys(records, group), discarded_records(records, group))


class ParkedKeyStore:
    """A group's parked keys and discarded records in the topic `piepowder.parked.<region>`.

    One process holds at most `limit` parked keys.
    """

    def __init__(self, producer: Producer, *, bootstrap: str, topic: str, group: str, limit: int = 10_000) -> None:
        self.limit = limit
        self._producer = producer
        self._bootstrap = bootstrap
        self._topic = topic
        self._group = group

    async def read(self) -> GroupState:
        """The state at this moment; raises Transient. Ignores, reports and counts an invalid entry of a parked key."""
        return GroupState.of(await read_whole(self._bootstrap, self._topic, f"{self._group}-parked"), self._group)

    async def write(
        self, changed: Mapping[KeyPartition, Parked | None], discarded: Sequence[tuple[RecordId, bytes, str]] = ()
    ) -> None:
        """Store discarded records (place, hash of the content, time), and the new states of keys, None for a free key.

        Returns when all are acknowledged; raises Transient. They have one partition, so that no key is free before the
        record that parked it is known as discarded.
        """
        values = {at: None if parked is None else _encode(parked) for at, parked in changed.items()}
        records = [discard_entry(self._topic, self._group, *each) for each in discarded]
        records += [Record(self._topic, _entry_key(self._group, at), value, []) for at, value in values.items()]
        await self._producer.send(records)


class Parking:
    """Decides which records of a batch a group handles, and which it dead-letters.

    Call `start_batch` first. For each record, in order, call `reject_undecodable` if it does not decode, else `admits`.
    If `admits` returns True, handle the record and call `confirm_handled` or `reject`. `flush` makes all decisions
    durable; commit offsets only after it. A consumer that does not depend on order has no `store`, and parks no key.

    `rejected` has the batch's rejected records, `passed_over` its records that were neither handled nor rejected, and
    those that were dead-lettered before. A discarded record is passed over, also after a reset of the group.
    """

    def __init__(self, dead_letters: DeadLetterWriter, store: ParkedKeyStore | None, clock: Clock) -> None:
        self.rejected: list[RawRecord] = []
        self.passed_over: list[RawRecord] = []
        self._dead_letters = dead_letters
        self._store = store
        self._clock = clock
        self._parked: dict[KeyPartition, Parked] = {}
        self._discarded: dict[RecordId, bytes] = {}
        self._discarded_until: dict[TopicPartition, int] = {}  # the highest offset of a discarded record
        self._assignments = 0
        self._loaded_assignments = 0
        self._letters: list[NewDeadLetter] = []
        self._receipts: list[ReplayReceipt] = []
        self._changed: set[KeyPartition] = set()
        self._new_discards: list[tuple[RecordId, bytes, str]] = []

    def admits_all(self, run: Sequence[Received[M]]) -> bool:
        """True if all records of a run may be handled, without a call of `admits` for each. A run with replayed copies
        needs these calls."""
        if self._parked:
            return False
        until = self._discarded_until
        return not until or all(
            each.record.offset > until.get(TopicPartition(each.record.topic, each.record.partition), -1) for each in run
        )

    @property
    def is_outdated(self) -> bool:
        """True if the assignment has changed since the last `load`."""
        return self._loaded_assignments != self._assignments

    @property
    def is_full(self) -> bool:
        """True if no further key may be parked."""
        return self._store is not None and len(self._parked) >= self._store.limit

    def partitions_assigned(self) -> None:
        """Mark the loaded keys as outdated: the previous owners of the partitions may have parked more."""
        self._assignments += 1
        self._dead_letters.partitions_assigned()

    def forget(self) -> None:
        """Mark the loaded keys as outdated: decisions on a batch have changed them, and were not stored."""
        self._assignments += 1

    async def load(self, assigned: Collection[TopicPartition]) -> None:
        """Read the parked keys of the assigned partitions; raises Transient."""
        assignments = self._assignments
        if self._store is not None:
            found = await self._store.read()
            self._parked = {at: each for at, each in found.parked.items() if TopicPartition(*at[:2]) in assigned}
            self._discarded, self._discarded_until = {}, {}
            for place, content in found.discarded.items():
                if TopicPartition(*place[:2]) in assigned:
                    self._note_discarded(place, content)
            self._update_gauge()
        self._loaded_assignments = assignments

    def start_batch(self) -> None:
        """Begin a batch, and drop the decisions of an abandoned one."""
        self.rejected, self.passed_over = [], []
        self._letters, self._receipts, self._changed, self._new_discards = [], [], set(), []

    def reject_undecodable(self, record: RawRecord, poison: Poison) -> None:
        """Dead-letter an undecodable record alone; its key is not parked.

        A record that is too new, or in a chain, is treated like a record whose handling failed: its key is parked.
        """
        if isinstance(record, OtherGroupsReplay):
            self.passed_over.append(record)
            return
        parked = self._parked.get(_key_partition(record))
        is_ordered = isinstance(poison, TooNew) or _has_predecessor(record) or _in_chain(record, parked)
        if is_ordered or _discard_of(record) is not None or self._is_discarded(record):
            if self.admits(record):
                self.reject(record, poison.reason)
            return
        self._count_rejected(record)
        self._close_letter(record)
        self._dead_letter(record, poison.reason)

    def admits(self, record: RawRecord) -> bool:
        """True if the record may be handled now. If not, this call has dead-lettered it, or passed it over as a repeat
        or as a discarded record."""
        at = _key_partition(record)
        parked = self._parked.get(at)
        if isinstance(record, ReplayedRecord) and parked is not None and _in_chain(record, parked):
            return self._admits_copy(record, record.mark, at, parked)
        if _has_predecessor(record):  # a repeat: its chain was handled before
            self.passed_over.append(record)
            return False
        if isinstance(record, ReplayedRecord) and (discard := record.mark.discard) is not None:
            self._discard(record, record.mark, discard)
            return False
        if self._is_discarded(record):
            self._close_letter(record)
            self.passed_over.append(record)
            return False
        if parked is None or record.offset < parked.since:
            return True
        self._close_letter(record)
        self.passed_over.append(record)
        if record.offset > parked.last and not isinstance(record, OtherGroupsReplay):
            place = f"{record.topic}[{record.partition}]@{parked.since}"
            self._dead_letter(record, f"follows {place}, which is parked: {parked.reason}", parked.since)
            self._update(at, msgspec.structs.replace(parked, last=record.offset))
        return False

    def reject(self, record: RawRecord, reason: str) -> None:
        """Dead-letter a record whose handling failed, and park its key; raises ParkedKeysFull above the limit."""
        if isinstance(record, OtherGroupsReplay):
            self.passed_over.append(record)
            return
        self._count_rejected(record)
        at = _key_partition(record)
        parked = self._parked.get(at)
        if isinstance(record, ReplayedRecord) and parked is not None and _in_chain(record, parked):
            self._dead_letter(record, reason, parked.since, original_offset=record.mark.offset)
            self._update(at, msgspec.structs.replace(parked, reason=reason))
            return
        self._close_letter(record)
        if self._store is None or record.key is None or record.topic in (topics.CONTROL, self._dead_letters.topic):
            self._dead_letter(record, reason)
            return
        if parked is None and self.is_full:
            raise ParkedKeysFull(
                record,
                f"{len(self._parked)} keys of {self._dead_letters.group} are parked, which is the limit, and the record"
                f" at offset {record.offset} cannot be handled ({reason}). Correct the cause and replay the parked keys"
                " (`piepowder replay`), or start the service with a larger PIEPOWDER_PARKED_KEYS.",
            )
        self._dead_letter(record, reason, record.offset)
        self._update(at, Parked(record.offset, record.offset, reason, to_text(self._clock.now())))

    def confirm_handled(self, record: RawRecord) -> None:
        """Note that the effects of the record are durable; for a replayed copy, close its dead letter."""
        if not isinstance(record, ReplayedRecord):
            return
        self._close_letter(record)
        metrics.RETURNED.labels(self._dead_letters.group, record.topic).inc()
        at = _key_partition(record)
        parked = self._parked.get(at)
        if parked is not None and _in_chain(record, parked):
            self._advance(at, parked, record.mark)

    async def flush(self) -> None:
        """Make the decisions on the batch durable; raises Transient."""
        if self._letters or self._receipts:
            written = await self._dead_letters.send(self._letters, self._receipts)
            for letter in written:
                self._report(letter)
            self._note_repeats(written)
            self._letters, self._receipts = [], []
        if (self._changed or self._new_discards) and self._store is not None:
            await self._store.write({at: self._parked.get(at) for at in self._changed}, self._new_discards)
            self._changed, self._new_discards = set(), []
            self._update_gauge()

    def _count_rejected(self, record: RawRecord) -> None:
        (self.passed_over if self._is_about_letter(record) else self.rejected).append(record)

    def _is_about_letter(self, record: RawRecord) -> bool:
        """True for a dead letter about another dead letter."""
        if record.topic != self._dead_letters.topic:
            return False
        return bool(dict(record.headers).get("dl_topic") == record.topic.encode())

    def _note_repeats(self, written: Sequence[NewDeadLetter]) -> None:
        """Move the records whose dead letters were written before from `rejected` to `passed_over`."""
        if len(written) == len(self._letters):
            return
        fresh = {id(letter) for letter in written}
        repeats = {id(letter.record) for letter in self._letters if id(letter) not in fresh}
        self.passed_over += [record for record in self.rejected if id(record) in repeats]
        self.rejected = [record for record in self.rejected if id(record) not in repeats]

    def close(self) -> None:
        """Forget the parked keys: this process no longer consumes in the group."""
        self._parked = {}
        self._update_gauge()

    def _admits_copy(self, record: RawRecord, mark: ReplayMark, at: KeyPartition, parked: Parked) -> bool:
        is_next = mark.after == parked.back
        if is_next and mark.discard is not None:
            self._discard(record, mark, mark.discard)
            self._advance(at, parked, mark)
            return False
        if is_next and not mark.leave:
            return True
        self.passed_over.append(record)
        if is_next:
            reason = f"left behind by a replay: {parked.reason}"
            self._dead_letter(record, reason, original_offset=mark.offset)
            self._advance(at, parked, mark)
        elif mark.offset > parked.back:
            reason = "replayed before its turn: an earlier record of its key could not be handled, or is not replayed"
            self._dead_letter(record, reason, parked.since, original_offset=mark.offset)
            # an earlier owner of the partition may have written an outdated entry last: write the current one again
            self._update(at, parked)
        return False

    def _discard(self, record: RawRecord, mark: ReplayMark, discard: Discard) -> None:
        """Close the dead letter of a copy, and remember its record, so that a reset of the group passes it over."""
        letter = NewDeadLetter(record, discard.as_reason, mark.offset, None, discard)
        self.passed_over.append(record)
        self._letters.append(letter)
        self._note_discarded(letter.place, letter.content)
        self._new_discards.append((letter.place, letter.content, discard.at))

    def _note_discarded(self, place: RecordId, content: bytes) -> None:
        self._discarded[place] = content
        tp = TopicPartition(*place[:2])
        self._discarded_until[tp] = max(place.offset, self._discarded_until.get(tp, -1))

    def _is_discarded(self, record: RawRecord) -> bool:
        """True if an operator discarded the record, or the record of a copy.

        The content is compared too: a topic that was created again has other records at the same offsets.
        """
        if not self._discarded or isinstance(record, OtherGroupsReplay):
            return False
        offsets = {record.offset, record.mark.offset} if isinstance(record, ReplayedRecord) else {record.offset}
        known = [self._discarded.get(RecordId(record.topic, record.partition, offset)) for offset in offsets]
        return any(known) and digest(record.key, record.value, record.headers) in known

    def _advance(self, at: KeyPartition, parked: Parked, mark: ReplayMark) -> None:
        if mark.end and mark.offset >= parked.last:
            del self._parked[at]
            self._changed.add(at)
            log.info("a key is free again", extra={"topic": at.topic, "partition": at.partition})
        else:
            self._update(at, msgspec.structs.replace(parked, back=mark.offset))

    def _update(self, at: KeyPartition, parked: Parked) -> None:
        self._parked[at] = parked
        self._changed.add(at)

    def _close_letter(self, record: RawRecord) -> None:
        if isinstance(record, ReplayedRecord):
            self._receipts.append(ReplayReceipt(record, record.mark.offset))

    def _dead_letter(
        self, record: RawRecord, reason: str, parked: int | None = None, *, original_offset: int | None = None
    ) -> None:
        letter = NewDeadLetter(record, reason, record.offset if original_offset is None else original_offset, parked)
        if self._is_about_letter(record):
            # It is only logged: a consumer of this topic would dead-letter it again, without end.
            self._report(letter)
        else:
            self._letters.append(letter)

    def _report(self, letter: NewDeadLetter) -> None:
        record = letter.record
        if letter.discard is not None:
            log.warning("a dead letter is discarded", extra=letter.place._asdict() | {"reason": letter.reason})
            return
        metrics.DEADLETTERED.labels(self._dead_letters.group, record.topic).inc()
        details = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "event_id": (dict(record.headers).get("ce_id") or b"").decode(errors="replace"),
            "reason": letter.reason,
        }
        if letter.parked is None:
            log.error("dead-lettered", extra=details)
        elif letter.parked == record.offset:
            log.error("dead-lettered, and its key is parked", extra=details)
        else:
            log.warning("dead-lettered with its parked key", extra=details)

    def _update_gauge(self) -> None:
        if self._store is not None:
            metrics.PARKED_KEYS.labels(self._dead_letters.group).set(len(self._parked))


def parked_keys(records: Sequence[RawRecord], group: str) -> dict[KeyPartition, Parked]:
    """A group's parked keys, from all records of a `parked` topic.

    Only the group writes its entries. A record of another writer that is no entry is ignored, as if it were not there,
    and is logged and counted: it must stop neither the group nor a tool.
    """
    prefix = f"{group}/".encode()
    found: dict[KeyPartition, Parked] = {}
    invalid: dict[bytes, tuple[str, str]] = {}
    for record in records:
        if record.key is None or not record.key.startswith(prefix):
            continue
        if record.value is None:  # deletes an entry, also an invalid one
            invalid.pop(record.key, None)
        try:
            _, topic, partition, key = record.key.split(b"/", 3)
            at = KeyPartition(topic.decode(), int(partition), key)
            parked = None if record.value is None else _decode(record.value)
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            if record.value is not None:
                invalid[record.key] = f"{record.topic}[{record.partition}]@{record.offset}", repr(error)
            continue
        invalid.pop(record.key, None)
        if parked is None:
            found.pop(at, None)
        else:
            found[at] = parked
    for entry, (place, reason) in invalid.items():
        details = {"group": group, "place": place, "key": repr(entry)[:300], "reason": reason}
        log.error("an entry of the parked keys is invalid, and is ignored", extra=details)
    metrics.INVALID_PARKED_KEYS.labels(group).set(len(invalid))
    return found


def _entry_key(group: str, at: KeyPartition) -> bytes:
    return f"{group}/{at.topic}/{at.partition}/".encode() + at.key


def _key_partition(record: RawRecord) -> KeyPartition:
    return KeyPartition(record.topic, record.partition, record.key or b"")


def _in_chain(record: RawRecord, parked: Parked | None) -> bool:
    """True if the record is a copy in its key's chain; `parked` is the state of the key."""
    if not isinstance(record, ReplayedRecord) or parked is None or record.offset <= parked.since:
        return False
    return _has_predecessor(record) or (record.mark.parked and record.mark.offset >= parked.since)


def _discard_of(record: RawRecord) -> Discard | None:
    return record.mark.discard if isinstance(record, ReplayedRecord) else None


def _has_predecessor(record: RawRecord) -> bool:
    return isinstance(record, ReplayedRecord) and record.mark.after is not None
