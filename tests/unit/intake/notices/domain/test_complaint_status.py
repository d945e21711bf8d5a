"""The status of notices and appeals from facts: the same for any order and repetition of events."""

import random
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from services.intake.items.domain import status
from services.intake.notices.domain import complaint_status
from services.intake.notices.domain.complaint_status import ComplaintFacts, ComplaintStatus, ComplaintUpdate
from services.intake.projection.handlers import ItemUpdate, Projection
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, encode
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.runtime.errors import Poison
from tests.support.decision.cases import appealed, noticed, opened

ITEM = opened("eu")[1]
NOTICE = noticed("eu")[1]
APPEAL = appealed("eu", ITEM)[1]
SUBJECT = "shop:product:B07"
ABOUT: dict[str, Any] = {
    "platform": "shop",
    "kind": "product",
    "subject_id": "B07",
    "client": "shop",
    "regions": ["eu"],
}


def at(second: int) -> str:
    return f"2026-05-01T09:30:{second:02d}.000Z"


def notice_submitted(reference: str = "1", content_hash: str = "aa") -> events.NoticeSubmitted:
    assert NOTICE.notice is not None
    return events.NoticeSubmitted(
        notice_id=NOTICE.item_id,
        reference=reference,
        content_hash=content_hash,
        received_at=at(0),
        notice=NOTICE.notice,
        **ABOUT,
    )


def appeal_submitted() -> events.AppealSubmitted:
    assert APPEAL.appeal is not None
    return events.AppealSubmitted(
        appeal_id=APPEAL.item_id, reference="1", content_hash="aa", received_at=at(0), appeal=APPEAL.appeal, **ABOUT
    )


def decided(case: events.CaseOpened, action: str, n: int = 1) -> events.DecisionMade:
    made = events.DecisionMade(
        decision_id=ids.decision_id(case.case_id, n),
        case_id=case.case_id,
        case_type=case.case_type,
        item_id=case.item_id,
        platform="shop",
        kind="product",
        subject_id="B07",
        queue="notices",
        n=n,
        action=action,
        policy_set="ps-1",
        automated=False,
        received_at=at(0),
        due_at=at(50),
    )
    if n == 1:
        return made
    return events.DecisionReplaced(**msgspec.structs.asdict(made), replaces="d", why="appeal")


def closed(reason: str = "duplicate") -> events.CaseClosed:
    return events.CaseClosed(case_id=APPEAL.case_id, case_type="appeal", item_id=APPEAL.item_id, reason=reason)


def facts_of(data: events.Struct, position: int) -> ComplaintFacts:
    found = complaint_status.from_event(data, subject=SUBJECT, position=position, time=at(position))
    assert found is not None
    return found.facts


def merged_facts(*data: events.Struct) -> ComplaintFacts:
    together: ComplaintFacts | None = None
    for position, one in enumerate(data):
        facts = facts_of(one, position)
        together = facts if together is None else complaint_status.merge(together, facts)
    assert together is not None
    return together


def dead_lettered(type_: str, *, as_case: bool, position: int = 9, since: int = -1) -> ComplaintFacts:
    letter = status.DeadLetterFact(position=position, reason="no case", at=at(9), since=since)
    return complaint_status.from_dead_letter(letter, type_, "x", as_case=as_case).facts


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (merged_facts(notice_submitted()), ComplaintStatus.SUBMITTED),
        (merged_facts(notice_submitted(), NOTICE), ComplaintStatus.IN_REVIEW),
        (merged_facts(notice_submitted(), NOTICE, decided(NOTICE, "reject")), ComplaintStatus.DECIDED),
        (merged_facts(decided(NOTICE, "reject")), ComplaintStatus.DECIDED),
        (
            complaint_status.merge(merged_facts(notice_submitted()), dead_lettered("notice", as_case=False)),
            ComplaintStatus.DEAD_LETTERED,
        ),
        (
            complaint_status.merge(merged_facts(notice_submitted(), NOTICE), dead_lettered("notice", as_case=True)),
            ComplaintStatus.DEAD_LETTERED,
        ),
        (
            complaint_status.merge(merged_facts(notice_submitted()), dead_lettered("notice", as_case=False, since=9)),
            ComplaintStatus.PARKED,
        ),
        (merged_facts(appeal_submitted(), APPEAL), ComplaintStatus.IN_REVIEW),
        (merged_facts(appeal_submitted(), APPEAL, closed()), ComplaintStatus.CLOSED),
        (merged_facts(appeal_submitted(), APPEAL, decided(APPEAL, "uphold")), ComplaintStatus.DECIDED),
    ],
)
def test_the_status_is_the_latest_stage_that_the_events_prove(facts: ComplaintFacts, expected: ComplaintStatus) -> None:
    assert complaint_status.status_of(facts) == expected
    assert complaint_status.status_since(facts)


def test_a_replaced_decision_is_not_shown() -> None:
    facts = merged_facts(notice_submitted(), NOTICE, decided(NOTICE, "reject", 2), decided(NOTICE, "approve"))
    assert facts.case.decision is not None
    assert (facts.case.decision.n, facts.case.decision.action) == (2, "reject")


def test_other_content_with_the_same_id_is_a_conflict_and_the_first_submission_applies() -> None:
    facts = merged_facts(notice_submitted(content_hash="aa"), notice_submitted(content_hash="bb"))
    assert facts.case.conflict
    assert facts.case.submission is not None
    assert facts.case.submission.content_hash == "aa"


def test_the_contested_decision_comes_from_the_first_submission() -> None:
    first = appeal_submitted()
    other = msgspec.structs.replace(first.appeal, decision=msgspec.structs.replace(first.appeal.decision, n=2))
    second = msgspec.structs.replace(first, appeal=other)
    for order in ((0, 1), (1, 0)):
        facts = [facts_of(first, 3), facts_of(second, 8)]
        assert complaint_status.merge(*(facts[n] for n in order)).contested == first.appeal.decision


