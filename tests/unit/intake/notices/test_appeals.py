"""The rules of appeals: against the decision in force, by the persons concerned, within the window, once (DSA Art.
20)."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from services.intake.errors import UnknownObject
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
from shared.kafka.offsets import EndOffsets
from shared.runtime.clock import to_text
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected
from tests.support.documents import parsed
from tests.support.intake_complaints import CODES, EVERYWHERE, NOW, TIME, Cluster, appeal, client, clock, intake

SUBJECT = "shop:product:a:b/1"
ITEM_ID = ids.item_id("shop", "product", "a:b/1", "3")
NOTICE_ID = ids.notice_id("shop", SUBJECT, "report-1")
CASE_ID = ids.case_id(ITEM_ID, "eu", "item")
DECISION_ID = ids.decision_id(CASE_ID, 1)


def way(
    action: str | None = "reject",
    *,
    about: str = ITEM_ID,
    type_: str = ITEM,
    region: str = "eu",
    regions: Sequence[str] = ("eu",),
    n: int = 1,
    days_ago: float = 1,
) -> status.StatusFacts:
    """The way of an item or a notice that was decided, or was not."""
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
    """What the projection knows of; each look may bring it further."""

    def __init__(self, *later: dict[tuple[str, str, str], status.StatusFacts], read_after: int = 10**9) -> None:
        self.appeals: dict[str, ComplaintFacts] = {}
        self.looks = 0
        self._later = later
        self.read_after = read_after

    def _now(self) -> dict[tuple[str, str, str], status.StatusFacts]:
        return self._later[min(max(self.looks, 1), len(self._later)) - 1] if self._later else {}

    async def facts_of(self, type_: str, id_: str) -> dict[str, ComplaintFacts]:
        return {"eu": self.appeals[id_]} if type_ == APPEAL and id_ in self.appeals else {}

    async def case_facts_of(self, type_: str, id_: str) -> dict[str, status.StatusFacts]:
        self.looks += 1
        return {region: facts for (kind, about, region), facts in self._now().items() if (kind, about) == (type_, id_)}

    async def case_of_decision(self, decision_id: str) -> CaseIdentity | None:
        self.looks += 1
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
        return {TopicPartition(topic, 0): 7 for topic in topics}

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        assert {f"piepowder-intake-{place.topic.rpartition('.')[2]}" for place in ends} == {group}
        assert {place.topic.split(".")[1] for place in ends} == {"submissions", "cases", "decisions"}
        return self.looks >= self.read_after


def rejected(**what: Any) -> ComplaintLookup:
    return ComplaintLookup({(ITEM, ITEM_ID, "eu"): way(**what)})


def noticed(action: str = "approve") -> ComplaintLookup:
    return ComplaintLookup({(NOTICE, NOTICE_ID, "eu"): way(action, about=NOTICE_ID, type_=NOTICE)})


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


def kept(taken: PreparedComplaint, decision_id: str = DECISION_ID) -> ComplaintFacts:
    """What the projection knows of an appeal that was taken in."""
    submission = SubmissionFact(
        position=1, content_hash=taken.content_hash, received_at=TIME, client="shop", reference="complaint-1"
    )
    about = open_appeal(decision_id)
    return ComplaintFacts(
        type=APPEAL, case=status.StatusFacts(subject=SUBJECT, submission=submission), contested=about.contested
    )


async def take(
    known: ComplaintLookup, body: dict[str, Any], by: Principal = EVERYWHERE, *, days: int = 184
) -> tuple[PreparedComplaint, Cluster]:
    cluster = Cluster()
    taking = Appeals(
        intake(cluster),
        known,
        CODES,
        read_your_writes=ReadYourWrites(dict.fromkeys(("eu", "us"), known)),
        clock=clock(),
        days=days,
    )
    try:
        return await taking.submit(parsed(AppealBody, AppealPost, json.dumps(body).encode()), by), cluster
    except BaseException:
        assert cluster.records == []
        raise


async def refused(
    known: ComplaintLookup, body: dict[str, Any], by: Principal = EVERYWHERE, **how: Any
) -> InputRejected:
    with pytest.raises(InputRejected) as found:
        await take(known, body, by, **how)
    return found.value


def test_the_body_has_every_field_of_an_appeal() -> None:
    assert set(AppealBody.model_fields) == set(AppealPost.__struct_fields__)


@pytest.mark.parametrize(
    "named", [{"decision_id": DECISION_ID}, {"item_id": ITEM_ID}, {"item_id": ITEM_ID, "region": "eu"}]
)
async def test_an_appeal_is_published_in_the_region_of_the_decision_with_the_decision_as_its_cause(
    named: dict[str, str],
) -> None:
    taken, cluster = await take(rejected(), appeal(**named))
    [event] = cluster.events()
    about, told = event.attributes, event.data
    assert (taken.regions, taken.decision_id, taken.subject) == (("eu",), DECISION_ID, SUBJECT)
    assert taken.id == ids.appeal_id("shop", "eu", SUBJECT, "complaint-1")
    assert about.id == taken.event_ids[0] == ids.event_id(taken.id, APPEAL_SUBMITTED, "eu")
    assert about.correlation_id == ids.event_id(ITEM_ID, ITEM_SUBMITTED, "eu")
    assert about.causation_id == ids.event_id(CASE_ID, DECISION_MADE, 1)
    assert isinstance(told, AppealSubmitted)
    assert (told.platform, told.kind, told.subject_id, told.reference) == ("shop", "product", "a:b/1", "complaint-1")
    contested = told.appeal.decision
    assert (contested.decision_id, contested.case_id, contested.item_id) == (DECISION_ID, CASE_ID, ITEM_ID)
    assert (contested.action, contested.reviewer, contested.n) == ("reject", "r-1", 1)


async def test_a_notifier_can_contest_the_decision_on_a_notice() -> None:
    body = appeal(notice_id=NOTICE_ID, appellant={"kind": "notifier"})
    taken, cluster = await take(noticed(), body)
    [event] = cluster.events()
    assert event.data.appeal.decision.case_type == "notice"
    assert event.attributes.correlation_id == ids.event_id(NOTICE_ID, NOTICE_SUBMITTED, "eu")
    assert taken.decision_id == ids.decision_id(ids.case_id(NOTICE_ID, "eu", "notice"), 1)


async def test_only_the_decision_in_force_can_be_contested() -> None:
    known = rejected(action="reject", n=2)
    _, cluster = await take(known, appeal(item_id=ITEM_ID))
    [event] = cluster.events()
    assert event.attributes.causation_id == ids.event_id(CASE_ID, DECISION_REPLACED, 2)
    old = await refused(known, appeal(decision_id=DECISION_ID))
    assert (old.status, old.slug, old.faults[0].pointer) == (409, "decision-replaced", "/decision_id")
    assert ids.decision_id(CASE_ID, 2) in str(old)


@pytest.mark.parametrize(
    ("known", "named", "kind", "says"),
    [
        (rejected(action="approve"), {"item_id": ITEM_ID}, "seller", "only contest a rejection"),
        (noticed("approve"), {"notice_id": NOTICE_ID}, "seller", "only contest a rejection"),
        (noticed("reject"), {"notice_id": NOTICE_ID}, "notifier", "only contest an approval"),
        (rejected(), {"item_id": ITEM_ID}, "notifier", "decision on an item"),
    ],
)
async def test_each_appellant_can_only_contest_decisions_that_concern_them(
    known: ComplaintLookup, named: dict[str, str], kind: str, says: str
) -> None:
    found = await refused(known, appeal(**named, appellant={"kind": kind}))
    assert (found.status, found.faults[0].pointer) == (422, "/appellant/kind")
    assert says in str(found)


async def test_the_appeal_window_starts_with_the_decision_and_ends_after_the_configured_days() -> None:
    await take(rejected(days_ago=30), appeal(decision_id=DECISION_ID), days=30)
    found = await refused(rejected(days_ago=30.001), appeal(decision_id=DECISION_ID), days=30)
    assert (found.status, found.slug, found.faults[0].pointer) == (422, "appeal-window-closed", "/decision_id")


async def test_a_second_appeal_is_rejected_while_the_first_is_open() -> None:
    known = rejected()
    known.appeals[ids.derive("another")] = open_appeal()
    found = await refused(known, appeal(decision_id=DECISION_ID))
    assert (found.status, found.slug) == (409, "appeal-open")
    assert DECISION_ID in str(found)
    assert ids.derive("another") not in str(found)  # it may be another client's
    known.appeals[ids.derive("another")] = open_appeal(closed=True)
    await take(known, appeal(decision_id=DECISION_ID))


async def test_a_decision_can_be_contested_only_once() -> None:
    known = rejected()
    answered = msgspec.structs.replace(open_appeal(), case=way("uphold", about=ids.derive("another"), type_=APPEAL))
    known.appeals[ids.derive("another")] = answered
    found = await refused(known, appeal(item_id=ITEM_ID))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "appeal-answered", "/item_id")
    answered = msgspec.structs.replace(open_appeal(), case=way("overturn", about=ids.derive("another"), type_=APPEAL))
    known.appeals[ids.derive("another")] = answered  # and what takes the decision's place is not known yet
    found = await refused(known, appeal(item_id=ITEM_ID))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "decision-replaced", "/item_id")


async def test_only_the_client_that_submitted_a_notice_can_appeal_as_its_notifier() -> None:
    body = appeal(notice_id=NOTICE_ID, appellant={"kind": "notifier"})
    decision = {"decision_id": ids.decision_id(ids.case_id(NOTICE_ID, "eu", "notice"), 1)}
    for named in (body, appeal(**decision, appellant={"kind": "notifier"})):
        known = noticed()
        known.read_after = 2
        with pytest.raises(UnknownObject):
            await take(known, named, client("eu", name="another"))
    await take(noticed(), body, client("eu", scopes=frozenset({"appeals:write"})))


async def test_an_appeal_of_a_seller_requires_the_scope_items_write() -> None:
    flagger = client("eu", scopes=frozenset({"notices:write", "appeals:write"}))
    found = await refused(rejected(), appeal(item_id=ITEM_ID), flagger)
    assert (found.status, found.slug, found.faults[0].pointer) == (403, "missing-scope", "/appellant/kind")
    await take(rejected(), appeal(item_id=ITEM_ID), client("eu", name="another", platforms=["fair", "shop"]))


async def test_a_repeated_appeal_gets_the_same_response_even_after_it_became_inadmissible() -> None:
    body = appeal(item_id=ITEM_ID)
    first, _ = await take(rejected(), body)
    later = rejected(action="approve", n=2, days_ago=0)
    later.appeals[first.id] = kept(first)
    again, cluster = await take(later, body, days=1)
    assert (again.id, again.event_ids, again.decision_id) == (first.id, first.event_ids, DECISION_ID)
    assert cluster.records == []


async def test_the_reference_of_another_appeal_is_rejected() -> None:
    known = rejected()
    first, _ = await take(known, appeal(decision_id=DECISION_ID))
    known.appeals[first.id] = kept(first)
    found = await refused(known, appeal(decision_id=DECISION_ID, explanation="Something else altogether, at length."))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "reference-used", "/reference")


async def test_an_appeal_waits_for_a_decision_that_was_just_made() -> None:
    known = ComplaintLookup({}, {}, {(ITEM, ITEM_ID, "eu"): way()})
    await take(known, appeal(item_id=ITEM_ID))
    assert known.looks >= 3


@pytest.mark.parametrize("named", [{"decision_id": DECISION_ID}, {"item_id": ITEM_ID}, {"notice_id": NOTICE_ID}])
async def test_an_unknown_decision_is_reported_only_after_the_projection_has_caught_up(named: dict[str, str]) -> None:
    known = ComplaintLookup({}, read_after=3)
    with pytest.raises(UnknownObject, match=next(iter(named.values()))):
        await take(known, appeal(**named))


async def test_while_the_projection_is_behind_an_unknown_decision_gets_a_transient_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_your_writes, "_PATIENCE_SECONDS", 0.25)
    with pytest.raises(Transient, match="latest decisions yet"):
        await take(ComplaintLookup({}), appeal(decision_id=DECISION_ID))


async def test_an_undecided_item_is_reported_only_when_that_is_certain() -> None:
    known = ComplaintLookup({(ITEM, ITEM_ID, "eu"): way(None)}, read_after=2)
    found = await refused(known, appeal(item_id=ITEM_ID))
    assert (found.status, found.slug, found.faults[0].pointer) == (409, "undecided", "/item_id")


async def test_an_appeal_about_an_item_of_two_regions_must_name_the_region() -> None:
    both = {(ITEM, ITEM_ID, region): way(region=region, regions=("eu", "us")) for region in ("eu", "us")}
    found = await refused(ComplaintLookup(both), appeal(item_id=ITEM_ID))
    assert (found.status, found.faults[0].pointer) == (422, "/region")
    taken, _ = await take(ComplaintLookup(both), appeal(item_id=ITEM_ID, region="us"))
    assert taken.regions == ("us",)
    own, _ = await take(ComplaintLookup(both), appeal(item_id=ITEM_ID), client("us"))
    assert own.id == taken.id


async def test_a_retry_of_an_appeal_that_an_earlier_version_accepted_is_the_same_appeal() -> None:
    body, known = appeal(item_id=ITEM_ID), rejected()
    first, _ = await take(rejected(), body)
    earlier = "a0122cf6f36f3810f1a44633e9cc3569cd549fa60f636140266b3bb0e907f782"
    known.appeals[first.id] = kept(msgspec.structs.replace(first, content_hash=earlier))
    again, cluster = await take(known, body)
    assert (again.id, again.event_ids, again.content_hash) == (first.id, first.event_ids, earlier)
    assert cluster.records == []
    other = await refused(known, body | {"explanation": "Of another text altogether, and long enough."})
    assert (other.status, other.slug) == (409, "reference-used")


async def test_a_repeated_appeal_is_recognized_after_the_item_went_to_another_region() -> None:
    body = appeal(item_id=ITEM_ID)
    first, _ = await take(rejected(), body)
    both = {(ITEM, ITEM_ID, region): way(region=region, regions=("eu", "us")) for region in ("eu", "us")}
    known = ComplaintLookup(both)
    known.appeals[first.id] = kept(first)
    again, cluster = await take(known, body)
    assert (again.id, again.event_ids, again.regions) == (first.id, first.event_ids, ("eu",))
    assert cluster.records == []
    for change in ({"reference": "another"}, {"explanation": "Of another text altogether, and long enough."}):
        other = await refused(known, body | change)
        assert (other.status, other.faults[0].pointer) == (422, "/region")


async def test_a_key_of_another_region_or_platform_gets_the_same_error_as_for_an_unknown_decision() -> None:
    for named in ({"decision_id": DECISION_ID}, {"item_id": ITEM_ID}):
        known = ComplaintLookup({(ITEM, ITEM_ID, "eu"): way()}, read_after=2)
        with pytest.raises(UnknownObject) as foreign:
            await take(known, appeal(**named), client("us"))
        with pytest.raises(UnknownObject) as unknown:
            await take(ComplaintLookup({}, read_after=2), appeal(**named), client("us"))
        assert str(foreign.value) == str(unknown.value)
        with pytest.raises(UnknownObject) as of_another_platform:
            await take(known, appeal(**named), client("eu", "us", platforms=["fair"]))
        assert str(of_another_platform.value) == str(unknown.value)
    found = await refused(rejected(), appeal(item_id=ITEM_ID, region="eu"), client("us"))
    assert (found.status, found.slug, found.faults[0].pointer) == (403, "region-not-allowed", "/region")


@pytest.mark.parametrize(
    ("changed", "pointer", "says"),
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
    changed: dict[str, Any], pointer: str, says: str
) -> None:
    found = await refused(rejected(), appeal(**changed))
    assert found.status == 422
    assert [fault.pointer for fault in found.faults if says in fault.detail] == [pointer], found.faults
