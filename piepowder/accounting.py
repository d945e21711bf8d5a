"""Whether every accepted item is accounted for: a pure comparison of what clients were told with what stands in Kafka.

The journal says what intake answered 202; the topics, read from their first offset, say what became of it; the audit
log's size says whether each of those events was kept once. Each accepted item ends, in each of its regions, in exactly
one way, or it is missing. Nothing here trusts a service's own count of its work.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from shared.contracts import ids
from shared.contracts.envelope import Event
from shared.contracts.events import (
    ITEM_SUBMITTED,
    CaseClosed,
    CaseOpened,
    CaseSuperseded,
    DecisionMade,
    ItemSubmitted,
    ItemWithdrawn,
)

_OF_CONTROL: Final = ("piepowder.operatingmodel.", "piepowder.policyset.", "piepowder.client.")  # of any version
_OF_ACCESS: Final = "piepowder.access."
POLICY_VERDICTS: Final = ("approve", "reject")
_GROUPS_THAT_STOP_AN_ITEM: Final = ("piepowder-router-", "piepowder-decision-")


class Pair(NamedTuple):
    """An accepted item in one of its regions."""

    item_id: str
    region: str


class Fate(StrEnum):
    """How an accepted item ended in a region."""

    BY_POLICY = "decided by policy"
    BY_PEOPLE = "decided by people"
    OPEN = "in a queue"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    PARKED = "parked"
    DEAD_LETTERED = "dead-lettered"
    MISSING = "missing"


class Audited(NamedTuple):
    """How many entries an audit log has of its region's topics, and how many of the control topic."""

    regional: int
    control: int


def audited(totals: Mapping[str, Any]) -> Audited:
    """What an audit log has, by its own totals, but for what tells who called: that goes on being told while an account
    is made."""
    by_type: Mapping[str, int] = totals["by_type"]
    size: int = totals["size"]
    control = sum(n for kind, n in by_type.items() if kind.startswith(_OF_CONTROL))
    return Audited(size - control - sum(n for kind, n in by_type.items() if kind.startswith(_OF_ACCESS)), control)


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Account(NamedTuple):
    """The reckoning. `by_queue` is region, queue → how many of each fate; `missing` says why of each pair; `doubles`
    and `gaps` are sentences with their records; `repeats` counts events met again, which is allowed."""

    total: int
    fates: Mapping[Fate, int]
    by_queue: Mapping[tuple[str, str], Mapping[Fate, int]]
    actions: Mapping[tuple[Fate, str], int]
    by_people: frozenset[Pair]
    missing: Mapping[Pair, str]
    doubles: list[str]
    gaps: list[str]
    events: int
    repeats: int

    @property
    def holds(self) -> bool:
        """Whether everything is accounted for: nothing missing, nothing doubled, every event in the audit log."""
        return not (self.missing or self.doubles or self.gaps)

    @property
    def settled(self) -> bool:
        """Whether nothing is under way any more."""
        return not (self.missing or self.gaps)

    def proof(self) -> str:
        """The account in one line."""
        parts = " + ".join(f"{self.fates.get(fate, 0):,} {fate}" for fate in Fate if fate is not Fate.MISSING)
        verdict = (
            "every accepted item is accounted for"
            if self.holds
            else f"{len(self.missing)} MISSING, {len(self.doubles)} doubled, {len(self.gaps)} audit gap(s)"
        )
        return f"{self.total:,} accepted = {parts} + {len(self.missing):,} missing: {verdict}"


class _Case(NamedTuple):
    case_id: str
    queue: str
    verdict: str


class _Region:
    def __init__(self) -> None:
        self.events: dict[str, Place] = {}
        self.submitted: set[str] = set()
        self.cases: dict[str, _Case] = {}  # by item
        self.decisions: dict[tuple[str, int], tuple[DecisionMade, str, Place]] = {}
        self.superseded: dict[str, Place] = {}
        self.withdrawn: set[str] = set()
        self.closed: dict[str, Place] = {}
        self.is_whole = True
        self.letters: dict[tuple[str, Place], str | None] = {}  # the open ones: by group and place, the item's event
        self.stopped: defaultdict[str, dict[tuple[str, Place], bool]] = defaultdict(dict)  # by it; whether parked


