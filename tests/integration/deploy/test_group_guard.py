"""A second system does not start on the Kafka of a running one."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer

from deploy.local import group_guard
from deploy.local.group_guard import refuse_second_system
from shared.contracts import topics
from shared.runtime.user_errors import UserError


@pytest.fixture
async def router(kafka: str, region: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A member of a region's group, like the router of another system."""
    group = f"piepowder-router-{region}"
    consumer = AIOKafkaConsumer(
        topics.submissions(region),
        bootstrap_servers=kafka,
        group_id=group,
        client_id="elsewhere",
        group_instance_id=f"{group}-elsewhere",
        session_timeout_ms=2_000,
        heartbeat_interval_ms=300,
    )
    await consumer.start()
    yield consumer
    await consumer.stop()


async def test_a_running_system_is_named_and_prevents_a_second_one(
    kafka: str, region: str, router: AIOKafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_guard, "_SESSION_SECONDS", 4.0)
    said: list[str] = []
    with pytest.raises(UserError, match=rf"1 member\(s\) of its groups, such as elsewhere of group .*-{region}"):
        await asyncio.to_thread(refuse_second_system, kafka, ["nowhere", region], report=said.append)
    assert len(said) == 1


async def test_the_start_waits_for_the_sessions_of_an_ended_system(
    kafka: str, region: str, router: AIOKafkaConsumer
) -> None:
    await router.stop()
    said: list[str] = []
    await asyncio.to_thread(refuse_second_system, kafka, [region], report=said.append)
    assert len(said) == 1
    await asyncio.to_thread(refuse_second_system, kafka, [region, "nowhere"], report=said.append)
    assert len(said) == 1
