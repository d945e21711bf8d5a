"""A history in order, for the checks of the promises: events by topic, items by id, cases by region."""

from collections import defaultdict
from datetime import datetime
from typing import Any, Final, NamedTuple

from tests.chaos.checker.cloudevents import Event, derived, read_event
from tests.chaos.checker.history import GENERATION, Call, History, LogRow, Note, Posted, Record

SUBMITTED = "item.submitted"
OPENED = "case.opened"
ITEM_WITHDRAWN = "item.withdrawn"
WITHDRAWN = "case.withdrawn"
RECOVERED = "decision.recovered"
NOTICE = "notice"
APPEAL = "appeal"

_MODEL_SECONDS: Final = 15.0  # until every process has applied a published operating model
_CALL_SECONDS: Final = 60.0  # after which a call without a response has no effect any more
_ENDLESS: Final = float("inf")

Place = tuple[str, int, int]


class Letter(NamedTuple):
    """A record that a group dead-lettered, with the reason; `since` is the offset from which its key is parked, None if
    it is not parked."""

    region: str
    source: Place
    group: str
    reason: str
    since: int | None
    record: Record


class Loss(NamedTuple):
    """An accepted loss of a group: the records from `first` to `last` (None: all later ones) of a partition, in one
    generation of its topic; `event` says so."""

    group: str
    topic: str
    partition: int
    generation: int
    reason: str
    first: int
    last: int | None
    event: Event

    def has(self, place: Place) -> bool:
        topic, partition, offset = place
        generation, raw = divmod(offset, GENERATION)
        same = (topic, partition, generation) == (self.topic, self.partition, self.generation)
        return same and self.first <= raw <= (_ENDLESS if self.last is None else self.last)


class Model(NamedTuple):
    """The region of each market in a published operating model; some process may have it from `since` to `until`."""

    since: float
    until: float
    markets: dict[str, str]


class Restore(NamedTuple):
    """A restore of the database of a region's decisions. The backup has what was committed before `dumped`, and the
    database that it replaces was dropped between `dropping` and `dropped`. Its events from `unpublished` on were not
    published then."""

    dumped: float
    unpublished: float
    dropping: float
    dropped: float
    note: Note


class Lease(NamedTuple):
    """The journal's facts about one lease: the claims that received it, and the calls that used it."""

    claims: list[Call]
    heartbeats: list[Call]
    releases: list[Call]
    decisions: list[Call]


