"""Notices and appeals on PostgreSQL: independent of items, decided once and by another reviewer (promises 2, 3, 5)."""

import asyncio
from functools import partial
from typing import Any

import pytest

from shared.contracts import events, ids
from shared.contracts.envelope import encode
from shared.validation.faults import InputRejected
from tests.support.decision.cases import appealed, encoded, encoded_withdrawal, noticed, opened
from tests.support.decision.rest import REVIEWER, api_client
from tests.support.decision.service import REGION, Service
from tests.support.service_process import wait_until

ITEM = opened(REGION)[1]
NOTICE = noticed(REGION)[1]


def notice(**what: Any) -> Any:
    return encode(*noticed(REGION, **what))


def appeal(about: events.CaseOpened = ITEM, **what: Any) -> Any:
    return encode(*appealed(REGION, about, **{"reviewer": "r-1", **what}))


async def rejected_and_appealed(service: Service) -> None:
    """An item, rejected by `r-1`, and an appeal about that."""
    await service.open(encoded(REGION))
    await service.decide(await service.claimed(reviewer="r-1"), "reject", "FAKE")
    await service.open(appeal())


async def states(service: Service) -> dict[str, list[str]]:
    rows = await service.outside.fetch(
        "SELECT coalesce(convert_from(opened, 'UTF8')::json ->> 'case_type', 'item') AS type,"
        " array_agg(state ORDER BY state) FROM cases GROUP BY 1"
    )
    return {row[0]: row[1] for row in rows}


async def test_notices_stay_open_when_the_subjects_item_is_superseded_or_withdrawn(
    service: Service,
) -> None:
    await service.open(encoded(REGION, version=1), notice())
    await service.open(encoded(REGION, version=2), notice(reference="2"), encoded_withdrawal(REGION, version=2))
    assert await states(service) == {"item": ["superseded", "withdrawn"], "notice": ["waiting", "waiting"]}
    assert await service.decide(await service.claimed(), "reject", "FAKE")
    assert await service.event_types() == ["case.superseded", "case.closed", "case.claimed", "decision.made"]
    assert await service.store.totals() == {"superseded": 1, "withdrawn": 1, "decided": 1, "people/reject": 1}


async def test_only_another_reviewer_gets_the_appeal_and_overturns_the_decision_once(
    service: Service,
) -> None:
    await rejected_and_appealed(service)
    assert await service.claim("r-1") is None
    lease = await service.claimed(reviewer="r-2")
    assert await service.decide(lease, "overturn")
    assert not await service.decide(lease, "overturn")
    assert (await service.event_types())[-2:] == ["decision.made", "decision.replaced"]
    found = await service.store.case(ITEM.case_id)
    assert found is not None
    case, decisions = found
    assert (case.state, [(d.n, d.action, d.reviewer) for d in decisions]) == (
        "decided",
        [(1, "reject", "r-1"), (2, "approve", "r-2")],
    )
    totals = await service.store.totals()
    assert totals == {"decided": 2, "people/reject": 1, "appeals/overturn": 1}


