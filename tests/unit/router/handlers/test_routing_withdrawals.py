"""A withdrawal follows its item to the same topic, in order (promises 5 and 6)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from services.router.domain.routing import RulesInForce
from services.router.handlers.routing import RouteSubmissions
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, Event, decode, encode
from shared.contracts.events import (
    CASE_OPENED,
    CASE_WITHDRAWN,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    CaseWithdrawn,
    ItemWithdrawn,
)
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison
from tests.support.router_samples import RECEIVED_AT, compiled, model, rule, submitted

ITEM = submitted()
SUBJECT = f"{ITEM.platform}:{ITEM.kind}:{ITEM.subject_id}"
FIRST = ids.event_id(ITEM.item_id, ITEM_SUBMITTED, "eu")
WITHDRAWAL = ids.event_id(ITEM.item_id, ITEM_WITHDRAWN, "eu")
WITHDRAWN = ItemWithdrawn(
    item_id=ITEM.item_id,
    platform=ITEM.platform,
    kind=ITEM.kind,
    subject_id=ITEM.subject_id,
    version=ITEM.version,
    client="shop",
    reason="sold",
    withdrawn_at=RECEIVED_AT,
    regions=["eu"],
)


class RecordingProducer:
    """A producer that stores the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def send(self, records: Sequence[Record]) -> None:
        self.records += records


def raw(event_id: str, kind: str, data: Any, *, subject: str = SUBJECT) -> RawRecord:
    attributes = Attributes(event_id, kind, "piepowder/intake", RECEIVED_AT, subject, "eu", FIRST)
    event = encode(attributes, data)
    return ConsumerRecord(
        topic=topics.submissions("eu"),
        partition=0,
        offset=0,
        timestamp=0,
        timestamp_type=0,
        key=event.key,
        value=event.value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(event.headers),
    )


async def routed(*records: RawRecord) -> list[Event[Any]]:
    producer = RecordingProducer()
    routing = RouteSubmissions(
        region="eu",
        rules=lambda: RulesInForce(model(), compiled(rule("all"))),
        producer=producer,
        clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)),
    )
    await routing.handle([Received(record, routing.decode(record)) for record in records])
    assert {record.topic for record in producer.records} == {topics.cases("eu")}
    return [decode(record.headers, record.key, record.value, region="eu") for record in producer.records]


async def test_a_withdrawal_follows_its_case_and_names_it() -> None:
    opened, withdrawn = await routed(raw(FIRST, ITEM_SUBMITTED, ITEM), raw(WITHDRAWAL, ITEM_WITHDRAWN, WITHDRAWN))
    assert (opened.attributes.type, withdrawn.attributes.type) == (CASE_OPENED, CASE_WITHDRAWN)
    assert withdrawn.attributes.subject == SUBJECT
    assert withdrawn.attributes.id == ids.event_id(WITHDRAWAL, CASE_WITHDRAWN)
    assert (withdrawn.attributes.causation_id, withdrawn.attributes.correlation_id) == (WITHDRAWAL, FIRST)
    assert withdrawn.data == CaseWithdrawn(
        case_id=opened.data.case_id,
        item_id=ITEM.item_id,
        platform=ITEM.platform,
        kind=ITEM.kind,
        subject_id=ITEM.subject_id,
        version=ITEM.version,
        withdrawn_at=RECEIVED_AT,
        reason="sold",
    )


async def test_a_withdrawal_needs_no_case_and_a_repeated_withdrawal_gives_the_same_event() -> None:
    again = raw(WITHDRAWAL, ITEM_WITHDRAWN, WITHDRAWN)
    first, second = await routed(again, again)
    assert first == second


def test_a_withdrawal_with_a_key_other_than_its_subject_is_poison() -> None:
    routing = RouteSubmissions(
        region="eu",
        rules=NotImplemented,
        producer=RecordingProducer(),
        clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)),
    )
    with pytest.raises(Poison, match="the item's subject"):
        routing.decode(raw(WITHDRAWAL, ITEM_WITHDRAWN, WITHDRAWN, subject="shop:product:other"))
