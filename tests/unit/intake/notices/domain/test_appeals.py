"""The rules of appeals: against the decision in force, by the persons concerned, in time, once (DSA Art. 20)."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from services.intake.items import read_your_writes
from services.intake.items.domain import status
from services.intake.items.domain.status import SubmissionFact
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.notices.domain.appeals import AppealPost
from services.intake.notices.domain.complaint_status import APPEAL, ITEM, NOTICE, CaseIdentity, Closed, ComplaintFacts
from services.intake.notices.handlers import Appeals, PreparedComplaint
from services.intake.notices.models import AppealBody
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    DECISION_MADE,
    DECISION_REPLACED,
    ITEM_SUBMITTED,
    NOTICE_SUBMITTED,
    AppealSubmitted,
    Contested,
)
from shared.kafka.offsets import EndOffsets, LogRange
from shared.runtime.clock import to_text
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected
from tests.support.documents import parsed
from tests.support.intake_cluster import Cluster
from tests.support.intake_complaints import CODES, EVERYWHERE, NOW, TIME, appeal, client, clock, intake

SUBJECT = "shop:product:a:b/1"
ITEM_ID = ids.item_id("shop", "product", "a:b/1", "3")
NOTICE_ID = ids.notice_id("shop", SUBJECT, "report-1")
CASE_ID = ids.case_id(ITEM_ID, "eu", "item")
DECISION_ID = ids.decision_id(CASE_ID, 1)


def decided(
    action: str | None = "reject",
    *,
    about: str = ITEM_ID,
    type_: str = ITEM,
    region: str = "eu",
    regions: Sequence[str] = ("eu",),
    n: int = 1,
    days_ago: float = 1,
) -> status.StatusFacts:
    """The facts about an item or a notice; it is undecided if `action` is None."""
    submission = SubmissionFact(
        position=1, content_hash="aa", received_at=TIME, client="shop", reference="r", regions=list(regions)
    )
    decision = None
    if action is not None:
        decision = status.DecisionFact(
            n=n,
            decision_id=ids.decision_id(ids.case_id(about, region, type_), n),
            action=action,
            reasons=["FAKE"],
            automated=False,
            policy_set="ps-1",
            decided_at=to_text(NOW - timedelta(days=days_ago)),
            reviewer="r-1",
            team="t-1",
        )
    return status.StatusFacts(subject=SUBJECT, submission=submission, submission_last=1, decision=decision)


class ComplaintLookup:
    """A projection in memory: each lookup finds the next facts of `later`; all is read after `read_after` lookups."""

    def __init__(self, *later: dict[tuple[str, str, str], status.StatusFacts], read_after: int = 10**9) -> None:
        self.appeals: dict[str, ComplaintFacts] = {}
        self.lookups = 0
        self._later = later
        self.read_after = read_after

    def _now(self) -> dict[tuple[str, str, str], status.StatusFacts]:
        return self._later[min(max(self.lookups, 1), len(self._later)) - 1] if self._later else {}

    async def facts_of(self, type_: str, id_: str) -> dict[str, ComplaintFacts]:
        return {"eu": self.appeals[id_]} if type_ == APPEAL and id_ in self.appeals else {}

    async def case_facts_of(self, type_: str, id_: str) -> dict[str, status.StatusFacts]:
        self.lookups += 1
        return {region: facts for (kind, about, region), facts in self._now().items() if (kind, about) == (type_, id_)}

    async def case_of_decision(self, decision_id: str) -> CaseIdentity | None:
        self.lookups += 1
        for (kind, about, region), facts in self._now().items():
            if facts.decision is not None:
                case_id = ids.case_id(about, region, kind)
                if decision_id in {ids.decision_id(case_id, n) for n in range(1, facts.decision.n + 1)}:
                    return CaseIdentity(region, kind, about)
        return None

    async def appeals_against(self, decision_id: str) -> dict[str, ComplaintFacts]:
        return {
            appeal_id: facts
            for appeal_id, facts in self.appeals.items()
            if facts.contested is not None and facts.contested.decision_id == decision_id
        }

    async def ends(self, topics: Sequence[str]) -> EndOffsets:
        return {TopicPartition(topic, 0): LogRange(0, 7, "id") for topic in topics}

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        assert {f"piepowder-intake-{place.topic.rpartition('.')[2]}" for place in ends} == {group}
        assert {place.topic.split(".")[1] for place in ends} == {"submissions", "cases", "decisions"}
        return self.lookups >= self.read_after


def rejected_item(**what: Any) -> ComplaintLookup:
    return ComplaintLookup({(ITEM, ITEM_ID, "eu"): decided(**what)})


def decided_notice(action: str = "approve") -> ComplaintLookup:
    return ComplaintLookup({(NOTICE, NOTICE_ID, "eu"): decided(action, about=NOTICE_ID, type_=NOTICE)})


def open_appeal(decision_id: str = DECISION_ID, *, closed: bool = False) -> ComplaintFacts:
    contested = Contested(
        decision_id=decision_id, case_id=CASE_ID, item_id=ITEM_ID, n=1, action="reject", automated=True, decided_at=TIME
    )
    return ComplaintFacts(
        type=APPEAL,
        case=status.StatusFacts(subject=SUBJECT),
        contested=contested,
        closed=Closed(reason="duplicate", at=TIME) if closed else None,
    )


def stored_appeal(accepted: PreparedComplaint, decision_id: str = DECISION_ID) -> ComplaintFacts:
    """The facts about an accepted appeal in the projection."""
    submission = SubmissionFact(
        position=1, content_hash=accepted.content_hash, received_at=TIME, client="shop", reference="complaint-1"
    )
    about = open_appeal(decision_id)
    return ComplaintFacts(
        type=APPEAL, case=status.StatusFacts(subject=SUBJECT, submission=submission), contested=about.contested
    )


async def submit(
    lookup: ComplaintLookup,
    body: dict[str, Any],
    by: Principal = EVERYWHERE,
    *,
    days: int = 184,
    regions: Sequence[str] = ("eu", "us"),
) -> tuple[PreparedComplaint, Cluster]:
    cluster = Cluster()
    appeals = Appeals(
        intake(cluster, regions),
        lookup,
        CODES,
        read_your_writes=ReadYourWrites(dict.fromkeys(("eu", "us"), lookup), lookup),
        clock=clock(),
        days=days,
    )
    try:
        return await appeals.submit(parsed(AppealBody, AppealPost, json.dumps(body).encode()), by), cluster
    except BaseException:
        assert cluster.records == []
        raise


async def rejection(
    lookup: ComplaintLookup, body: dict[str, Any], by: Principal = EVERYWHERE, **options: Any
) -> InputRejected:
    with pytest.raises(InputRejected) as found:
        await submit(lookup, body, by, **options)
    return found.value


def test_the_body_has_every_field_of_an_appeal() -> None:
    assert set(AppealBody.model_fields) == set(AppealPost.__struct_fields__)


@pytest.mark.parametrize(
    "named", [{"decision_id": DECISION_ID}, {"item_id": ITEM_ID}, {"item_id": ITEM_ID, "region": "eu"}]
)
async def test_an_appeal_is_published_in_the_region_of_the_decision_with_the_decision_as_its_cause(
    named: dict[str, str],
) -> None:
    accepted, cluster = await submit(rejected_item(), appeal(**named))
    [event] = cluster.events()
    about, submitted = event.attributes, event.data
    assert (accepted.regions, accepted.decision_id, accepted.subject) == (("eu",), DECISION_ID, SUBJECT)
    assert accepted.id == ids.appeal_id("shop", "eu", SUBJECT, "complaint-1")
    assert about.id == accepted.event_ids[0] == ids.event_id(accepted.id, APPEAL_SUBMITTED, "eu")
    assert about.correlation_id == ids.event_id(ITEM_ID, ITEM_SUBMITTED, "eu")
    assert about.causation_id == ids.event_id(CASE_ID, DECISION_MADE, 1)
    assert isinstance(submitted, AppealSubmitted)
    assert (submitted.platform, submitted.kind, submitted.subject_id, submitted.reference) == (
        "shop",
        "product",
        "a:b/1",
        "complaint-1",
    )
    contested = submitted.appeal.decision
    assert (contested.decision_id, contested.case_id, contested.item_id) == (DECISION_ID, CASE_ID, ITEM_ID)
    assert (contested.action, contested.reviewer, contested.n) == ("reject", "r-1", 1)


async def test_a_notifier_can_contest_the_decision_on_a_notice() -> None:
    body = appeal(notice_id=NOTICE_ID, appellant={"kind": "notifier"})
    accepted, cluster = await submit(decided_notice(), body)
    [event] = cluster.events()
    assert event.data.appeal.decision.case_type == "notice"
    assert event.attributes.correlation_id == ids.event_id(NOTICE_ID, NOTICE_SUBMITTED, "eu")
    assert accepted.decision_id == ids.decision_id(ids.case_id(NOTICE_ID, "eu", "notice"), 1)


async def test_only_the_decision_in_force_can_be_contested() -> None:
    lookup = rejected_item(action="reject", n=2)
    _, cluster = await submit(lookup, appeal(item_id=ITEM_ID))
    [event] = cluster.events()
    assert event.attributes.causation_id == ids.event_id(CASE_ID, DECISION_REPLACED, 2)
    old = await rejection(lookup, appeal(decision_id=DECISION_ID))
    assert (old.status, old.slug, old.faults[0].pointer) == (409, "decision-replaced", "/decision_id")
    assert ids.decision_id(CASE_ID, 2) in str(old)


@pytest.mark.parametrize(
    ("lookup", "named", "kind", "expected"),
    [
        (rejected_item(action="approve"), {"item_id": ITEM_ID}, "seller", "only contest a rejection"),
        (decided_notice("approve"), {"notice_id": NOTICE_ID}, "seller", "only contest a rejection"),
        (decided_notice("reject"), {"notice_id": NOTICE_ID}, "notifier", "only contest an approval"),
        (rejected_item(), {"item_id": ITEM_ID}, "notifier", "decision on an item"),
    ],
)
async def test_each_appellant_can_only_contest_decisions_that_concern_them(
    lookup: ComplaintLookup, named: dict[str, str], kind: str, expected: str
) -> None:
    found = await rejection(lookup, appeal(**named, appellant={"kind": kind}))
    assert (found.status, found.faults[0].pointer) == (422, "/appellant/kind")
    assert expected in str(found)


async def test_the_appeal_window_starts_with_the_decision_and_ends_after_the_configured_days() -> None:
    await submit(rejected_item(days_ago=30), appeal(decision_id=DECISION_ID), days=30)
    found = await rejection(rejected_item(days_ago=30.001), appeal(decision_id=DECISION_ID), days=30)
    assert (found.status, found.slug, found.faults[0].pointer) == (422, "appeal-window-closed", "/decision_id")


async def test_a_second_appeal_is_rejected_while_the_first_is_open() -> None:
    lookup = rejected_item()
    lookup.appeals[ids.derive("another")] = open_appeal()
    found = await rejection(lookup, appeal(decision_id=DECISION_ID))
    assert (found.status, found.slug) == (409, "appeal-open")
    assert DECISION_ID in str(found)
    assert ids.derive("another") not in str(found)  # it may belong to another client
    lookup.appeals[ids.derive("another")] = open_appeal(closed=True)
    await submit(lookup, appeal(decision_id=DECISION_ID))


async def test_a_decision_can_be_contested_only_once() -> None:
    lookup = rejected_item()
    decided_appeal = msgspec.structs.replace(
        open_appeal(), case=decided("uphold", about=ids.derive("another"), type_=APPEAL)
    )
    lookup.appeals[ids.derive("another")] = decided_appeal
    found = await rejection(lookup, appeal(item_id=ITEM_ID))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "appeal-answered", "/item_id")
    decided_appeal = msgspec.structs.replace(
        open_appeal(), case=decided("overturn", about=ids.derive("another"), type_=APPEAL)
    )
    lookup.appeals[ids.derive("another")] = decided_appeal  # the replacing decision is not known yet
    found = await rejection(lookup, appeal(item_id=ITEM_ID))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "decision-replaced", "/item_id")


async def test_only_the_client_that_submitted_a_notice_can_appeal_as_its_notifier() -> None:
    body = appeal(notice_id=NOTICE_ID, appellant={"kind": "notifier"})
    decision = {"decision_id": ids.decision_id(ids.case_id(NOTICE_ID, "eu", "notice"), 1)}
    for named in (body, appeal(**decision, appellant={"kind": "notifier"})):
        lookup = decided_notice()
        lookup.read_after = 2
        with pytest.raises(InputRejected):
            await submit(lookup, named, client("eu", name="another"))
    await submit(decided_notice(), body, client("eu", scopes=frozenset({"appeals:write"})))


async def test_an_appeal_of_a_seller_requires_the_scope_items_write() -> None:
    flagger = client("eu", scopes=frozenset({"notices:write", "appeals:write"}))
    found = await rejection(rejected_item(), appeal(item_id=ITEM_ID), flagger)
    assert (found.status, found.slug, found.faults[0].pointer) == (403, "missing-scope", "/appellant/kind")
    await submit(rejected_item(), appeal(item_id=ITEM_ID), client("eu", name="another", platforms=["fair", "shop"]))


async def test_a_repeated_appeal_gets_the_same_response_even_after_it_became_inadmissible() -> None:
    body = appeal(item_id=ITEM_ID)
    first, _ = await submit(rejected_item(), body)
    later = rejected_item(action="approve", n=2, days_ago=0)
    later.appeals[first.id] = stored_appeal(first)
    again, cluster = await submit(later, body, days=1)
    assert (again.id, again.event_ids, again.decision_id) == (first.id, first.event_ids, DECISION_ID)
    assert cluster.records == []


async def test_an_appeal_in_a_region_that_has_left_the_operating_model_is_refused_and_a_repeated_one_is_not() -> None:
    body = appeal(item_id=ITEM_ID)
    first, _ = await submit(rejected_item(), body)
    found = await rejection(rejected_item(), body, regions=["us"])
    assert (found.status, found.slug, found.faults[0].pointer) == (422, "region-not-served", "/item_id")
    assert "'eu' has left the operating model" in str(found)
    stored = rejected_item()
    stored.appeals[first.id] = stored_appeal(first)
    again, cluster = await submit(stored, body, regions=["us"])
    assert (again.id, cluster.records) == (first.id, [])


async def test_the_reference_of_another_appeal_is_rejected() -> None:
    lookup = rejected_item()
    first, _ = await submit(lookup, appeal(decision_id=DECISION_ID))
    lookup.appeals[first.id] = stored_appeal(first)
    found = await rejection(
        lookup, appeal(decision_id=DECISION_ID, explanation="Something else altogether, at length.")
    )
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "reference-used", "/reference")


async def test_an_appeal_waits_for_a_decision_that_was_just_made() -> None:
    lookup = ComplaintLookup({}, {}, {(ITEM, ITEM_ID, "eu"): decided()})
    await submit(lookup, appeal(item_id=ITEM_ID))
    assert lookup.lookups >= 3


@pytest.mark.parametrize("named", [{"decision_id": DECISION_ID}, {"item_id": ITEM_ID}, {"notice_id": NOTICE_ID}])
async def test_an_unknown_decision_is_reported_only_after_the_projection_has_caught_up(named: dict[str, str]) -> None:
    lookup = ComplaintLookup({}, read_after=3)
    with pytest.raises(InputRejected, match=next(iter(named.values()))):
        await submit(lookup, appeal(**named))


async def test_an_unknown_decision_is_a_transient_error_while_the_projection_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_your_writes, "_PATIENCE_SECONDS", 0.25)
    with pytest.raises(Transient, match="latest decisions yet"):
        await submit(ComplaintLookup({}), appeal(decision_id=DECISION_ID))


async def test_an_item_is_reported_as_undecided_only_after_the_projection_has_caught_up() -> None:
    lookup = ComplaintLookup({(ITEM, ITEM_ID, "eu"): decided(None)}, read_after=2)
    found = await rejection(lookup, appeal(item_id=ITEM_ID))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "undecided", "/item_id")


async def test_an_appeal_about_an_item_of_two_regions_must_name_the_region() -> None:
    both = {(ITEM, ITEM_ID, region): decided(region=region, regions=("eu", "us")) for region in ("eu", "us")}
    found = await rejection(ComplaintLookup(both), appeal(item_id=ITEM_ID))
    assert (found.status, found.faults[0].pointer) == (422, "/region")
    accepted, _ = await submit(ComplaintLookup(both), appeal(item_id=ITEM_ID, region="us"))
    assert accepted.regions == ("us",)
    own, _ = await submit(ComplaintLookup(both), appeal(item_id=ITEM_ID), client("us"))
    assert own.id == accepted.id


async def test_a_retry_of_an_appeal_that_an_earlier_release_accepted_is_the_same_appeal() -> None:
    body, lookup = appeal(item_id=ITEM_ID), rejected_item()
    first, _ = await submit(rejected_item(), body)
    earlier = "a0122cf6f36f3810f1a44633e9cc3569cd549fa60f636140266b3bb0e907f782"
    lookup.appeals[first.id] = stored_appeal(msgspec.structs.replace(first, content_hash=earlier))
    again, cluster = await submit(lookup, body)
    assert (again.id, again.event_ids, again.content_hash) == (first.id, first.event_ids, earlier)
    assert cluster.records == []
    other = await rejection(lookup, body | {"explanation": "Of another text altogether, and long enough."})
    assert (other.status, other.slug) == (409, "reference-used")


async def test_a_repeated_appeal_is_recognized_after_the_item_went_to_another_region() -> None:
    body = appeal(item_id=ITEM_ID)
    first, _ = await submit(rejected_item(), body)
    both = {(ITEM, ITEM_ID, region): decided(region=region, regions=("eu", "us")) for region in ("eu", "us")}
    lookup = ComplaintLookup(both)
    lookup.appeals[first.id] = stored_appeal(first)
    again, cluster = await submit(lookup, body)
    assert (again.id, again.event_ids, again.regions) == (first.id, first.event_ids, ("eu",))
    assert cluster.records == []
    for change in ({"reference": "another"}, {"explanation": "Of another text altogether, and long enough."}):
        other = await rejection(lookup, body | change)
        assert (other.status, other.faults[0].pointer) == (422, "/region")


async def test_a_key_of_another_region_or_platform_gets_the_same_error_as_for_an_unknown_decision() -> None:
    for named in ({"decision_id": DECISION_ID}, {"item_id": ITEM_ID}):
        lookup = ComplaintLookup({(ITEM, ITEM_ID, "eu"): decided()}, read_after=2)
        with pytest.raises(InputRejected) as foreign:
            await submit(lookup, appeal(**named), client("us"))
        with pytest.raises(InputRejected) as unknown:
            await submit(ComplaintLookup({}, read_after=2), appeal(**named), client("us"))
        assert str(foreign.value) == str(unknown.value)
        with pytest.raises(InputRejected) as of_another_platform:
            await submit(lookup, appeal(**named), client("eu", "us", platforms=["fair"]))
        assert str(of_another_platform.value) == str(unknown.value)
    found = await rejection(rejected_item(), appeal(item_id=ITEM_ID, region="eu"), client("us"))
    assert (found.status, found.slug, found.faults[0].pointer) == (403, "region-not-allowed", "/region")


@pytest.mark.parametrize(
    ("changed", "pointer", "expected"),
    [
        ({}, "/decision_id", "exactly one of decision_id, item_id, notice_id"),
        ({"decision_id": DECISION_ID, "item_id": ITEM_ID}, "/item_id", "exactly one of"),
        ({"decision_id": "4711"}, "/decision_id", "expected a UUID"),
        ({"item_id": ITEM_ID.upper()}, "/item_id", "expected a UUID in lower case"),
        ({"decision_id": DECISION_ID, "region": "eu"}, "/region", "leave the field out"),
        ({"item_id": ITEM_ID, "region": "mars"}, "/region", "is not served here"),
        ({"item_id": ITEM_ID, "region": "x" * 32}, "/region", "at most 31"),
        ({"item_id": ITEM_ID, "appellant": None}, "/appellant", "is required"),
        (
            {"item_id": ITEM_ID, "appellant": {"kind": "user"}},
            "/appellant/kind",
            "Input should be 'seller' or 'notifier'",
        ),
        ({"item_id": ITEM_ID, "appellant": {"kind": "seller", "email": "x"}}, "/appellant/email", "not an e-mail"),
        ({"item_id": ITEM_ID, "appellant": {"kind": "seller", "name": "a\nb"}}, "/appellant/name", "printable"),
        ({"item_id": ITEM_ID, "explanation": "Wrong."}, "/explanation", "at least 20"),
        ({"item_id": ITEM_ID, "explanation": "Wrong." + " " * 30}, "/explanation", "without white space at the ends"),
        ({"item_id": ITEM_ID, "language": "xx-"}, "/language", "not a BCP 47 tag"),
        ({"item_id": ITEM_ID, "reference": None}, "/reference", "is required"),
        ({"item_id": ITEM_ID, "decison_id": "x"}, "/decison_id", "did you mean 'decision_id'?"),
    ],
)
async def test_each_fault_has_its_pointer_and_the_expected_value(
    changed: dict[str, Any], pointer: str, expected: str
) -> None:
    found = await rejection(rejected_item(), appeal(**changed))
    assert found.status == 422
    assert [fault.pointer for fault in found.faults if expected in fault.detail] == [pointer], found.faults
