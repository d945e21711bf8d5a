"""Claims and leases, on a store in memory (promise 3)."""

from datetime import timedelta

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from services.decision.domain.decisions import DecideCommand
from services.decision.domain.leases import ClaimCommand, LeaseLimits
from services.decision.handlers.leases import MAX_EXPIRED, Lease
from shared.contracts import ids
from shared.validation.faults import InputRejected
from tests.support.decision.cases import NOON
from tests.support.decision.domain import received_appeal, received_case
from tests.support.decision.memory import MemoryService

UNKNOWN_CASE = ids.case_id("x", "eu", "item")


async def test_a_claim_leases_the_most_urgent_case_and_publishes_it() -> None:
    service = MemoryService()
    await service.open(received_case("a", priority=5), received_case("b", priority=1), received_case("c", queue="toys"))
    lease = await service.claimed("r-1", seconds=60)
    assert (lease.case.opened.subject_id, lease.case.lease_token) == ("b", 1)
    assert lease.until == NOON + timedelta(seconds=60)
    assert (service.event_types, service.woken) == (["case.claimed"], 1)
    assert (await service.claimed()).case.opened.subject_id == "a"
    assert await service.claim() is None


async def test_a_claim_without_a_waiting_case_publishes_nothing() -> None:
    service = MemoryService()
    assert await service.claim() is None
    assert (service.event_types, service.woken) == ([], 0)


async def test_an_expired_case_is_leased_again_after_the_sweep_and_both_events_are_published() -> None:
    service = MemoryService()
    await service.open(received_case())
    first = await service.claimed("r-1", seconds=60)
    service.clock.advance(timedelta(seconds=60))
    assert await service.claim("r-2") is None
    with pytest.raises(InputRejected) as rejected:
        await service.decisions.decide(first.case.case_id, DecideCommand(1, "approve", []))
    assert rejected.value.slug == "lease-expired"
    assert await service.leases.expire() is False
    second = await service.claimed("r-2")
    assert (second.case.case_id, second.case.lease_token) == (first.case.case_id, 2)
    assert service.event_types == ["case.claimed", "case.expired", "case.claimed"]


async def test_a_claim_never_leases_an_appeal_about_the_reviewers_own_decision() -> None:
    service = MemoryService()
    await service.open(received_appeal(received_case().opened, reviewer="r-1"))
    assert await service.claim("r-1") is None
    assert (await service.claimed("r-2")).case.opened.case_type == "appeal"


async def test_the_same_idempotency_key_returns_the_same_lease_until_it_expires() -> None:
    service = MemoryService()
    await service.open(received_case("a"), received_case("b"))
    first, again = await service.claim(key="k", seconds=60), await service.claim(key="k", seconds=60)
    assert first == again
    assert service.event_types == ["case.claimed"]
    service.clock.advance(timedelta(seconds=60))
    after = await service.claim(key="k", seconds=60)
    assert after is not None
    assert after.until > NOON + timedelta(seconds=60)


async def claim_as(service: MemoryService, reviewer: str, client: str, key: str | None = None) -> Lease | None:
    command = ClaimCommand(reviewer, "in_house", 60, key, key, client)
    return await service.leases.claim(["general"], command)


async def test_a_reviewer_with_as_many_leases_as_allowed_cannot_claim_until_one_ends() -> None:
    service = MemoryService(LeaseLimits(reviewer=2, client=100))
    await service.open(*(received_case(f"s{n}") for n in range(5)))
    first = await claim_as(service, "r-1", "console", "k")
    await claim_as(service, "r-1", "another-console")
    service.clock.advance(timedelta(seconds=45))
    for client in ("console", "third-console"):
        with pytest.raises(InputRejected, match=r"Reviewer 'r-1' holds 2 open leases, which is the limit") as rejected:
            await claim_as(service, "r-1", client)
        assert (rejected.value.slug, rejected.value.retry_after) == ("too-many-leases", 15)
    assert await claim_as(service, "r-1", "console", "k") == first  # a repetition claims nothing new
    assert await claim_as(service, "r-2", "console") is not None
    service.clock.advance(timedelta(seconds=15))
    assert await claim_as(service, "r-1", "console") is not None


