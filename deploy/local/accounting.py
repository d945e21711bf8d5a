"""The account: a pure comparison of accepted items with Kafka's topics and the audit logs.

The journal has the items that intake accepted (202). The topics, read from their first offset, have the outcomes. The
size of the audit log shows whether each event was recorded once. In each of its regions, an accepted item has exactly
one outcome, or it is missing. The account does not trust a service's own counts of its work.

An item counts once in each of its regions, however often it was posted: after a 503, in another line, or by a second
submission of the file. Dead letters are those of `piepowder.dead_letters`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from types import ModuleType
from typing import Any, Final, NamedTuple

from deploy.services import SERVICES
from piepowder.dead_letters import DeadLetterCounts, OpenLetter, RegionDeadLetters
from piepowder.tally import RegionItem
from shared.contracts import ids
from shared.contracts.envelope import Event, RecordId
from shared.contracts.events import (
    CASE_OPENED,
    CASE_WITHDRAWN,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    CaseClosed,
    CaseOpened,
    CaseSuperseded,
    DecisionMade,
    ItemSubmitted,
    ItemWithdrawn,
    access,
    control,
)
from shared.kafka.records import RawRecord

POLICY_VERDICTS: Final = ("approve", "reject")
_STEPS: Final = {"cases": (ITEM_SUBMITTED, ITEM_WITHDRAWN), "decisions": (CASE_OPENED, CASE_WITHDRAWN)}
_STEP_OF_GROUP: Final = {
    f"piepowder-{service.name}-": _STEPS[n] for service in SERVICES for n in service.writes if n in _STEPS
}
"""By the prefix of a group: the types of the records without which an item, or its withdrawal, has no outcome."""


class ItemOutcome(StrEnum):
    """The outcome of an accepted item in a region."""

    BY_POLICY = "decided by policy"
    BY_PEOPLE = "decided by people"
    OPEN = "in a queue"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    PARKED = "parked"
    DEAD_LETTERED = "dead-lettered"
    DISCARDED = "discarded"
    MISSING = "missing"


class AuditCounts(NamedTuple):
    """The number of an audit log's events, each id once: from the topics of its region, and from the control topic."""

    regional: int
    control: int


def audit_counts(totals: Mapping[str, Any]) -> AuditCounts:
    """The counts from an audit log's totals: one for each event id, so without conflicts. Without the access events,
    too, which are published during the account."""
    conflicts: Mapping[str, int] = totals["conflicts"]
    by_type = {kind: n - conflicts.get(kind, 0) for kind, n in totals["by_type"].items()}
    size: int = totals["size"] - sum(conflicts.values())
    from_control, from_access = (
        sum(n for kind, n in by_type.items() if kind.startswith(_entities(contract))) for contract in (control, access)
    )
    return AuditCounts(size - from_control - from_access, from_control)


def _entities(contract: ModuleType) -> tuple[str, ...]:
    """The prefixes `piepowder.<entity>.` of a topic's event types, in any version."""
    types = [value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)]
    return tuple({f"{'.'.join(kind.split('.')[:2])}." for kind in types})


class Account(NamedTuple):
    """The result of an account.

    `items`: the number of different accepted items. `total`: the same, with each item counted in each of its regions.
    `by_queue`: the outcomes' counts, by region and queue.
    `by_people`: the items that reviewers decided.
    `missing`: the last trace of each missing item.
    `doubles`: sentences about items and cases with two outcomes.
    `gaps`: sentences about audit logs that do not match the topics.
    `repeats`: the number of repeated events, which are allowed.
    """

    items: int
    total: int
    outcomes: Mapping[ItemOutcome, int]
    by_queue: Mapping[tuple[str, str], Mapping[ItemOutcome, int]]
    actions: Mapping[tuple[ItemOutcome, str], int]
    by_people: frozenset[RegionItem]
    missing: Mapping[RegionItem, str]
    doubles: list[str]
    gaps: list[str]
    events: int
    repeats: int

    @property
    def holds(self) -> bool:
        """True if every item is accounted for: none missing, no doubles, every event once in the audit log."""
        return not (self.missing or self.doubles or self.gaps)

    @property
    def settled(self) -> bool:
        """True if all events have arrived in the topics and the audit logs."""
        return not (self.missing or self.gaps)

    def proof(self, *, is_empty: str = "nothing was submitted from here") -> str:
        """The account in one line. `is_empty` is the text for no accepted item."""
        faults = f"{len(self.missing)} MISSING, {len(self.doubles)} doubled, {len(self.gaps)} audit gap(s)"
        if not self.total:
            return is_empty if self.holds else f"{is_empty}; {faults}"
        parts = " + ".join(
            f"{self.outcomes.get(outcome, 0):,} {outcome}"
            for outcome in ItemOutcome
            if outcome is not ItemOutcome.MISSING
        )
        verdict = "every accepted item is accounted for" if self.holds else faults
        return (
            f"{self.items:,} items accepted, {self.total:,} by region = {parts}"
            f" + {len(self.missing):,} missing: {verdict}"
        )


