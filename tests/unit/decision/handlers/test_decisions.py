"""Decisions and appeals, on a store in memory (promises 2 and 3)."""

from datetime import timedelta

import pytest

from services.decision.domain.decisions import DecideCommand
from shared.contracts import ids
from shared.validation.faults import InputRejected
from tests.support.decision.domain import received_appeal, received_case
from tests.support.decision.memory import MemoryService

REJECT = DecideCommand(1, "reject", ["FAKE"])
ITEM = received_case()


async def claimed(reviewer: str = "r-1") -> tuple[MemoryService, str]:
    """A service with one case, which the reviewer holds."""
    service = MemoryService()
    await service.open(ITEM)
    return service, (await service.claimed(reviewer)).case.case_id


async def appealed() -> tuple[MemoryService, str]:
    """A service with a case that `r-1` rejected, and an appeal that `r-2` holds."""
    service, case_id = await claimed()
    await service.decisions.decide(case_id, REJECT)
    await service.open(received_appeal(ITEM.opened))
    return service, (await service.claimed("r-2")).case.case_id


async def test_a_decision_is_stored_published_and_counted_once() -> None:
    service, case_id = await claimed()
    first, again = [await service.decisions.decide(case_id, REJECT) for _ in range(2)]
    assert first is not None
    assert again is not None
    assert (first.is_new, again.is_new, again.decision) == (True, False, first.decision)
    assert service.store.cases[case_id].state == "decided"
    assert service.store.decided[case_id] == [first.decision]
    assert service.event_types == ["case.claimed", "decision.made"]
    assert service.store.tallies == {"decided": 1, "people/reject": 1}
    assert service.woken == 2


async def test_a_different_decision_of_a_decided_case_is_rejected() -> None:
    service, case_id = await claimed()
    await service.decisions.decide(case_id, REJECT)
    with pytest.raises(InputRejected) as rejected:
        await service.decisions.decide(case_id, REJECT._replace(action="approve"))
    assert rejected.value.slug == "already-decided"


async def test_an_expired_lease_cannot_decide() -> None:
    service, case_id = await claimed()
    service.clock.advance(timedelta(seconds=300))
    with pytest.raises(InputRejected) as rejected:
        await service.decisions.decide(case_id, REJECT)
    assert rejected.value.slug == "lease-expired"
    assert (service.store.decided, service.store.tallies) == ({}, {})


async def test_a_decision_of_an_unknown_case_is_none() -> None:
    assert await MemoryService().decisions.decide(ids.case_id("x", "eu", "item"), REJECT) is None


async def test_an_overturn_adds_a_decision_to_the_appealed_case_and_publishes_both() -> None:
    service, appeal_id = await appealed()
    outcome = await service.decisions.decide(appeal_id, DecideCommand(1, "overturn", []))
    assert outcome is not None
    assert outcome.is_new
    decided = service.store.decided[ITEM.opened.case_id]
    assert [(d.n, d.action, d.reviewer) for d in decided] == [(1, "reject", "r-1"), (2, "approve", "r-2")]
    assert service.event_types[-2:] == ["decision.made", "decision.replaced"]
    assert service.store.tallies == {"decided": 2, "people/reject": 1, "appeals/overturn": 1}


async def test_an_upheld_appeal_leaves_the_decision_in_force() -> None:
    service, appeal_id = await appealed()
    await service.decisions.decide(appeal_id, DecideCommand(1, "uphold", []))
    assert [d.n for d in service.store.decided[ITEM.opened.case_id]] == [1]
    assert service.event_types[-1] == "decision.made"
    assert service.store.tallies == {"decided": 2, "people/reject": 1, "appeals/uphold": 1}


async def test_an_appeal_about_a_case_that_is_not_stored_can_only_be_upheld() -> None:
    service = MemoryService()
    await service.open(received_appeal(ITEM.opened))
    appeal_id = (await service.claimed("r-2")).case.case_id
    with pytest.raises(InputRejected) as rejected:
        await service.decisions.decide(appeal_id, DecideCommand(1, "overturn", []))
    assert rejected.value.slug == "replaced"
    assert await service.decisions.decide(appeal_id, DecideCommand(1, "uphold", [])) is not None
