"""Notices and appeals as cases: independent of the item's cases, and decided by another reviewer (promises 2, 3, 6)."""

from typing import Any

import pytest
from msgspec.structs import replace

from services.decision.domain import appeals
from services.decision.domain.appeals import AppealedCase
from services.decision.domain.cases import Case, Decision
from services.decision.domain.decisions import DecideCommand, decide
from services.decision.domain.ingest import ReceivedCase
from shared.contracts import events, ids
from shared.runtime.clock import to_text
from shared.validation.faults import InputRejected
from tests.support.decision.domain import (
    CODES,
    LATER,
    claimed_case,
    decision_of,
    ingested,
    newest,
    received_appeal,
    received_case,
    received_notice,
    received_withdrawal,
    states,
    stored_case,
)

ITEM = received_case(verdict="reject")
IN_FORCE = decision_of(ITEM)
DECIDED_ITEM = stored_case(ITEM, state="decided")


def appeal(**changed: Any) -> ReceivedCase:
    return received_appeal(ITEM.opened, **changed)


def claimed(received: ReceivedCase, reviewer: str = "r-2") -> Case:
    return claimed_case(received, reviewer=reviewer)


def decided(case: Case, action: str, *, contested: Decision | None = IN_FORCE, reasons: tuple[str, ...] = ()) -> Any:
    return decide(
        "eu", case, None, LATER, DecideCommand(1, action, list(reasons)), codes=CODES, decision_in_force=contested
    )


def rejection(case: Case, action: str, **given: Any) -> InputRejected:
    with pytest.raises(InputRejected) as rejected:
        decided(case, action, **given)
    return rejected.value


def test_a_notice_waits_and_does_not_end_the_subjects_open_case() -> None:
    item = received_case(version=1)
    changes = ingested(item, received_notice(), received_notice(reference="2"))
    assert states(changes) == ["waiting"] * 3
    assert (changes.superseded, changes.events) == ({}, [])
    assert changes.newest[item.subject].case_id == item.opened.case_id


def test_neither_a_newer_version_nor_a_withdrawal_ends_a_notice() -> None:
    known = newest(received_case(version=1), is_open=True)
    changes = ingested(received_notice(), received_case(version=2), received_withdrawal(version=2), newest=known)
    assert [(case.received.opened.case_type, case.state) for case in changes.cases] == [
        ("notice", "waiting"),
        ("item", "withdrawn"),
    ]


def test_a_second_open_appeal_about_the_same_decision_is_closed_at_once_with_the_reason() -> None:
    first, second = appeal(), appeal(reference="2")
    changes = ingested(first, second, appealed_cases={ITEM.opened.case_id: AppealedCase(1)})
    assert states(changes) == ["waiting", "closed"]
    [event] = changes.events
    assert event.data == events.CaseClosed(
        case_id=second.opened.case_id, case_type="appeal", item_id=second.opened.item_id, reason="duplicate"
    )
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (second.event_id, first.correlation_id)


@pytest.mark.parametrize(
    ("appealed", "reason"), [(AppealedCase(1, has_open_appeal=True), "duplicate"), (AppealedCase(2), "replaced")]
)
def test_an_appeal_that_arrives_while_another_is_open_or_after_one_succeeded_is_closed(
    appealed: AppealedCase, reason: str
) -> None:
    changes = ingested(appeal(), appealed_cases={ITEM.opened.case_id: appealed})
    assert states(changes) == ["closed"]
    assert [event.data.reason for event in changes.events] == [reason]


@pytest.mark.parametrize("appealed", [AppealedCase(0), AppealedCase(1)])
def test_an_appeal_about_the_decision_in_force_or_a_decision_not_stored_yet_waits(appealed: AppealedCase) -> None:
    assert states(ingested(appeal(), appealed_cases={ITEM.opened.case_id: appealed})) == ["waiting"]


def test_an_upheld_appeal_leaves_the_decision_in_force() -> None:
    case, decision, event = decided(claimed(appeal()), "uphold")
    assert (case.state, decision.action, decision.reviewer, decision.n) == ("decided", "uphold", "r-2", 1)
    assert (event.data.case_type, event.data.item_id) == ("appeal", case.opened.item_id)


def test_an_appeal_that_succeeds_replaces_the_decision_and_names_it() -> None:
    held = claimed(appeal())
    case, decision, _ = decided(held, "overturn")
    replacing, event = appeals.overturn("eu", case, decision, DECIDED_ITEM, IN_FORCE)
    assert (replacing.case_id, replacing.n, replacing.action) == (ITEM.opened.case_id, 2, "approve")
    assert (replacing.reviewer, replacing.automated, replacing.lease_token) == ("r-2", False, 0)
    assert replacing.decision_id == ids.decision_id(ITEM.opened.case_id, 2)
    data = event.data
    assert (data.replaces, data.why, data.appeal_case_id) == (IN_FORCE.decision_id, "appeal", held.case_id)
    assert (data.item_id, data.case_type, data.appeal_id) == (ITEM.opened.item_id, "item", held.opened.item_id)
    assert event.attributes.id == ids.event_id(ITEM.opened.case_id, events.DECISION_REPLACED, 2)
    assert event.attributes.type == events.DECISION_REPLACED
    assert event.attributes.causation_id == ids.event_id(held.case_id, events.DECISION_MADE, 1)
    assert (event.attributes.correlation_id, event.attributes.time) == (ITEM.correlation_id, to_text(LATER))


def test_overturning_an_approval_rejects_and_needs_a_reason() -> None:
    approved = replace(IN_FORCE, action="approve")
    assert rejection(claimed(appeal(action="approve")), "overturn", contested=approved).slug == "reasons-needed"
    case, decision, _ = decided(claimed(appeal()), "overturn", contested=approved, reasons=("WEAPONS",))
    replacing, _ = appeals.overturn("eu", case, decision, DECIDED_ITEM, approved)
    assert (replacing.action, replacing.reasons) == ("reject", ["WEAPONS"])


@pytest.mark.parametrize("action", ["uphold", "overturn"])
def test_a_reviewer_cannot_decide_an_appeal_about_their_own_decision(action: str) -> None:
    assert rejection(claimed(appeal(), reviewer="r-1"), action).slug == "own-decision"


def test_a_decision_that_is_not_in_force_any_more_cannot_be_overturned() -> None:
    replacing, _ = appeals.overturn("eu", claimed(appeal()), IN_FORCE, DECIDED_ITEM, IN_FORCE)
    for contested in (None, replacing):
        assert rejection(claimed(appeal()), "overturn", contested=contested).slug == "replaced"


@pytest.mark.parametrize(
    ("received", "action", "expected"),
    [
        (appeal(), "approve", "overturn or uphold"),
        (received_notice(), "overturn", "approve or reject"),
        (received_case(), "uphold", "approve or reject"),
    ],
)
def test_each_type_of_case_has_its_own_actions(received: ReceivedCase, action: str, expected: str) -> None:
    rejected = rejection(claimed(received), action)
    assert (rejected.slug, expected in str(rejected)) == ("wrong-action", True)


def test_a_closed_appeal_cannot_be_decided() -> None:
    assert rejection(replace(claimed(appeal()), state="closed"), "uphold").slug == "closed"
