"""`piepowder reconcile`: which events of a stuck item are published again, and which items are left alone."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest

from piepowder import reconcile
from piepowder.client import Api
from piepowder.profile import Profile
from piepowder.reconcile import Reconciliation, StuckItem
from shared.contracts import topics
from shared.contracts.envelope import Attributes, encode
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    CASE_CLOSED,
    CASE_OPENED,
    CASE_WITHDRAWN,
    DEADLETTER_DISCARDED,
    DECISION_MADE,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    NOTICE_SUBMITTED,
)
from shared.kafka.producer import Record, record
from shared.runtime.user_errors import UserError

EU = "eu"
PROFILE = Profile(services={("intake", ""): "http://intake", ("audit", EU): "http://audit"}, key="key")
SUBJECT = "shop:product:B07/XL"
TOPICS = {
    ITEM_SUBMITTED: topics.submissions,
    ITEM_WITHDRAWN: topics.submissions,
    CASE_OPENED: topics.cases,
    CASE_WITHDRAWN: topics.cases,
    NOTICE_SUBMITTED: topics.submissions,
    APPEAL_SUBMITTED: topics.submissions,
}


def item(item_id: str, received: int, *, version: int | None = 1, status: str = "submitted") -> dict[str, Any]:
    return {
        "item_id": item_id,
        "subject": SUBJECT,
        "version": version,
        "received_at": f"2026-05-01T09:3{received}:00.000Z",
        "regions": {EU: {"status": status}},
    }


def entry(seq: int, kind: str, item_id: str, **data: str) -> dict[str, Any]:
    """An event of the audit's timeline; its value has spaces, which no encoder of ours writes."""
    return {
        "seq": seq,
        "id": str(uuid.UUID(int=seq)),
        "type": kind,
        "time": "2026-05-01T09:30:00.000Z",
        "source": "piepowder/intake",
        "subject": SUBJECT,
        "region": EU,
        "topic": TOPICS.get(kind, topics.decisions)(EU),
        "partition": 3,
        "offset": seq,
        "correlation_id": str(uuid.UUID(int=1)),
        "causation_id": str(uuid.UUID(int=2)),
        "traceparent": None,
        "extensions": {"ce_other": "kept"},
        "data": {"item_id": item_id, **data},
    }


WITHDRAWN = [entry(3, ITEM_WITHDRAWN, "a"), entry(4, CASE_WITHDRAWN, "a"), entry(5, CASE_CLOSED, "a")]


