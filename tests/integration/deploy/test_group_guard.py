"""Two systems never work on one Kafka side by side unawares."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer

from deploy.local import company
from deploy.local.company import refuse_company
from deploy.local.errors import StackError
from shared.contracts import topics


@pytest.fixture
async def router(kafka: str, region: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A member of a region's group, as another system's router is one."""
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


async def test_a_system_that_lives_is_named_and_keeps_another_from_starting(
    kafka: str, region: str, router: AIOKafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(company, "_SESSION_SECONDS", 4.0)
    said: list[str] = []
    with pytest.raises(StackError, match=rf"1 member\(s\) of our groups, such as elsewhere of group .*-{region}"):
        await asyncio.to_thread(refuse_company, kafka, ["nowhere", region], say=said.append)
    assert len(said) == 1


async def test_what_a_system_leaves_behind_when_it_ends_is_waited_out(
    kafka: str, region: str, router: AIOKafkaConsumer
) -> None:
    await router.stop()
    said: list[str] = []
    await asyncio.to_thread(refuse_company, kafka, [region], say=said.append)
    assert len(said) == 1
    await asyncio.to_thread(refuse_company, kafka, [region, "nowhere"], say=said.append)
    assert len(said) == 1
