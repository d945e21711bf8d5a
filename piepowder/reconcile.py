"""Repair of items, notices, appeals and withdrawals without effect: publishes their last events again.

A record can be skipped: offsets were set forward, a topic was created again, or retention deleted it before it was
read. Its item then waits forever. The audit log still has the event, so the same record is published again, with the
same id and the same bytes, and every consumer that has handled it ignores it. The published event is the last step in
the log: the submission, so that the router opens the case; or the opened case; or the decision, if only the status
lacks it. The repair publishes nothing for an item whose record still waits in its topic, whose record an operator
discarded (`piepowder replay --discard`), or whose record would replace a later post.

Notices and appeals that stay `submitted`, and withdrawals of items whose case stays open, are repaired in the same way,
but without the check for a later post: they replace none. Business requests are not repaired: only audit reads them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from aiokafka import TopicPartition

from piepowder import console_output
from piepowder.client import Api, ApiError
from piepowder.progress import ProgressReport, counting
from shared.contracts import topics
from shared.contracts.envelope import Attributes, encode
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    CASE_CLOSED,
    CASE_OPENED,
    CASE_SUPERSEDED,
    CASE_WITHDRAWN,
    DEADLETTER_DISCARDED,
    DECISION_MADE,
    DECISION_REPLACED,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    NOTICE_SUBMITTED,
    DeadLetterDiscarded,
)
from shared.kafka.offsets import OffsetClient
from shared.kafka.producer import KafkaProducer, Record, record
from shared.runtime.clock import SystemClock, to_text
from shared.runtime.errors import Poison
from shared.runtime.user_errors import UserError

_T = TypeVar("_T")
_CLIENT: Final = "piepowder-reconcile"
_LARGEST_LAG_SECONDS: Final = 60.0
_PORTION: Final = 200
_POLL_SECONDS: Final = 0.5
_ROWS: Final = 50
_STEPS: Final = {  # the steps of an item; a later one makes the earlier ones needless
    ITEM_SUBMITTED: 0,
    CASE_OPENED: 1,
    CASE_SUPERSEDED: 2,
    CASE_CLOSED: 2,
    DECISION_MADE: 2,
    DECISION_REPLACED: 2,
}
_OF_WITHDRAWAL: Final = _STEPS | {ITEM_SUBMITTED: -1, CASE_OPENED: -1, ITEM_WITHDRAWN: 0, CASE_WITHDRAWN: 1}
_OF_COMPLAINT: Final = _STEPS | {NOTICE_SUBMITTED: 0, APPEAL_SUBMITTED: 0}
_KNOWN: Final = _OF_WITHDRAWAL.keys() | _OF_COMPLAINT.keys()
_ITEM: Final = "item"
_WITHDRAWAL: Final = "withdrawal"
_READERS: Final = (("piepowder-router", topics.submissions), ("piepowder-decision", topics.cases))
_clock = SystemClock()


class _Data(msgspec.Struct):
    item_id: str = ""
    notice_id: str = ""
    appeal_id: str = ""
    case_type: str = _ITEM


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the audit log; `data` is the record's value, byte for byte."""

    seq: int | None
    id: str | None
    type: str
    time: str
    source: str
    subject: str
    region: str
    topic: str
    partition: int
    offset: int
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None = None
    extensions: dict[str, str | None] = {}
    data: msgspec.Raw

    @property
    def record(self) -> Record:
        """The record that the audit log has read."""
        attributes = Attributes(
            self.id or "",
            self.type,
            self.source,
            self.time,
            self.subject,
            self.region,
            self.correlation_id or "",
            self.causation_id,
            self.traceparent,
        )
        encoded = encode(attributes, self.data)
        encoded.headers.extend((name, (value or "").encode()) for name, value in self.extensions.items())
        return record(self.topic, encoded)


class _Timeline(msgspec.Struct):
    events: list[_Entry]
    next: str | None


class StuckItem(NamedTuple):
    """An item, a notice or an appeal that stays `submitted` in a region, or a withdrawal without effect (`type`): the
    events to publish again, or the `reason` why there are none.

    `item_id` is the id of the item, notice or appeal. `later`: the id of a later post of an item's subject, which is in
    force in its place.
    """

    region: str
    item_id: str
    subject: str
    received_at: str
    events: Sequence[_Entry]
    reason: str = ""
    later: str = ""
    type: str = _ITEM

    @property
    def key(self) -> tuple[str, str, str]:
        return self.region, self.type, self.item_id