class Deployment:
    """Intake with items, and an audit with the events of their subject, one on each page."""

    def __init__(
        self,
        items: Sequence[dict[str, Any]],
        events: Sequence[dict[str, Any]],
        lag: float | None = 0,
        waiting: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._items = items
        self._waiting = waiting
        self._events = events
        self._lag = lag

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/timeline"):
            assert request.url.raw_path.startswith(b"/v1/subjects/shop/product/B07%2FXL/timeline")
            at = int(request.url.params.get("cursor", "0"))
            following = str(at + 1) if at + 1 < len(self._events) else None
            page = {"subject": SUBJECT, "region": EU, "events": self._events[at : at + 1], "next": following}
            return httpx.Response(200 if self._events else 404, json=page)
        if request.url.path == "/v1/waiting":
            return httpx.Response(200, json={"waiting": self._waiting, "next": None})
        if request.url.path.startswith("/v1/items/"):
            [one] = [one for one in self._items if one["item_id"] == request.url.path.rpartition("/")[2]]
            return httpx.Response(200, json=one)
        if request.url.path.startswith("/v1/subjects/"):
            return httpx.Response(200, json={"versions": self._items, "next": None})
        status = request.url.params["status"]
        stuck = [one for one in self._items if one["regions"].get(EU, {}).get("status") == status]
        lag = {"lag_seconds": self._lag}
        return httpx.Response(200, json={"items": stuck[::-1], "next": None, "projection": lag})


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The offsets that no group has reached; -1 if the audit has not reached its end."""
    offsets: set[int] = set()

    async def group(found: Any, *_: object) -> str:
        return "piepowder-router-eu" if found.offset in offsets else ""

    async def behind(*_: object) -> bool:
        return -1 in offsets

    monkeypatch.setattr(reconcile, "_unread", group)
    monkeypatch.setattr(reconcile, "_audit_is_behind", behind)
    return offsets


async def found(deployment: Deployment) -> dict[str, StuckItem]:
    async with Api(PROFILE, transport=httpx.MockTransport(deployment)) as api:
        items, _ = await Reconciliation(api, "nowhere:1", [EU], minutes=10, limit=100).find()
    return {one.item_id: one for one in items}


def types(one: StuckItem) -> list[str]:
    return [each.type for each in one.events]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([entry(1, ITEM_SUBMITTED, "a")], [ITEM_SUBMITTED]),
        ([entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "a")], [CASE_OPENED]),
        ([entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "a"), entry(3, DECISION_MADE, "a")], [DECISION_MADE]),
        ([entry(1, ITEM_SUBMITTED, "a"), entry(2, ITEM_WITHDRAWN, "a")], [ITEM_SUBMITTED, ITEM_WITHDRAWN]),
        ([entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "a", case_type="notice")], [ITEM_SUBMITTED]),
        ([entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "b")], [ITEM_SUBMITTED]),
    ],
)
async def test_the_last_step_of_an_item_is_repeated_with_its_withdrawal(
    events: list[dict[str, Any]], expected: list[str]
) -> None:
    assert types((await found(Deployment([item("a", 0)], events)))["a"]) == expected


async def test_the_repeated_record_is_the_one_that_the_audit_log_has_read() -> None:
    one = entry(1, ITEM_SUBMITTED, "a")
    [event] = (await found(Deployment([item("a", 0)], [one])))["a"].events
    names = ("id", "type", "source", "time", "subject", "region", "correlation_id", "causation_id")
    value = json.dumps(one["data"], separators=(",", ":")).encode()  # as httpx writes the response
    original = encode(Attributes(**{name: one[name] for name in names}), msgspec.Raw(value))
    original.headers.append(("ce_other", b"kept"))
    assert event.record == record(topics.submissions(EU), original)


async def test_of_two_values_under_one_id_the_first_in_the_log_is_repeated() -> None:
    """Other content under a used version comes later in the log, whatever its time; it is not in force."""
    first = entry(1, ITEM_SUBMITTED, "a", content_hash="1") | {"time": "2026-05-01T09:30:01.000Z"}
    other = entry(2, ITEM_SUBMITTED, "a", content_hash="2") | {"id": first["id"]}
    one = (await found(Deployment([item("a", 0)], [other, first])))["a"]
    assert [each.seq for each in one.events] == [1]


async def test_an_item_that_the_audit_log_does_not_have_is_reported(unread: set[int]) -> None:
    one = (await found(Deployment([item("a", 0)], [])))["a"]
    assert (types(one), one.reason) == ([], "not in the audit log: its client must post it again")
    unread.add(-1)
    one = (await found(Deployment([item("a", 0)], [])))["a"]
    assert (types(one), one.reason) == ([], "not in the audit log yet, which is behind")


async def test_an_event_that_an_operator_discarded_is_not_repeated() -> None:
    submitted = entry(1, ITEM_SUBMITTED, "a")

    def discarded(group: str) -> dict[str, Any]:
        about = {"group": group, "topic": "t", "partition": 0, "offset": 1, "event_id": submitted["id"]}
        data = about | {"reason": "no event", "by": "ops", "why": "junk"}
        return entry(2, DEADLETTER_DISCARDED, "a") | {"data": data}

    one = (await found(Deployment([item("a", 0)], [submitted, discarded("piepowder-router-eu")])))["a"]
    assert (types(one), one.reason) == ([], "discarded by ops for piepowder-router-eu (junk)")
    one = (await found(Deployment([item("a", 0)], [submitted, discarded("piepowder-audit-eu")])))["a"]
    assert types(one) == [ITEM_SUBMITTED]


async def test_a_record_that_its_reader_has_not_reached_is_not_repeated(unread: set[int]) -> None:
    unread.add(1)
    one = (await found(Deployment([item("a", 0)], [entry(1, ITEM_SUBMITTED, "a")])))["a"]
    assert (types(one), one.reason) == (
        [],
        "waits in piepowder.submissions.eu: piepowder-router-eu has not read it yet",
    )


@pytest.mark.parametrize(
    ("type_", "events", "expected"),
    [
        ("notice", [entry(1, NOTICE_SUBMITTED, "", notice_id="a")], NOTICE_SUBMITTED),
        ("appeal", [entry(1, APPEAL_SUBMITTED, "", appeal_id="a")], APPEAL_SUBMITTED),
        ("appeal", [entry(1, APPEAL_SUBMITTED, "", appeal_id="a"), entry(2, CASE_OPENED, "a")], APPEAL_SUBMITTED),
        (
            "notice",
            [entry(1, NOTICE_SUBMITTED, "", notice_id="a"), entry(2, CASE_OPENED, "a", case_type="notice")],
            CASE_OPENED,
        ),
        ("notice", [entry(1, NOTICE_SUBMITTED, "", notice_id="b")], None),
        ("withdrawal", [entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "a"), *WITHDRAWN[:1]], ITEM_WITHDRAWN),
        ("withdrawal", [entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "a"), *WITHDRAWN[:2]], CASE_WITHDRAWN),
        ("withdrawal", [*WITHDRAWN, entry(6, CASE_OPENED, "a")], CASE_CLOSED),
        ("withdrawal", [entry(1, ITEM_SUBMITTED, "a"), entry(2, CASE_OPENED, "a")], None),
    ],
)
async def test_the_last_step_of_a_notice_an_appeal_or_a_withdrawal_is_repeated(
    type_: str, events: list[dict[str, Any]], expected: str | None, unread: set[int]
) -> None:
    waiting = [{"type": type_, "id": "a", "subject": SUBJECT, "since": "2026-05-01T09:30:00.000Z"}]
    one = (await found(Deployment([], events, waiting=waiting)))["a"]
    assert (one.type, types(one)) == (type_, [expected] if expected else [])
    assert one.reason == ("" if expected else "not in the audit log: its client must post it again")
    unread |= {each["offset"] for each in events}
    assert types((await found(Deployment([], events, waiting=waiting)))["a"]) == []


@pytest.mark.parametrize(("versions", "is_left"), [((None, None), True), ((1, None), True), ((1, 2), False)])
async def test_an_item_does_not_replace_a_later_one_unless_both_have_versions(
    versions: tuple[int | None, int | None], *, is_left: bool
) -> None:
    older, newer = (item(name, at, version=v) for at, (name, v) in enumerate(zip("ab", versions, strict=True)))
    newer["regions"][EU]["status"] = "approved"
    one = (await found(Deployment([older, newer], [entry(1, ITEM_SUBMITTED, "a")])))["a"]
    assert bool(one.reason) == is_left
    assert "(b)" in one.reason or not is_left
    assert one.later == ("b" if is_left else "")


async def test_a_later_post_in_other_regions_only_does_not_keep_an_item_from_its_repair() -> None:
    one, elsewhere = item("a", 0, version=None), item("b", 1, version=None)
    elsewhere["regions"] = {"us": {"status": "approved"}}
    assert types((await found(Deployment([one, elsewhere], [entry(1, ITEM_SUBMITTED, "a")])))["a"]) == [ITEM_SUBMITTED]


async def test_the_command_counts_the_items_that_a_later_post_supersedes(capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = item("a", 0, version=None), item("b", 1, version=None)
    newer["regions"][EU]["status"] = "approved"
    one = (await found(Deployment([older, newer], [entry(1, ITEM_SUBMITTED, "a")])))["a"]
    reconcile.show_found([one], 0, 10)
    reconcile.show_result(reconcile.ReconcileResult(left=[one]), 60)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("1 of the items that are not published have a later post of their subject") == 2
    reconcile.show_result(reconcile.ReconcileResult(settled=[one._replace(later="")]), 60)
    assert "later post" not in capsys.readouterr().out


async def test_stuck_items_of_a_subject_are_repeated_in_their_order_unless_the_later_one_waits(
    unread: set[int],
) -> None:
    items = [item("a", 0, version=None), item("b", 1, version=None)]
    deployment = Deployment(items, [entry(1, ITEM_SUBMITTED, "a"), entry(2, ITEM_SUBMITTED, "b")])
    assert [(name, types(one)) for name, one in (await found(deployment)).items()] == [
        ("a", [ITEM_SUBMITTED]),
        ("b", [ITEM_SUBMITTED]),
    ]
    unread.add(2)
    assert [types(one) for one in (await found(deployment)).values()] == [[], []]


async def test_what_is_beyond_the_limit_is_counted() -> None:
    items = [item(name, at) for at, name in enumerate("abc")]
    waiting = [{"type": "notice", "id": name, "subject": SUBJECT, "since": "2026-05-01T09:30:00.000Z"} for name in "de"]
    async with Api(PROFILE, transport=httpx.MockTransport(Deployment(items, [], waiting=waiting))) as api:
        stuck, more = await Reconciliation(api, "nowhere:1", [EU], minutes=10, limit=1).find()
    assert [one.item_id for one in stuck] == ["a", "d"]
    assert more == 3


class Sent:
    """A producer that notes the records of each call."""

    def __init__(self) -> None:
        self.portions: list[list[Record]] = []

    async def send(self, records: Sequence[Record]) -> None:
        self.portions.append(list(records))

    async def stop(self) -> None: ...


async def test_every_event_is_published_and_what_stays_without_effect_is_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = Sent()
    monkeypatch.setattr(reconcile, "KafkaProducer", lambda *_, **__: sent)
    monkeypatch.setattr(reconcile, "_PORTION", 2)
    monkeypatch.setattr(reconcile, "_POLL_SECONDS", 0.0)
    items = [item(name, at) for at, name in enumerate("abcde")]
    events = [entry(n, ITEM_SUBMITTED, one["item_id"]) for n, one in enumerate(items, 1)]
    stuck = [*(await found(Deployment(items, events))).values()]
    after = Deployment([*items[:4], item("e", 4, status="approved")], events)
    async with Api(PROFILE, transport=httpx.MockTransport(after)) as api:
        result = await Reconciliation(api, "nowhere:1", [EU], minutes=10, limit=9).publish(stuck, 0.1)
    assert list(map(len, sent.portions)) == [2, 2, 1]
    assert [record for portion in sent.portions for record in portion] == [one.events[0].record for one in stuck]
    assert [one.item_id for one in result.pending] == ["a", "b", "c", "d"]
    assert [one.item_id for one in result.settled] == ["e"]


@pytest.mark.parametrize("lag", [None, 61.0])
async def test_nothing_is_repeated_while_the_status_is_out_of_date(lag: float | None) -> None:
    with pytest.raises(UserError, match="not known which items wait"):
        await found(Deployment([item("a", 0)], [entry(1, ITEM_SUBMITTED, "a")], lag))