class Facts:
    """The records of a history by stage, item and case.

    The first occurrence of an event is the one with the lowest offset; `events` has no planted records.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.regions = sorted(history.cells)
        self.records = sorted(history.records, key=lambda r: (r.topic, r.partition, r.offset))
        self.by_place = {(r.topic, r.partition, r.offset): r for r in self.records}
        self.planted = {(p.topic, p.partition, p.offset): p for p in history.planted}
        self.events: dict[tuple[str, str], list[Event]] = defaultdict(list)
        self.any_events: dict[str, dict[str, Event]] = {region: {} for region in self.regions}
        self.broken: list[tuple[Record, str]] = []
        self.letters: dict[str, list[Letter]] = {region: [] for region in self.regions}
        self.returned: set[tuple[Place, str]] = set()
        self.copies: dict[tuple[str, str], list[Place]] = defaultdict(list)
        self.policy_sets: set[str] = set()
        published: dict[str, Event] = {}
        for record in self.records:
            self._place(record, published)
        self.first = {place: _first(events) for place, events in self.events.items()}
        self.submissions = {region: self._by("submissions", region, SUBMITTED, "item_id") for region in self.regions}
        self.withdrawals = {
            region: self._by("submissions", region, ITEM_WITHDRAWN, "item_id") for region in self.regions
        }
        self.opened = {region: self._by("cases", region, OPENED, "case_id") for region in self.regions}
        self.withdrawn = {region: self._by("cases", region, WITHDRAWN, "case_id") for region in self.regions}
        self.models = _models(history)
        self.recreated = [note for note in history.notes if note.kind == "recreated"]
        self.losses = [self._loss(event) for region in self.regions for event in self._losses_in(region)]
        self.lives = {region: self._events_by_case(region) for region in self.regions}
        self.restores = {region: _restores(history, f"decision-{region}") for region in self.regions}
        self.server_starts = [note.at for note in history.notes if note.kind == "postgres started"]
        self.incarnations = {
            region: [event for event in self.stage("decisions", region) if event.name == RECOVERED]
            for region in self.regions
        }
        self.rows = {region: {row.case_id: row for row in history.cells[region].cases} for region in self.regions}
        self.dead_letter_of = {
            region: {(letter.source, letter.group.removeprefix("piepowder-").removesuffix(f"-{region}")): letter
                     for letter in self.letters[region] if (letter.source, letter.group) not in self.returned}
            for region in self.regions
        }  # fmt: skip
        self.posts: dict[str, list[Posted]] = defaultdict(list)
        self.all_posts = list(history.posts())
        named = {e.subject: item for region in self.regions for item, e in self.submissions[region].items()}
        for posted in self.all_posts:
            if (item := item_of(posted) or named.get(posted.subject)) is not None:
                self.posts[item].append(posted)
        self.leases = self._leases()
        self.withdraw_calls: dict[str, list[Call]] = defaultdict(list)
        self.complaints: dict[tuple[str, str], list[Call]] = defaultdict(list)  # by type and reference
        for call in history.calls:
            if call.kind == "withdraw":
                self.withdraw_calls[call.facts["item_id"]].append(call)
            elif call.kind in (NOTICE, APPEAL):
                self.complaints[call.kind, call.facts["body"]["reference"]].append(call)
        self.complained = {
            (type_, region): self._by("submissions", region, f"{type_}.submitted", f"{type_}_id")
            for type_ in (NOTICE, APPEAL)
            for region in self.regions
        }

    def stage(self, stage: str, region: str) -> list[Event]:
        """The first occurrence of each event of a topic, in its order."""
        return self.first.get((stage, region), [])

    def regions_of(self, posted: Posted) -> list[set[str]]:
        """The regions that own the item's markets: one set for each operating model that may have been in force."""
        markets = (posted.body or {})["markets"]
        return [{model[market] for market in markets} for model in self.models_of(posted.call)]

    def possible_regions_of(self, posted: Posted) -> set[str]:
        """The regions that own the item's markets in one of the models that may have been in force."""
        return set().union(*self.regions_of(posted))

    def models_of(self, call: Call) -> list[dict[str, str]]:
        """The region of each market in the models that may have been in force during a call."""
        end = call.sent_at + _CALL_SECONDS
        if call.status is not None and call.answered_at is not None:
            end = call.answered_at
        return [model.markets for model in self.models if model.since <= end and call.sent_at <= model.until]

    def is_lost(self, place: Place, group: str) -> bool:
        """True if the group never handles this record, because an operator accepted its loss."""
        return any(loss.group == group and loss.has(place) for loss in self.losses)

    def handled_at(self, event: Event, group: str) -> int | None:
        """The offset of the first copy of an event that the group handles; None if all copies are accepted losses."""
        places = self.copies.get((event.record.topic, event.id), [_place_of(event.record)])
        return next((place[2] for place in places if not self.is_lost(place, group)), None)

    def logged_record(self, row: LogRow) -> Record | None:
        """The record at the place of an entry in the audit log: the one with its event id, if the topic was created
        again and has several records at this place."""
        generations = 1 + sum(note.facts["topic"] == row.topic for note in self.recreated)
        offsets = [row.offset + GENERATION * n for n in range(generations)]
        found = [self.by_place.get((row.topic, row.partition, offset)) for offset in offsets]
        records = [record for record in found if record is not None]
        wanted = row.event_id.encode()
        return next((r for r in records if dict(r.headers).get("ce_id") == wanted), records[0] if records else None)

    def dead_lettered(self, event: Event, region: str, consumer: str) -> Letter | None:
        """The dead letter of an event's first copy, if a consumer of the region dead-lettered every copy."""
        letters = [
            self.dead_letter_of[region].get((place, consumer)) for place in self.copies[event.record.topic, event.id]
        ]
        return None if None in letters else letters[0]

    def _place(self, record: Record, earlier: dict[str, Event]) -> None:
        """`earlier` has the events so far by id: a repeated event equals the first one except for its position."""
        stage, region = _stage(record.topic)
        place = (record.topic, record.partition, record.offset)
        if stage == "deadletters":
            letter = self._in_its_generation(_letter(region, record))
            if any(name == "dl_returned" for name, _ in record.headers):
                self.returned.add((letter.source, letter.group))
            elif place not in self.planted:
                self.returned.discard((letter.source, letter.group))
                self.letters[region].append(letter)
            return
        event = read_event(record)
        if isinstance(event, Event) and (first := earlier.setdefault(event.id, event))[:-1] == event[:-1]:
            event = first._replace(record=record)
        owner = "global" if stage == "control" else region
        if isinstance(event, Event) and event.region == owner:
            for cell in self.regions if stage == "control" else [region]:
                self.any_events[cell].setdefault(event.id, event)
            if event.type == "piepowder.policyset.published.v1":
                self.policy_sets.add(event.data["id"])
        if place in self.planted:
            return
        if isinstance(event, str):
            self.broken.append((record, event))
        else:
            self.events[stage, region].append(event)
            self.copies[record.topic, event.id].append(place)

    def _in_its_generation(self, letter: Letter) -> Letter:
        """A letter with the place of the record in the generation of its topic that has this record."""
        topic, partition, offset = letter.source
        generations = sum(note.kind == "recreated" and note.facts["topic"] == topic for note in self.history.notes)
        for n in range(1, generations + 1):
            place = topic, partition, offset + GENERATION * n
            found = self.by_place.get(place)
            if found is not None and (found.key, found.value) == (letter.record.key, letter.record.value):
                return letter._replace(source=place)
        return letter

    def _losses_in(self, region: str) -> list[Event]:
        return [event for event in self.stage("access", region) if event.name == "loss.accepted"]

    def _loss(self, event: Event) -> Loss:
        """The loss of an event. The id of the topic tells its generation; a recreated topic has lost the one before."""
        data = event.data
        ids = [note.facts["topic_id"] for note in self.recreated if note.facts["topic"] == data["topic"]]
        generation = ids.index(data["topic_id"]) + 1 if data["topic_id"] in ids else 0
        if data["reason"] == "recreated":
            generation -= 1
        place = data["group"], data["topic"], data["partition"], generation
        return Loss(*place, data["reason"], data["first"], data.get("last"), event)

    def _by(self, stage: str, region: str, name: str, field: str) -> dict[str, Event]:
        found: dict[str, Event] = {}
        for event in self.stage(stage, region):
            if event.name == name:
                found.setdefault(event.data[field], event)
        return found

    def _events_by_case(self, region: str) -> dict[str, list[Event]]:
        lives: dict[str, list[Event]] = defaultdict(list)
        for event in self.stage("decisions", region):
            if event.name != RECOVERED:
                lives[event.data["case_id"]].append(event)
        return lives

    def _leases(self) -> dict[tuple[str, str, int], Lease]:
        leases: dict[tuple[str, str, int], Lease] = defaultdict(lambda: Lease([], [], [], []))
        for call in self.history.calls:
            if call.kind == "claim" and call.status == 201:
                key = call.facts["region"], call.answer["case_id"], call.answer["token"]
                leases[key].claims.append(call)
            elif call.kind in ("heartbeat", "release", "decide"):
                lease = leases[call.facts["region"], call.facts["case_id"], call.facts["token"]]
                kinds = {"heartbeat": lease.heartbeats, "release": lease.releases, "decide": lease.decisions}
                kinds[call.kind].append(call)
        return dict(leases)