class ReconcileResult(msgspec.Struct):
    """The result of a reconciliation.

    `settled`: published, and no longer `submitted`, or withdrawn.
    `pending`: published, and still without effect.
    `left`: not published, each with its reason.
    `more`: the number of items beyond the limit.
    """

    settled: list[StuckItem] = []
    pending: list[StuckItem] = []
    left: list[StuckItem] = []
    more: int = 0

    @property
    def complete(self) -> bool:
        return not (self.pending or self.left or self.more)


class Reconciliation:
    """Finds and repairs what has been without effect in `regions` for longer than `minutes`: of each region the oldest
    `limit` items, and the oldest `limit` notices, appeals and withdrawals."""

    def __init__(self, api: Api, bootstrap: str, regions: Sequence[str], *, minutes: float, limit: int) -> None:
        self._api = api
        self._bootstrap = bootstrap
        self._regions = regions
        self._before = to_text(_clock.now() - timedelta(minutes=minutes))
        self._limit = limit

    async def find(self) -> tuple[list[StuckItem], int]:
        """The items, and the number of further ones. Raises `UserError` while the status itself is out of date."""
        found: list[StuckItem] = []
        more = 0
        offsets = OffsetClient(self._bootstrap, client_id=_CLIENT)
        try:
            for region in self._regions:
                items = await self._submitted(region)
                more += max(0, len(items) - self._limit)
                repeatable = {item["item_id"] for item in items}
                of_region: list[StuckItem] = []
                checked = items[: self._limit]
                for item in counted(reversed(checked), len(checked), region):  # a later post decides about earlier ones
                    events, reason, later = await self._repair(region, item, repeatable, offsets)
                    if reason:
                        repeatable.discard(item["item_id"])
                    about = (region, item["item_id"], item["subject"] or "", item["received_at"] or "")
                    of_region.append(StuckItem(*about, events, reason, later))
                found += reversed(of_region)
                waiting = await self._waiting(region)
                more += max(0, len(waiting) - self._limit)
                checked = waiting[: self._limit]
                for one in counted(checked, len(checked), region):
                    events, reason = await self._repair_other(region, one, offsets)
                    about = (region, one["id"], one["subject"], one["since"])
                    found.append(StuckItem(*about, events, reason, type=one["type"]))
        finally:
            await offsets.stop()
        return found, more

    async def publish(self, items: Sequence[StuckItem], wait: float) -> ReconcileResult:
        """Publish the events of the items again, and wait until nothing changes for `wait` seconds."""
        sent = [item for item in items if not item.reason]
        result = ReconcileResult(left=[item for item in items if item.reason])
        producer = KafkaProducer(self._bootstrap, client_id=_CLIENT)
        try:
            for at in range(0, len(sent), _PORTION):
                await producer.send([entry.record for item in sent[at : at + _PORTION] for entry in item.events])
        except Poison as poison:
            raise UserError(
                f"Kafka refused an event: {poison}.", "Nothing is lost; correct the topic's limit."
            ) from poison
        finally:
            await producer.stop()
        result.pending = await self._wait(sent, wait)
        pending = {item.key for item in result.pending}
        result.settled = [item for item in sent if item.key not in pending]
        return result

    async def _submitted(self, region: str) -> list[dict[str, Any]]:
        """The items with the status `submitted`, oldest first."""
        params: dict[str, str | int] = {"status": "submitted", "region": region, "received_before": self._before}
        page = await self._api.get("intake", "/v1/items", **params, limit=1)
        lag = page["projection"]["lag_seconds"]
        if lag is None or lag > _LARGEST_LAG_SECONDS:
            state = "unknown" if lag is None else f"{lag:.0f} seconds old"
            raise UserError(
                f"The status of items in {region} is {state}, so it is not known which items wait.",
                "Repair the status projection first: docs/runbooks/consumer-lag.md.",
            )
        items = await self._api.get_all("intake", "/v1/items", "items", **params, limit=200)
        of_region = {item["item_id"]: item for item in items if _status(item, region) == "submitted"}
        return sorted(of_region.values(), key=lambda item: (item["received_at"] or "", item["item_id"]))

    async def _waiting(self, region: str) -> list[dict[str, Any]]:
        """The notices, appeals and withdrawals without effect, oldest first."""
        return await self._api.get_all(
            "intake", "/v1/waiting", "waiting", region=region, before=self._before, limit=200
        )

    async def _repair_other(
        self, region: str, one: Mapping[str, Any], offsets: OffsetClient
    ) -> tuple[list[_Entry], str]:
        """The event that continues a notice, an appeal or a withdrawal; or the reason why none is published."""
        is_withdrawal = one["type"] == _WITHDRAWAL
        steps = _OF_WITHDRAWAL if is_withdrawal else _OF_COMPLAINT
        about = (_ITEM if is_withdrawal else one["type"], one["id"])
        found, discarded = await self._entries(region, one["subject"], about)
        entries = [entry for entry in _first_of_each_id(found) if steps.get(entry.type, -1) >= 0]
        if not entries:
            return [], await _why_not_in_audit(region, offsets)
        last = max(entries, key=lambda entry: (steps[entry.type], entry.seq or 0))
        if (discard := discarded.get((_reader_of(last, region), last.id))) is not None:
            return [], discard
        if reader := await _unread(last, region, offsets):
            return [], f"waits in {last.topic}: {reader} has not read it yet"
        return [last], ""

    async def _repair(
        self, region: str, item: Mapping[str, Any], repeatable: set[str], offsets: OffsetClient
    ) -> tuple[list[_Entry], str, str]:
        """The events that continue an item, in order; or the reason why none is published, and the later post."""
        found, discarded = await self._entries(region, item["subject"] or "", (_ITEM, item["item_id"]))
        entries = _first_of_each_id(found)
        steps = [entry for entry in entries if entry.type in _STEPS]
        if not steps:
            return [], await _why_not_in_audit(region, offsets), ""
        last = max(steps, key=lambda entry: (_STEPS[entry.type], entry.seq or 0))
        if (discard := discarded.get((_reader_of(last, region), last.id))) is not None:
            return [], discard, ""
        if reader := await _unread(last, region, offsets):
            return [], f"waits in {last.topic}: {reader} has not read it yet", ""
        if _STEPS[last.type] < _STEPS[DECISION_MADE]:
            if later := await self._later_post(region, item, repeatable):
                return [], f"superseded by a later post of its subject ({later}), which it would replace", later
            withdrawals = [entry for entry in entries if entry.type == ITEM_WITHDRAWN]
            return [last, *withdrawals], "", ""
        return [last], "", ""

    async def _entries(
        self, region: str, subject: str, about: tuple[str, str]
    ) -> tuple[list[_Entry], dict[tuple[str, str | None], str]]:
        """The events about an item, notice or appeal (type, id) of a subject in the audit log, oldest first; and a text
        about each event of the subject whose record was discarded, by the consumer group and the event's id."""
        parts = subject.split(":", 2)
        path = f"/v1/subjects/{'/'.join(quote(part, safe='') for part in parts)}/timeline"
        entries: list[_Entry] = []
        discarded: dict[tuple[str, str | None], str] = {}
        params: dict[str, str | int] = {"limit": 1000}
        while True:
            try:
                response = await self._api.call(f"audit-{region}", "GET", path, params=params)
            except ApiError as error:
                if error.status == 404:
                    return entries, discarded
                raise
            page = msgspec.json.decode(response.content, type=_Timeline)
            known = (entry for entry in page.events if entry.id is not None and entry.type in _KNOWN)
            entries += [entry for entry in known if _about(entry) == about]
            for entry in page.events:
                if entry.type == DEADLETTER_DISCARDED:
                    found = msgspec.json.decode(entry.data, type=DeadLetterDiscarded)
                    text = f"discarded by {found.by} for {found.group} ({found.why})"
                    discarded[found.group, found.event_id] = text
            if page.next is None:
                return entries, discarded
            params["cursor"] = page.next

    async def _later_post(self, region: str, item: Mapping[str, Any], repeatable: set[str]) -> str:
        """A later post of the subject that is not published again after this item, if one of both has no version: then
        the later record would win."""
        parts = item["subject"].split(":", 2)
        path = f"/v1/subjects/{'/'.join(quote(part, safe='') for part in parts)}"
        for other in await self._api.get_all("intake", path, "versions", limit=200):
            is_later = (other["received_at"] or "") > (item["received_at"] or "")
            compared = item.get("version") is not None and other.get("version") is not None
            if is_later and not compared and region in other["regions"] and other["item_id"] not in repeatable:
                return str(other["item_id"])
        return ""

    async def _wait(self, sent: Sequence[StuckItem], wait: float) -> list[StuckItem]:
        """Those that are still without effect after `wait` seconds without a change."""
        with counting("Waiting for the effect", "settled", total=len(sent)) as count:
            return await self._wait_counted(sent, wait, count)

    async def _wait_counted(self, sent: Sequence[StuckItem], wait: float, count: ProgressReport) -> list[StuckItem]:
        pending, since = list(sent), _clock.monotonic()
        while pending and _clock.monotonic() - since <= wait:
            await asyncio.sleep(_POLL_SECONDS)
            waiting = {
                (region, one["type"], one["id"])
                for region in {item.region for item in pending if item.type != _ITEM}
                for one in await self._waiting(region)
            }
            still = []
            for item in pending:
                if item.type != _ITEM:
                    is_pending = item.key in waiting
                else:
                    view = await self._api.get("intake", f"/v1/items/{item.item_id}")
                    is_pending = _status(view, item.region) == "submitted"
                if is_pending:
                    still.append(item)
            if len(still) < len(pending):
                pending, since = still, _clock.monotonic()
            count(len(sent) - len(pending))
        return pending


