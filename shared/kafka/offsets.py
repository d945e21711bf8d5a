"""How far a consumer group has come, by Kafka's own offsets: clocks jump and disagree, offsets do not."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, NotCoordinatorForGroupError

from shared.runtime.errors import Transient

Ends: TypeAlias = dict[TopicPartition, int]
"""By partition, the offset behind its last record; partitions that hold none are left out."""

_TIMEOUT_MS = 5_000


class Reach:
    """Asks one cluster; connects when it is first asked. Every call raises Transient when Kafka does not answer."""

    def __init__(self, bootstrap: str, *, client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._clients: tuple[AIOKafkaAdminClient, AIOKafkaConsumer] | None = None
        self._connecting = asyncio.Lock()

    async def ends(self, topics: Sequence[str]) -> Ends:
        """Where these topics end now."""
        try:
            admin, consumer = await self._connected()
            described = await admin.describe_topics(list(topics))
            places = [TopicPartition(t["topic"], p["partition"]) for t in described for p in t["partitions"]]
            if {place.topic for place in places} != set(topics):
                raise Transient(f"Kafka at {self._bootstrap} does not know all of {', '.join(topics)}.")
            ends = await consumer.end_offsets(places)
            begins = await consumer.beginning_offsets(places)
        except (KafkaError, OSError) as error:
            raise Transient(f"Kafka at {self._bootstrap} does not say where its topics end: {error!r}") from error
        return {place: end for place, end in ends.items() if end > begins[place]}

    async def has_passed(self, group: str, ends: Ends) -> bool:
        """Whether the group is known to have committed everything before these ends; not while it is being moved."""
        try:
            admin, _ = await self._connected()
            committed = await admin.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
            return False
        except (KafkaError, OSError) as error:
            raise Transient(f"Kafka at {self._bootstrap} does not say how far {group} is: {error!r}") from error
        return all(place in committed and committed[place].offset >= end for place, end in ends.items())

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
                about = {"bootstrap_servers": self._bootstrap, "request_timeout_ms": _TIMEOUT_MS}
                admin = AIOKafkaAdminClient(client_id=f"{self._client_id}-reach", **about)
                consumer = AIOKafkaConsumer(client_id=f"{self._client_id}-ends", enable_auto_commit=False, **about)
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