@given(
    st.lists(
        st.sampled_from(
            [
                facts_of(appeal_submitted(), 0),
                facts_of(appeal_submitted(), 5),
                facts_of(APPEAL, 1),
                facts_of(closed("replaced"), 2),
                facts_of(closed("duplicate"), 2),
                facts_of(decided(APPEAL, "overturn"), 3),
                dead_lettered("appeal", as_case=False),
                dead_lettered("appeal", as_case=True, position=3),
            ]
        ),
        min_size=1,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_and_repetition_of_events_gives_the_same_facts(
    found: list[ComplaintFacts], rng: random.Random
) -> None:
    def together(parts: list[ComplaintFacts]) -> ComplaintFacts:
        whole = parts[0]
        for part in parts[1:]:
            whole = complaint_status.merge(whole, part)
        return whole

    again = found * 2
    rng.shuffle(again)
    assert together(found) == together(again)
    cut = rng.randrange(len(again))
    if cut:
        assert complaint_status.merge(together(again[:cut]), together(again[cut:])) == together(found)


class StoredFacts:
    """A store of the projection in memory, for items and complaints."""

    def __init__(self) -> None:
        self.items: dict[str, status.StatusFacts] = {}
        self.complaints: dict[str, ComplaintFacts] = {}
        self.decided: set[str] = set()

    async def merge(
        self,
        region: str,  # noqa: ARG002 - the method of a port
        complaints: Mapping[str, ComplaintFacts],
        items: Mapping[str, status.StatusFacts],
        moves: Moves = NO_MOVES,  # noqa: ARG002 - the same
    ) -> None:
        self.items |= items
        self.complaints |= complaints
        self.decided |= {f.decision.decision_id for f in items.values() if f.decision is not None}


def record(data: events.Struct, kind: str, *, offset: int = 0, headers: Mapping[str, bytes] | None = None) -> RawRecord:
    first = ids.derive("first")
    event = encode(Attributes(ids.derive(kind), kind, "test", at(offset), SUBJECT, "eu", first), data)
    letter = headers is not None
    return ConsumerRecord(
        topic="piepowder.deadletters.eu" if letter else "piepowder.submissions.eu",
        partition=0,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=event.key,
        value=event.value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=(*event.headers, *(headers or {}).items()),
    )


def letter(data: events.Struct, kind: str, group: str) -> RawRecord:
    about = {"dl_offset": b"7", "dl_reason": b"no case", "dl_time": at(9).encode(), "dl_group": group.encode()}
    return record(data, kind, headers=about)


async def test_the_projection_separates_items_notices_and_appeals() -> None:
    stored = StoredFacts()
    projection = Projection("eu", stored)
    batch = [
        record(ITEM, events.CASE_OPENED),
        record(decided(ITEM, "reject"), events.DECISION_MADE, offset=1),
        record(notice_submitted(), events.NOTICE_SUBMITTED, offset=2),
        record(NOTICE, events.CASE_OPENED, offset=3),
        record(decided(NOTICE, "approve"), events.DECISION_MADE, offset=4),
        record(appeal_submitted(), events.APPEAL_SUBMITTED, offset=5),
        record(decided(ITEM, "approve", 2), events.DECISION_REPLACED, offset=6),
    ]
    await projection.handle([Received(one, projection.decode(one)) for one in batch])
    assert stored.items.keys() == {ITEM.item_id}
    assert status.status(stored.items[ITEM.item_id]) == status.Status.APPROVED
    assert {of: complaint_status.status_of(facts) for of, facts in stored.complaints.items()} == {
        NOTICE.item_id: ComplaintStatus.DECIDED,
        APPEAL.item_id: ComplaintStatus.SUBMITTED,
    }
    assert stored.decided == {ids.decision_id(ITEM.case_id, 2)}


@pytest.mark.parametrize(
    ("data", "kind", "group", "about"),
    [
        (notice_submitted(), events.NOTICE_SUBMITTED, "piepowder-router-eu", NOTICE.item_id),
        (appeal_submitted(), events.APPEAL_SUBMITTED, "piepowder-router-eu", APPEAL.item_id),
        (NOTICE, events.CASE_OPENED, "piepowder-decision-eu", NOTICE.item_id),
        (APPEAL, events.CASE_OPENED, "piepowder-decision-eu", APPEAL.item_id),
    ],
)
def test_a_dead_letter_of_a_complaint_does_not_concern_an_item(
    data: events.Struct, kind: str, group: str, about: str
) -> None:
    found = Projection("eu", StoredFacts()).decode(letter(data, kind, group))
    assert isinstance(found, ComplaintUpdate)
    assert (found.id, complaint_status.status_of(found.facts)) == (about, ComplaintStatus.DEAD_LETTERED)


def test_dead_letters_of_other_consumers_give_no_facts() -> None:
    projection = Projection("eu", StoredFacts())
    assert projection.decode(letter(notice_submitted(), events.NOTICE_SUBMITTED, "piepowder-audit-eu")) is None
    assert projection.decode(letter(notice_submitted(), events.NOTICE_SUBMITTED, "piepowder-decision-eu")) is None
    assert not isinstance(projection.decode(letter(ITEM, events.CASE_OPENED, "piepowder-router-eu")), ItemUpdate)


def test_an_invalid_id_is_poison() -> None:
    projection = Projection("eu", StoredFacts())
    bad = msgspec.structs.replace(notice_submitted(), notice_id="7")
    with pytest.raises(Poison, match="not every id is a UUID"):
        projection.decode(record(bad, events.NOTICE_SUBMITTED))