def counted(items: Iterable[_T], total: int, region: str) -> Iterator[_T]:
    """The items, with a counter."""
    with counting(f"Comparing with the audit log of {region}", "checked", total=total) as count:
        for number, item in enumerate(items):
            count(number)
            yield item


def _about(entry: _Entry) -> tuple[str, str]:
    """The type and the id of the item, notice or appeal."""
    data = msgspec.json.decode(entry.data, type=_Data)
    if data.notice_id:
        return "notice", data.notice_id
    return ("appeal", data.appeal_id) if data.appeal_id else (data.case_type, data.item_id)


def _first_of_each_id(entries: Sequence[_Entry]) -> list[_Entry]:
    """The entries without later values of an event id (`conflict`): the first value in the log is the one in force."""
    first: dict[str | None, int] = {}
    for entry in entries:
        first[entry.id] = min(entry.seq or 0, first.get(entry.id, entry.seq or 0))
    return [entry for entry in entries if (entry.seq or 0) == first[entry.id]]


def _status(item: Mapping[str, Any], region: str) -> str:
    return str(item["regions"].get(region, {}).get("status", ""))


def _reader_of(entry: _Entry, region: str) -> str:
    """The group whose handling of the record is the next step."""
    group = next((group for group, topic in _READERS if topic(region) == entry.topic), "piepowder-intake")
    return f"{group}-{region}"


