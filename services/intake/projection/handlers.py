"""Converts a region's records into facts about its items, notices and appeals, and stores these facts.

The projection also reads dead letters: an item whose record was dead-lettered must not appear to be in progress, and
one whose record was discarded must not appear to wait.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from services.intake import metrics
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
    CASE_WITHDRAWN,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    NOTICE_SUBMITTED,
    AppealSubmitted,
    NoticeSubmitted,
)
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.runtime.errors import Poison

_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class ItemUpdate(NamedTuple):
    """The facts about an item in one record."""

    item_id: str
    facts: StatusFacts


class FactWriter(Protocol):
    """Stores facts about items, notices and appeals, and the case of each decision: `services.intake.notices.store`."""

    async def merge(
        self,
        region: str,
        complaints: Mapping[str, complaint_status.ComplaintFacts],
        items: Mapping[str, StatusFacts],
        moves: Moves = NO_MOVES,
    ) -> None: ...


class _Ids(msgspec.Struct):
    item_id: str = ""
    notice_id: str = ""
    appeal_id: str = ""
    case_type: str = ITEM


_SUBMITTED: Final = {
    ITEM_SUBMITTED.encode(): ITEM,
    NOTICE_SUBMITTED.encode(): NOTICE,
    APPEAL_SUBMITTED.encode(): APPEAL,
}

_WITHDRAWN: Final = ITEM_WITHDRAWN.encode()
_CASE_WITHDRAWN: Final = CASE_WITHDRAWN.encode()

_Message: TypeAlias = ItemUpdate | ComplaintUpdate | None


class Projection:
    """The consumer's handler for one region."""

    def __init__(self, region: str, writer: FactWriter) -> None:
        self.region = region
        self.group = projection_group(region)
        self.deadletters = topics.deadletters(region)
        self._writer = writer
        self._decode_ids = msgspec.json.Decoder(_Ids).decode
        self._router = f"piepowder-router-{region}".encode()
        self._decision = f"piepowder-decision-{region}".encode()
        self._unattributed = metrics.INTAKE_DEADLETTERS_IGNORED.labels(region)

    @property
    def topics(self) -> list[str]:
        """The topics with events about items, notices and appeals, and the region's dead letters."""
        region = self.region
        return [topics.submissions(region), topics.cases(region), topics.decisions(region), self.deadletters]

    def decode(self, record: RawRecord) -> _Message:
        """The facts in a record, None when it has none. Raises Poison for an invalid event, never for a dead letter."""
        if record.topic == self.deadletters:
            return self._from_dead_letter(record)
        event = envelope.decode(record.headers, record.key, record.value, region=self.region)
        data, attributes = event.data, event.attributes
        if isinstance(data, NoticeSubmitted | AppealSubmitted) or getattr(data, "case_type", ITEM) != ITEM:
            return _complaint_update(data, attributes, record.offset)
        facts = status.facts_from_event(data, subject=attributes.subject, position=record.offset, time=attributes.time)
        if facts is None:
            return None
        if not _is_uuid(data.item_id):
            raise Poison(f"item_id {data.item_id!r:.60} is not a UUID")
        return ItemUpdate(data.item_id, facts)

    async def handle(self, batch: Sequence[Received[_Message]], moves: Moves = NO_MOVES) -> None:
        """Store the facts of a batch, all or nothing."""
        items: dict[str, StatusFacts] = {}
        complaints: dict[str, complaint_status.ComplaintFacts] = {}
        for received in batch:
            message = received.message
            if isinstance(message, ItemUpdate):
                item_id, facts = message
                earlier = items.get(item_id)
                items[item_id] = facts if earlier is None else status.merge(earlier, facts)
            elif message is not None:
                before = complaints.get(message.id)
                complaints[message.id] = (
                    message.facts if before is None else complaint_status.merge(before, message.facts)
                )
        await self._writer.merge(self.region, complaints, items, moves)

    def _from_dead_letter(self, record: RawRecord) -> _Message:
        headers = dict(record.headers)
        group = headers.get("dl_group")
        if group not in (self._router, self._decision) or "dl_returned" in headers:
            return None  # another consumer's dead letter, or a receipt
        try:
            data = self._decode_ids(record.value or b"")
            position = int(headers["dl_met" if "dl_met" in headers else "dl_offset"])
            reason = headers["dl_reason"].decode(errors="replace")
            time = headers["dl_time"].decode()
            since = int(headers.get("dl_parked") or b"-1")
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError):
            data, position, reason, time, since = _Ids(), -1, "", "", -1
        case_item = data.item_id or data.notice_id or data.appeal_id
        if not _is_uuid(case_item) or position < 0:
            self._unattributed.inc()
            return None
        event_type = headers.get("ce_type") or b""
        opened = group == self._decision and event_type == CASE_OPENED.encode()
        type_ = data.case_type if opened else _SUBMITTED.get(event_type) if group == self._router else None
        is_discarded = "dl_discarded" in headers
        if type_ is None:
            if is_discarded and event_type == (_WITHDRAWN if group == self._router else _CASE_WITHDRAWN):
                return ItemUpdate(case_item, StatusFacts(withdrawal_discarded=time))
            return None  # a dead letter of another event of the item, such as its withdrawal
        letter = DeadLetterFact(position=position, reason=reason, at=time, since=since, discarded=is_discarded)
        if type_ != ITEM:
            return complaint_status.from_dead_letter(letter, type_, case_item, as_case=opened)
        submitted = ids.event_id(case_item, ITEM_SUBMITTED, self.region)
        if headers.get("ce_causationid" if opened else "ce_id") != submitted.encode():
            return None  # the record is not the item's submission, or not caused by it
        return ItemUpdate(case_item, StatusFacts(dead_case=letter) if opened else StatusFacts(dead_submission=letter))


def _complaint_update(data: Any, attributes: Attributes, position: int) -> ComplaintUpdate | None:
    update = complaint_status.from_event(data, subject=attributes.subject, position=position, time=attributes.time)
    if update is None:
        return None
    contested, decision = update.facts.contested, update.facts.case.decision
    referenced = [update.id, *(each.decision_id for each in (contested, decision) if each is not None)]
    if not all(map(_is_uuid, referenced)):
        raise Poison(f"not every id is a UUID: {', '.join(referenced)!r:.200}")
    return update
