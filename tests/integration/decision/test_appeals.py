"""Notices and appeals on real PostgreSQL: stored beside items, heard by others, answered once (promises 2, 3 and 5)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.decision.domain import Refused
from services.decision.handlers import Lease
from shared.contracts import events, ids
from shared.contracts.envelope import encode
from tests.integration.decision.test_api import WHO, calls
from tests.integration.decision.test_cases import REGION, Service, running
from tests.support.decision_cases import appealed, encoded, encoded_withdrawal, noticed, opened

ITEM = opened(REGION)[1]
NOTICE = noticed(REGION)[1]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with running(database_url) as parts:
        yield parts


def notice(**what: Any) -> Any:
    return encode(*noticed(REGION, **what))


def appeal(about: events.CaseOpened = ITEM, **what: Any) -> Any:
    return encode(*appealed(REGION, about, **{"reviewer": "r-1", **what}))


async def decide(service: Service, lease: Lease, action: str, *reasons: str) -> bool:
    return await service.approve(lease, action=action, reasons=list(reasons))


async def rejected(service: Service) -> None:
    """An item, rejected by `r-1`, and an appeal about that."""
    await service.open(encoded(REGION))
    await decide(service, await service.claimed(reviewer="r-1"), "reject", "FAKE")
    await service.open(appeal())


async def states(service: Service) -> dict[str, list[str]]:
    rows = await service.outside.fetch(
        "SELECT coalesce(convert_from(opened, 'UTF8')::json ->> 'case_type', 'item') AS type,"
        " array_agg(state ORDER BY state) FROM cases GROUP BY 1"
    )
    return {row[0]: row[1] for row in rows}


async def test_notices_stand_beside_the_subjects_item_and_outlive_its_versions_and_its_withdrawal(
    service: Service,
) -> None:
    await service.open(encoded(REGION, version=1), notice())
    await service.open(encoded(REGION, version=2), notice(reference="2"), encoded_withdrawal(REGION, version=2))
    assert await states(service) == {"item": ["superseded", "withdrawn"], "notice": ["waiting", "waiting"]}
    assert await decide(service, await service.claimed(), "reject", "FAKE")
    assert await service.types() == ["case.superseded", "case.closed", "case.claimed", "decision.made"]
    assert await service.store.totals() == {"superseded": 1, "withdrawn": 1, "decided": 1, "people/reject": 1}


async def test_who_decided_does_not_get_the_appeal_and_another_overturns_it_once(service: Service) -> None:
    await rejected(service)
    assert await service.claim("r-1") is None
    lease = await service.claimed(reviewer="r-2")
    assert await decide(service, lease, "overturn")
    assert not await decide(service, lease, "overturn")
    assert (await service.types())[-2:] == ["decision.made", "decision.replaced"]
    found = await service.store.case(ITEM.case_id)
    assert found is not None
    case, decisions = found
    assert (case.state, [(d.n, d.action, d.reviewer) for d in decisions]) == (
        "decided",
        [(1, "reject", "r-1"), (2, "approve", "r-2")],
    )
    totals = await service.store.totals()
    assert totals == {"decided": 2, "people/reject": 1, "appeals/overturn": 1}


async def test_the_first_reviewer_may_still_repeat_a_decision_that_was_replaced_since(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed(reviewer="r-1")
    assert await decide(service, lease, "reject", "FAKE")
    await service.open(appeal())
    assert await decide(service, await service.claimed(reviewer="r-2"), "overturn")
    assert not await decide(service, lease, "reject", "FAKE")
    with pytest.raises(Refused, match="decided already"):
        await decide(service, lease, "approve")


async def test_after_it_was_overturned_a_decision_is_appealed_about_no_more_and_the_new_one_may_be(
    service: Service,
) -> None:
    await rejected(service)
    await decide(service, await service.claimed(reviewer="r-2"), "overturn")
    await service.open(appeal(reference="late"))
    await service.open(appeal(reference="next", n=2, action="approve", reviewer="r-2"))
    assert (await states(service))["appeal"] == ["closed", "decided", "waiting"]
    assert await service.claim("r-2") is None
    lease = await service.claimed(reviewer="r-1")
    with pytest.raises(Refused) as refused:
        await decide(service, lease, "overturn")
    assert refused.value.slug == "reasons-needed"
    assert await decide(service, lease, "overturn", "FAKE")
    found = await service.store.case(ITEM.case_id)
    assert found is not None
    assert [(d.n, d.action) for d in found[1]] == [(1, "reject"), (2, "approve"), (3, "reject")]


async def test_a_second_appeal_about_one_decision_is_closed_while_the_first_is_open_and_heard_after_it(
    service: Service,
) -> None:
    await rejected(service)
    await service.open(appeal(reference="2"), appeal(reference="3"))
    assert (await states(service))["appeal"] == ["closed", "closed", "waiting"]
    assert await decide(service, await service.claimed(reviewer="r-2"), "uphold")
    await service.open(appeal(reference="4"))
    assert (await states(service))["appeal"] == ["closed", "closed", "decided", "waiting"]
    assert (await service.store.totals())["closed"] == 2


async def test_a_replay_of_everything_changes_nothing(service: Service) -> None:
    life = [encoded(REGION), notice(), appeal(), appeal(reference="2")]
    await service.open(*life[:2])
    await decide(service, await service.claimed(reviewer="r-1"), "reject", "FAKE")
    await decide(service, await service.claimed(reviewer="r-1"), "reject", "FAKE")
    await service.open(*life[2:])
    await decide(service, await service.claimed(reviewer="r-2"), "overturn")
    before = await states(service), await service.said(), await service.store.totals()
    for batch in (life, life[::-1], life[2:]):
        await service.open(*batch)
    assert (await states(service), await service.said(), await service.store.totals()) == before


async def test_an_appeal_that_comes_while_another_is_overturned_is_never_left_open(service: Service) -> None:
    subjects = [f"s{n}" for n in range(15)]
    await service.open(*(encoded(REGION, subject, verdict="reject") for subject in subjects))
    about = [opened(REGION, subject, verdict="reject")[1] for subject in subjects]
    await service.open(*(appeal(case, reviewer="") for case in about))
    leases = [await service.claimed(reviewer="r-2") for _ in subjects]

    async def come_again() -> None:
        for case in about:
            await service.open(appeal(case, reviewer="", reference="2"))

    coming = asyncio.create_task(come_again())
    assert all(await asyncio.gather(*(decide(service, lease, "overturn") for lease in leases)))
    await coming
    assert (await states(service))["appeal"] == ["closed"] * 15 + ["decided"] * 15
    assert sorted(await service.types()).count("decision.replaced") == 15


async def test_a_notices_decision_is_appealed_about_too(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"), notice())
    await service.approve(await service.claimed(reviewer="r-1"))
    await service.open(appeal(NOTICE, action="approve"))
    assert await decide(service, await service.claimed(reviewer="r-2"), "overturn", "FAKE")
    found = await service.store.case(NOTICE.case_id)
    assert found is not None
    assert [(d.n, d.action) for d in found[1]] == [(1, "approve"), (2, "reject")]
    item = await service.store.case(ITEM.case_id)
    assert item is not None
    assert [d.action for d in item[1]] == ["approve"]


async def test_a_lease_that_ran_out_while_the_case_appealed_about_was_waited_for_decides_nothing(
    service: Service,
) -> None:
    await rejected(service)
    lease = await service.claimed(reviewer="r-2", seconds=1)
    async with service.outside.transaction():
        await service.outside.execute("SELECT FROM cases WHERE case_id = $1 FOR UPDATE", ITEM.case_id)
        deciding = asyncio.create_task(decide(service, lease, "overturn"))
        await asyncio.sleep(1.2)
    with pytest.raises(Refused) as refused:
        await deciding
    assert refused.value.slug == "lease-expired"


async def test_a_reviewer_sees_what_a_notice_and_an_appeal_say_and_what_they_are_about(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"), notice())
    async with calls(service) as client:
        claim = (await client.post("/v1/claims", json=WHO)).json()
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
        assert (await client.post("/v1/claims", json=WHO)).status_code == 204
        claim = (await client.post("/v1/claims", json={**WHO, "reviewer": "r-2"})).json()
        case = claim["case"]
        assert case["appeal"]["explanation"] == "It is genuine."
        assert [about["case_type"] for about in case["concerns"]] == ["notice", "item"]
        assert case["concerns"][0]["notice"]["ground"] == "counterfeit"
        path = f"/v1/cases/{case['case_id']}"
        body = {"lease_token": claim["lease"]["token"], "action": "overturn"}
        unsaid = await client.post(f"{path}/decisions", json=body)
        assert (unsaid.status_code, unsaid.json()["errors"][0]["pointer"]) == (422, "/reasons")
        assert (await client.post(f"{path}/decisions", json={**body, "reasons": ["FAKE"]})).status_code == 201
        shown = (await client.get(path)).json()
        assert [d["action"] for d in shown["decisions"]] == ["overturn"]
        assert [d["action"] for d in shown["concerns"][0]["decisions"]] == ["approve", "reject"]
        totals = (await client.get("/v1/totals")).json()
        assert totals["appeals"] == {"overturn": 1, "uphold": 0}
        assert totals["decisions"]["people"] == {"approve": 1, "reject": 0}
        assert ids.notice_id("shop", "shop:product:B07", "1") == shown["concerns"][0]["item_id"]


async def test_what_an_appeal_is_about_may_not_be_stored_here_and_it_can_still_be_closed(service: Service) -> None:
    await service.open(appeal())
    lease = await service.claimed(reviewer="r-2")
    with pytest.raises(Refused) as refused:
        await decide(service, lease, "overturn")
    assert refused.value.slug == "replaced"
    assert await service.store.concerned(lease.case) == []
    assert await decide(service, lease, "uphold")