async def _unread(entry: _Entry, region: str, offsets: OffsetClient) -> str:
    """The group that has not read the record yet. Empty if it has, or if the record is not in the topic any more."""
    name, at = _reader_of(entry, region), TopicPartition(entry.topic, entry.partition)
    log = (await offsets.ends([entry.topic])).get(at)
    if log is None or entry.offset >= log.end or entry.offset < log.start:
        return ""
    if await offsets.has_passed(name, {at: log._replace(end=entry.offset + 1)}):
        return ""
    return name


async def _why_not_in_audit(region: str, offsets: OffsetClient) -> str:
    if await _audit_is_behind(region, offsets):
        return "not in the audit log yet, which is behind"
    return "not in the audit log: its client must post it again"


async def _audit_is_behind(region: str, offsets: OffsetClient) -> bool:
    ends = await offsets.ends([topics.submissions(region)])
    return not await offsets.has_passed(f"piepowder-audit-{region}", ends)


def show_found(items: Sequence[StuckItem], more: int, minutes: float) -> None:
    """Show the items of a dry run."""
    if not items:
        console_output.show(f"Nothing has been without effect for longer than {minutes:g} minutes.", "green")
        return
    table = console_output.table("region", "type", "id", "subject", "received", "to publish again")
    for item in items[:_ROWS]:
        names = ", ".join(entry.type.removeprefix("piepowder.").removesuffix(".v1") for entry in item.events)
        what = names or f"nothing: {item.reason}"
        cells = (item.region, item.type, item.item_id, console_output.clean(item.subject, 100), item.received_at, what)
        table.add_row(*cells)
    console_output.console.print(table)
    counts = Counter(bool(item.reason) for item in items)
    console_output.show(f"{counts[False]:,} would be published again, {counts[True]:,} not; nothing was changed.")
    _show_superseded(items)
    _show_more(more)


def show_result(result: ReconcileResult, wait: float) -> None:
    """Show the result as sentences."""
    console_output.show(f"Settled: {len(result.settled):,}.", "green" if result.complete else "")
    for item in result.pending[:_ROWS]:
        what = f"Published again, and still without effect after {wait:g} s"
        console_output.show(
            f"{what}: {item.type} {item.item_id} in {item.region} ({console_output.clean(item.subject)}).", "yellow"
        )
    for item in result.left[:_ROWS]:
        subject = console_output.clean(item.subject)
        where = f"{item.type} {item.item_id} in {item.region} ({subject})"
        console_output.show(f"Not published: {where}: {item.reason}.", "yellow")
    _show_superseded(result.left)
    _show_more(result.more)


def _show_superseded(items: Sequence[StuckItem]) -> None:
    if count := sum(bool(item.later) for item in items):
        console_output.show(
            f"{count:,} of the items that are not published have a later post of their subject, and one of both has no"
            " version. The later post applies in their place, so nothing is lost.",
            "yellow",
        )


def _show_more(more: int) -> None:
    if more:
        console_output.show(f"{more:,} more: repeat the command.", "yellow")