def seconds(text: str) -> float:
    """A time in epoch seconds."""
    return datetime.fromisoformat(text).timestamp()


def _restores(history: History, database: str) -> list[Restore]:
    """The restores of a database, in their order."""
    return [
        Restore(facts["dumped"], facts["unpublished"], facts["dropping"], facts["dropped"], note)
        for note in history.notes
        if note.kind == "restored" and (facts := note.facts)["database"] == database
    ]


def _models(history: History) -> list[Model]:
    """The models in the order of their publications; a publication without a response may have succeeded."""
    models = [Model(-_ENDLESS, _ENDLESS, history.markets)]
    for note in history.notes:
        if note.kind == "followed":  # intake, one process, has the last model
            models = [*(model._replace(until=min(model.until, note.at)) for model in models[:-1]), models[-1]]
        if note.kind != "model" or note.facts["status"] not in (200, None):
            continue
        if note.facts["status"] == 200:
            until = note.facts["answered"] + _MODEL_SECONDS
            models = [model._replace(until=min(model.until, until)) for model in models]
        models.append(Model(note.facts["sent"], _ENDLESS, note.facts["markets"]))
    return models


def is_of_item(event: Event) -> bool:
    """True if a case event is about an item, and not about a notice or an appeal."""
    return bool(event.data.get("case_type", "item") == "item")


