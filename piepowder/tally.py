"""The result of a submission: counts, accepted items, and refusals by reason."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from piepowder import console_output
from piepowder.imports.rows import OmittedField, Refusal

_REFUSALS_KEPT: Final = 1000
_REASONS_SHOWN: Final = 12
_GROUPS_KEPT: Final = 1000
_VARYING: Final = re.compile(r"""(?<!\w)(['"])(?:(?!\1)[^\\]|\\.)*(?:\1|\Z)|[0-9][0-9.,]*""", re.DOTALL)
"""Quoted texts, also those without an end, and numbers. A mark behind a letter is an apostrophe."""


class RegionItem(NamedTuple):
    """An accepted item in one of its regions."""

    item_id: str
    region: str


class JournalEntry(msgspec.Struct, frozen=True):
    """One line of the journal: an item that intake accepted."""

    line: int
    item_id: str
    subject: str
    regions: list[str]

    def items(self) -> Iterator[RegionItem]:
        """The item in each of its regions."""
        return (RegionItem(self.item_id, region) for region in self.regions)


@dataclass
class RefusalGroup:
    """Similar refusals: their number, and the first of them."""

    example: Refusal
    count: int = 0


class RefusalGroups:
    """Refusals by reason. Two are similar if their reasons differ only in quoted texts and in numbers."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, str], RefusalGroup] = {}
        self.count = 0

    def add(self, refusal: Refusal) -> None:
        """Count a refusal."""
        self.count += 1
        key = (refusal.status, _VARYING.sub("…", refusal.detail))
        if key not in self._groups and len(self._groups) >= _GROUPS_KEPT:
            key = (0, "")
        group = self._groups.setdefault(key, RefusalGroup(refusal))
        group.count += 1

    def largest(self) -> list[RefusalGroup]:
        """The groups, the largest first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.example.number))


@dataclass
class RefusalTally:
    """The first refusals; all refusals and omitted fields by reason. `incomplete`: listings without a faulty field."""

    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    groups: RefusalGroups = field(default_factory=RefusalGroups)
    incomplete: int = 0
    omitted: Counter[str] = field(default_factory=Counter)
    omissions: RefusalGroups = field(default_factory=RefusalGroups)

    def omit(self, line: int, fields: Sequence[OmittedField]) -> None:
        """Count the faulty optional fields that a listing does not have any more."""
        self.incomplete += bool(fields)
        for one in fields:
            self.omitted[one.field] += 1
            self.omissions.add(Refusal(line, 0, one.detail))

    def refuse(self, refusal: Refusal) -> None:
        self.refused += 1
        self.groups.add(refusal)
        if len(self.refusals) < _REFUSALS_KEPT:
            self.refusals.append(refusal)


@dataclass
class Tally(RefusalTally):
    """The verdicts of intake so far."""

    accepted: int = 0
    last_line: int = 0
    items: set[RegionItem] = field(default_factory=set)
    regions: Counter[str] = field(default_factory=Counter)

    def accept(self, entry: JournalEntry) -> None:
        self.accepted += 1
        for item in entry.items():
            if item not in self.items:
                self.items.add(item)
                self.regions[item.region] += 1

    def sent_lines(self, unit: str = "line") -> str:
        """The first part of a sentence: the last line that was sent."""
        return f"{unit.capitalize()}s up to {self.last_line:,} were sent" if self.last_line else f"No {unit} was sent"


def show_refusals(tally: RefusalTally, report: Path | None, limit: int = _REASONS_SHOWN, unit: str = "line") -> None:
    """Show the refusals by reason with their number and an example, the fields that were left out, and the path of the
    report with all refusals."""
    _show_groups(tally.groups, limit, unit)
    if tally.refused and report is not None:
        console_output.show(f"  All refused {unit}s: {report}")
    if tally.incomplete:
        fields = ", ".join(f"{field} {count:,}" for field, count in tally.omitted.most_common())
        console_output.show(f"Without faulty optional fields: {tally.incomplete:,} listings ({fields}).")
        _show_groups(tally.omissions, limit, unit)


def _show_groups(groups: RefusalGroups, limit: int, unit: str) -> None:
    shown = groups.largest()
    for group in shown[:limit]:
        example = group.example
        status = f" ({example.status})" if example.status else ""
        many = f"{group.count:,} times, first in " if group.count > 1 else ""
        console_output.show(f"  {many}{unit} {example.number:,}{status}: {console_output.clean(example.detail, 300)}")
    if rest := sum(group.count for group in shown[limit:]):
        console_output.show(f"  … {rest:,} more, for {len(shown) - limit:,} other reasons")