class _Case(NamedTuple):
    case_id: str
    queue: str
    verdict: str


class _RegionState:
    def __init__(self) -> None:
        self.events: dict[str, RecordId] = {}
        self.submitted: set[str] = set()
        self.cases: dict[str, _Case] = {}  # by item
        self.decisions: dict[tuple[str, int], tuple[DecisionMade, str, RecordId]] = {}
        self.superseded: dict[str, RecordId] = {}
        self.withdrawn: set[str] = set()
        self.closed: dict[str, RecordId] = {}
        self.complete = True
        self.letters = RegionDeadLetters()


class Ledger:
    """The events of the topics so far. They may arrive in any order of topics, and repeatedly."""

    def __init__(self) -> None:
        self._regions: defaultdict[str, _RegionState] = defaultdict(_RegionState)
        self._control: set[str] = set()
        self._doubles: list[str] = []
        self._repeats = 0

    def add(self, region: str, event: Event[Any], record: RecordId) -> None:
        """Add an event of a region's topic."""
        seen, event_id, data = self._regions[region], event.attributes.id, event.data
        if event_id in seen.events:
            self._repeats += 1
        seen.events[event_id] = record
        match data:
            case ItemSubmitted():
                seen.submitted.add(data.item_id)
            case CaseOpened():
                first = seen.cases.setdefault(data.item_id, _Case(data.case_id, data.queue, data.verdict))
                if first.case_id != data.case_id:
                    two = f"{first.case_id} and {data.case_id}"
                    self._doubles.append(f"item {data.item_id} has two cases in {region}: {two} ({record})")
            case DecisionMade():
                self._add_decision(seen, data, event_id, record)
            case CaseSuperseded():
                seen.superseded[data.case_id] = record
            case ItemWithdrawn():
                seen.withdrawn.add(data.item_id)
            case CaseClosed():
                seen.closed[data.case_id] = record

    def add_unknown(self, region: str, event_id: str, record: RecordId) -> None:
        """Add an event of an unknown type: the audit log must have it too."""
        self._regions[region].events[event_id] = record

    def set_truncated(self, region: str) -> None:
        """Mark a region's topics as truncated: Kafka has deleted their first records, which the audit log still has."""
        self._regions[region].complete = False

    def add_control(self, event_id: str) -> None:
        """Add an event of the control topic, which every region's audit log has."""
        self._control.add(event_id)

    def add_letter(self, region: str, record: RawRecord) -> None:
        """Add a record of a region's topic of dead letters."""
        self._regions[region].letters.add_letter(record)

    @property
    def decided(self) -> int:
        """The number of decisions so far."""
        return sum(len(seen.decisions) for seen in self._regions.values())

    @property
    def dead_letters(self) -> Mapping[str, DeadLetterCounts]:
        """The numbers of dead letters by region."""
        return {region: seen.letters.counts() for region, seen in self._regions.items()}

    def submitted(self) -> set[RegionItem]:
        """The items of the submissions and cases so far."""
        return {
            RegionItem(item_id, region)
            for region, seen in self._regions.items()
            for item_id in (*seen.submitted, *seen.cases)
        }

    def has_ended(self, region: str, case_id: str) -> bool:
        """True if a case was decided, superseded or withdrawn, according to the events so far."""
        seen = self._regions[region]
        return (case_id, 1) in seen.decisions or case_id in seen.superseded or case_id in seen.closed

    def waiting(self, accepted: Iterable[RegionItem]) -> Iterator[RegionItem]:
        """The accepted items whose case waits for a reviewer, according to the events so far."""
        stops = {region: _Stops(seen.letters) for region, seen in self._regions.items()}
        for pair in accepted:
            seen = self._regions[pair.region]
            if _outcome(pair, seen, stops.get(pair.region, _NO_STOPS))[0] is ItemOutcome.OPEN:
                yield pair

    def account(self, accepted: Iterable[RegionItem], audits: Mapping[str, AuditCounts]) -> Account:
        """Compare the accepted items (each counts once) and the audit logs' counts by region with the events so far."""
        outcomes: Counter[ItemOutcome] = Counter()
        by_queue: defaultdict[tuple[str, str], Counter[ItemOutcome]] = defaultdict(Counter)
        actions: Counter[tuple[ItemOutcome, str]] = Counter()
        by_people: set[RegionItem] = set()
        missing: dict[RegionItem, str] = {}
        doubles = list(self._doubles)
        pairs = set(accepted)
        stops = {region: _Stops(seen.letters) for region, seen in self._regions.items()}
        for pair in pairs:
            seen = self._regions[pair.region]
            outcome, why = _outcome(pair, seen, stops.get(pair.region, _NO_STOPS))
            outcomes[outcome] += 1
            if outcome is ItemOutcome.BY_PEOPLE:
                by_people.add(pair)
            if outcome is ItemOutcome.MISSING:
                missing[pair] = why
            case = seen.cases.get(pair.item_id)
            if case is None:
                continue
            by_queue[pair.region, case.queue][outcome] += 1
            decision = seen.decisions.get((case.case_id, 1))
            if decision is not None:
                actions[outcome, decision[0].action] += 1
            ends = {
                "decided": None if decision is None else decision[2],
                "superseded": seen.superseded.get(case.case_id),
                "withdrawn": seen.closed.get(case.case_id),
            }
            ended = [(end, where) for end, where in ends.items() if where is not None]
            if len(ended) > 1:
                (first, _), (second, where), *_ = ended
                doubles.append(f"case {case.case_id} was {first} and {second} as well ({where})")
        gaps = []
        for region, audit in audits.items():
            log, seen = f"the audit log of {region}", self._regions[region]
            events, published = len(seen.events), len(self._control)
            if audit.regional < events or (audit.regional > events and seen.complete):
                gaps.append(
                    f"{log} has {audit.regional:,} entries of its region, the topics {events:,} distinct events"
                )
            if audit.control < published:  # it may have more: Kafka compacts that topic
                gaps.append(f"{log} has {audit.control:,} entries of control, the topic {published:,} distinct events")
        events = len(self._control) + sum(len(seen.events) for seen in self._regions.values())
        return Account(
            items=len({pair.item_id for pair in pairs}),
            total=len(pairs),
            outcomes=outcomes,
            by_queue=dict(by_queue),
            actions=actions,
            by_people=frozenset(by_people),
            missing=missing,
            doubles=doubles,
            gaps=gaps,
            events=events,
            repeats=self._repeats,
        )

    def _add_decision(self, seen: _RegionState, made: DecisionMade, event_id: str, record: RecordId) -> None:
        first = seen.decisions.setdefault((made.case_id, made.n), (made, event_id, record))
        if first[0] != made or first[1] != event_id:
            self._doubles.append(
                f"case {made.case_id} has two decisions {made.n}: {first[0].action} {first[0].decision_id} ({first[2]})"
                f" and {made.action} {made.decision_id} ({record})"
            )


