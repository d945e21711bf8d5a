"""The events of a case.

An event's id is derived from the case, the event's type and a number: the lease token or the decision's `n`. A change
that is repeated after a crash is therefore published under the same id.
"""

from typing import Any, NamedTuple

from msgspec.structs import asdict

from services.decision.domain.cases import Case, Decision
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Event


class EventLinks(NamedTuple):
    """The subject of an event, the first event of its item, and the event that caused it."""

    subject: str
    correlation_id: str
    causation_id: str


def source(region: str) -> str:
    """The source of all events of the service of a region."""
    return f"piepowder/decision/{region}"


def case_event(region: str, at: str, links: EventLinks, event_type: str, data: Any, *, n: int = 0) -> Event[Any]:
    """An event of the case that `data` names; `at` is RFC 3339."""
    return Event(
        Attributes(
            ids.event_id(data.case_id, event_type, n),
            event_type,
            source(region),
            at,
            links.subject,
            region,
            links.correlation_id,
            links.causation_id,
        ),
        data,
    )


def claim_event_id(case: Case) -> str:
    """The id of the event of the case's last claim."""
    return ids.event_id(case.case_id, events.CASE_CLAIMED, case.lease_token)


def decision_made(decision: Decision, opened: events.CaseOpened) -> events.DecisionMade:
    """The event data of a decision."""
    fields = asdict(decision)
    del fields["decided_at"]  # it is the event's time
    return events.DecisionMade(
        **fields,
        case_type=opened.case_type,
        item_id=opened.item_id,
        platform=opened.platform,
        kind=opened.kind,
        subject_id=opened.subject_id,
        version=opened.version,
        queue=opened.queue,
        received_at=opened.received_at,
        due_at=opened.due_at,
    )
