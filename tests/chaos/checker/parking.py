"""Parked keys: the records that follow a failed record of the same key are dead-lettered too; records that are
not events park no key."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checker.facts import Facts, Letter, Place
from tests.chaos.checker.history import Record
from tests.chaos.checker.violation import Violation

PARKS = ("an unknown event version",)  # of the planted records; the others are not events
_IN_ANY_ORDER = "piepowder-intake-"  # its facts do not depend on the order, so it parks no key


def parked_keys_wait_completely(facts: Facts) -> Iterator[Violation]:
    """A group that has parked a key dead-letters all later records of the key; exactly the records that must park their
    key do so."""
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
                if record.offset > place[2] and not (
                    (_place(record), group) in found or facts.is_lost(_place(record), group)
                ):
                    title = (
                        f"OVERTAKEN: {group} has parked {original and original.key!r}, but handled a later record of it"
                    )
                    yield Violation(6, title, (str(letter.record), str(record)))


def follows_a_planted_record(facts: Facts, letter: Letter, found: dict[tuple[Place, str], Letter]) -> bool:
    """True if a valid record was dead-lettered correctly: it follows a planted record for which the group parked the
    key."""
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
                how = "did not park" if parks else "parked"
                title = f"{planted.kind}: {group} {how} its key"
                yield Violation(6, title, (str(facts.by_place.get(place, place)), str(letter.record)))


def _place(record: Record) -> Place:
    return record.topic, record.partition, record.offset
