"""The account: each accepted item ends in one way, and it shows every loss, double and gap in the audit log."""

from typing import Any

import pytest

from deploy.local.accounting import Account, AuditCounts, ItemOutcome, Ledger, RecordId, audit_counts
from piepowder.submit import RegionItem
from shared.contracts import ids
from shared.contracts.envelope import Attributes, Event
from shared.contracts.events import (
    CASE_CLOSED,
    CASE_OPENED,
    CASE_SUPERSEDED,
    DECISION_MADE,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    CaseClosed,
    CaseOpened,
    CaseSuperseded,
    DecisionMade,
    Item,
    ItemSubmitted,
    ItemWithdrawn,
    Struct,
    Trace,
)

EU = "eu"
SET_ASIDE = RecordId("submissions", 0, 7)
WHEN = "2026-05-01T09:30:00.000Z"
ITEM = Item(markets=["DE"])


class World:
    """A region that adds its events to a ledger."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.offset = 0
        self.ids: set[str] = set()

    def tell(self, event_type: str, event_id: str, data: Struct) -> None:
        self.offset += 1
        self.ids.add(event_id)
        attributes = Attributes(event_id, event_type, "test", WHEN, "s:product:1", EU, event_id)
        event: Event[Any] = Event(attributes, data)
        self.ledger.add(EU, event, RecordId("topic", 0, self.offset))

    def submit(self, item: str) -> RegionItem:
        self.tell(
            ITEM_SUBMITTED,
            ids.event_id(item, ITEM_SUBMITTED, EU),
            ItemSubmitted(
                item_id=item,
                platform="s",
                kind="product",
                subject_id="1",
                content_hash="",
                client="c",
                received_at=WHEN,
                regions=[EU],
                item=ITEM,
            ),
        )
        return RegionItem(item, EU)

    def open(self, item: str, verdict: str = "review", case: str | None = None) -> str:
        case = case or ids.case_id(item, EU, "item")
        opened = CaseOpened(
            case_id=case,
            item_id=item,
            platform="s",
            kind="product",
            subject_id="1",
            queue="general",
            priority=5,
            received_at=WHEN,
            due_at=WHEN,
            verdict=verdict,
            trace=Trace(policy_set="p", operating_model="o"),
            item=ITEM,
        )
        self.tell(CASE_OPENED, ids.event_id(case, CASE_OPENED), opened)
        return case

    def decide(self, item: str, case: str, *, automated: bool, action: str = "approve", decision: str = "d") -> None:
        made = DecisionMade(
            decision_id=decision,
            case_id=case,
            item_id=item,
            platform="s",
            kind="product",
            subject_id="1",
            queue="general",
            n=1,
            action=action,
            policy_set="p",
            automated=automated,
            received_at=WHEN,
            due_at=WHEN,
        )
        self.tell(DECISION_MADE, ids.event_id(case, DECISION_MADE, decision), made)

    def supersede(self, item: str, case: str) -> None:
        superseded = CaseSuperseded(case_id=case, item_id=item, superseded_by="newer")
        self.tell(CASE_SUPERSEDED, ids.event_id(case, CASE_SUPERSEDED), superseded)

    def withdraw(self, item: str) -> None:
        withdrawn = ItemWithdrawn(
            item_id=item,
            platform="s",
            kind="product",
            subject_id="1",
            client="c",
            withdrawn_at=WHEN,
            regions=[EU],
        )
        self.tell(ITEM_WITHDRAWN, ids.event_id(item, ITEM_WITHDRAWN, EU), withdrawn)

    def close(self, item: str, case: str) -> None:
        closed = CaseClosed(case_id=case, item_id=item, reason="withdrawn")
        self.tell(CASE_CLOSED, ids.event_id(case, CASE_CLOSED), closed)

    def account(self, *pairs: RegionItem, audited: int | None = None, control: int = 0) -> Account:
        return self.ledger.account(pairs, {EU: AuditCounts(len(self.ids) if audited is None else audited, control)})


@pytest.fixture
def world() -> World:
    return World()


def test_each_accepted_item_ends_in_one_way(world: World) -> None:
    pairs = [world.submit(item) for item in "abcdefgh"]
    world.decide("a", world.open("a", "reject"), automated=True, action="reject")
    world.decide("b", world.open("b"), automated=False)
    world.open("c")
    world.supersede("d", world.open("d", "approve"))
    world.ledger.add_dead_letter(EU, ids.event_id("e", ITEM_SUBMITTED, EU), "piepowder-router-eu", SET_ASIDE)
    world.withdraw("f")
    world.close("f", world.open("f"))
    world.withdraw("g")
    world.decide("g", world.open("g"), automated=False)
    case = ids.event_id("h", ITEM_SUBMITTED, EU)
    world.open("h")
    world.ledger.add_dead_letter(EU, case, "piepowder-decision-eu", SET_ASIDE, parked=True)

    account = world.account(*pairs, pairs[0])

    assert account.holds
    assert account.total == 8
    assert {fate: account.outcomes.get(fate, 0) for fate in ItemOutcome} == {
        ItemOutcome.BY_POLICY: 1,
        ItemOutcome.BY_PEOPLE: 2,
        ItemOutcome.OPEN: 1,
        ItemOutcome.SUPERSEDED: 1,
        ItemOutcome.WITHDRAWN: 1,
        ItemOutcome.PARKED: 1,
        ItemOutcome.DEAD_LETTERED: 1,
        ItemOutcome.MISSING: 0,
    }
    assert account.actions[ItemOutcome.BY_POLICY, "reject"] == 1
    assert account.by_people == {RegionItem("b", EU), RegionItem("g", EU)}
    assert "every accepted item is accounted for" in account.proof()


def test_an_item_that_never_reached_its_topic_is_missing(world: World) -> None:
    account = world.account(RegionItem("lost", EU))

    assert not account.holds
    assert account.missing == {RegionItem("lost", EU): "it is not in the topic"}
    assert "1 MISSING" in account.proof()


def test_an_item_without_a_case_is_missing(world: World) -> None:
    pair = world.submit("a")

    assert world.account(pair).missing == {pair: "no case was opened"}


def test_a_verdict_of_policy_without_its_decision_is_missing_and_not_open(world: World) -> None:
    pair = world.submit("a")
    world.open("a", "approve")

    account = world.account(pair)

    assert account.outcomes[ItemOutcome.OPEN] == 0
    assert "has the verdict approve and no decision" in account.missing[pair]


def test_a_withdrawn_item_whose_case_is_still_open_is_missing_and_not_open(world: World) -> None:
    pair = world.submit("a")
    case = world.open("a")
    world.withdraw("a")

    account = world.account(pair)

    assert account.outcomes[ItemOutcome.OPEN] == 0
    assert account.missing == {pair: f"it was withdrawn, and its case {case} was neither closed nor decided"}


def test_an_item_of_another_region_does_not_stand_for_this_one(world: World) -> None:
    world.decide("a", world.open("a", "approve"), automated=True)

    assert RegionItem("a", "us") in world.account(RegionItem("a", "us")).missing


def test_two_first_decisions_of_a_case_are_shown_with_their_records(world: World) -> None:
    pair, case = world.submit("a"), world.open("a")
    world.decide("a", case, automated=False, decision="d1")
    world.decide("a", case, automated=False, decision="d2", action="reject")

    account = world.account(pair)

    assert not account.holds
    assert account.doubles == [f"case {case} has two decisions 1: approve d1 (topic[0]@3) and reject d2 (topic[0]@4)"]


def test_two_cases_of_an_item_are_a_double(world: World) -> None:
    pair = world.submit("a")
    world.open("a", case="one")
    world.open("a", case="two")

    assert "item a has two cases in eu: one and two" in world.account(pair).doubles[0]


def test_a_case_both_decided_and_superseded_is_a_double(world: World) -> None:
    pair, case = world.submit("a"), world.open("a")
    world.decide("a", case, automated=False)
    world.supersede("a", case)

    assert "decided and superseded" in world.account(pair).doubles[0]


def test_a_case_both_decided_and_withdrawn_is_a_double(world: World) -> None:
    pair, case = world.submit("a"), world.open("a")
    world.close("a", case)
    world.decide("a", case, automated=False)

    assert "decided and withdrawn" in world.account(pair).doubles[0]


def test_a_repeated_event_is_counted_and_harmless(world: World) -> None:
    pair = world.submit("a")
    for _ in range(2):
        world.decide("a", world.open("a", "approve"), automated=True)

    account = world.account(pair)

    assert account.holds
    assert (account.repeats, account.events) == (2, 3)


@pytest.mark.parametrize("audited", [2, 4])
def test_an_audit_log_with_a_missing_or_an_extra_event_is_a_gap(world: World, audited: int) -> None:
    pair = world.submit("a")
    world.decide("a", world.open("a", "approve"), automated=True)

    account = world.account(pair, audited=audited, control=7)

    assert not account.holds
    assert account.gaps == [f"the audit log of eu has {audited} entries of its region, the topics 3 distinct events"]


def test_every_audit_log_has_the_control_events_too(world: World) -> None:
    pair = world.submit("a")
    world.decide("a", world.open("a", "approve"), automated=True)
    world.ledger.add_control("model")
    world.ledger.add_control("model")

    assert world.account(pair, control=1).holds
    assert world.account(pair, control=2).holds, "compaction takes from the topic what the log keeps"
    gaps = world.account(pair, control=0).gaps
    assert gaps == ["the audit log of eu has 0 entries of control, the topic 1 distinct events"]


def test_a_dead_letter_of_intake_or_audit_does_not_end_an_item(world: World) -> None:
    pair = world.submit("a")
    world.ledger.add_dead_letter(EU, ids.event_id("a", ITEM_SUBMITTED, EU), "piepowder-intake-eu", SET_ASIDE)

    assert pair in world.account(pair).missing
    assert world.ledger.dead_letters == {EU: 1}


def test_an_item_with_a_parked_record_is_parked_until_its_replay(world: World) -> None:
    pair, router = world.submit("a"), "piepowder-router-eu"
    first = ids.event_id("a", ITEM_SUBMITTED, EU)
    world.ledger.add_dead_letter(EU, first, router, SET_ASIDE, parked=True)
    assert world.account(pair).outcomes == {ItemOutcome.PARKED: 1}
    assert world.account(pair).holds
    world.ledger.add_dead_letter(EU, first, router, SET_ASIDE, parked=True)
    world.ledger.add_receipt(EU, router, SET_ASIDE)
    assert world.account(pair).outcomes == {ItemOutcome.MISSING: 1}
    assert world.ledger.dead_letters == {EU: 0}
    world.open("a")
    assert world.account(pair).outcomes == {ItemOutcome.OPEN: 1}


def test_an_item_that_a_replay_leaves_out_is_dead_lettered(world: World) -> None:
    pair, router = world.submit("a"), "piepowder-router-eu"
    first = ids.event_id("a", ITEM_SUBMITTED, EU)
    world.ledger.add_dead_letter(EU, first, router, SET_ASIDE, parked=True)
    world.ledger.add_dead_letter(EU, first, router, SET_ASIDE)
    assert world.account(pair).outcomes == {ItemOutcome.DEAD_LETTERED: 1}


def test_access_events_are_not_part_of_the_account() -> None:
    calls = {"piepowder.access.refused.v1": 2, "piepowder.access.used.v9": 4}
    by_type = {ITEM_SUBMITTED: 3, **calls, "piepowder.client.changed.v1": 5}
    assert audit_counts({"region": EU, "size": 14, "by_type": by_type}) == (3, 5)


def test_after_kafkas_retention_the_log_may_have_more_entries_and_not_fewer(world: World) -> None:
    pair = world.submit("a")
    world.open("a")
    world.ledger.set_truncated(EU)
    assert world.account(pair, audited=len(world.ids) + 1000).gaps == []
    assert len(world.account(pair, audited=len(world.ids) - 1).gaps) == 1
