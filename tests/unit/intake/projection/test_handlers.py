"""The facts from dead letters, and the dead letters that the audit log contains."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from services.audit.domain import AppendResult
from services.audit.handlers import AppendRecords
from services.intake.items.domain.status import DeadLetterFact, StatusFacts
from services.intake.projection.handlers import ItemUpdate, Projection
from shared.contracts import ids, topics
from shared.contracts.events import CASE_OPENED, CASE_WITHDRAWN, ITEM_SUBMITTED, ITEM_WITHDRAWN
from shared.kafka.consumer import RawRecord

ITEM = ids.item_id("shop", "product", "1", "1")
SUBMITTED = ids.event_id(ITEM, ITEM_SUBMITTED, "eu")
OPENED = ids.event_id(SUBMITTED, CASE_OPENED, "ps-1/om-1")
TIME = "2026-05-01T09:30:00.000Z"
ROUTER, DECISION = "piepowder-router-eu", "piepowder-decision-eu"


class NoLog:
    """An audit log that must not be written."""

    async def append(self, *_: Any) -> AppendResult:
        raise NotImplementedError


class NoStore:
    """A store that ignores all facts."""

    async def merge(self, *_: Any) -> None: ...


def letter(group: str, event_type: str, event_id: str, *, cause: str = SUBMITTED, **more: str) -> RawRecord:
    about = {"group": group, "offset": "7", "reason": "why", "time": TIME, **more}
    headers = [("ce_type", event_type.encode()), ("ce_id", event_id.encode()), ("ce_causationid", cause.encode())]
    headers += [(f"dl_{name}", text.encode()) for name, text in about.items()]
    value = f'{{"item_id": "{ITEM}"}}'.encode()
    return ConsumerRecord(topics.deadletters("eu"), 0, 3, 0, 0, b"k", value, None, 0, 0, tuple(headers))


def facts_of(record: RawRecord) -> StatusFacts | None:
    found = Projection("eu", NoStore()).decode(record)
    assert found is None or isinstance(found, ItemUpdate)
    return found and found.facts


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, DeadLetterFact(position=7, reason="why", at=TIME)),
        ({"parked": "5"}, DeadLetterFact(position=7, reason="why", at=TIME, since=5)),
        ({"parked": "7", "met": "12"}, DeadLetterFact(position=12, reason="why", at=TIME, since=7)),
    ],
)
def test_a_dead_letter_has_the_position_of_its_record_and_of_the_blocking_record(
    more: Mapping[str, str], expected: DeadLetterFact
) -> None:
    assert facts_of(letter(ROUTER, ITEM_SUBMITTED, SUBMITTED, **more)) == StatusFacts(dead_submission=expected)
    assert facts_of(letter(DECISION, CASE_OPENED, OPENED, **more)) == StatusFacts(dead_case=expected)


@pytest.mark.parametrize("more", [{}, {"met": "12"}])
def test_a_discard_is_a_fact_about_the_item(more: Mapping[str, str]) -> None:
    closing = {"reason": "discarded: junk", "discarded": "junk", "by": "ops", **more}
    at = 12 if more else 7
    expected = DeadLetterFact(position=at, reason="discarded: junk", at=TIME, discarded=True)
    assert facts_of(letter(ROUTER, ITEM_SUBMITTED, SUBMITTED, **closing)) == StatusFacts(dead_submission=expected)
    assert facts_of(letter(DECISION, CASE_OPENED, OPENED, **closing)) == StatusFacts(dead_case=expected)


@pytest.mark.parametrize(("group", "event_type"), [(ROUTER, ITEM_WITHDRAWN), (DECISION, CASE_WITHDRAWN)])
def test_a_discarded_withdrawal_does_not_wait(group: str, event_type: str) -> None:
    record = letter(group, event_type, ids.derive("withdrawal"), discarded="junk", by="ops")
    assert facts_of(record) == StatusFacts(withdrawal_discarded=TIME)


@pytest.mark.parametrize(
    "record",
    [
        letter(ROUTER, ITEM_SUBMITTED, SUBMITTED, returned="12"),
        letter(ROUTER, ITEM_WITHDRAWN, ids.event_id(ITEM, ITEM_WITHDRAWN, "eu"), parked="5"),
        letter(ROUTER, ITEM_SUBMITTED, ids.derive("another event")),
        letter(DECISION, CASE_OPENED, OPENED, cause=ids.derive("another event")),
        letter("piepowder-audit-eu", CASE_OPENED, OPENED),
    ],
    ids=["receipt", "withdrawal of the item", "another event with the item id", "a case of another event", "of audit"],
)
def test_dead_letters_that_do_not_block_the_item_give_no_facts(record: RawRecord) -> None:
    assert facts_of(record) is None


def test_the_audit_log_has_dead_letters_but_no_receipts() -> None:
    about = {"topic": topics.cases("eu"), "partition": "0"}
    assert AppendRecords(NoLog(), "eu").decode(letter(DECISION, CASE_OPENED, OPENED, **about)) is not None
    assert AppendRecords(NoLog(), "eu").decode(letter(DECISION, CASE_OPENED, OPENED, returned="12", **about)) is None