def is_repeated(first: Any, later: Any) -> bool:
    """True if two responses differ at most in their regions, and have the same ids in each region of both.

    What is posted again after its market has moved goes to other regions.
    """
    if first == later:
        return True
    rest = [{name: value for name, value in answer.items() if name != "regions"} for answer in (first, later)]
    regions, later_regions = first.get("regions", {}), later.get("regions", {})
    return rest[0] == rest[1] and all(regions[one] == later_regions[one] for one in regions.keys() & later_regions)


def is_older(event: Event, than: Event) -> bool:
    """True if both versions are numbers and the first one is smaller, or else if one client stated an earlier time."""
    version, newest = event.data.get("version"), than.data.get("version")
    if version is not None and newest is not None:
        return bool(version < newest)
    stated, last = event.data.get("requested_at"), than.data.get("requested_at")
    if not stated or not last or event.data.get("client") != than.data.get("client"):
        return False
    return bool(stated < last)  # UTC with milliseconds, so that texts compare like times


def item_of(posted: Posted) -> str | None:
    """The id of the posted item; None if only the missing response could tell it."""
    body = posted.body or {}
    if posted.verdict.get("item_id"):
        return str(posted.verdict["item_id"])
    if posted.body is None or not isinstance(body.get("version"), int):
        return None
    return derived("item", *(str(body.get(name)) for name in ("platform", "kind", "id", "version")))


def _place_of(record: Record) -> Place:
    return record.topic, record.partition, record.offset


def _stage(topic: str) -> tuple[str, str]:
    _, stage, *region = topic.split(".", 2)
    return stage, region[0] if region else "global"


def _first(events: list[Event]) -> list[Event]:
    seen: dict[str, Event] = {}
    for event in events:
        seen.setdefault(event.id, event)
    return list(seen.values())


def _letter(region: str, record: Record) -> Letter:
    found: dict[str, Any] = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    partition, offset = found.get("dl_partition", ""), found.get("dl_offset", "")
    source = (found.get("dl_topic", ""), int(partition) if partition.isdigit() else -1,
              int(offset) if offset.isdigit() else -1)  # fmt: skip
    since = int(found["dl_parked"]) if found.get("dl_parked", "").isdigit() else None
    return Letter(region, source, found.get("dl_group", ""), found.get("dl_reason", ""), since, record)