class _Stops:
    """The dead letters that stop items, by the type of the record and the id of the item's first event.

    `parked`: open ones, and whether their key is parked. `discarded`: those that an operator discarded.
    """

    def __init__(self, letters: RegionDeadLetters) -> None:
        self.parked: dict[tuple[str, str], bool] = {}
        for letter in letters.open.values():
            if _is_a_step(letter):
                place = letter.event_type, letter.correlation_id
                self.parked[place] = letter.in_chain or self.parked.get(place, False)
        self.discarded = {
            (each.letter.event_type, each.letter.correlation_id)
            for each in letters.discarded.values()
            if _is_a_step(each.letter)
        }

    def has(self, event_type: str, first_event: str) -> bool:
        return (event_type, first_event) in self.parked or (event_type, first_event) in self.discarded


_NO_STOPS: Final = _Stops(RegionDeadLetters())


def _is_a_step(letter: OpenLetter) -> bool:
    return any(
        letter.id.group.startswith(prefix) and letter.event_type in types for prefix, types in _STEP_OF_GROUP.items()
    )


def _outcome(pair: RegionItem, seen: _RegionState, stops: _Stops) -> tuple[ItemOutcome, str]:
    """The outcome of an item; for a missing item, also its last trace."""
    case = seen.cases.get(pair.item_id)
    if case is not None:
        decision = seen.decisions.get((case.case_id, 1))
        if decision is not None:
            return (ItemOutcome.BY_POLICY if decision[0].automated else ItemOutcome.BY_PEOPLE), ""
        if case.case_id in seen.superseded:
            return ItemOutcome.SUPERSEDED, ""
        if case.case_id in seen.closed:
            return ItemOutcome.WITHDRAWN, ""
    first_event = ids.event_id(pair.item_id, ITEM_SUBMITTED, pair.region)
    step = ITEM_SUBMITTED if case is None else CASE_OPENED
    if (is_parked := stops.parked.get((step, first_event))) is not None:
        return ItemOutcome.PARKED if is_parked else ItemOutcome.DEAD_LETTERED, ""
    if (step, first_event) in stops.discarded:
        return ItemOutcome.DISCARDED, ""
    if case is None:
        return ItemOutcome.MISSING, "no case was opened" if pair.item_id in seen.submitted else "it is not in the topic"
    if case.verdict in POLICY_VERDICTS:
        return ItemOutcome.MISSING, f"its case {case.case_id} has the verdict {case.verdict} and no decision"
    is_stopped = stops.has(ITEM_WITHDRAWN, first_event) or stops.has(CASE_WITHDRAWN, first_event)
    if pair.item_id in seen.withdrawn and not is_stopped:
        return ItemOutcome.MISSING, f"it was withdrawn, and its case {case.case_id} was neither closed nor decided"
    return ItemOutcome.OPEN, ""
