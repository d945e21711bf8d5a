"""The watch of a cluster names a broker that hangs, and the service is ready again when others lead its partitions."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from prometheus_client import REGISTRY

from deploy.local.kafka import HOST, LocalKafka
from shared.contracts import topics
from shared.kafka import topic_admin
from shared.kafka.cluster_watch import ClusterWatch
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness

REGION: Final = "eu"
MOVED_SECONDS: Final = 60.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("three"), nodes=3) as own:
        yield own


@asynccontextmanager
async def watching(bootstrap: str, *more: str) -> AsyncIterator[ClusterWatch]:
    readiness, clock = Readiness("watched"), SystemClock()
    names = [*topics.of_region(REGION), *more]
    watch = ClusterWatch(bootstrap, names, client_id="test", readiness=readiness, clock=clock)
    yield watch
    await watch.close()


def responds(broker: str) -> float | None:
    return REGISTRY.get_sample_value("piepowder_kafka_broker_responds", {"broker": broker})


async def until(watch: ClusterWatch, broker: str, state: tuple[str | None, float]) -> None:
    async with asyncio.timeout(MOVED_SECONDS):
        while (await watch.probe(), responds(broker)) != state:  # noqa: ASYNC110 - the cluster is polled
            await asyncio.sleep(0.5)


async def test_a_broker_that_hangs_is_named_until_others_lead_its_partitions(three: LocalKafka) -> None:
    await topic_admin.ensure(three.bootstrap, topic_admin.expand(topic_admin.load(), [REGION]))
    brokers = [f"{HOST}:{node.port}" for node in three.nodes]
    frozen = three.nodes[1]
    async with watching(three.bootstrap) as watch:
        assert await watch.probe() is None
        assert [responds(broker) for broker in brokers] == [1.0, 1.0, 1.0]
        frozen.pause()
        try:
            assert await watch.probe() == f"Kafka at {three.bootstrap} does not respond: {brokers[1]}"
            await until(watch, brokers[1], (None, 0.0))
            assert [responds(broker) for broker in brokers] == [1.0, 0.0, 1.0]
        finally:
            frozen.resume()
        await until(watch, brokers[1], (None, 1.0))


async def test_a_topic_that_does_not_exist_is_named(three: LocalKafka) -> None:
    await topic_admin.ensure(three.bootstrap, topic_admin.expand(topic_admin.load(), [REGION]))
    async with watching(three.bootstrap, topics.cases("nowhere")) as watch:
        assert "the topic piepowder.cases.nowhere does not exist" in str(await watch.probe())


async def test_the_bootstrap_servers_are_named_when_none_responds() -> None:
    broker = "127.0.0.1:1"
    async with watching(broker) as watch:
        assert await watch.probe() == f"Kafka at {broker} does not respond: {broker}"
    assert responds(broker) == 0.0
