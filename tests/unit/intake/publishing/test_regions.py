"""Regions on separate clusters: an item for two regions needs both; a failed cluster does not affect other items."""

import asyncio
import json
from typing import Any

import pytest

from services.intake.items.handlers import ItemIntake, PreparedItem
from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.publishing.regions import NotAcknowledged, Overloaded
from shared.runtime.errors import Poison, Transient
from shared.validation import codes
from tests.support.intake_cluster import Cluster
from tests.support.intake_items import ANYONE, NOW, model, published

DOWN = Transient("Kafka does not respond.")


def names(cluster: Cluster) -> list[bytes]:
    """The ids of the items in a cluster."""
    return [key.rpartition(b":")[2] for key in cluster.keys]


class TwoRegions:
    """An intake for `eu` (DE) and `us` (US), and their clusters."""

    def __init__(self, *, max_records: int = 100) -> None:
        self.eu, self.us = Cluster(), Cluster()
        self.publishers = {
            name: GroupCommitPublisher(cluster, max_records=max_records, max_bytes=2**20)
            for name, cluster in (("eu", self.eu), ("us", self.us))
        }
        self.intake = ItemIntake(codes=codes.load(), publishers=self.publishers)
        self.intake.apply(published(model(("eu", ["DE"]), ("us", ["US"]))))
        self.intake.caught_up()

    def item(self, name: str, *markets: str) -> PreparedItem:
        post: dict[str, Any] = {"platform": "shop", "kind": "product", "id": name, "markets": markets or ("DE", "US")}
        return self.intake.prepare(json.dumps(post).encode(), ANYONE, NOW)

    async def post(self, name: str, *markets: str) -> str:
        try:
            await self.intake.submit([self.item(name, *markets)])
        except NotAcknowledged as error:
            return str(error)
        return "accepted"


async def test_an_item_for_two_regions_is_accepted_after_both_acknowledged_it() -> None:
    regions = TwoRegions()
    assert await regions.post("a") == "accepted"
    assert (names(regions.eu), names(regions.us)) == ([b"a"], [b"a"])


async def test_the_error_names_the_failed_region_and_the_item_can_be_sent_again() -> None:
    regions = TwoRegions()
    regions.us.failure = DOWN
    assert await regions.post("a") == "Region us did not acknowledge. Kafka does not respond."
    regions.us.failure = None
    assert await regions.post("a") == "accepted"
    assert (set(names(regions.eu)), names(regions.us)) == ({b"a"}, [b"a"])


async def test_an_item_for_a_failing_and_a_working_cluster_is_sent_to_neither() -> None:
    regions = TwoRegions()
    regions.us.failure = DOWN
    await regions.post("first")  # the first failure, which is not known in advance
    for n in range(5):
        assert "Region us" in await regions.post(f"both-{n}")
    assert await regions.post("own", "DE") == "accepted"
    assert names(regions.eu) == [b"first", b"own"]
    regions.us.failure = None
    assert await regions.post("both-0") == "accepted"
    assert await regions.post("after") == "accepted"
    assert names(regions.eu) == [b"first", b"own", b"both-0", b"after"]
    assert names(regions.us) == [b"both-0", b"after"]


async def test_the_error_names_both_failed_regions() -> None:
    regions = TwoRegions()
    regions.eu.failure = regions.us.failure = DOWN
    for _ in range(2):
        assert await regions.post("a") == "Region eu, us did not acknowledge. Kafka does not respond."
    regions.eu.failure = None
    assert await regions.post("b") == "Region us did not acknowledge. Kafka does not respond."


async def test_in_a_batch_only_items_of_the_failed_region_are_rejected() -> None:
    regions = TwoRegions()
    regions.us.failure = DOWN
    for _ in range(2):
        regions.eu.records.clear()
        items = [regions.item("a", "DE"), regions.item("b"), regions.item("c", "US"), regions.item("d", "DE")]
        with pytest.raises(NotAcknowledged) as caught:
            await regions.intake.submit(items, patient=True)
        assert caught.value.by_region.keys() == {"us"}
        assert {b"a", b"d"} <= set(names(regions.eu))
    assert names(regions.eu) == [b"a", b"d"]


async def test_a_full_queue_of_one_region_rejects_the_item_before_anything_is_sent() -> None:
    regions = TwoRegions(max_records=1)
    regions.us.may_acknowledge.clear()
    stuck = asyncio.create_task(regions.post("a", "US"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await regions.intake.submit([regions.item("b")])
    assert names(regions.eu) == []
    regions.us.may_acknowledge.set()
    assert await stuck == "accepted"


async def test_a_record_that_a_cluster_rejects_is_poison() -> None:
    regions = TwoRegions()
    regions.us.rejects = b""
    with pytest.raises(Poison):
        await regions.post("a")
    assert not regions.publishers["us"].failing  # the cluster responds
