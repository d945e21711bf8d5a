"""Regions on separate clusters: an item for two regions needs both, and items of a working cluster are not affected."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from services.intake.items.handlers import ItemIntake, PreparedItem
from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.publishing.regions import NotAcknowledged, Overloaded
from shared.kafka.producer import Record
from shared.runtime.errors import Poison, Transient
from shared.validation import codes
from tests.support.intake_items import ANYONE, NOW, model, published


class Cluster:
    """A producer that keeps what it gets, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.refuses = False
        self.keys: list[bytes] = []
        self.stands_still = asyncio.Event()
        self.stands_still.set()

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        await self.stands_still.wait()
        if self.away:
            raise Transient("Kafka is away.")
        if self.refuses:
            raise Poison("larger than Kafka takes")
        self.keys += [(record.key or b"").rpartition(b":")[2] for record in records]


class World:
    """An intake for `eu` (DE) and `us` (US), and their clusters."""

    def __init__(self, *, max_records: int = 100) -> None:
        self.eu, self.us = Cluster(), Cluster()
        self.publishers = {
            name: GroupCommitPublisher(cluster, max_records=max_records, max_bytes=2**20)
            for name, cluster in (("eu", self.eu), ("us", self.us))
        }
        self.intake = ItemIntake(codes=codes.load(), publishers=self.publishers)
        self.intake.apply(published(model(("eu", ["DE"]), ("us", ["US"]))))

    def item(self, name: str, *markets: str) -> PreparedItem:
        post: dict[str, Any] = {"platform": "shop", "kind": "product", "id": name, "markets": markets or ("DE", "US")}
        return self.intake.prepare(json.dumps(post).encode(), ANYONE, NOW)

    async def post(self, name: str, *markets: str) -> str:
        try:
            await self.intake.submit([self.item(name, *markets)])
        except NotAcknowledged as error:
            return str(error)
        return "accepted"


async def test_an_item_for_two_regions_is_accepted_when_both_have_it() -> None:
    world = World()
    assert await world.post("a") == "accepted"
    assert (world.eu.keys, world.us.keys) == ([b"a"], [b"a"])


async def test_a_failed_cluster_is_named_and_the_item_can_be_repeated() -> None:
    world = World()
    world.us.away = True
    assert await world.post("a") == "Region us did not acknowledge. Kafka is away."
    world.us.away = False
    assert await world.post("a") == "accepted"
    assert (set(world.eu.keys), world.us.keys) == ({b"a"}, [b"a"])


async def test_an_item_for_a_failing_and_a_working_cluster_is_sent_to_neither() -> None:
    world = World()
    world.us.away = True
    await world.post("first")  # nobody could know
    for n in range(5):
        assert "Region us" in await world.post(f"both-{n}")
    assert await world.post("own", "DE") == "accepted"
    assert world.eu.keys == [b"first", b"own"]
    world.us.away = False
    assert await world.post("both-0") == "accepted"
    assert await world.post("after") == "accepted"
    assert world.eu.keys == [b"first", b"own", b"both-0", b"after"]
    assert world.us.keys == [b"both-0", b"after"]


async def test_two_failed_clusters_are_both_named() -> None:
    world = World()
    world.eu.away = world.us.away = True
    for _ in range(2):
        assert await world.post("a") == "Region eu, us did not acknowledge. Kafka is away."
    world.eu.away = False
    assert await world.post("b") == "Region us did not acknowledge. Kafka is away."


async def test_in_a_batch_only_items_of_the_failed_region_are_rejected() -> None:
    world = World()
    world.us.away = True
    for _ in range(2):
        world.eu.keys.clear()
        items = [world.item("a", "DE"), world.item("b"), world.item("c", "US"), world.item("d", "DE")]
        with pytest.raises(NotAcknowledged) as caught:
            await world.intake.submit(items, patient=True)
        assert caught.value.by_region.keys() == {"us"}
        assert {b"a", b"d"} <= set(world.eu.keys)
    assert world.eu.keys == [b"a", b"d"]


async def test_a_full_queue_of_one_region_rejects_the_item_before_anything_is_sent() -> None:
    world = World(max_records=1)
    world.us.stands_still.clear()
    stuck = asyncio.create_task(world.post("a", "US"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await world.intake.submit([world.item("b")])
    assert world.eu.keys == []
    world.us.stands_still.set()
    assert await stuck == "accepted"


async def test_a_record_that_a_cluster_rejects_is_poison() -> None:
    world = World()
    world.us.refuses = True
    with pytest.raises(Poison):
        await world.post("a")
    assert not world.publishers["us"].failing  # it answers
