"""Notices and appeals become cases for reviewers in their own queues, and no policy applies to them (promise 8)."""

from typing import Any

import pytest
from msgspec.structs import replace

from services.router.domain.publication import operating_model_faults
from services.router.domain.routing import OperatingModel, route_appeal, route_notice
from shared.contracts import ids
from shared.contracts.events import (
    Appeal,
    AppealSubmitted,
    Appellant,
    CaseOpened,
    Contested,
    Notice,
    NoticeSubmitted,
    Reporter,
)
from shared.runtime.errors import Poison
from tests.support.router_samples import RECEIVED_AT, compiled, model, region, rule

NOTICE_ID = ids.derive("a notice")
APPEAL_ID = ids.derive("an appeal")
ABOUT: dict[str, Any] = {
    "platform": "shop",
    "kind": "product",
    "subject_id": "1",
    "client": "test",
    "reference": "r-1",
    "content_hash": "0" * 64,
    "received_at": RECEIVED_AT,
    "regions": ["eu"],
}
CONTESTED = Contested(
    decision_id=ids.derive("a decision"),
    case_id=ids.derive("a case"),
    item_id=ids.derive("an item"),
    n=1,
    action="reject",
    automated=False,
    reviewer="r-1",
    decided_at=RECEIVED_AT,
)


def with_queues(**named: str) -> OperatingModel:
    return model(replace(region(queues=("notices", "appeals")), **named))


def noticed(reporter: str = "user", ground: str = "counterfeit", *, markets: tuple[str, ...] = ("DE",)) -> CaseOpened:
    notice = Notice(
        markets=list(markets),
        ground=ground,
        category="X",
        explanation="Not theirs to sell.",
        locations=["https://shop.example/1"],
        language="de",
        good_faith=True,
        reporter=Reporter(kind=reporter, name="Ada", email="ada@example.org", reference="77"),
    )
    submitted = NoticeSubmitted(notice_id=NOTICE_ID, notice=notice, **ABOUT)
    return route_notice(submitted, "eu", compiled(rule("all", verdict="reject")), with_queues(notice_queue="notices"))


def appealed(**queues: str) -> CaseOpened:
    appeal = Appeal(
        appellant=Appellant(kind="seller", name="Bob", email="bob@example.org"),
        explanation="It is genuine.",
        decision=CONTESTED,
    )
    submitted = AppealSubmitted(appeal_id=APPEAL_ID, appeal=appeal, **ABOUT)
    return route_appeal(submitted, "eu", compiled(rule("all", verdict="reject")), with_queues(**queues))


def test_a_notice_goes_to_a_reviewer_and_its_trace_names_policy_set_and_operating_model() -> None:
    case = noticed()
    assert (case.case_type, case.verdict, case.queue) == ("notice", "review", "notices")
    assert (case.case_id, case.item_id) == (ids.case_id(NOTICE_ID, "eu", "notice"), NOTICE_ID)
    assert (case.received_at, case.due_at) == (RECEIVED_AT, "2026-05-01T10:30:00.125Z")
    assert (case.trace.policy_set, case.trace.operating_model, case.trace.matched) == ("ps-1-test", "om-1-test", [])
    assert case.notice is not None
    assert (case.notice.explanation, case.item.markets) == ("Not theirs to sell.", ["DE"])


def test_authorities_trusted_flaggers_and_notices_about_child_abuse_have_higher_priority() -> None:
    assert [noticed(kind).priority for kind in ("authority", "trusted_flagger", "user", "martian")] == [1, 2, 5, 5]
    assert noticed("user", "csam").priority == 1


def test_a_notice_without_a_market_of_the_region_is_poison() -> None:
    with pytest.raises(Poison, match="the notice's markets"):
        noticed(markets=("US",))


def test_an_appeal_goes_to_the_appeal_queue_and_names_the_contested_decision() -> None:
    case = appealed(appeal_queue="appeals")
    assert (case.case_type, case.verdict, case.queue, case.priority) == ("appeal", "review", "appeals", 5)
    assert (case.case_id, case.item_id) == (ids.case_id(APPEAL_ID, "eu", "appeal"), APPEAL_ID)
    assert case.appeal is not None
    assert case.appeal.decision == CONTESTED


def test_without_an_appeal_queue_an_appeal_goes_to_the_default_queue() -> None:
    case = appealed()
    assert (case.queue, case.due_at) == ("general", "2026-05-02T09:30:00.125Z")


def test_the_case_does_not_have_the_email_address_of_reporter_or_appellant() -> None:
    of_notice, of_appeal = noticed().notice, appealed().appeal
    assert of_notice is not None
    assert of_appeal is not None
    assert (of_notice.reporter.name, of_notice.reporter.email) == ("Ada", "")
    assert (of_appeal.appellant.name, of_appeal.appellant.email) == ("Bob", "")


@pytest.mark.parametrize("name", ["notice_queue", "appeal_queue"])
def test_a_notice_or_appeal_queue_that_the_region_does_not_have_is_a_fault(name: str) -> None:
    [fault] = operating_model_faults(with_queues(**{name: "gone"}).published.regions)
    assert (fault.pointer, fault.detail) == (f"/regions/0/{name}", "'gone' is not one of region 'eu''s queues")
