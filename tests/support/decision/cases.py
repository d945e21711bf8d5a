"""Events of the `cases` topic, as the router publishes them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import ConsumerRecord

from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Encoded, encode, subject_of
from shared.kafka.consumer import RawRecord
from shared.runtime.clock import to_text

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
    """A `case.opened` event; `due_in` is in minutes, `content` identifies a version without a number."""
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
        opening_id(submitted, case),
        events.CASE_OPENED,
        f"piepowder/router/{region}",
        to_text(NOON),
        subject_of("shop", "product", subject_id),
        region,
        submitted,
        submitted,
    )
    return attributes, case


def opening_id(cause: str, case: events.CaseOpened) -> str:
    """The id that the router gives to the event that opens a case: other rules in its trace give another id."""
    with_hits = "/hits" if case.trace.hits else ""
    return ids.event_id(cause, events.CASE_OPENED, f"{case.trace.policy_set}/{case.trace.operating_model}{with_hits}")


def withdrawn(
    region: str, subject_id: str = "B07", *, version: int | None = 1, content: str = "", **changed: Any
) -> tuple[Attributes, events.CaseWithdrawn]:
    """The `case.withdrawn` event of the case that `opened` opens."""
    attributes, case = opened(region, subject_id, version=version, content=content)
    withdrawn_id = ids.event_id(case.item_id, events.ITEM_WITHDRAWN, region)
    withdrawal = events.CaseWithdrawn(
        **{
            "case_id": case.case_id,
            "item_id": case.item_id,
            "platform": "shop",
            "kind": "product",
            "subject_id": subject_id,
            "version": version,
            "withdrawn_at": to_text(NOON),
            "reason": "sold",
            **changed,
        }
    )
    return (
        Attributes(
            ids.event_id(withdrawn_id, events.CASE_WITHDRAWN),
            events.CASE_WITHDRAWN,
            f"piepowder/router/{region}",
            to_text(NOON),
            attributes.subject,
            region,
            attributes.correlation_id,
            withdrawn_id,
        ),
        withdrawal,
    )


def noticed(
    region: str, subject_id: str = "B07", *, reference: str = "1", reporter: str = "user", **changed: Any
) -> tuple[Attributes, events.CaseOpened]:
    """The `case.opened` event of a notice about a subject."""
    subject = subject_of("shop", "product", subject_id)
    notice_id = ids.notice_id("shop", subject, reference)
    submitted = ids.event_id(notice_id, events.NOTICE_SUBMITTED, region)
    notice = events.Notice(
        markets=["DE"],
        ground="counterfeit",
        category="STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
        explanation="We make this watch, and not that one.",
        locations=["https://shop.example/B07"],
        good_faith=True,
        reporter=events.Reporter(kind=reporter, name="Ada"),
    )
    fields = {"item": events.Item(markets=["DE"]), "notice": notice, **changed}
    return _complaint(region, subject_id, notice_id, submitted, submitted, case_type="notice", **fields)


def appealed(
    region: str,
    about: events.CaseOpened,
    *,
    n: int = 1,
    reference: str = "1",
    action: str = "reject",
    reviewer: str = "",
    **changed: Any,
) -> tuple[Attributes, events.CaseOpened]:
    """The `case.opened` event of an appeal about decision `n` of a case. Without `reviewer`, a policy decided."""
    subject = subject_of("shop", "product", about.subject_id)
    appeal_id = ids.appeal_id("shop", region, subject, reference)
    contested = events.Contested(
        decision_id=ids.decision_id(about.case_id, n),
        case_id=about.case_id,
        case_type=about.case_type,
        item_id=about.item_id,
        n=n,
        action=action,
        automated=not reviewer,
        reviewer=reviewer,
        decided_at=to_text(NOON),
    )
    appeal = events.Appeal(
        appellant=events.Appellant(kind="seller", name="Bob"), explanation="It is genuine.", decision=contested
    )
    first = ids.event_id(about.item_id, events.ITEM_SUBMITTED, region)
    submitted = ids.event_id(appeal_id, events.APPEAL_SUBMITTED, region)
    fields = {"item": events.Item(markets=[]), "appeal": appeal, **changed}
    return _complaint(region, about.subject_id, appeal_id, submitted, first, case_type="appeal", **fields)


def _complaint(
    region: str, subject_id: str, item_id: str, submitted: str, first: str, **fields: Any
) -> tuple[Attributes, events.CaseOpened]:
    _, case = opened(
        region,
        subject_id,
        **{"case_id": ids.case_id(item_id, region, fields["case_type"]), "item_id": item_id, "version": None, **fields},
    )
    attributes = Attributes(
        opening_id(submitted, case),
        events.CASE_OPENED,
        f"piepowder/router/{region}",
        to_text(NOON),
        subject_of("shop", "product", subject_id),
        region,
        first,
        submitted,
    )
    return attributes, case


def encoded_withdrawal(region: str, subject_id: str = "B07", **changed: Any) -> Encoded:
    """The event of `withdrawn` as key, value and headers."""
    return encode(*withdrawn(region, subject_id, **changed))


def encoded(region: str, subject_id: str = "B07", **changed: Any) -> Encoded:
    """The event of `opened` as key, value and headers."""
    return encode(*opened(region, subject_id, **changed))


def consumed(event: Encoded, *, topic: str = "piepowder.cases.eu", offset: int = 0) -> RawRecord:
    """The event as a consumer receives it from Kafka."""
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
