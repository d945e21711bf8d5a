"""Values of the decision service's domain: received messages, stored cases and leases."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from services.decision.domain import ingest, leases
from services.decision.domain.cases import Case, Decision
from services.decision.domain.ingest import (
    BatchChanges,
    CaseMessage,
    NewestVersion,
    ReceivedCase,
    ReceivedWithdrawal,
    Snapshot,
)
from services.decision.domain.leases import ClaimCommand
from services.decision.handlers.control import ReasonsInForce
from shared.contracts import events, ids
from shared.contracts.envelope import GLOBAL, Attributes, Event
from shared.kafka.consumer import Received
from shared.runtime.clock import from_text, to_text
from tests.support.decision.cases import NOON, appealed, noticed, opened, opening_id, withdrawn

LATER = NOON + timedelta(minutes=4)


def received(attributes: Attributes, case: events.CaseOpened) -> ReceivedCase:
    """An event of `tests.support.decision.cases`, decoded."""
    return ReceivedCase(
        attributes.id,
        attributes.correlation_id,
        attributes.subject,
        from_text(case.received_at),
        from_text(case.due_at),
        case,
        msgspec.json.encode(case),
        from_text(case.requested_at) if case.requested_at else None,
    )


def received_case(subject_id: str = "B07", **changed: Any) -> ReceivedCase:
    """An item's case."""
    return received(*opened("eu", subject_id, **changed))


def under_other_rules(case: ReceivedCase, **changed: Any) -> ReceivedCase:
    """The event that opens the same case after a repetition of the router under a later policy set."""
    trace = events.Trace(policy_set="2-0a1b2c3d4e5f", operating_model=case.opened.trace.operating_model)
    again = msgspec.structs.replace(case.opened, **{"queue": "content", "priority": 1, "trace": trace, **changed})
    return msgspec.structs.replace(
        case, event_id=opening_id(case.event_id, again), opened=again, raw=msgspec.json.encode(again)
    )


def received_notice(subject_id: str = "B07", **changed: Any) -> ReceivedCase:
    """A notice's case."""
    return received(*noticed("eu", subject_id, **changed))


def received_appeal(about: events.CaseOpened, **changed: Any) -> ReceivedCase:
    """The case of an appeal against a decision of `r-1`."""
    return received(*appealed("eu", about, **{"reviewer": "r-1", **changed}))


def received_withdrawal(subject_id: str = "B07", **changed: Any) -> ReceivedWithdrawal:
    """The withdrawal of an item's case."""
    attributes, case = withdrawn("eu", subject_id, **changed)
    return ReceivedWithdrawal(attributes.id, attributes.subject, case.case_id, case.item_id)


def records(messages: Sequence[CaseMessage]) -> list[Received[CaseMessage]]:
    """The messages as the consumer loop passes them to a handler that does not read their records."""
    record: Any = None
    return [Received(record, message) for message in messages]


def newest(of: ReceivedCase, *, is_open: bool) -> Mapping[str, NewestVersion]:
    """This case as the newest version of its subject."""
    case = of.opened
    correlation_id = of.correlation_id if is_open else None
    known = NewestVersion(
        case.case_id, case.item_id, case.version, correlation_id, client=case.client, requested_at=of.requested_at
    )
    return {of.subject: known}


def ingested(*batch: CaseMessage, **stored: Any) -> BatchChanges:
    """The changes that a batch makes to the `stored` state."""
    return ingest.ingest("eu", batch, Snapshot(now=NOON, **stored))


def states(changes: BatchChanges) -> list[str]:
    """The states of the new cases."""
    return [case.state for case in changes.cases]


def event_types(changes: BatchChanges) -> list[str]:
    """The types of the published events."""
    return [event.attributes.type for event in changes.events]


def stored_case(of: ReceivedCase | None = None, **changed: Any) -> Case:
    """A received case as it is stored, waiting unless `changed`."""
    case = received_case() if of is None else of
    return Case(
        **{
            "case_id": case.opened.case_id,
            "subject": case.subject,
            "event_id": case.event_id,
            "correlation_id": case.correlation_id,
            "opened": case.opened,
            **changed,
        }
    )


def claimed_case(of: ReceivedCase | None = None, *, reviewer: str = "r-1", seconds: int = 300) -> Case:
    """A received case that a reviewer claimed at noon, under token 1."""
    return leases.claim("eu", stored_case(of), NOON, ClaimCommand(reviewer, "in_house", seconds))[0]


def decision_of(case: ReceivedCase, **changed: Any) -> Decision:
    """The first decision of a case: `r-1` rejected it at noon, under token 1."""
    return Decision(
        **{
            "decision_id": ids.decision_id(case.opened.case_id, 1),
            "case_id": case.opened.case_id,
            "n": 1,
            "action": "reject",
            "reasons": ["COUNTERFEIT"],
            "policy_set": "1-5f70bf18a086",
            "automated": False,
            "reviewer": "r-1",
            "lease_token": 1,
            "decided_at": NOON,
            **changed,
        }
    )


def policy_set(number: int = 1, **reasons: list[str]) -> events.PolicySetPublished:
    """A policy set in which policy `weapons` has the code WEAPONS; or a policy with the given codes for each name."""
    policies = [
        events.Policy(id=name, title=f"Policy {name}", when=["true"], verdict="reject", reasons=codes)
        for name, codes in (reasons or {"weapons": ["WEAPONS"], "fakes": ["FAKE"]}).items()
    ]
    return events.PolicySetPublished(
        id=f"ps-{number}", number=number, published_by="test", policies=policies, default_verdict="approve"
    )


def reasons_in_force(published: events.PolicySetPublished | None = None) -> ReasonsInForce:
    """The reason codes of a process that has read the policy set from the control topic."""
    in_force = ReasonsInForce()
    in_force.apply(on_control(policy_set() if published is None else published))
    in_force.caught_up()
    return in_force


def on_control(data: events.PolicySetPublished) -> Event[events.PolicySetPublished]:
    """The event of a policy set on the control topic."""
    event_id = ids.derive("control", data.id)
    attributes = Attributes(
        event_id, events.POLICY_SET_PUBLISHED, "test", to_text(NOON), "policy-set", GLOBAL, correlation_id=event_id
    )
    return Event(attributes, data)


CODES: Final = reasons_in_force().codes
"""The reason codes of `policy_set()`."""
