"""Items whose records the router skipped stay `submitted`: a metric shows their age, and `piepowder reconcile`
publishes the same records again (promises 1, 5 and 6)."""

import asyncio
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from piepowder.client import Api
from piepowder.reconcile import ReconcileResult, Reconciliation, StuckItem
from shared.contracts import ids, topics
from shared.contracts.events import ITEM_SUBMITTED
from tests.bench.kafka import Watch
from tests.e2e import steps
from tests.e2e.conftest import Cell
from tests.e2e.drive import running

MEASURED_SECONDS: Final = 60
EMPTY_SECONDS: Final = 60  # a static member stays for 15 s after a stop

pytestmark = pytest.mark.timeout(235)


def post(cell: Cell, subject: str, version: int | None, text: str = "A lamp.", **more: Any) -> str:
    body = steps.item(id=subject, version=version, text=text, **more)
    if version is None:
        del body["version"]
    return str(steps.post(cell, "items", body)["item_id"])


async def skip_all(cell: Cell, group: str, topic: str) -> None:
    """Set the offsets of a stopped group to the end of a topic, as a mistaken reset does."""
    consumer = AIOKafkaConsumer(bootstrap_servers=cell.system.servers.kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        async with Watch.on(cell.system.servers.kafka) as watch:
            ends = await watch.ends([topic])
        consumer.assign(list(ends))
        async with asyncio.timeout(EMPTY_SECONDS):
            while True:
                try:
                    await consumer.commit(ends)
                except KafkaError:
                    await asyncio.sleep(0.5)
                else:
                    return
    finally:
        await consumer.stop()


async def reconciled(cell: Cell, *, dry: bool = False) -> tuple[dict[str, StuckItem], ReconcileResult | None]:
    async with Api(running(cell.system)) as api:
        work = Reconciliation(api, cell.system.servers.kafka, [cell.eu], minutes=0, limit=100)
        items, more = await work.find()
        assert more == 0
        return {item.item_id: item for item in items}, None if dry else await work.publish(items, 20)


async def records(cell: Cell, item_id: str) -> list[tuple[TopicPartition, Any]]:
    """The records of an item's submission on the topic."""
    event_id = ids.event_id(item_id, ITEM_SUBMITTED, cell.eu).encode()
    async with Watch.on(cell.system.servers.kafka) as watch:
        found = await watch.read([topics.submissions(cell.eu)])
    return [(tp, one) for tp, lane in found.items() for one in lane if dict(one.headers)["ce_id"] == event_id]


async def test_skipped_items_are_found_by_their_age_and_published_again_under_the_same_ids(cell: Cell) -> None:
    router = cell.system.services["router"]
    await asyncio.to_thread(router.stop)
    lost = post(cell, "lost", 1)
    withdrawn = post(cell, "withdrawn", 1, scores={"counterfeit": 0.9})  # its case waits for a reviewer
    older, unversioned = post(cell, "superseded", 1), post(cell, "unversioned", None, "An old lamp.")
    cell.client.delete(f"{cell.url('intake')}/v1/items/{withdrawn}").raise_for_status()
    await skip_all(cell, f"piepowder-router-{cell.eu}", topics.submissions(cell.eu))
    await asyncio.to_thread(router.start)
    await asyncio.to_thread(cell.system.wait_ready)
    for subject, version in (("superseded", 2), ("unversioned", None)):
        steps.until_status(cell, post(cell, subject, version, "A new lamp."), cell.eu, "approved")
    later = cell.client.get(f"{cell.url('intake')}/v1/subjects/web/product/unversioned").json()["versions"][0][
        "item_id"
    ]

    async with asyncio.timeout(MEASURED_SECONDS):
        while steps.oldest_submitted(cell) < 5:  # noqa: ASYNC110 - the metric is polled
            await asyncio.sleep(0.5)
    before = await records(cell, lost)
    seen, _ = await reconciled(cell, dry=True)
    assert seen.keys() == {lost, withdrawn, older, unversioned}
    assert await records(cell, lost) == before
    steps.until_status(cell, lost, cell.eu, "submitted")

    _, result = await reconciled(cell)

    assert result is not None
    assert [item.item_id for item in result.settled] == [lost, withdrawn, older]
    assert [(item.item_id, item.reason) for item in result.left] == [
        (unversioned, f"superseded by a later post of its subject ({later}), which it would replace")
    ]
    assert [item.later for item in result.left] == [later]
    current = cell.client.get(f"{cell.url('intake')}/v1/items/{later}").json()["regions"][cell.eu]
    assert current["status"] == "approved", "the later post is in force"
    assert result.pending == []
    for item_id, status in ((lost, "approved"), (withdrawn, "withdrawn"), (older, "superseded")):
        steps.until_status(cell, item_id, cell.eu, status)
    first, second = await records(cell, lost)
    assert first == second
    audit = cell.client.get(f"{cell.url('audit', cell.eu)}/v1/subjects/web/product/lost/timeline").json()["events"]
    assert [event["type"] for event in audit].count(ITEM_SUBMITTED) == 1


async def test_an_item_whose_record_still_waits_in_its_topic_is_left_alone(cell: Cell) -> None:
    router = cell.system.services["router"]
    await asyncio.to_thread(router.stop)
    waiting = post(cell, "waiting", 1)
    try:
        steps.until_status(cell, waiting, cell.eu, "submitted")
        steps.until(
            lambda: cell.client.get(f"{cell.url('audit', cell.eu)}/v1/subjects/web/product/waiting/timeline"),
            lambda body: bool(body["events"]),
        )
        found, _ = await reconciled(cell, dry=True)
        expected = f"waits in {topics.submissions(cell.eu)}: piepowder-router-{cell.eu} has not read it yet"
        assert found[waiting].reason == expected
    finally:
        await asyncio.to_thread(router.start)
    steps.until_status(cell, waiting, cell.eu, "approved")
