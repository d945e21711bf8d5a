"""The dead letters of a region and their replay, read from the dead letters, their receipts and the parked keys.

Pure: no I/O. A dead letter is open until a receipt for its record follows, or an operator discards it. It is parked if
its key was parked when it was last written. The dead letters of a parked key are one chain in their original order and
form one unit of replay; every other dead letter is a separate unit.

`status`, `run`, `account` and `replay` count dead letters with `RegionDeadLetters.counts`, and nothing else does.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aiokafka import TopicPartition

from shared.kafka.dead_letters import original_headers
from shared.kafka.discards import Discard
from shared.kafka.parking import REPLAY_HEADER, KeyPartition, Parked, ReplayMark, encode_mark, parked_keys
from shared.kafka.producer import Record
from shared.kafka.records import RawRecord


class DeadLetterId(NamedTuple):
    """A record that a consumer group dead-lettered."""

    group: str
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class OpenLetter(NamedTuple):
    """An open dead letter: `stored` is its position on the dead-letter topic, `size` its value's size in bytes.

    `in_chain`: its key was parked. `event_id`, `event_type` and `correlation_id` are empty if the record has none.
    """

    id: DeadLetterId
    key: bytes | None
    reason: str
    in_chain: bool
    unread: bool
    stored: tuple[TopicPartition, int]
    size: int
    event_id: str = ""
    event_type: str = ""
    correlation_id: str = ""

    @property
    def lane(self) -> KeyPartition:
        return KeyPartition(self.id.topic, self.id.partition, self.key or b"")


class DiscardedLetter(NamedTuple):
    """A dead letter that an operator discarded, as it was before; `why` is the operator's reason."""

    letter: OpenLetter
    by: str
    why: str


class DeadLetterCounts(NamedTuple):
    """The numbers of dead letters in a region.

    `open`: neither handled after a replay nor discarded. Each record counts once for each group, however often it
    was dead-lettered.
    `parked`: those of them whose key was parked; `keys`: the number of these keys, for each group and partition.
    `discarded`: closed by an operator.
    `unknown`: records of the topic that do not name a dead-lettered record.
    """

    open: int = 0
    parked: int = 0
    keys: int = 0
    discarded: int = 0
    unknown: int = 0

    def __str__(self) -> str:
        parked = (
            f" ({self.parked:,} parked, {self.keys:,} {'key' if self.keys == 1 else 'keys'})" if self.parked else ""
        )
        unknown = f", {self.unknown:,} that name no record" if self.unknown else ""
        return f"{self.open:,} open{parked}, {self.discarded:,} discarded{unknown}"


class ReplayUnit(NamedTuple):
    """Dead letters of a group that are replayed together, by offset; `parked` is the state of their key, None outside
    of a chain."""

    group: str
    lane: KeyPartition
    letters: list[OpenLetter]
    parked: Parked | None

    @property
    def reason(self) -> str:
        return self.letters[0].reason if self.parked is None else self.parked.reason


class ReplayFilter(NamedTuple):
    """The conditions for units to replay or to discard; None sets no condition.

    `group` may be a service's name. `id` is the position of a dead-lettered record (`topic[partition]@offset`), or the
    id of its event.
    """

    group: str | None = None
    key: str | None = None
    reason: str | None = None
    topic: str | None = None
    id: str | None = None

    def matches(self, unit: ReplayUnit, region: str) -> bool:
        """True if a unit is selected; a parked key is selected as a whole, by any of its letters."""
        reasons = [unit.reason, *(letter.reason for letter in unit.letters)]
        return self._has_place(unit, region) and self._has_reason(reasons) and any(map(self._has_id, unit.letters))

    def matches_first(self, unit: ReplayUnit, region: str) -> bool:
        """True if the first letter of a unit is selected, not one that waits behind it."""
        reasons = [unit.reason, unit.letters[0].reason]
        return self._has_place(unit, region) and self._has_reason(reasons) and self._has_id(unit.letters[0])

    def _has_place(self, unit: ReplayUnit, region: str) -> bool:
        if self.group is not None and unit.group not in (self.group, f"piepowder-{self.group}-{region}"):
            return False
        if self.key is not None and (unit.letters[0].key or b"").decode(errors="replace") != self.key:
            return False
        return self.topic in (None, unit.lane.topic)

    def _has_reason(self, reasons: Sequence[str]) -> bool:
        return self.reason is None or any(self.reason.lower() in reason.lower() for reason in reasons)

    def _has_id(self, letter: OpenLetter) -> bool:
        return self.id is None or self.id in (str(letter.id), letter.event_id)