async def test_the_first_reviewer_may_repeat_a_decision_that_has_been_replaced(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed(reviewer="r-1")
    assert await service.decide(lease, "reject", "FAKE")
    await service.open(appeal())
    assert await service.decide(await service.claimed(reviewer="r-2"), "overturn")
    assert not await service.decide(lease, "reject", "FAKE")
    with pytest.raises(InputRejected, match="decided already"):
        await service.decide(lease, "approve")


async def test_an_overturned_decision_cannot_be_appealed_again_but_the_new_decision_can(
    service: Service,
) -> None:
    await rejected_and_appealed(service)
    await service.decide(await service.claimed(reviewer="r-2"), "overturn")
    await service.open(appeal(reference="late"))
    await service.open(appeal(reference="next", n=2, action="approve", reviewer="r-2"))
    assert (await states(service))["appeal"] == ["closed", "decided", "waiting"]
    assert await service.claim("r-2") is None
    lease = await service.claimed(reviewer="r-1")
    with pytest.raises(InputRejected) as rejected:
        await service.decide(lease, "overturn")
    assert rejected.value.slug == "reasons-needed"
    assert await service.decide(lease, "overturn", "FAKE")
    found = await service.store.case(ITEM.case_id)
    assert found is not None
    assert [(d.n, d.action) for d in found[1]] == [(1, "reject"), (2, "approve"), (3, "reject")]


async def test_a_second_appeal_is_closed_while_the_first_is_open_and_waits_after_it_was_decided(
    service: Service,
) -> None:
    await rejected_and_appealed(service)
    await service.open(appeal(reference="2"), appeal(reference="3"))
    assert (await states(service))["appeal"] == ["closed", "closed", "waiting"]
    assert await service.decide(await service.claimed(reviewer="r-2"), "uphold")
    await service.open(appeal(reference="4"))
    assert (await states(service))["appeal"] == ["closed", "closed", "decided", "waiting"]
    assert (await service.store.totals())["closed"] == 2


async def test_a_replay_of_everything_changes_nothing(service: Service) -> None:
    everything = [encoded(REGION), notice(), appeal(), appeal(reference="2")]
    await service.open(*everything[:2])
    await service.decide(await service.claimed(reviewer="r-1"), "reject", "FAKE")
    await service.decide(await service.claimed(reviewer="r-1"), "reject", "FAKE")
    await service.open(*everything[2:])
    await service.decide(await service.claimed(reviewer="r-2"), "overturn")
    before = await states(service), await service.published(), await service.store.totals()
    for batch in (everything, everything[::-1], everything[2:]):
        await service.open(*batch)
    assert (await states(service), await service.published(), await service.store.totals()) == before


async def test_an_appeal_that_arrives_during_an_overturn_is_never_left_open(service: Service) -> None:
    subjects = [f"s{n}" for n in range(15)]
    await service.open(*(encoded(REGION, subject, verdict="reject") for subject in subjects))
    about = [opened(REGION, subject, verdict="reject")[1] for subject in subjects]
    await service.open(*(appeal(case, reviewer="") for case in about))
    leases = [await service.claimed(reviewer="r-2") for _ in subjects]

    async def appeal_again() -> None:
        for case in about:
            await service.open(appeal(case, reviewer="", reference="2"))

    coming = asyncio.create_task(appeal_again())
    assert all(await asyncio.gather(*(service.decide(lease, "overturn") for lease in leases)))
    await coming
    assert (await states(service))["appeal"] == ["closed"] * 15 + ["decided"] * 15
    assert sorted(await service.event_types()).count("decision.replaced") == 15


async def test_the_decision_of_a_notice_can_be_appealed(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"), notice())
    await service.decide(await service.claimed(reviewer="r-1"))
    await service.open(appeal(NOTICE, action="approve"))
    assert await service.decide(await service.claimed(reviewer="r-2"), "overturn", "FAKE")
    found = await service.store.case(NOTICE.case_id)
    assert found is not None
    assert [(d.n, d.action) for d in found[1]] == [(1, "approve"), (2, "reject")]
    item = await service.store.case(ITEM.case_id)
    assert item is not None
    assert [d.action for d in item[1]] == ["approve"]


async def test_a_lease_that_expires_during_the_wait_for_the_appealed_case_cannot_decide(
    service: Service,
) -> None:
    await rejected_and_appealed(service)
    lease = await service.claimed(reviewer="r-2", seconds=1)
    async with service.outside.transaction():
        await service.outside.execute("SELECT FROM cases WHERE case_id = $1 FOR UPDATE", ITEM.case_id)
        deciding = asyncio.create_task(service.decide(lease, "overturn"))
        expired = "SELECT clock_timestamp() > lease_until FROM cases WHERE case_id = $1"
        await wait_until(partial(service.outside.fetchval, expired, lease.case.case_id))
    with pytest.raises(InputRejected) as rejected:
        await deciding
    assert rejected.value.slug == "lease-expired"


async def test_a_claim_shows_the_notice_or_appeal_and_the_cases_that_it_concerns(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"), notice())
    async with api_client(service) as client:
        claim = (await client.post("/v1/claims", json=REVIEWER)).json()
        case = claim["case"]
        assert (case["case_type"], case["notice"]["explanation"]) == ("notice", "We make this watch, and not that one.")
        [about] = case["concerns"]
        assert (about["item"]["title"], about["decisions"][0]["action"]) == ("Uhr B07", "approve")
        path = f"/v1/cases/{case['case_id']}/decisions"
        body = {"lease_token": claim["lease"]["token"], "action": "approve"}
        wrong = await client.post(path, json={**body, "action": "uphold"})
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/action")
        assert (await client.post(path, json=body)).status_code == 201
        await service.open(appeal(NOTICE, action="approve"))
        assert (await client.post("/v1/claims", json=REVIEWER)).status_code == 204
        claim = (await client.post("/v1/claims", json={**REVIEWER, "reviewer": "r-2"})).json()
        case = claim["case"]
        assert case["appeal"]["explanation"] == "It is genuine."
        assert [about["case_type"] for about in case["concerns"]] == ["notice", "item"]
        assert case["concerns"][0]["notice"]["ground"] == "counterfeit"
        path = f"/v1/cases/{case['case_id']}"
        body = {"lease_token": claim["lease"]["token"], "action": "overturn"}
        without_reasons = await client.post(f"{path}/decisions", json=body)
        assert (without_reasons.status_code, without_reasons.json()["errors"][0]["pointer"]) == (422, "/reasons")
        assert (await client.post(f"{path}/decisions", json={**body, "reasons": ["FAKE"]})).status_code == 201
        shown = (await client.get(path)).json()
        assert [d["action"] for d in shown["decisions"]] == ["overturn"]
        assert [d["action"] for d in shown["concerns"][0]["decisions"]] == ["approve", "reject"]
        totals = (await client.get("/v1/totals")).json()
        assert totals["appeals"] == {"overturn": 1, "uphold": 0}
        assert totals["decisions"]["people"] == {"approve": 1, "reject": 0}
        assert ids.notice_id("shop", "shop:product:B07", "1") == shown["concerns"][0]["item_id"]


async def test_an_appeal_about_a_case_that_is_not_stored_can_only_be_upheld(service: Service) -> None:
    await service.open(appeal())
    lease = await service.claimed(reviewer="r-2")
    with pytest.raises(InputRejected) as rejected:
        await service.decide(lease, "overturn")
    assert rejected.value.slug == "replaced"
    assert await service.store.concerned(lease.case) == []
    assert await service.decide(lease, "uphold")
