"""Decisions on PostgreSQL (promises 2 and 3)."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import asyncpg
import pytest

from services.decision.handlers.leases import Lease
from shared.validation.faults import InputRejected
from tests.support.decision.cases import encoded, encoded_withdrawal
from tests.support.decision.service import REGION, Service


async def test_an_expired_lease_cannot_decide_even_without_another_claim(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed()
    await service.let_expire(lease)
    for act in (service.decide(lease), service.leases.heartbeat(lease.case.case_id, token=1, seconds=60)):
        with pytest.raises(InputRejected) as rejected:
            await act
        assert rejected.value.slug == "lease-expired"
    assert await service.outside.fetchval("SELECT count(*) FROM decisions") == 0


async def test_concurrent_decisions_under_one_lease_make_one_decision(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed()
    news = await asyncio.gather(*(service.decide(lease) for _ in range(6)))
    assert sorted(news) == [False] * 5 + [True]
    assert await service.decide(lease) is False
    with pytest.raises(InputRejected) as rejected:
        await service.decide(lease, "reject", "FAKE")
    assert rejected.value.slug == "already-decided"
    assert await service.event_types() == ["case.claimed", "decision.made"]
    assert await service.outside.fetchval("SELECT count(*) FROM decisions") == 1


async def test_a_concurrent_decision_and_withdrawal_end_a_case_in_one_way(service: Service) -> None:
    subjects = [f"s{n}" for n in range(20)]
    await service.open(*(encoded(REGION, subject) for subject in subjects))
    leases = [await service.claimed() for _ in subjects]

    async def decide(lease: Lease) -> bool:
        try:
            return await service.decide(lease)
        except InputRejected as rejected:
            assert rejected.slug == "withdrawn"  # noqa: PT017 - of many, each is looked at
            return False

    async def withdraw_all() -> None:
        for subject in reversed(subjects):
            await service.open(encoded_withdrawal(REGION, subject))

    withdrawing = asyncio.create_task(withdraw_all())
    decided = sum(await asyncio.gather(*map(decide, leases)))
    await withdrawing
    assert sorted(await service.states()) == ["decided"] * decided + ["withdrawn"] * (20 - decided)
    ends = [kind for kind in await service.event_types() if kind != "case.claimed"]
    assert sorted(ends) == ["case.closed"] * (20 - decided) + ["decision.made"] * decided


async def test_concurrent_reviewers_and_newer_versions_leave_one_open_case_without_a_deadlock(service: Service) -> None:
    subjects = [f"s{n}" for n in range(10)]
    await service.open(*(encoded(REGION, subject) for subject in subjects))

    async def review() -> None:
        for _ in range(10):
            lease = await service.claim()
            if lease is None:
                return
            with suppress(InputRejected):  # superseded meanwhile
                await service.decide(lease)

    async def post(order: Sequence[str]) -> None:
        for version in range(2, 6):
            await service.open(*(encoded(REGION, subject, version=version) for subject in order))

    await asyncio.gather(post(subjects), review(), review(), review())
    rows = await service.outside.fetch(
        "SELECT subject FROM cases WHERE state IN ('waiting', 'claimed') GROUP BY subject HAVING count(*) > 1"
    )
    assert rows == []
    decided = await service.outside.fetchval("SELECT count(*) FROM cases WHERE state = 'decided'")
    assert await service.outside.fetchval("SELECT count(*) FROM decisions") == decided


async def test_decisions_can_only_be_inserted(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"))
    for change in ("UPDATE decisions SET action = 'reject'", "DELETE FROM decisions", "TRUNCATE decisions"):
        with pytest.raises(asyncpg.RaiseError, match="only appended to"):
            await service.outside.execute(change)