async def test_a_client_with_as_many_leases_as_allowed_cannot_claim_for_any_reviewer_until_one_is_released() -> None:
    service = MemoryService(LeaseLimits(reviewer=100, client=2))
    await service.open(*(received_case(f"s{n}") for n in range(5)))
    before = REGISTRY.get_sample_value("piepowder_decision_claims_refused_total", {"region": "eu", "limit": "client"})
    lease = await claim_as(service, "r-1", "console")
    await claim_as(service, "r-2", "console")
    with pytest.raises(InputRejected, match=r"Client 'console' holds 2 open leases, which is the limit") as rejected:
        await claim_as(service, "r-3", "console")
    assert rejected.value.retry_after == 30  # at most, because a case can be decided before its lease ends
    after = REGISTRY.get_sample_value("piepowder_decision_claims_refused_total", {"region": "eu", "limit": "client"})
    assert after == (before or 0) + 1
    assert await claim_as(service, "r-3", "other") is not None
    assert lease is not None
    await service.leases.release(lease.case.case_id, token=1, reason="")
    assert await claim_as(service, "r-3", "console") is not None


async def test_an_idempotency_key_with_another_body_is_rejected() -> None:
    service = MemoryService()
    await service.open(received_case("a"), received_case("b"))
    lease = await service.claim(key="k")
    assert lease is not None
    service.store.cases[lease.case.case_id] = replace(lease.case, claim_body="another")
    with pytest.raises(InputRejected) as rejected:
        await service.claim(key="k")
    assert rejected.value.slug == "idempotency-key-reused"


async def test_a_heartbeat_extends_the_lease_without_an_event() -> None:
    service = MemoryService()
    await service.open(received_case())
    lease = await service.claimed()
    service.clock.advance(timedelta(seconds=30))
    extended = await service.leases.heartbeat(lease.case.case_id, token=1, seconds=600)
    assert extended is not None
    assert extended.until == NOON + timedelta(seconds=630)
    assert service.store.cases[lease.case.case_id].lease_until == extended.until
    assert (service.event_types, service.woken) == (["case.claimed"], 1)


async def test_a_release_returns_the_case_to_its_queue_once() -> None:
    service = MemoryService()
    await service.open(received_case())
    lease = await service.claimed()
    for _ in range(2):
        released = await service.leases.release(lease.case.case_id, token=1, reason="")
        assert released is not None
        assert released.state == "waiting"
    assert (service.event_types, service.woken) == (["case.claimed", "case.released"], 2)


async def test_a_rejected_command_changes_nothing() -> None:
    service = MemoryService()
    await service.open(received_case())
    lease = await service.claimed(seconds=60)
    service.clock.advance(timedelta(seconds=60))
    with pytest.raises(InputRejected):
        await service.leases.heartbeat(lease.case.case_id, token=1, seconds=60)
    with pytest.raises(InputRejected):
        await service.leases.release(lease.case.case_id, token=1, reason="")
    assert service.store.cases[lease.case.case_id] == lease.case


async def test_a_command_on_an_unknown_case_returns_none() -> None:
    service = MemoryService()
    assert await service.leases.heartbeat(UNKNOWN_CASE, token=1, seconds=60) is None
    assert await service.leases.release(UNKNOWN_CASE, token=1, reason="") is None


async def test_the_sweep_ends_expired_leases_up_to_its_limit() -> None:
    service = MemoryService()
    await service.open(*(received_case(f"s{n}") for n in range(MAX_EXPIRED + 1)))
    for n in range(MAX_EXPIRED + 1):
        await service.claimed(f"r-{n}", seconds=60)
    assert await service.leases.expire() is False
    service.clock.advance(timedelta(seconds=60))
    assert await service.leases.expire() is True
    assert await service.leases.expire() is False
    assert service.event_types.count("case.expired") == MAX_EXPIRED + 1
    assert {case.state for case in service.store.cases.values()} == {"waiting"}
