"""What intake reads off a dead letter of an item's way, and what the audit leaves out."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from services.audit.handlers import AppendRecords
from services.intake.domain.status import Dead, Facts
from services.intake.handlers import Learned, Projection
from shared.contracts import ids, topics
from shared.contracts.events import CASE_OPENED, ITEM_SUBMITTED, ITEM_WITHDRAWN
from shared.kafka.consumer import RawRecord

ITEM = ids.item_id("shop", "product", "1", "1")
SUBMITTED = ids.event_id(ITEM, ITEM_SUBMITTED, "eu")
OPENED = ids.event_id(SUBMITTED, CASE_OPENED)
TIME = "2026-05-01T09:30:00.000Z"
ROUTER, DECISION = "piepowder-router-eu", "piepowder-decision-eu"


class Nothing:
    """Keeps nothing."""

    async def learn(self, *_: Any) -> None: ...


def letter(group: str, event_type: str, event_id: str, **more: str) -> RawRecord:
    about = {"group": group, "offset": "7", "reason": "why", "time": TIME, **more}
    headers = [("ce_type", event_type.encode()), ("ce_id", event_id.encode())]
    headers += [(f"dl_{name}", text.encode()) for name, text in about.items()]
    value = f'{{"item_id": "{ITEM}"}}'.encode()
    return ConsumerRecord(topics.deadletters("eu"), 0, 3, 0, 0, b"k", value, None, 0, 0, tuple(headers))


def said(record: RawRecord) -> Facts | None:
    found = Projection("eu", Nothing(), Nothing()).decode(record)
    assert found is None or isinstance(found, Learned)
    return found and found.facts


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Dead(position=7, reason="why", at=TIME)),
        ({"parked": "5"}, Dead(position=7, reason="why", at=TIME, since=5)),
        ({"parked": "7", "met": "12"}, Dead(position=12, reason="why", at=TIME, since=7)),
    ],
)
def test_a_letter_says_where_the_record_was_last_and_behind_which_one_it_waits(
    more: Mapping[str, str], expected: Dead
) -> None:
    assert said(letter(ROUTER, ITEM_SUBMITTED, SUBMITTED, **more)) == Facts(dead_submission=expected)
    assert said(letter(DECISION, CASE_OPENED, OPENED, **more)) == Facts(dead_case=expected)


@pytest.mark.parametrize(
    "record",
    [
        letter(ROUTER, ITEM_SUBMITTED, SUBMITTED, returned="12"),
        letter(ROUTER, ITEM_WITHDRAWN, ids.event_id(ITEM, ITEM_WITHDRAWN, "eu"), parked="5"),
        letter(DECISION, CASE_OPENED, ids.derive("a stranger's")),
        letter("piepowder-audit-eu", CASE_OPENED, OPENED),
    ],
    ids=["a receipt", "its withdrawal", "an event that only names it", "a mere reader's"],
)
def test_what_does_not_hold_the_item_up_says_nothing_of_it(record: RawRecord) -> None:
    assert said(record) is None


def test_the_audit_keeps_letters_and_no_receipts() -> None:
    about = {"topic": topics.cases("eu"), "partition": "0"}
    assert AppendRecords(NotImplemented, "eu").decode(letter(DECISION, CASE_OPENED, OPENED, **about)) is not None
    assert (
        AppendRecords(NotImplemented, "eu").decode(letter(DECISION, CASE_OPENED, OPENED, returned="12", **about))
        is None
    )