class Ledger:
    """What was read from the topics so far. Events may come in any order of topics, and again."""

    def __init__(self) -> None:
        self._regions: defaultdict[str, _Region] = defaultdict(_Region)
        self._control: set[str] = set()
        self._doubles: list[str] = []
        self._repeats = 0

    def note(self, region: str, event: Event[Any], place: Place) -> None:
        """Take in an event of a region's topic."""
        seen, event_id, data = self._regions[region], event.attributes.id, event.data
        again = event_id in seen.events
        if again:
            self._repeats += 1
        seen.events[event_id] = place
        match data:
            case ItemSubmitted():
                seen.submitted.add(data.item_id)
            case CaseOpened():
                first = seen.cases.setdefault(data.item_id, _Case(data.case_id, data.queue, data.verdict))
                if first.case_id != data.case_id:
                    two = f"{first.case_id} and {data.case_id}"
                    self._doubles.append(f"item {data.item_id} has two cases in {region}: {two} ({place})")
            case DecisionMade():
                self._note_decision(seen, data, event_id, place)
            case CaseSuperseded():
                seen.superseded[data.case_id] = place
            case ItemWithdrawn():
                seen.withdrawn.add(data.item_id)
            case CaseClosed():
                seen.closed[data.case_id] = place
            case _:
                pass

    def note_other(self, region: str, event_id: str, place: Place) -> None:
        """Take in an event of a type that is not known here: the audit log must hold it too."""
        self._regions[region].events[event_id] = place

    def note_retention(self, region: str) -> None:
        """Take in that a region's topics do not go back to their first record any more; the audit log does."""
        self._regions[region].is_whole = False

    def note_control(self, event_id: str) -> None:
        """Take in an event of the control topic, which every region's audit log holds."""
        self._control.add(event_id)

    def note_dead_letter(
        self, region: str, correlation_id: str | None, group: str, place: Place, *, parked: bool = False
    ) -> None:
        """Take in a dead letter: the item's first event, who set it aside and from where, and whether it is parked."""
        seen = self._regions[region]
        seen.letters[group, place] = correlation_id
        if correlation_id is not None and group.startswith(_GROUPS_THAT_STOP_AN_ITEM):
            seen.stopped[correlation_id][group, place] = parked

    def note_returned(self, region: str, group: str, place: Place) -> None:
        """Take in a dead letter's receipt: the record is set aside no more."""
        seen = self._regions[region]
        correlation_id = seen.letters.pop((group, place), None)
        if correlation_id is not None:
            seen.stopped[correlation_id].pop((group, place), None)

    @property
    def decided(self) -> int:
        """How many decisions were read."""
        return sum(len(seen.decisions) for seen in self._regions.values())

    @property
    def dead_letters(self) -> Mapping[str, int]:
        """How many records are set aside, by region."""
        return {region: len(seen.letters) for region, seen in self._regions.items()}

    def waiting(self, accepted: Iterable[Pair]) -> Iterator[Pair]:
        """Those of the accepted pairs whose case waits for people, as far as was read."""
        return (pair for pair in accepted if _fate(pair, self._regions[pair.region])[0] is Fate.OPEN)

    def account(self, accepted: Iterable[Pair], audits: Mapping[str, Audited]) -> Account:
        """Reckon the accepted pairs (each counts once) and what the audit logs have, by region."""
        fates: Counter[Fate] = Counter()
        by_queue: defaultdict[tuple[str, str], Counter[Fate]] = defaultdict(Counter)
        actions: Counter[tuple[Fate, str]] = Counter()
        by_people: set[Pair] = set()
        missing: dict[Pair, str] = {}
        doubles = list(self._doubles)
        pairs = set(accepted)
        for pair in pairs:
            seen = self._regions[pair.region]
            fate, why = _fate(pair, seen)
            fates[fate] += 1
            if fate is Fate.BY_PEOPLE:
                by_people.add(pair)
            if fate is Fate.MISSING:
                missing[pair] = why
            case = seen.cases.get(pair.item_id)
            if case is None:
                continue
            by_queue[pair.region, case.queue][fate] += 1
            decision = seen.decisions.get((case.case_id, 1))
            if decision is not None:
                actions[fate, decision[0].action] += 1
            ends = {
                "decided": None if decision is None else decision[2],
                "superseded": seen.superseded.get(case.case_id),
                "withdrawn": seen.closed.get(case.case_id),
            }
            told = [(end, where) for end, where in ends.items() if where is not None]
            if len(told) > 1:
                (first, _), (second, where), *_ = told
                doubles.append(f"case {case.case_id} was {first} and {second} as well ({where})")
        gaps = []
        for region, audit in audits.items():
            log, seen, control = f"the audit log of {region}", self._regions[region], len(self._control)
            events = len(seen.events)
            if audit.regional < events or (audit.regional > events and seen.is_whole):
                gaps.append(
                    f"{log} has {audit.regional:,} entries of its region, the topics {events:,} distinct events"
                )
            if audit.control < control:  # it may have more: that topic is compacted, and the log forgets nothing
                gaps.append(f"{log} has {audit.control:,} entries of control, the topic {control:,} distinct events")
        events = len(self._control) + sum(len(seen.events) for seen in self._regions.values())
        return Account(
            total=len(pairs),
            fates=fates,
            by_queue=dict(by_queue),
            actions=actions,
            by_people=frozenset(by_people),
            missing=missing,
            doubles=doubles,
            gaps=gaps,
            events=events,
            repeats=self._repeats,
        )

    def _note_decision(self, seen: _Region, made: DecisionMade, event_id: str, place: Place) -> None:
        first = seen.decisions.setdefault((made.case_id, made.n), (made, event_id, place))
        if first[0] != made or first[1] != event_id:
            self._doubles.append(
                f"case {made.case_id} has two decisions {made.n}: {first[0].action} {first[0].decision_id} ({first[2]})"
                f" and {made.action} {made.decision_id} ({place})"
            )


def _fate(pair: Pair, seen: _Region) -> tuple[Fate, str]:
    """How an item ended; for a missing one, the last that was seen of it."""
    case = seen.cases.get(pair.item_id)
    if case is not None:
        decision = seen.decisions.get((case.case_id, 1))
        if decision is not None:
            return (Fate.BY_POLICY if decision[0].automated else Fate.BY_PEOPLE), ""
        if case.case_id in seen.superseded:
            return Fate.SUPERSEDED, ""
        if case.case_id in seen.closed:
            return Fate.WITHDRAWN, ""
    if letters := seen.stopped.get(ids.event_id(pair.item_id, ITEM_SUBMITTED, pair.region)):
        return Fate.PARKED if any(letters.values()) else Fate.DEAD_LETTERED, ""
    if case is None:
        return Fate.MISSING, "no case was opened" if pair.item_id in seen.submitted else "it is not in the topic"
    if case.verdict in POLICY_VERDICTS:
        return Fate.MISSING, f"its case {case.case_id} has the verdict {case.verdict} and no decision"
    if pair.item_id in seen.withdrawn:
        return Fate.MISSING, f"it was withdrawn, and its case {case.case_id} was neither closed nor decided"
    return Fate.OPEN, ""
