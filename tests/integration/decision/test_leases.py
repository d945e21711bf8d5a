"""Claims and leases on PostgreSQL (promise 3)."""

import asyncio

import pytest

from services.decision.domain.leases import ClaimCommand, LeaseLimits
from services.decision.handlers.leases import Lease, LeaseCases
from shared.contracts import ids
from shared.validation.faults import InputRejected
from tests.support.decision.cases import encoded
from tests.support.decision.service import REGION, Service


async def test_one_of_many_reviewers_gets_the_only_case(service: Service) -> None:
    await service.open(encoded(REGION))
    leases = await asyncio.gather(*(service.claim(f"r-{n}") for n in range(8)))
    assert sum(lease is not None for lease in leases) == 1


async def test_concurrent_reviewers_all_get_different_cases(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}", queue=f"q{n % 3}") for n in range(40)))
    leases = await asyncio.gather(*(service.claimed(queues=("q0", "q1", "q2")) for _ in range(40)))
    assert len({lease.case.case_id for lease in leases}) == 40
    assert await service.claim() is None


async def test_a_claim_gets_the_most_urgent_case_of_the_requested_queues(service: Service) -> None:
    await service.open(
        encoded(REGION, "late", priority=2, due_in=60),
        encoded(REGION, "soon", priority=2, due_in=10, queue="brands"),
        encoded(REGION, "first", priority=1, due_in=90),
        encoded(REGION, "elsewhere", priority=1, due_in=1, queue="toys"),
    )
    got = [(await service.claimed(queues=("general", "brands"))).case.opened.subject_id for _ in range(3)]
    assert got == ["first", "soon", "late"]


async def test_the_next_claim_after_a_sweep_gets_an_expired_case_and_both_events_are_published(
    service: Service,
) -> None:
    await service.open(encoded(REGION))
    first = await service.claimed()
    await service.let_expire(first)
    assert await service.claim(reviewer="r-2") is None  # no command of the holder is accepted meanwhile:
    for command in (service.decide(first), service.leases.heartbeat(first.case.case_id, token=1, seconds=60),
                    service.leases.release(first.case.case_id, token=1, reason="")):  # fmt: skip
        with pytest.raises(InputRejected) as rejected:
            await command
        assert rejected.value.slug == "lease-expired"
    assert await service.leases.expire() is False
    second = await service.claimed(reviewer="r-2")
    assert (second.case.case_id, second.case.lease_token) == (first.case.case_id, 2)
    assert await service.event_types() == ["case.claimed", "case.expired", "case.claimed"]
    with pytest.raises(InputRejected, match=r"Token 1 does not hold case .* \(any more\)"):
        await service.decide(first)
    assert await service.decide(second)


async def test_concurrent_sweeps_end_every_expired_lease_once(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(5)))
    for lease in [await service.claimed() for _ in range(5)]:
        await service.let_expire(lease)
    await asyncio.gather(*(service.leases.expire() for _ in range(3)))
    assert await service.event_types() == ["case.claimed"] * 5 + ["case.expired"] * 5


async def test_a_released_case_is_claimed_again_under_a_new_token(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed()
    for _ in range(2):
        assert await service.leases.release(lease.case.case_id, token=1, reason="") is not None
    assert (await service.claimed()).case.lease_token == 2
    assert await service.event_types() == ["case.claimed", "case.released", "case.claimed"]


async def test_the_same_idempotency_key_returns_the_same_lease_while_it_runs(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(5)))
    how = {"key": ids.derive("claim", "k"), "body": "b"}
    first, again = await service.claimed(**how), await service.claimed(**how)
    assert (again.case.case_id, again.case.lease_token) == (first.case.case_id, first.case.lease_token)
    with pytest.raises(InputRejected) as rejected:
        await service.claim(key=how["key"], body="other")
    assert rejected.value.slug == "idempotency-key-reused"
    assert await service.decide(first)
    assert (await service.claimed(**how)).case.case_id != first.case.case_id


async def test_the_same_idempotency_key_leases_a_case_again_as_soon_as_its_lease_has_expired(service: Service) -> None:
    await service.open(encoded(REGION, "a"), encoded(REGION, "b"))
    how = {"key": ids.derive("claim", "k"), "body": "b"}
    other = await service.claimed()
    first = await service.claimed(**how)
    for lease in (first, other):
        await service.let_expire(lease)
    again = await service.claimed(**how)
    assert (again.case.case_id, again.case.lease_token) == (first.case.case_id, 2)
    assert await service.event_types() == ["case.claimed"] * 2 + ["case.expired", "case.claimed"]
    assert await service.decide(again)


async def test_concurrent_claims_under_one_key_hold_one_case(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(8)))
    how = {"key": ids.derive("claim", "k"), "body": "b"}
    outcomes = await asyncio.gather(*(service.claim(**how) for _ in range(6)), return_exceptions=True)
    assert {outcome.slug for outcome in outcomes if isinstance(outcome, InputRejected)} <= {"in-flight"}
    assert len({outcome.case.case_id for outcome in outcomes if isinstance(outcome, Lease)}) == 1
    assert (await service.states()).count("claimed") == 1


async def claim_at_once(service: Service, limits: LeaseLimits, reviewers: list[str]) -> list[str]:
    """Claims by these reviewers, with one API key and all at once; returns the problems of the refused ones."""
    limited = LeaseCases(service.store.leases, region=REGION, wake=lambda: None, limits=limits)
    commands = [ClaimCommand(reviewer, "in_house", 300, client="console") for reviewer in reviewers]
    outcomes = await asyncio.gather(*(limited.claim(["general"], c) for c in commands), return_exceptions=True)
    assert all(isinstance(outcome, Lease | InputRejected) for outcome in outcomes), outcomes
    return [outcome.slug for outcome in outcomes if isinstance(outcome, InputRejected)]


@pytest.mark.parametrize(
    ("limits", "reviewers"),
    [
        (LeaseLimits(reviewer=3, client=1_000), ["r-1"] * 40),
        (LeaseLimits(reviewer=50, client=5), [f"r-{n}" for n in range(40)]),
        (LeaseLimits(reviewer=7, client=5), [f"r-{n % 2}" for n in range(40)]),
    ],
)
async def test_concurrent_claims_never_exceed_the_limits_of_a_reviewer_and_of_a_client(
    service: Service, limits: LeaseLimits, reviewers: list[str]
) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(60)))
    refused = await claim_at_once(service, limits, reviewers)
    allowed = min(limits.client, limits.reviewer * len(set(reviewers)))
    assert refused == ["too-many-leases"] * (40 - allowed)
    assert (await service.states()).count("claimed") == allowed


async def test_claims_that_share_the_lock_of_their_client_never_exceed_its_limit(service: Service) -> None:
    """Far from the limit, the claims of a client do not wait for each other; near it, they do."""
    connections = int(await service.outside.fetchval("SHOW max_connections"))
    limit = connections + 12
    await service.open(*(encoded(REGION, f"s{n}") for n in range(limit + 30)))
    refused = await claim_at_once(service, LeaseLimits(10, limit), [f"r-{n}" for n in range(limit + 20)])
    assert len(refused) == 20
    assert (await service.states()).count("claimed") == limit
