"""A service that is killed during a run and started again loses and duplicates nothing (promises 1, 2, 4, 5)."""

import asyncio

import pytest

from deploy.local import sample
from deploy.local.accounting import ItemOutcome
from deploy.services import SERVICES
from tests.e2e.conftest import Cell
from tests.e2e.drive import review_until, settle, submit

COUNT = 4000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", [service.name for service in SERVICES])
async def test_a_service_killed_during_a_run_loses_and_duplicates_nothing(cell: Cell, victim: str) -> None:
    system = cell.system
    name = victim if victim in system.services else f"{victim}-{cell.eu}"
    service = system.services[name]
    done = asyncio.Event()
    reviewers = [asyncio.create_task(review_until(system, region, done)) for region in (cell.eu, cell.us)]
    bodies = [planted.body for planted in sample.make(COUNT, seed=sum(map(ord, victim)))]
    submitting = asyncio.create_task(submit(system, bodies))

    kills = 0
    while not submitting.done():
        await asyncio.sleep(0.7)
        if kills < 3:
            service.kill()
            kills += 1
            await asyncio.sleep(0.2)
            await asyncio.to_thread(service.start)
    accepted = await submitting
    await asyncio.to_thread(system.wait_ready)  # the last kill may be a moment ago
    account = await settle(system, accepted, queues_empty=True)
    done.set()
    await asyncio.gather(*reviewers)

    assert kills >= 1
    assert len(accepted) > COUNT * 0.9
    assert account.missing == {}
    assert account.doubles == []
    assert account.gaps == []
    assert account.outcomes.get(ItemOutcome.DEAD_LETTERED, 0) == 0
    assert account.outcomes[ItemOutcome.BY_POLICY] > 0
    assert account.outcomes[ItemOutcome.BY_PEOPLE] > 0
    assert account.total == sum(account.outcomes.values())
