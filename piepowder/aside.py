"""What is set aside in a region, and how it comes back: read off its letters, their receipts and its parked keys.

Pure: records in, plans out. A letter is open until a receipt for its place stands behind it. What belongs to a parked
key is one chain, in the order in which it stood; every other letter is a unit of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition

from shared.kafka.dead_letters import original_headers
from shared.kafka.parking import REPLAY_HEADER, KeyPartition, Parked, ReplayMark, encode_mark, parked_keys
from shared.kafka.producer import Record

RawRecord: TypeAlias = ConsumerRecord[Any, Any]


class Place(NamedTuple):
    """Which record a group set aside."""

    group: str
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Letter(NamedTuple):
    """An open letter: `stands` is where it is on the dead-letter topic, `size` that of its value in bytes."""

    place: Place
    key: bytes | None
    reason: str
    in_chain: bool
    unread: bool
    stands: tuple[TopicPartition, int]
    size: int

    @property
    def lane(self) -> KeyPartition:
        return KeyPartition(self.place.topic, self.place.partition, self.key or b"")


class Unit(NamedTuple):
    """Letters of a group that come back together, by offset; `parked` is their key's state, None for one alone."""

    group: str
    lane: KeyPartition
    letters: list[Letter]
    parked: Parked | None

    @property
    def reason(self) -> str:
        return self.letters[0].reason if self.parked is None else self.parked.reason


class Choice(NamedTuple):
    """What a person wants back; what is None does not limit it. `group` may be a service's name."""

    group: str | None = None
    key: str | None = None
    reason: str | None = None

    def fits(self, unit: Unit, region: str) -> bool:
        """Whether a unit is wanted; a parked key is wanted whole."""
        if self.group is not None and unit.group not in (self.group, f"piepowder-{self.group}-{region}"):
            return False
        if self.key is not None and (unit.letters[0].key or b"").decode(errors="replace") != self.key:
            return False
        reasons = [unit.reason, *(letter.reason for letter in unit.letters)]
        return self.reason is None or any(self.reason.lower() in reason.lower() for reason in reasons)


class Aside:
    """Everything that is set aside in a region, as far as its two topics were noted; each in its order."""

    def __init__(self) -> None:
        self.open: dict[Place, Letter] = {}
        self.returned: dict[Place, int] = {}
        self.strange = 0
        self._entries: dict[bytes | None, RawRecord] = {}
        self._parked: dict[str, dict[KeyPartition, Parked]] = {}

    def note_letter(self, record: RawRecord) -> None:
        """Take in a record of the dead-letter topic. A copy on it, which a replay made, is no letter of its own."""
        headers = dict(record.headers)
        if REPLAY_HEADER in headers:
            return
        try:
            place = Place(
                headers["dl_group"].decode(),
                headers["dl_topic"].decode(),
                int(headers["dl_partition"]),
                int(headers["dl_offset"]),
            )
            reason = headers["dl_reason"].decode(errors="replace")
            returned = int(headers["dl_returned"]) if "dl_returned" in headers else None
        except (KeyError, AttributeError, ValueError):
            self.strange += 1
            return
        if returned is not None:
            self.open.pop(place, None)
            self.returned[place] = returned
            return
        self.open[place] = Letter(
            place,
            record.key,
            reason,
            "dl_parked" in headers,
            "dl_unread" in headers,
            (TopicPartition(record.topic, record.partition), record.offset),
            len(record.value or b""),
        )

    def note_parked(self, record: RawRecord) -> None:
        """Take in a record of the topic of parked keys."""
        self._entries[record.key] = record
        self._parked = {}

    def parked(self, group: str) -> dict[KeyPartition, Parked]:
        """What a group has parked."""
        if group not in self._parked:
            self._parked[group] = parked_keys(list(self._entries.values()), group)
        return self._parked[group]

    def again(self, place: Place) -> Letter | None:
        """The letter of the copy that came back for a place, if that was set aside in its turn."""
        returned = self.returned.get(place)
        return None if returned is None else self.open.get(place._replace(offset=returned))

    def units(self) -> list[Unit]:
        """What is set aside, parked keys first, then by where it stood."""
        chains: defaultdict[tuple[str, KeyPartition], list[Letter]] = defaultdict(list)
        alone: list[Unit] = []
        for place, letter in sorted(self.open.items()):
            state = self.parked(place.group).get(letter.lane)
            if state is None or not letter.in_chain:
                alone.append(Unit(place.group, letter.lane, [letter], None))
            elif place.offset > state.back:
                chains[place.group, letter.lane].append(letter)
        found = [Unit(group, lane, letters, self.parked(group)[lane]) for (group, lane), letters in chains.items()]
        return found + alone


def portion(units: Iterable[Unit], letters: int, size: int) -> list[tuple[Unit, bool]]:
    """The first of `units`, of so many letters and bytes at most, one letter at least; whether each is whole.

    A chain that is cut goes on, with what is left of it, when its first part has been handled.
    """
    found: list[tuple[Unit, bool]] = []
    for unit in units:
        taken: list[Letter] = []
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


def copies(unit: Unit, *, whole: bool, leave: bool) -> list[ReplayMark]:
    """How each letter of a unit is marked when it comes back; `leave` leaves the first of a chain where it is."""
    if unit.parked is None:
        return [ReplayMark(unit.group, letter.place.offset, parked=letter.in_chain) for letter in unit.letters]
    offsets = [letter.place.offset for letter in unit.letters]
    last = len(offsets) - 1
    return [
        ReplayMark(unit.group, offset, after, end=whole and n == last, leave=leave and n == 0)
        for n, (after, offset) in enumerate(zip([unit.parked.back, *offsets], offsets, strict=False))
    ]


def put_back(letter: Letter, stored: RawRecord, copy: ReplayMark) -> Record:
    """The record that a letter holds, as it was, marked, for the place where it stood."""
    headers = [*original_headers(stored.headers), (REPLAY_HEADER, encode_mark(copy))]
    return Record(letter.place.topic, stored.key, stored.value, headers, letter.place.partition)


def hindrance(unit: Unit, partitions: Mapping[str, int], control: str) -> str | None:
    """Why a unit cannot be put back, None when it can; `partitions` has the topics that records may come back onto."""
    letter = unit.letters[0]
    if letter.unread:
        return "the Kafka client cannot read it: it stays in its own topic, whole, and nowhere else"
    if letter.place.topic == control:
        return (
            "it would come into force again over what was published since: reset the group to its first offset instead"
        )
    if letter.place.partition >= partitions.get(letter.place.topic, 0):
        return "it names a place that is none in this region"
    return None
