"""The account: it gives each accepted item one outcome, and shows every loss, double and gap in the audit log."""

from typing import Any

import pytest
from aiokafka import ConsumerRecord

from deploy.local.accounting import Account, AuditCounts, ItemOutcome, Ledger, audit_counts
from deploy.local.run import describe_items
from piepowder.dead_letters import DeadLetterCounts
from piepowder.tally import RegionItem
from shared.contracts import ids
from shared.contracts.envelope import Attributes, Event, RecordId
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
from shared.kafka.records import RawRecord

EU = "eu"
ROUTER, DECISION = "piepowder-router-eu", "piepowder-decision-eu"
WHEN = "2026-05-01T09:30:00.000Z"
ITEM = Item(markets=["DE"])


class RegionEvents:
    """Adds the events of one region to a ledger."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.offset = self.letters = 0
        self.ids: set[str] = set()

    def add(self, event_type: str, event_id: str, data: Struct) -> None:
        self.offset += 1
        self.ids.add(event_id)
        attributes = Attributes(event_id, event_type, "test", WHEN, "s:product:1", EU, event_id)
        event: Event[Any] = Event(attributes, data)
        self.ledger.add(EU, event, RecordId("topic", 0, self.offset))

    def submit(self, item: str) -> RegionItem:
        self.add(
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
        self.add(CASE_OPENED, ids.event_id(case, CASE_OPENED), opened)
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
        self.add(DECISION_MADE, ids.event_id(case, DECISION_MADE, decision), made)

    def supersede(self, item: str, case: str) -> None:
        superseded = CaseSuperseded(case_id=case, item_id=item, superseded_by="newer")
        self.add(CASE_SUPERSEDED, ids.event_id(case, CASE_SUPERSEDED), superseded)

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
        self.add(ITEM_WITHDRAWN, ids.event_id(item, ITEM_WITHDRAWN, EU), withdrawn)

    def close(self, item: str, case: str) -> None:
        closed = CaseClosed(case_id=case, item_id=item, reason="withdrawn")
        self.add(CASE_CLOSED, ids.event_id(case, CASE_CLOSED), closed)

    def dead_letter(self, item: str, group: str = ROUTER, *, kind: str = ITEM_SUBMITTED, **headers: str) -> None:
        """Add a record of the dead-letter topic about the record at offset 7."""
        about = {"group": group, "topic": "t", "partition": "0", "offset": "7", "reason": "why", **headers}
        shown = [(f"dl_{name}", text.encode()) for name, text in about.items()]
        shown += [("ce_type", kind.encode()), ("ce_correlationid", ids.event_id(item, ITEM_SUBMITTED, EU).encode())]
        self.letters += 1
        record: RawRecord = ConsumerRecord("d", 0, self.letters, 0, 0, b"k", b"{}", None, 0, 0, tuple(shown))
        self.ledger.add_letter(EU, record)

    def account(self, *pairs: RegionItem, audited: int | None = None, control: int = 0) -> Account:
        return self.ledger.account(pairs, {EU: AuditCounts(len(self.ids) if audited is None else audited, control)})


@pytest.fixture
def events() -> RegionEvents:
    return RegionEvents()


def test_each_accepted_item_has_one_outcome(events: RegionEvents) -> None:
    pairs = [events.submit(item) for item in "abcdefgh"]
    events.decide("a", events.open("a", "reject"), automated=True, action="reject")
    events.decide("b", events.open("b"), automated=False)
    events.open("c")
    events.supersede("d", events.open("d", "approve"))
    events.dead_letter("e")
    events.withdraw("f")
    events.close("f", events.open("f"))
    events.withdraw("g")
    events.decide("g", events.open("g"), automated=False)
    events.open("h")
    events.dead_letter("h", DECISION, kind=CASE_OPENED, parked="7")

    account = events.account(*pairs, pairs[0])

    assert account.holds
    assert account.total == 8
    assert {outcome: account.outcomes.get(outcome, 0) for outcome in ItemOutcome} == {
        ItemOutcome.BY_POLICY: 1,
        ItemOutcome.BY_PEOPLE: 2,
        ItemOutcome.OPEN: 1,
        ItemOutcome.SUPERSEDED: 1,
        ItemOutcome.WITHDRAWN: 1,
        ItemOutcome.PARKED: 1,
        ItemOutcome.DEAD_LETTERED: 1,
        ItemOutcome.DISCARDED: 0,
        ItemOutcome.MISSING: 0,
    }
    assert account.actions[ItemOutcome.BY_POLICY, "reject"] == 1
    assert account.by_people == {RegionItem("b", EU), RegionItem("g", EU)}
    assert "every accepted item is accounted for" in account.proof()


def test_an_item_that_never_reached_its_topic_is_missing(events: RegionEvents) -> None:
    account = events.account(RegionItem("lost", EU))

    assert not account.holds
    assert account.missing == {RegionItem("lost", EU): "it is not in the topic"}
    assert "1 MISSING" in account.proof()


def test_an_item_without_a_case_is_missing(events: RegionEvents) -> None:
    pair = events.submit("a")

    assert events.account(pair).missing == {pair: "no case was opened"}


def test_a_verdict_of_policy_without_its_decision_is_missing_and_not_open(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.open("a", "approve")

    account = events.account(pair)

    assert account.outcomes[ItemOutcome.OPEN] == 0
    assert "has the verdict approve and no decision" in account.missing[pair]


def test_a_withdrawn_item_whose_case_is_still_open_is_missing_and_not_open(events: RegionEvents) -> None:
    pair = events.submit("a")
    case = events.open("a")
    events.withdraw("a")

    account = events.account(pair)

    assert account.outcomes[ItemOutcome.OPEN] == 0
    assert account.missing == {pair: f"it was withdrawn, and its case {case} was neither closed nor decided"}


def test_the_events_of_one_region_do_not_account_for_the_item_in_another(events: RegionEvents) -> None:
    events.decide("a", events.open("a", "approve"), automated=True)

    assert RegionItem("a", "us") in events.account(RegionItem("a", "us")).missing


def test_two_first_decisions_of_a_case_are_shown_with_their_records(events: RegionEvents) -> None:
    pair, case = events.submit("a"), events.open("a")
    events.decide("a", case, automated=False, decision="d1")
    events.decide("a", case, automated=False, decision="d2", action="reject")

    account = events.account(pair)

    assert not account.holds
    assert account.doubles == [f"case {case} has two decisions 1: approve d1 (topic[0]@3) and reject d2 (topic[0]@4)"]


def test_two_cases_of_an_item_are_a_double(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.open("a", case="one")
    events.open("a", case="two")

    assert "item a has two cases in eu: one and two" in events.account(pair).doubles[0]


def test_a_case_both_decided_and_superseded_is_a_double(events: RegionEvents) -> None:
    pair, case = events.submit("a"), events.open("a")
    events.decide("a", case, automated=False)
    events.supersede("a", case)

    assert "decided and superseded" in events.account(pair).doubles[0]


def test_a_case_both_decided_and_withdrawn_is_a_double(events: RegionEvents) -> None:
    pair, case = events.submit("a"), events.open("a")
    events.close("a", case)
    events.decide("a", case, automated=False)

    assert "decided and withdrawn" in events.account(pair).doubles[0]


def test_a_repeated_event_is_counted_and_harmless(events: RegionEvents) -> None:
    pair = events.submit("a")
    for _ in range(2):
        events.decide("a", events.open("a", "approve"), automated=True)

    account = events.account(pair)

    assert account.holds
    assert (account.repeats, account.events) == (2, 3)


@pytest.mark.parametrize("audited", [2, 4])
def test_an_audit_log_with_a_missing_or_an_extra_event_is_a_gap(events: RegionEvents, audited: int) -> None:
    pair = events.submit("a")
    events.decide("a", events.open("a", "approve"), automated=True)

    account = events.account(pair, audited=audited, control=7)

    assert not account.holds
    assert account.gaps == [f"the audit log of eu has {audited} entries of its region, the topics 3 distinct events"]


def test_every_audit_log_has_the_control_events_too(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.decide("a", events.open("a", "approve"), automated=True)
    events.ledger.add_control("model")
    events.ledger.add_control("model")

    assert events.account(pair, control=1).holds
    assert events.account(pair, control=2).holds, "compaction removes records from the topic, not from the log"
    gaps = events.account(pair, control=0).gaps
    assert gaps == ["the audit log of eu has 0 entries of control, the topic 1 distinct events"]


def test_a_dead_letter_of_intake_or_audit_does_not_end_an_item(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.dead_letter("a", "piepowder-intake-eu")

    assert pair in events.account(pair).missing
    assert events.ledger.dead_letters == {EU: DeadLetterCounts(open=1)}


def test_an_item_with_a_parked_record_is_parked_until_its_replay(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.dead_letter("a", parked="7")
    assert events.account(pair).outcomes == {ItemOutcome.PARKED: 1}
    assert events.account(pair).holds
    events.dead_letter("a", parked="7")
    assert events.ledger.dead_letters == {EU: DeadLetterCounts(open=1, parked=1, keys=1)}
    events.dead_letter("a", returned="40")
    assert events.account(pair).outcomes == {ItemOutcome.MISSING: 1}
    assert events.ledger.dead_letters == {EU: DeadLetterCounts()}
    events.open("a")
    assert events.account(pair).outcomes == {ItemOutcome.OPEN: 1}


def test_an_item_that_a_replay_leaves_out_is_dead_lettered(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.dead_letter("a", parked="7")
    events.dead_letter("a")
    assert events.account(pair).outcomes == {ItemOutcome.DEAD_LETTERED: 1}


@pytest.mark.parametrize("group", [ROUTER, DECISION])
def test_an_item_whose_record_was_discarded_is_discarded_and_not_missing(events: RegionEvents, group: str) -> None:
    pair = events.submit("a")
    kind = ITEM_SUBMITTED if group == ROUTER else CASE_OPENED
    if group == DECISION:
        events.open("a")
    events.dead_letter("a", group, kind=kind, parked="7")
    events.dead_letter("a", group, kind=kind, discarded="junk", by="ops")
    account = events.account(pair)
    assert account.outcomes == {ItemOutcome.DISCARDED: 1}
    assert account.holds
    assert "1 discarded" in account.proof()
    assert events.ledger.dead_letters == {EU: DeadLetterCounts(discarded=1)}


@pytest.mark.parametrize("closure", [{}, {"discarded": "junk", "by": "ops"}])
def test_an_item_whose_withdrawal_is_dead_lettered_or_discarded_is_still_in_its_queue(
    events: RegionEvents, closure: dict[str, str]
) -> None:
    pair = events.submit("a")
    events.open("a")
    events.withdraw("a")
    assert events.account(pair).outcomes == {ItemOutcome.MISSING: 1}
    events.dead_letter("a", kind=ITEM_WITHDRAWN, **closure)
    assert events.account(pair).outcomes == {ItemOutcome.OPEN: 1}


def test_an_item_counts_once_in_each_region_however_often_it_is_posted(events: RegionEvents) -> None:
    journal = [events.submit("a"), events.submit("a"), RegionItem("a", "us"), events.submit("b")]
    before = events.ledger.submitted()
    for _ in range(2):
        events.decide("a", events.open("a", "approve"), automated=True)
    events.open("b")
    account = events.account(*journal)
    assert (account.items, account.total) == (2, 3)
    assert account.outcomes == {ItemOutcome.BY_POLICY: 1, ItemOutcome.OPEN: 1, ItemOutcome.MISSING: 1}
    assert account.proof().startswith("2 items accepted, 3 by region = 1 decided by policy")
    assert before == {RegionItem("a", EU), RegionItem("b", EU)}


def test_without_an_accepted_item_the_account_says_so_and_still_shows_a_gap(events: RegionEvents) -> None:
    assert events.account().proof() == "nothing was submitted from here"
    assert events.account().proof(is_empty="no submitted item was accepted") == "no submitted item was accepted"
    events.submit("a")
    shown = events.account(audited=0).proof()
    assert shown == "nothing was submitted from here; 0 MISSING, 0 doubled, 1 audit gap(s)"


def test_the_summary_of_a_run_counts_no_case_of_an_item_that_was_submitted_before() -> None:
    items = {RegionItem("a", "eu"), RegionItem("a", "us"), RegionItem("b", "eu")}
    assert describe_items(items, items) == "2 different items, 3 new cases (2 in eu, 1 in us)"
    assert describe_items(items, {RegionItem("b", "eu")}) == (
        "2 different items (1 submitted before), 1 new case (1 in eu)"
    )
    assert describe_items(items, set()) == "2 different items (2 submitted before), 0 new cases"


def test_access_events_are_not_part_of_the_account() -> None:
    calls = {"piepowder.access.refused.v1": 2, "piepowder.access.used.v9": 4}
    by_type = {ITEM_SUBMITTED: 3, **calls, "piepowder.client.changed.v1": 5}
    assert audit_counts({"region": EU, "size": 14, "by_type": by_type, "conflicts": {}}) == (3, 5)


def test_a_second_value_of_an_event_id_is_not_an_event_of_its_own_in_the_account() -> None:
    by_type = {ITEM_SUBMITTED: 5, "piepowder.access.used.v9": 4, "piepowder.client.changed.v1": 3}
    conflicts = {ITEM_SUBMITTED: 2, "piepowder.access.used.v9": 1, "piepowder.client.changed.v1": 1}
    assert audit_counts({"region": EU, "size": 12, "by_type": by_type, "conflicts": conflicts}) == (3, 2)


def test_after_kafkas_retention_the_log_may_have_more_entries_but_not_fewer(events: RegionEvents) -> None:
    pair = events.submit("a")
    events.open("a")
    events.ledger.set_truncated(EU)
    assert events.account(pair, audited=len(events.ids) + 1000).gaps == []
    assert len(events.account(pair, audited=len(events.ids) - 1).gaps) == 1
