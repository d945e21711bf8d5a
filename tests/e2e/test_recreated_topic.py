"""A topic of submissions is created again while a frozen router has not read its last records: each accepted item,
withdrawal, notice and appeal is found by its age, and `piepowder reconcile` publishes it again (promise 1)."""

import asyncio
from typing import Any, Final

import pytest

from deploy.services import processes
from piepowder import positions
from piepowder.client import Api
from piepowder.reconcile import Reconciliation
from shared.contracts import topics
from shared.contracts.events import APPEAL_SUBMITTED, ITEM_SUBMITTED, ITEM_WITHDRAWN, NOTICE_SUBMITTED
from shared.postgres.position_admin import GroupPosition
from tests.e2e import steps
from tests.e2e.conftest import Cell
from tests.e2e.drive import running
from tests.support.intake_complaints import appeal, notice
from tests.support.recreation import recreate_topic

MEASURED_SECONDS: Final = 60
REPLICA: Final = "Replica watch, 1:1 copy"

pytestmark = pytest.mark.timeout(235)


def database_url(cell: Cell, name: str) -> str:
    [of_service] = [one.database for one in processes([cell.eu, cell.us]) if one.name == name]
    [database] = [one for one in cell.system.databases() if one.endswith(str(of_service))]
    return f"{cell.system.servers.database_url.rpartition('/')[0]}/{database}"


async def accept_losses(cell: Cell, service: str, group: str) -> None:
    """Accept the loss of the recreated topic for all partitions of a group, when it has noticed it."""
    kafka, url, topic = cell.system.servers.kafka, database_url(cell, service), topics.submissions(cell.eu)
    lost: list[GroupPosition] = []
    async with asyncio.timeout(30):
        while not (lost and all(each.stored.gap is not None for each in lost)):
            found = await positions.find(kafka, database=url, group=group)
            lost = [each for each in found if each.partition.topic == topic]
            await asyncio.sleep(0.2)
    for _, tp, stored in lost:
        assert stored.gap is not None
        await positions.accept_loss(
            kafka, database=url, group=group, tp=tp, first=stored.gap.first, last=None, by="anna", note="reconciled"
        )


def events_of(cell: Cell, subject: str) -> list[str]:
    response = cell.client.get(f"{cell.url('audit', cell.eu)}/v1/subjects/web/product/{subject}/timeline")
    return [event["type"] for event in response.json().get("events", [])]


def waiting(cell: Cell) -> list[dict[str, Any]]:
    response = cell.client.get(f"{cell.url('intake')}/v1/waiting", params={"region": cell.eu})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["waiting"]
    return found


async def test_everything_that_the_router_had_not_read_is_found_and_published_again(cell: Cell) -> None:
    router, kafka = cell.system.services["router"], cell.system.servers.kafka
    contested = steps.post(cell, "items", steps.item(id="contested", title=REPLICA))["item_id"]
    claimed = await asyncio.to_thread(steps.until_claimed, cell, "r-1", "counterfeit")
    steps.decide(cell, claimed, "reject", "COUNTERFEIT")
    steps.until_status(cell, contested, cell.eu, "rejected")
    sold = steps.post(cell, "items", steps.item(id="sold", title=REPLICA))["item_id"]
    steps.until_status(cell, sold, cell.eu, "in_review")
    assert waiting(cell) == []

    router.pause()
    cell.client.delete(f"{cell.url('intake')}/v1/items/{sold}").raise_for_status()
    about = {"platform": "web", "id": "contested", "markets": ["DE"]}
    reported = steps.post(cell, "notices", notice(**about))["notice_id"]
    appealed = steps.post(cell, "appeals", appeal(item_id=contested))["appeal_id"]
    new = steps.post(cell, "items", steps.item(id="new"))["item_id"]
    steps.until_status(cell, new, cell.eu, "submitted")
    for subject, types in (
        ("sold", {ITEM_WITHDRAWN}),
        ("contested", {NOTICE_SUBMITTED, APPEAL_SUBMITTED}),
        ("new", {ITEM_SUBMITTED}),
    ):
        async with asyncio.timeout(20):
            while not types <= set(events_of(cell, subject)):  # noqa: ASYNC110 - audit reads them
                await asyncio.sleep(0.1)
    await recreate_topic(kafka, topics.submissions(cell.eu))
    router.kill()
    for _ in range(5):
        found = await positions.find(kafka, database=None, group=f"piepowder-router-{cell.eu}")
        assert {each.stored.position for each in found} == {0}
    router.start()
    await accept_losses(cell, "intake-projection", f"piepowder-intake-{cell.eu}")
    await accept_losses(cell, f"audit-{cell.eu}", f"piepowder-audit-{cell.eu}")
    await asyncio.to_thread(cell.system.wait_ready)

    assert {(one["type"], one["id"]) for one in waiting(cell)} == {
        ("withdrawal", sold),
        ("notice", reported),
        ("appeal", appealed),
    }
    expected = {("item", new), *((one["type"], one["id"]) for one in waiting(cell))}
    async with Api(running(cell.system)) as api:
        work = Reconciliation(api, kafka, [cell.eu], minutes=0, limit=100)
        async with asyncio.timeout(60):
            while True:
                items, more = await work.find()
                if not any("waits in" in item.reason or "behind" in item.reason for item in items):
                    break
                await asyncio.sleep(0.5)
        assert ({(item.type, item.item_id) for item in items}, more) == (expected, 0)
        assert [item.reason for item in items] == [""] * 4
        one_by_one = sorted(items, key=lambda item: item.type != "item")
        await work.publish(one_by_one[:1], 20)  # the new item: its age no longer counts
        async with asyncio.timeout(MEASURED_SECONDS):
            while steps.oldest_submitted(cell) < 5:  # noqa: ASYNC110 - the metric is polled
                await asyncio.sleep(0.5)
        result = await work.publish(one_by_one[1:], 20)
    assert (len(result.settled), result.pending, result.left) == (3, [], [])
    steps.until_status(cell, new, cell.eu, "approved")
    steps.until_status(cell, sold, cell.eu, "withdrawn")
    steps.until_complaint_status(cell, "notices", reported, "in_review")
    steps.until_complaint_status(cell, "appeals", appealed, "in_review")
    assert waiting(cell) == []
    assert events_of(cell, "sold").count(ITEM_WITHDRAWN) == 1
    async with asyncio.timeout(MEASURED_SECONDS):
        while steps.oldest_submitted(cell) > 0:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.5)
