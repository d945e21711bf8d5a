"""Parked keys: records that follow a failed record of their key wait with it; records that are not events block
nothing."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checker.facts import Facts, Letter, Place
from tests.chaos.checker.history import Record
from tests.chaos.checker.violation import Violation

PARKS = (
    "an unknown event version",
    "a case that is there already",
)  # of the planted records; the others are not events
_IN_ANY_ORDER = "piepowder-intake-"  # its facts are independent of the order, so it parks nothing


def parked_keys_wait_completely(facts: Facts) -> Iterator[Violation]:
    """A group that dead-letters a record behind a parked one dead-letters all later records of the key, and a record
    that must park its key does so."""
    lanes: dict[tuple[str, int, bytes | None], list[Record]] = defaultdict(list)
    for record in facts.records:
        lanes[record.topic, record.partition, record.key].append(record)
    for region in facts.regions:
        first: dict[tuple[Place, str], Letter] = {}
        found: dict[tuple[Place, str], Letter] = {}
        for letter in facts.letters[region]:
            found[letter.source, letter.group] = letter
            if letter.since is not None and letter.source[2] == letter.since:
                first[letter.source, letter.group] = letter
        yield from _planted_correctly(facts, region, found)
        for (place, group), letter in first.items():
            original = facts.by_place.get(place)
            behind = lanes[(*place[:2], original.key)] if original is not None else []
            if any((_place(record), group) in facts.returned for record in behind):
                continue  # it was replayed
            for record in behind:
                if record.offset > place[2] and (_place(record), group) not in found:
                    title = f"OVERTAKEN: {group} has parked {original and original.key!r}, and took what follows"
                    yield Violation(6, title, (str(letter.record), str(record)))


def waits_behind_what_was_planted(facts: Facts, letter: Letter, found: dict[tuple[Place, str], Letter]) -> bool:
    """Whether a valid record was correctly dead-lettered: it follows a planted record of its key that the group
    parked."""
    if letter.since is None:
        return False
    place = (*letter.source[:2], letter.since)
    head, original, first = (
        found.get((place, letter.group)),
        facts.by_place.get(letter.source),
        facts.by_place.get(place),
    )
    if head is None or original is None or first is None or head.since != letter.since or place not in facts.planted:
        return False
    return original.key == first.key and original.offset > first.offset


def _planted_correctly(facts: Facts, region: str, found: dict[tuple[Place, str], Letter]) -> Iterator[Violation]:
    for place, planted in facts.planted.items():
        for group in planted.groups:
            letter = found.get((place, group))
            if letter is None or not group.endswith(f"-{region}") or (place, group) in facts.returned:
                continue
            parks = planted.kind in PARKS and not group.startswith(_IN_ANY_ORDER)
            if parks != (letter.since is not None):
                how = "does not hold up" if parks else "holds up"
                title = f"{planted.kind}: {group} {how} the records behind it"
                yield Violation(6, title, (str(facts.by_place.get(place, place)), str(letter.record)))


def _place(record: Record) -> Place:
    return record.topic, record.partition, record.offset
