"""SIGTERM while Kafka is frozen: every call in flight gets 503 with Retry-After, and the router ends in bounded time
(promises 1 and 9)."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from deploy.local.kafka import LocalKafka
from shared.kafka import topic_admin
from tests.support.router_process import item, publication, ready, running_router
from tests.support.service_process import is_unavailable

pytestmark = pytest.mark.timeout(180)
DRAIN_SECONDS = 2


def without_region(region: str) -> dict[str, Any]:
    """A publication that leaves out a region without markets; the router first reads what waits there."""
    body = publication(region)
    body["operating_model"]["regions"][0]["id"] = "another"
    return body


async def test_calls_that_wait_for_a_frozen_kafka_at_sigterm_get_503_and_nothing_is_lost(
    own_kafka: LocalKafka, tmp_path: Path
) -> None:
    kafka, region = own_kafka.bootstrap, f"stop{os.getpid()}"
    await topic_admin.ensure(kafka, topic_admin.expand(topic_admin.load(), [region]))
    async with running_router(kafka, region, tmp_path, PIEPOWDER_DRAIN_SECONDS=str(DRAIN_SECONDS)) as router:
        body = publication(region)
        assert (await router.publish(body)).status_code == 200
        [own] = body["operating_model"]["regions"]
        body["operating_model"]["regions"].append(own | {"id": "another", "markets": ["US"]})
        published = await router.publish(body)
        assert published.status_code == 200, published.text
        await router.wait_until(ready)
        await router.submit(*(item(n) for n in range(5)))
        assert len(await router.cases(5)) == 5

        [node] = own_kafka.nodes
        node.pause()
        try:
            changed = publication(region, condition='title == "stuck"')
            changed["operating_model"] = body["operating_model"]
            calls = [
                asyncio.create_task(router.publish(changed)),
                asyncio.create_task(router.publish(without_region(region))),
            ]
            await asyncio.sleep(1)  # none of the calls may end in this time
            assert not any(call.done() for call in calls), [call.result().text for call in calls if call.done()]
            began = asyncio.get_running_loop().time()
            stopped = asyncio.create_task(router.stop(signal.SIGTERM))
            responses = await asyncio.gather(*calls)
            assert await stopped == 0
            assert asyncio.get_running_loop().time() - began < DRAIN_SECONDS + 15
        finally:
            node.resume()
        assert [r.text for r in responses if not is_unavailable(r)] == []

        await router.start(ready)
        await router.submit(item(6))
        assert {case.data.item.title for case in await router.cases(6)} == {"Koss EQ50"}
