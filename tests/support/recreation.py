"""Deletion of a topic and its creation under the same name."""

import asyncio

from aiokafka.admin import AIOKafkaAdminClient

from shared.kafka import topic_admin


async def delete_topic(kafka: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


async def create_topic(kafka: str, topic: str) -> None:
    """Create a regional topic, which was deleted, as `piepowder topics` does."""
    specs = topic_admin.expand(topic_admin.load(), [topic.split(".", 2)[2]])
    wanted = [spec for spec in specs if spec.name == topic]
    async with asyncio.timeout(30):
        while topic not in (await topic_admin.ensure(kafka, wanted)).created:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)


async def recreate_topic(kafka: str, topic: str) -> None:
    await delete_topic(kafka, topic)
    await create_topic(kafka, topic)
