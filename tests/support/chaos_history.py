"""Recorded histories of a chaos run, for tests of the checker."""

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import (
    Call,
    CaseRow,
    Cell,
    DecisionRow,
    History,
    LetterRow,
    LogRow,
    Planted,
    Record,
    StatusRow,
)

START = 1_699_999_980.0  # 22:13:00, the 780th second of the hour
MARKETS = {"DE": "eu", "FR": "eu", "US": "us"}


def timestamp(seconds: float) -> str:
    return f"2023-11-14T22:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}.{int(seconds * 1000) % 1000:03d}Z"


class Recording:
    """Records a history without violations: a small model of the services for these tests."""

    def __init__(self) -> None:
        self.history = History(MARKETS, cells={"eu": Cell(), "us": Cell()})
        self._offsets: Counter[str] = Counter()
        self._items: dict[str, str] = {}
        self._now = 780.0
        self._tallies: dict[str, Counter[str]] = {"eu": Counter(), "us": Counter()}
        about = {"id": "ps-1", "number": 1}
        self.event("piepowder.control", "global", "policyset.published", "policy-set", derived("ps"), about)

    def call(
        self, kind: str, facts: dict[str, Any], status: int | None, response: Any, *, at: float | None = None
    ) -> Call:
        self._now += 0.01
        sent = self._now if at is None else at
        responded = None if status is None else START + sent - 780 + 0.005
        n = len(self.history.calls) + 1
        call = Call(
            n, kind, START + sent - 780, facts, responded, status, response, "1" if status in (429, 503) else None
        )
        self.history.calls.append(call)
        return call

    def event(  # noqa: PLR0917 - the parts of an event
        self, topic: str, region: str, name: str, subject: str, event_id: str, data: dict[str, Any]
    ) -> Record:
        self._now += 0.001
        headers = {
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_type": f"piepowder.{name}.v1",
            "ce_source": "test",
            "ce_time": timestamp(self._now),
            "ce_subject": subject,
            "ce_region": region,
            "ce_correlationid": event_id,
        }
        record = self.put(topic, subject, headers, msgspec.json.encode(data))
        digest = sha256(record.value or b"").hexdigest()
        for cell in ("eu", "us") if region == "global" else (region,):
            log = self.history.cells[cell].log
            row = (event_id, f"piepowder.{name}.v1", subject, region, topic, 0, record.offset, digest)
            log.append(LogRow(len(log) + 1, *row))
            self._count(cell)
        return record

    def put(self, topic: str, key: str, headers: dict[str, str], value: bytes) -> Record:
        pairs = tuple((name, content.encode()) for name, content in headers.items())
        record = Record(topic, 0, self._offsets[topic], 0, key.encode(), pairs, value)
        self._offsets[topic] += 1
        self.history.records.append(record)
        return record

    def post(self, subject: str, version: int, *, markets: str = "DE", verdict: str = "approve") -> str:
        """Post an item and open its case; each verdict except `review` also decides it. Returns the case id."""
        body = {"platform": "p", "kind": "product", "id": subject, "version": version, "markets": [markets]}
        item = derived("item", "p", "product", subject, str(version))
        self.call("post", {"body": msgspec.json.encode(body).decode()}, 202, {"item_id": item})
        region = MARKETS[markets]
        key = f"p:product:{subject}"
        about = {"item_id": item, "version": version}
        self.event(
            f"piepowder.submissions.{region}",
            region,
            "item.submitted",
            key,
            derived("s", item, region),
            {**about, "item": {"markets": [markets]}},
        )
        case_id = derived("case", item, region, "item")
        self._items[case_id] = item
        opened = {
            **about,
            "case_id": case_id,
            "verdict": verdict,
            "queue": "general",
            "priority": 5,
            "trace": {"policy_set": "ps-1"},
        }
        self.event(f"piepowder.cases.{region}", region, "case.opened", key, derived("o", case_id), opened)
        self.store(case_id, key, region, "waiting" if verdict == "review" else "decided")
        outcome = {"review": "in_review", "approve": "approved", "reject": "rejected"}[verdict]
        self.status(item, region, outcome)
        if verdict != "review":
            self.decide(case_id, region, action=verdict)
        return case_id

    def store(self, case_id: str, key: str, region: str, state: str = "waiting") -> None:
        self.history.cells[region].cases.append(CaseRow(case_id, key, state, derived("o", case_id), None, 0, ""))

    def supersede(self, case_id: str, by: int) -> None:
        row = self.row(case_id)
        item = derived("item", "p", "product", row.subject.rpartition(":")[2], str(by))
        data = {"case_id": case_id, "item_id": self._item(case_id), "superseded_by": item}
        self.event("piepowder.decisions.eu", "eu", "case.superseded", row.subject, derived("x", case_id), data)
        self.set_row(row._replace(state="superseded", superseded_by=item))
        self._tallies["eu"]["superseded"] += 1
        self.status(self._item(case_id), "eu", "superseded")

    def withdraw(self, case_id: str, *, status: int = 202, closes: bool = True, case: bool = True) -> Call:
        """Withdraw an item; publish `case.withdrawn` if `case`, and close the case if `closes`."""
        item, row = self._item(case_id), self.row(case_id)
        event_id = derived("event", item, "piepowder.item.withdrawn.v1", "eu")
        response = {"item_id": item, "regions": {"eu": {"event_id": event_id}}} if status == 202 else {}
        call = self.call("withdraw", {"item_id": item}, status, response)
        self.event("piepowder.submissions.eu", "eu", "item.withdrawn", row.subject, event_id, {"item_id": item})
        ids = {"item_id": item, "case_id": case_id}
        if case:
            routed = derived("cw", case_id)
            self.event("piepowder.cases.eu", "eu", "case.withdrawn", row.subject, routed, ids)
        if closes:
            about = {**ids, "reason": "withdrawn"}
            self.event("piepowder.decisions.eu", "eu", "case.closed", row.subject, derived("cc", case_id), about)
            self.set_row(row._replace(state="withdrawn"))
            self._tallies["eu"]["withdrawn"] += 1
            self.status(item, "eu", "withdrawn")
        return call

    def claim(self, case_id: str, reviewer: str, *, seconds: float = 5, first_token: int = 0) -> Call:
        row = self.row(case_id)
        token = max(row.lease_token + 1, first_token)
        self.lease_event(case_id, "case.claimed", token, reviewer, lease_until=timestamp(self._now + seconds))
        self.set_row(row._replace(state="claimed", lease_token=token, reviewer=reviewer))
        response = {"case_id": case_id, "token": token, "until": timestamp(self._now + seconds)}
        facts = {"region": "eu", "reviewer": reviewer, "team": "t", "key": None, "lease_seconds": int(seconds)}
        return self.call("claim", facts, 201, response)

    def expire(self, case_id: str, *, after: float = 6) -> None:
        self._now += after
        row = self.row(case_id)
        self.lease_event(case_id, "case.expired", row.lease_token, row.reviewer)
        self.set_row(row._replace(state="waiting", reviewer=""))

    def lease_event(self, case_id: str, name: str, token: int, reviewer: str, **more: object) -> None:
        data = {"case_id": case_id, "item_id": self._item(case_id), "lease_token": token, "reviewer": reviewer, **more}
        event_id = derived(name, case_id, str(token))
        self.event("piepowder.decisions.eu", "eu", name, self.row(case_id).subject, event_id, data)

    def decide_by(self, case_id: str, reviewer: str, token: int, *, status: int = 201) -> None:
        facts = {"region": "eu", "case_id": case_id, "token": token, "action": "reject", "reasons": ["R"], "note": ""}
        self.call("decide", facts, status, {"decision_id": derived("d", case_id)} if status == 201 else {})
        if status == 201:
            self.decide(case_id, "eu", action="reject", reviewer=reviewer, token=token, reasons=["R"])
            self.set_row(self.row(case_id)._replace(state="decided"))
            self.status(self._item(case_id), "eu", "rejected")

    def decide(
        self, case_id: str, region: str, *, action: str, reviewer: str = "", token: int = 0, **more: Any
    ) -> None:
        reasons = more.get("reasons", [])
        data = {
            "case_id": case_id,
            "item_id": self._item(case_id),
            "n": 1,
            "decision_id": derived("d", case_id),
            "action": action,
            "policy_set": "ps-1",
            "automated": not reviewer,
            "reviewer": reviewer,
            "lease_token": token,
            "reasons": reasons,
        }
        row = self.row(case_id)
        self.event(f"piepowder.decisions.{region}", region, "decision.made", row.subject, derived("m", case_id), data)
        facts = (
            case_id,
            1,
            derived("d", case_id),
            action,
            tuple(reasons),
            "ps-1",
            not reviewer,
            reviewer,
            "",
            token,
            "",
        )
        self.history.cells[region].decisions.append(DecisionRow(*facts))
        self._tallies[region]["decided"] += 1
        self._tallies[region][f"{'people' if reviewer else 'policy'}/{action}"] += 1

    def publish_malformed(self, topic: str, group: str) -> Record:
        record = self.put(topic, "k", {}, b"{")
        self.history.planted.append(Planted("truncated JSON", topic, 0, record.offset, (group,)))
        self.dead_letter(record, group)
        return record

    def park(self, subject: str, group: str = "piepowder-decision-eu") -> Record:
        """Publish a record that the decision service cannot handle, so that its key is parked."""
        record = self.put("piepowder.cases.eu", subject, {}, b"{}")
        self.history.planted.append(Planted("an unknown event version", record.topic, 0, record.offset, (group,)))
        self.dead_letter(record, group, since=record.offset)
        return record

    def post_to_parked_key(self, head: Record, subject: str, version: int) -> Record:
        """Post an item whose case the decision service dead-letters because its key is parked."""
        case_id = self.post(subject, version, verdict="review")
        cell = self.history.cells["eu"]
        cell.cases = [row for row in cell.cases if row.case_id != case_id]
        opened = [record for record in self.history.records if record.topic == head.topic][-1]
        self.dead_letter(opened, "piepowder-decision-eu", since=head.offset)
        self.status(self._item(case_id), "eu", "parked")
        return opened

    def dead_letter(self, record: Record, group: str, since: int | None = None) -> None:
        about = {"dl_topic": record.topic, "dl_partition": "0", "dl_offset": str(record.offset)}
        more = {"dl_group": group, "dl_reason": "no event"}
        if since is not None:
            more["dl_parked"] = str(since)
        headers = tuple((name, value.encode()) for name, value in (about | more).items())
        region = record.topic.rpartition(".")[2]
        letter = self.put(f"piepowder.deadletters.{region}", "k", {}, record.value or b"")
        self.history.records[-1] = letter._replace(key=record.key, headers=record.headers + headers)
        row = LetterRow(record.topic, 0, record.offset, group, "no event")
        self.history.cells[region].letters.append(row)

    def row(self, case_id: str) -> CaseRow:
        return next(row for cell in self.history.cells.values() for row in cell.cases if row.case_id == case_id)

    def set_row(self, row: CaseRow) -> None:
        cases = self.history.cells["eu"].cases
        cases[next(n for n, old in enumerate(cases) if old.case_id == row.case_id)] = row

    def status(self, item: str, region: str, status: str) -> None:
        others = [row for row in self.history.statuses if (row.item_id, row.region) != (item, region)]
        self.history.statuses = [*others, StatusRow(item, region, status)]

    def done(self) -> History:
        for region, cell in self.history.cells.items():
            cell.tallies = dict(self._tallies[region])
        self.history.totals = dict(Counter((row.region, row.status) for row in self.history.statuses))
        return self.history

    def _count(self, region: str) -> None:
        cell = self.history.cells[region]
        cell.log_size = len(cell.log)
        cell.log_counts = dict(Counter(row.type for row in cell.log))

    def _item(self, case_id: str) -> str:
        return self._items[case_id]


def titles(history: History) -> list[str]:
    """The titles of the violations that the checker finds."""
    return [violation.title for violation in promises.check(history)]


def drop(recording: Recording, chosen: Callable[[Record], bool]) -> None:
    """Remove the chosen records of Kafka from the history."""
    recording.history.records = [record for record in recording.history.records if not chosen(record)]


def has_type(record: Record, name: str) -> bool:
    """True if a record's event type contains `name`."""
    return name.encode() in (dict(record.headers).get("ce_type") or b"")