class RegionDeadLetters:
    """The dead letters of a region.

    Add every record of its topic of dead letters, which also has the receipts, and of its topic of parked keys, in the
    order of each topic.
    """

    def __init__(self) -> None:
        self.open: dict[DeadLetterId, OpenLetter] = {}
        self.returned: dict[DeadLetterId, int] = {}
        self.discarded: dict[DeadLetterId, DiscardedLetter] = {}
        self.unknown = 0
        self._entries: list[RawRecord] = []
        self._parked: dict[str, dict[KeyPartition, Parked]] = {}

    def add_letter(self, record: RawRecord) -> None:
        """Add a record of the dead-letter topic.

        A record with a replay header is ignored: it is the replayed copy of an earlier record of this topic, for the
        consumer that could not handle that record.
        """
        headers = dict(record.headers)
        if REPLAY_HEADER in headers:
            return
        try:
            letter_id = DeadLetterId(
                headers["dl_group"].decode(),
                headers["dl_topic"].decode(),
                int(headers["dl_partition"]),
                int(headers["dl_offset"]),
            )
            reason = headers["dl_reason"].decode(errors="replace")
            returned = int(headers["dl_returned"]) if "dl_returned" in headers else None
        except (KeyError, AttributeError, ValueError):
            self.unknown += 1
            return
        if returned is not None:
            self.open.pop(letter_id, None)
            self.returned[letter_id] = returned
            return
        letter = OpenLetter(
            letter_id,
            record.key,
            reason,
            "dl_parked" in headers,
            "dl_unread" in headers,
            (TopicPartition(record.topic, record.partition), record.offset),
            len(record.value or b""),
            *(_text(headers.get(name)) for name in ("ce_id", "ce_type", "ce_correlationid")),
        )
        if "dl_discarded" in headers:
            by, why = _text(headers.get("dl_by")), _text(headers["dl_discarded"])
            self.discarded[letter_id] = DiscardedLetter(self.open.pop(letter_id, letter), by, why)
        else:
            self.open[letter_id] = letter
            self.discarded.pop(letter_id, None)

    def counts(self) -> DeadLetterCounts:
        """The numbers of dead letters."""
        parked = [letter for letter in self.open.values() if letter.in_chain]
        return DeadLetterCounts(
            open=len(self.open),
            parked=len(parked),
            keys=len({(letter.id.group, letter.lane) for letter in parked}),
            discarded=len(self.discarded),
            unknown=self.unknown,
        )

    def add_parked(self, record: RawRecord) -> None:
        """Add a record of the topic of parked keys."""
        self._entries.append(record)
        self._parked = {}

    def parked(self, group: str) -> dict[KeyPartition, Parked]:
        """The parked keys of a group."""
        if group not in self._parked:
            self._parked[group] = parked_keys(self._entries, group)
        return self._parked[group]

    def failed_again(self, letter_id: DeadLetterId) -> OpenLetter | None:
        """The dead letter of a record's replayed copy, if that copy was dead-lettered too."""
        returned = self.returned.get(letter_id)
        return None if returned is None else self.open.get(letter_id._replace(offset=returned))

    def units(self) -> list[ReplayUnit]:
        """All units: first the chains of parked keys, then the other dead letters, by their original position."""
        chains: defaultdict[tuple[str, KeyPartition], list[OpenLetter]] = defaultdict(list)
        single: list[ReplayUnit] = []
        for letter_id, letter in sorted(self.open.items()):
            state = self.parked(letter_id.group).get(letter.lane)
            if state is None or not letter.in_chain:
                single.append(ReplayUnit(letter_id.group, letter.lane, [letter], None))
            elif letter_id.offset > state.back:
                chains[letter_id.group, letter.lane].append(letter)
        found = [
            ReplayUnit(group, lane, letters, self.parked(group)[lane]) for (group, lane), letters in chains.items()
        ]
        return found + single


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def portion(units: Iterable[ReplayUnit], letters: int, size: int) -> list[tuple[ReplayUnit, bool]]:
    """The first units, with at most `letters` dead letters and `size` bytes (but at least one dead letter).

    The flag is False for a unit that was cut; its rest follows after this part has been handled.
    """
    found: list[tuple[ReplayUnit, bool]] = []
    for unit in units:
        taken: list[OpenLetter] = []
        for letter in unit.letters:
            if letters <= 0 or (size < letter.size and (found or taken)):
                break
            taken.append(letter)
            letters, size = letters - 1, size - letter.size
        whole = len(taken) == len(unit.letters)
        if taken:
            found.append((unit._replace(letters=taken), whole))
        if not whole:
            break
    return found


def copies(
    unit: ReplayUnit, *, whole: bool, leave: bool, discards: Mapping[DeadLetterId, Discard] = MappingProxyType({})
) -> list[ReplayMark]:
    """The mark of each dead letter's copy; `leave` keeps the first record of a chain dead-lettered. The dead letters in
    `discards` are closed instead of handled."""
    if unit.parked is None:
        return [
            ReplayMark(unit.group, letter.id.offset, parked=letter.in_chain, discard=discards.get(letter.id))
            for letter in unit.letters
        ]
    letters = [letter.id for letter in unit.letters]
    last = len(letters) - 1
    return [
        ReplayMark(
            unit.group,
            letter.offset,
            letters[n - 1].offset if n else unit.parked.back,
            end=whole and n == last,
            leave=leave and n == 0,
            discard=discards.get(letter),
        )
        for n, letter in enumerate(letters)
    ]


def replay_record(letter: OpenLetter, stored: RawRecord, copy: ReplayMark) -> Record:
    """The original record of a dead letter, marked as a copy, for its original partition."""
    headers = [*original_headers(stored.headers), (REPLAY_HEADER, encode_mark(copy))]
    return Record(letter.id.topic, stored.key, stored.value, headers, letter.id.partition)


def obstacle(unit: ReplayUnit, partitions: Mapping[str, int], control: str) -> str | None:
    """The reason why a unit cannot be replayed, None when it can.

    `partitions` is the number of partitions, on the region's cluster, of each topic that accepts copies.
    """
    letter = unit.letters[0]
    if letter.unread:
        return "the Kafka client cannot read it: only its original topic has its content"
    if letter.id.topic == control:
        return "its old content would come into force again: reset the group to its first offset instead"
    return no_place(letter, partitions)


def no_place(letter: OpenLetter, partitions: Mapping[str, int]) -> str | None:
    """The reason why a letter's partition cannot receive a copy, None when it can; `partitions` as in `obstacle`."""
    topic, partition = letter.id.topic, letter.id.partition
    if topic not in partitions:
        return f"{topic} is not a topic of this region that accepts copies, or its cluster does not have it"
    if partition >= partitions[topic]:
        return f"{topic} has {partitions[topic]} partitions, so there is no partition {partition}"
    return None
