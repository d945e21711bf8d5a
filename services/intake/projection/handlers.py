"""Following what becomes of a region's items, notices and appeals."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from services.intake.items.domain import status
from services.intake.items.domain.status import DeadLetterFact, StatusFacts
from services.intake.items.read_your_writes import projection_group
from services.intake.notices.domain import complaint_status
from services.intake.notices.domain.complaint_status import APPEAL, ITEM, NOTICE, ComplaintUpdate
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    CASE_OPENED,
    ITEM_SUBMITTED,
    NOTICE_SUBMITTED,
    AppealSubmitted,
    NoticeSubmitted,
)
from shared.kafka.consumer import RawRecord, Received
from shared.runtime import metrics
from shared.runtime.errors import Poison

_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class ItemUpdate(NamedTuple):
    """What a record says about an item."""

    item_id: str
    facts: StatusFacts


class ItemStatusWriter(Protocol):
    """Where what is known of items is kept; see `services.intake.items.store`."""

    async def merge(self, region: str, new_facts: Mapping[str, StatusFacts]) -> None: ...


class ComplaintWriter(Protocol):
    """Where what is known of notices and appeals is kept, and what the decisions of `items` are about; see
    `services.intake.notices.store`."""

    async def merge(
        self, region: str, told: Mapping[str, complaint_status.ComplaintFacts], items: Mapping[str, StatusFacts]
    ) -> None: ...


class _Named(msgspec.Struct):
    item_id: str = ""
    notice_id: str = ""
    appeal_id: str = ""
    case_type: str = ITEM


_SUBMITTED: Final = {
    ITEM_SUBMITTED.encode(): ITEM,
    NOTICE_SUBMITTED.encode(): NOTICE,
    APPEAL_SUBMITTED.encode(): APPEAL,
}


_Message: TypeAlias = ItemUpdate | ComplaintUpdate | None


class Projection:
    """Follows what becomes of a region's items, notices and appeals."""

    def __init__(self, region: str, statuses: ItemStatusWriter, complaints: ComplaintWriter) -> None:
        self.region = region
        self.group = projection_group(region)
        self.deadletters = topics.deadletters(region)
        self._statuses = statuses
        self._complaints = complaints
        self._decode_named = msgspec.json.Decoder(_Named).decode
        self._router = f"piepowder-router-{region}".encode()
        self._decision = f"piepowder-decision-{region}".encode()
        self._unattributed = metrics.INTAKE_DEADLETTERS_IGNORED.labels(region)

    @property
    def topics(self) -> list[str]:
        """What it reads: all that tells of an item's way, and where it may end."""
        region = self.region
        return [topics.submissions(region), topics.cases(region), topics.decisions(region), self.deadletters]

    def decode(self, record: RawRecord) -> _Message:
        """What a record says, None when nothing; raises Poison for what is no event, but never for a dead letter."""
        if record.topic == self.deadletters:
            return self._from_dead_letter(record)
        event = envelope.decode(record.headers, record.key, record.value, region=self.region)
        data, attributes = event.data, event.attributes
        if isinstance(data, NoticeSubmitted | AppealSubmitted) or getattr(data, "case_type", ITEM) != ITEM:
            return _told(data, attributes, record.offset)
        facts = status.facts_from_event(data, subject=attributes.subject, position=record.offset, time=attributes.time)
        if facts is None:
            return None
        if not _is_uuid(data.item_id):
            raise Poison(f"item_id {data.item_id!r:.60} is not a UUID")
        return ItemUpdate(data.item_id, facts)

    async def handle(self, batch: Sequence[Received[_Message]]) -> None:
        """Add a batch to what is known: of items, then of the rest; met again as a whole when the second step fails."""
        together: dict[str, StatusFacts] = {}
        told: dict[str, complaint_status.ComplaintFacts] = {}
        for received in batch:
            message = received.message
            if isinstance(message, ItemUpdate):
                item_id, facts = message
                known = together.get(item_id)
                together[item_id] = facts if known is None else status.merge(known, facts)
            elif message is not None:
                before = told.get(message.id)
                told[message.id] = message.facts if before is None else complaint_status.merge(before, message.facts)
        if together:
            await self._statuses.merge(self.region, together)
        await self._complaints.merge(self.region, told, together)

    def _from_dead_letter(self, record: RawRecord) -> _Message:
        headers = dict(record.headers)
        group = headers.get("dl_group")
        if group not in (self._router, self._decision) or "dl_returned" in headers:
            return None  # set aside by a consumer that an item's way does not lead through, or put back since
        try:
            named = self._decode_named(record.value or b"")
            position = int(headers["dl_met" if "dl_met" in headers else "dl_offset"])
            reason = headers["dl_reason"].decode(errors="replace")
            time = headers["dl_time"].decode()
            since = int(headers.get("dl_parked") or b"-1")
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError):
            named, position, reason, time, since = _Named(), -1, "", "", -1
        about = named.item_id or named.notice_id or named.appeal_id
        if not _is_uuid(about) or position < 0:
            self._unattributed.inc()
            return None
        event_type = headers.get("ce_type") or b""
        opened = group == self._decision and event_type == CASE_OPENED.encode()
        type_ = named.case_type if opened else _SUBMITTED.get(event_type) if group == self._router else None
        if type_ is None:
            return None  # such as its withdrawal, which waits behind it
        letter = DeadLetterFact(position=position, reason=reason, at=time, since=since)
        if type_ != ITEM:
            return complaint_status.from_dead_letter(letter, type_, about, as_case=opened)
        submitted = ids.event_id(about, ITEM_SUBMITTED, self.region)
        if headers.get("ce_id") != (ids.event_id(submitted, CASE_OPENED) if opened else submitted).encode():
            return None  # it names the item, and is none of its events
        return ItemUpdate(about, StatusFacts(dead_case=letter) if opened else StatusFacts(dead_submission=letter))


def _told(data: Any, attributes: Attributes, position: int) -> ComplaintUpdate | None:
    told = complaint_status.from_event(data, subject=attributes.subject, position=position, time=attributes.time)
    if told is None:
        return None
    contested, decision = told.facts.contested, told.facts.case.decision
    named = [told.id, *(about.decision_id for about in (contested, decision) if about is not None)]
    if not all(map(_is_uuid, named)):
        raise Poison(f"of {', '.join(named)!r:.200}, not all are UUIDs")
    return told
