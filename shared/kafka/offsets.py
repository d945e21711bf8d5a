"""Progress of a consumer group, measured in Kafka's offsets: unlike clocks, they neither jump nor disagree."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, NotCoordinatorForGroupError

from shared.runtime.errors import Transient

EndOffsets: TypeAlias = dict[TopicPartition, int]
"""The offset after the last record of each partition; without empty partitions."""

_TIMEOUT_MS = 5_000


class OffsetClient:
    """Reads offsets of one cluster. Connects at the first call; every call raises Transient when Kafka is down."""

    def __init__(self, bootstrap: str, *, client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._clients: tuple[AIOKafkaAdminClient, AIOKafkaConsumer] | None = None
        self._connecting = asyncio.Lock()

    async def ends(self, topics: Sequence[str]) -> EndOffsets:
        """The current end offsets of these topics."""
        return {tp: end for tp, (begin, end) in (await self._ranges(topics)).items() if end > begin}

    async def behind(self, group: str, topic: str) -> int:
        """The number of offsets of a topic that the group has not committed yet; all of them without a commit."""
        ranges = await self._ranges([topic])
        try:
            admin, _ = await self._connected()
            committed = await admin.list_consumer_group_offsets(group)
        except (KafkaError, OSError) as error:
            raise Transient(f"Kafka at {self._bootstrap} does not return the offsets of {group}: {error!r}") from error
        positions = {tp: committed[tp].offset if tp in committed else -1 for tp in ranges}
        return sum(max(0, end - max(begin, positions[tp])) for tp, (begin, end) in ranges.items())

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        """True if the group has committed all records before these offsets; False while its coordinator moves."""
        try:
            admin, _ = await self._connected()
            committed = await admin.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
            return False
        except (KafkaError, OSError) as error:
            raise Transient(f"Kafka at {self._bootstrap} does not return the offsets of {group}: {error!r}") from error
        return all(tp in committed and committed[tp].offset >= end for tp, end in ends.items())

    async def _ranges(self, topics: Sequence[str]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset and the offset after the last record of each partition."""
        try:
            admin, consumer = await self._connected()
            described = await admin.describe_topics(list(topics))
            partitions = [TopicPartition(t["topic"], p["partition"]) for t in described for p in t["partitions"]]
            if {tp.topic for tp in partitions} != set(topics):
                raise Transient(f"Kafka at {self._bootstrap} does not have all of the topics {', '.join(topics)}.")
            ends = await consumer.end_offsets(partitions)
            begins = await consumer.beginning_offsets(partitions)
        except (KafkaError, OSError) as error:
            raise Transient(
                f"Kafka at {self._bootstrap} does not return the end offsets of its topics: {error!r}"
            ) from error
        return {tp: (begins[tp], end) for tp, end in ends.items()}

    async def stop(self) -> None:
        """Disconnect."""
        if self._clients is not None:
            admin, consumer = self._clients
            self._clients = None
            await consumer.stop()
            await admin.close()

    async def _connected(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
        async with self._connecting:
            if self._clients is None:
                options = {"bootstrap_servers": self._bootstrap, "request_timeout_ms": _TIMEOUT_MS}
                admin = AIOKafkaAdminClient(client_id=f"{self._client_id}-offsets", **options)
                consumer = AIOKafkaConsumer(client_id=f"{self._client_id}-ends", enable_auto_commit=False, **options)
                try:
                    await admin.start()
                    await consumer.start()
                except BaseException:
                    with suppress(KafkaError):
                        await consumer.stop()
                        await admin.close()
                    raise
                self._clients = admin, consumer
            return self._clients
