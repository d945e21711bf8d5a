"""Notices and appeals as cases: beside a subject's items, heard by others than who decided (promises 2, 3 and 6)."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from services.decision import domain
from services.decision.domain import Arrival, Case, Decision, Refused, Standing
from shared.contracts import events, ids
from shared.runtime.clock import to_text
from tests.support.decision_cases import NOON, appealed, noticed
from tests.unit.decision.test_domain import arrival, come_in, latest, withdrawal

LATER = NOON + timedelta(minutes=4)
ITEM = arrival(verdict="reject")
CURRENT = Decision(
    decision_id=ids.decision_id(ITEM.opened.case_id, 1),
    case_id=ITEM.opened.case_id,
    n=1,
    action="reject",
    reasons=["COUNTERFEIT"],
    policy_set="1-5f70bf18a086",
    automated=False,
    reviewer="r-1",
    lease_token=1,
    decided_at=NOON,
)


def notice(**what: Any) -> Arrival:
    return come_in(*noticed("eu", **what))


def appeal(**what: Any) -> Arrival:
    return come_in(*appealed("eu", ITEM.opened, **{"reviewer": "r-1", **what}))


def stored(come: Arrival) -> Case:
    return Case(
        case_id=come.opened.case_id,
        subject=come.subject,
        event_id=come.event_id,
        correlation_id=come.correlation_id,
        opened=come.opened,
    )


def claimed(come: Arrival, reviewer: str = "r-2") -> Case:
    return domain.claim("eu", stored(come), NOON, reviewer=reviewer, team="in_house", seconds=300)[0]


def decided(case: Case, action: str, *, contested: Decision | None = CURRENT, reasons: tuple[str, ...] = ()) -> Any:
    return domain.decide(
        "eu", case, None, LATER, token=1, action=action, reasons=list(reasons), note="", contested=contested
    )


def reasons_of(taken: domain.Intake) -> list[str]:
    return [event.data.reason for event in taken.events]


def test_a_notice_waits_beside_the_subjects_open_case_and_ends_none() -> None:
    item = arrival(version=1)
    taken = domain.take_in("eu", [item, notice(), notice(reference="2")], {}, NOON)
    assert [case.state for case in taken.cases] == ["waiting"] * 3
    assert (taken.superseded, taken.events) == ({}, [])
    assert taken.latest[item.subject].case_id == item.opened.case_id


def test_neither_a_newer_version_nor_a_withdrawal_ends_a_notice() -> None:
    first = arrival(version=1)
    known = latest(first, is_open=True)
    taken = domain.take_in("eu", [notice(), arrival(version=2), withdrawal(version=2)], known, NOON)
    assert [(case.arrival.opened.case_type, case.state) for case in taken.cases] == [
        ("notice", "waiting"),
        ("item", "withdrawn"),
    ]


def test_a_second_open_appeal_about_the_same_decision_is_closed_at_once_and_says_why() -> None:
    first, second = appeal(), appeal(reference="2")
    taken = domain.take_in("eu", [first, second], {}, NOON, standings={ITEM.opened.case_id: Standing(1)})
    assert [case.state for case in taken.cases] == ["waiting", "closed"]
    [event] = taken.events
    assert event.data == events.CaseClosed(
        case_id=second.opened.case_id, case_type="appeal", item_id=second.opened.item_id, reason="duplicate"
    )
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (second.event_id, first.correlation_id)


def test_an_appeal_that_comes_while_another_is_open_or_after_it_succeeded_is_closed() -> None:
    for standing, reason in ((Standing(1, appealed=True), "duplicate"), (Standing(2), "replaced")):
        taken = domain.take_in("eu", [appeal()], {}, NOON, standings={ITEM.opened.case_id: standing})
        assert [case.state for case in taken.cases] == ["closed"]
        assert reasons_of(taken) == [reason]


@pytest.mark.parametrize("standing", [Standing(0), Standing(1)])
def test_an_appeal_about_the_decision_in_force_or_one_that_is_not_here_yet_waits(standing: Standing) -> None:
    taken = domain.take_in("eu", [appeal()], {}, NOON, standings={ITEM.opened.case_id: standing})
    assert [case.state for case in taken.cases] == ["waiting"]


def test_an_appeal_that_is_upheld_leaves_the_decision_as_it_is() -> None:
    case, decision, event = decided(claimed(appeal()), "uphold")
    assert (case.state, decision.action, decision.reviewer, decision.n) == ("decided", "uphold", "r-2", 1)
    assert (event.data.case_type, event.data.item_id) == ("appeal", case.opened.item_id)


def test_an_appeal_that_succeeds_replaces_the_decision_and_names_it() -> None:
    held = claimed(appeal())
    case, decision, _ = decided(held, "overturn")
    replacing, event = domain.overturn("eu", case, decision, stored(ITEM), CURRENT)
    assert (replacing.case_id, replacing.n, replacing.action) == (ITEM.opened.case_id, 2, "approve")
    assert (replacing.reviewer, replacing.automated, replacing.lease_token) == ("r-2", False, 0)
    assert replacing.decision_id == ids.decision_id(ITEM.opened.case_id, 2)
    told = event.data
    assert (told.replaces, told.why, told.appeal_case_id) == (CURRENT.decision_id, "appeal", held.case_id)
    assert (told.item_id, told.case_type, told.appeal_id) == (ITEM.opened.item_id, "item", held.opened.item_id)
    assert event.attributes.id == ids.event_id(ITEM.opened.case_id, events.DECISION_REPLACED, 2)
    assert event.attributes.causation_id == ids.event_id(held.case_id, events.DECISION_MADE, 1)
    assert (event.attributes.correlation_id, event.attributes.time) == (ITEM.correlation_id, to_text(LATER))


def test_overturning_an_approval_rejects_and_needs_a_reason() -> None:
    approved = replace(CURRENT, action="approve")
    with pytest.raises(Refused) as refused:
        decided(claimed(appeal(action="approve")), "overturn", contested=approved)
    assert refused.value.slug == "reasons-needed"
    case, decision, _ = decided(claimed(appeal()), "overturn", contested=approved, reasons=("WEAPONS",))
    replacing, _ = domain.overturn("eu", case, decision, stored(ITEM), approved)
    assert (replacing.action, replacing.reasons) == ("reject", ["WEAPONS"])


@pytest.mark.parametrize("action", ["uphold", "overturn"])
def test_nobody_hears_an_appeal_about_a_decision_of_their_own(action: str) -> None:
    with pytest.raises(Refused) as refused:
        decided(claimed(appeal(), reviewer="r-1"), action)
    assert refused.value.slug == "own-decision"


def test_what_is_not_in_force_any_more_cannot_be_overturned() -> None:
    for contested in (None, domain.overturn("eu", claimed(appeal()), CURRENT, stored(ITEM), CURRENT)[0]):
        with pytest.raises(Refused) as refused:
            decided(claimed(appeal()), "overturn", contested=contested)
        assert refused.value.slug == "replaced"


@pytest.mark.parametrize(
    ("of", "action", "expected"),
    [
        (appeal(), "approve", "overturn or uphold"),
        (notice(), "overturn", "approve or reject"),
        (arrival(), "uphold", "approve or reject"),
    ],
)
def test_each_type_of_case_is_decided_in_its_own_words(of: Arrival, action: str, expected: str) -> None:
    with pytest.raises(Refused, match=expected) as refused:
        decided(claimed(of), action)
    assert refused.value.slug == "wrong-action"


def test_a_closed_case_says_so_to_whoever_acts_on_it() -> None:
    closed = claimed(appeal())
    for act in (decided, lambda case, _: domain.heartbeat(case, LATER, token=1, seconds=60)):
        with pytest.raises(Refused) as refused:
            act(replace(closed, state="closed"), "uphold")
        assert refused.value.slug == "closed"


def test_the_events_of_its_life_say_what_type_of_case_it_is() -> None:
    held, told = domain.claim("eu", stored(notice()), NOON, reviewer="r-1", team="in_house", seconds=300)
    _, released = domain.release("eu", held, LATER, token=1, reason="")
    _, expired = domain.expire("eu", held, LATER)
    assert released is not None
    assert {told.data.case_type, released.data.case_type, expired.data.case_type} == {"notice"}
    _, _, made = decided(held, "approve")
    assert made.data.case_type == "notice"
