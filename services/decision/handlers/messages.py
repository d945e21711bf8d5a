"""The messages of the `cases` topic."""

import re
from typing import Final

from services.decision.domain.cases import ACTIONS, ACTIONS_BY_CASE_TYPE, APPEAL, ITEM, NOTICE, REVIEW
from services.decision.domain.ingest import ReceivedCase, ReceivedWithdrawal
from shared.contracts import events
from shared.contracts.envelope import decode
from shared.kafka.consumer import RawRecord
from shared.runtime.clock import from_text
from shared.runtime.errors import Poison, TooNew

_MAX_NAME: Final = 200
_MAX_SUBJECT: Final = 1000
_MAX_REASONS: Final = 100
_MAX_VERSION: Final = 2**63 - 1
_FOUR_UUIDS: Final = re.compile(" ".join(["[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"] * 4))


def decode_message(record: RawRecord, *, region: str) -> ReceivedCase | ReceivedWithdrawal:
    """The case that a record of the region's `cases` topic opens or withdraws. Raises Poison when a value is invalid,
    TooNew for a case type that this version does not know."""
    event = decode(record.headers, record.key, record.value, region=region)
    opened = event.data
    if isinstance(opened, events.CaseWithdrawn):
        _require_ids(event.attributes.id, event.attributes.correlation_id, opened.case_id, opened.item_id)
        _require_text("the subject", event.attributes.subject, _MAX_SUBJECT)
        return ReceivedWithdrawal(event.attributes.id, event.attributes.subject, opened.case_id, opened.item_id)
    if not isinstance(opened, events.CaseOpened) or record.value is None:
        expected = f"{events.CASE_OPENED} or {events.CASE_WITHDRAWN}"
        raise Poison(f"{event.attributes.type} does not belong on this topic; expected {expected}")
    if opened.verdict != REVIEW and opened.verdict not in ACTIONS:
        raise Poison(f"verdict is {opened.verdict!r}, expected approve, reject or review")
    if opened.case_type != ITEM or opened.notice is not None or opened.appeal is not None:
        _require_complaint(opened)
    if not 1 <= opened.priority <= 9:
        raise Poison(f"priority is {opened.priority}, expected 1 (first) to 9")
    if opened.version is not None and not 0 <= opened.version <= _MAX_VERSION:
        raise Poison(f"version is {opened.version}, expected 0 to {_MAX_VERSION}")
    if len(opened.client) > _MAX_NAME or "\0" in opened.client:
        raise Poison(f"client is {opened.client!r:.300}, expected at most {_MAX_NAME} characters without NUL")
    if opened.reasons and (len(opened.reasons) > _MAX_REASONS or max(map(len, opened.reasons)) > _MAX_NAME):
        raise Poison(f"reasons: expected at most {_MAX_REASONS} of {_MAX_NAME} characters each")
    _require_text("queue", opened.queue, _MAX_NAME)
    _require_text("trace.policy_set", opened.trace.policy_set, _MAX_NAME)
    _require_text("the subject", event.attributes.subject, _MAX_SUBJECT)
    _require_ids(event.attributes.id, event.attributes.correlation_id, opened.case_id, opened.item_id)
    try:
        received_at, due_at = from_text(opened.received_at), from_text(opened.due_at)
        requested_at = from_text(opened.requested_at) if opened.requested_at else None
    except (ValueError, OverflowError) as error:
        raise Poison(f"received_at, due_at or requested_at is not an RFC 3339 time: {error}") from error
    return ReceivedCase(
        event.attributes.id,
        event.attributes.correlation_id,
        event.attributes.subject,
        received_at,
        due_at,
        opened,
        record.value,
        requested_at,
    )


def _require_complaint(opened: events.CaseOpened) -> None:
    """Check that a notice's case has the notice, an appeal's case the appeal, and that both need a reviewer."""
    if opened.case_type not in ACTIONS_BY_CASE_TYPE:
        raise TooNew(f"case_type is {opened.case_type!r}, this version knows {', '.join(ACTIONS_BY_CASE_TYPE)}")
    found = [name for name, part in ((NOTICE, opened.notice), (APPEAL, opened.appeal)) if part is not None]
    if found != [opened.case_type]:
        parts = " and ".join(found) or "neither a notice nor an appeal"
        raise Poison(f"a case of type {opened.case_type!r} has {parts}, which does not match its type")
    if opened.verdict != REVIEW:
        raise Poison(f"verdict is {opened.verdict!r}, but a case of type {opened.case_type!r} needs a reviewer")
    if opened.appeal is not None:
        named_decision = opened.appeal.decision
        _require_ids(named_decision.decision_id, named_decision.case_id, named_decision.item_id, opened.case_id)
        if named_decision.reviewer:
            _require_text("appeal.decision.reviewer", named_decision.reviewer, _MAX_NAME)


def _require_text(name: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or "\0" in text:
        raise Poison(f"{name} is {text!r:.300}, expected 1 to {longest} characters without NUL")


def _require_ids(*four_ids: str) -> None:
    if _FOUR_UUIDS.fullmatch(" ".join(four_ids)) is None:
        raise Poison(f"ce_id, ce_correlationid, case_id, item_id: {four_ids!r:.500}, expected UUIDs in lower case")
