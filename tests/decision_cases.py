"""Cases as the router opens them, for the tests of the decision service."""

from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import ConsumerRecord

from shared import events, ids
from shared.clock import to_text
from shared.envelope import Attributes, Encoded, encode, subject_of
from shared.kafka.consumer import RawRecord

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def opened(
    region: str,
    subject_id: str = "B07",
    *,
    version: int | None = 1,
    content: str = "",
    verdict: str = "review",
    queue: str = "general",
    priority: int = 5,
    due_in: float = 240.0,
    **changed: Any,
) -> tuple[Attributes, events.CaseOpened]:
    """A `case.opened` with its attributes; `due_in` is in minutes, `content` names a version without a number."""
    item_id = ids.item_id("shop", "product", subject_id, str(version) if version is not None else f"h:{content}")
    submitted = ids.event_id(item_id, events.ITEM_SUBMITTED, region)
    case = events.CaseOpened(
        **{
            "case_id": ids.case_id(item_id, region, "item"),
            "item_id": item_id,
            "platform": "shop",
            "kind": "product",
            "subject_id": subject_id,
            "version": version,
            "queue": queue,
            "priority": priority,
            "received_at": to_text(NOON),
            "due_at": to_text(NOON + timedelta(minutes=due_in)),
            "verdict": verdict,
            "reasons": ["COUNTERFEIT"] if verdict == "reject" else [],
            "trace": events.Trace(policy_set="1-5f70bf18a086", operating_model="1-0c1f4a2f6b11"),
            "item": events.Item(markets=["DE"], language="de", title=f"Uhr {subject_id}", text=content),
            **changed,
        }
    )
    attributes = Attributes(
        ids.event_id(submitted, events.CASE_OPENED),
        events.CASE_OPENED,
        f"piepowder/router/{region}",
        to_text(NOON),
        subject_of("shop", "product", subject_id),
        region,
        submitted,
        submitted,
    )
    return attributes, case


def encoded(region: str, subject_id: str = "B07", **what: Any) -> Encoded:
    """The same as key, value and headers."""
    return encode(*opened(region, subject_id, **what))


def taken(event: Encoded, *, topic: str = "piepowder.cases.eu", offset: int = 0) -> RawRecord:
    """The event as a consumer takes it from Kafka."""
    return ConsumerRecord(
        topic=topic,
        partition=0,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=event.key,
        value=event.value,
        checksum=None,
        serialized_key_size=len(event.key),
        serialized_value_size=len(event.value),
        headers=tuple(event.headers),
    )
