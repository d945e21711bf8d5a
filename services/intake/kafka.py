"""The Kafka clusters of intake's regions: connection, offsets and consumers."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, RawRecord, Received, TransactionalHandler
from shared.kafka.offsets import OffsetClient
from shared.kafka.producer import Producer
from shared.kafka.stored_positions import Moves, PositionStore
from shared.runtime.retry import until_done
from shared.service import Service

M = TypeVar("M")

_LINGER_SECONDS: Final = 0.1  # the status is read seldom, and a large batch costs little more than a small one


class _Handler(Protocol[M]):
    """Handles the records of some topics in one consumer group."""

    @property
    def group(self) -> str: ...

    @property
    def topics(self) -> list[str]: ...
    def decode(self, record: RawRecord) -> M: ...
    async def handle(self, batch: Sequence[Received[M]], moves: Moves) -> None: ...


class Clusters:
    """The clusters of a service's regions. `offsets` has the reader of each region's offsets."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._readers = {
            bootstrap: OffsetClient(bootstrap, client_id=service.client_id) for bootstrap in service.producers
        }
        self.offsets = {region: self._readers[service.settings.bootstrap(region)] for region in service.regions}

    def producer_of(self, topic: str) -> Producer:
        """The producer for a topic's cluster: the cluster of its region, or the cluster of the control topic."""
        region = topic.rpartition(".")[2]
        if topic != topics.CONTROL and region in self._service.regions:
            return self._service.producer(region)
        return self._service.producers[self._service.settings.kafka]

    def consumer(self, handler: _Handler[M], region: str, positions: PositionStore) -> BatchConsumer[M]:
        """The consumer of one region for a handler, without parking, because the handlers accept any order."""
        return self._service.consumer(
            region,
            reads=handler.topics,
            decode=handler.decode,
            handle=TransactionalHandler(handler.handle, positions),
            group=handler.group,
            parks=False,
            linger_seconds=_LINGER_SECONDS,
        )

    async def connect(self, stop: asyncio.Event) -> None:
        """Connect the producers; return when all are connected, or `stop` is set."""
        readiness = self._service.readiness
        await asyncio.gather(
            *(
                until_done(f"producer {bootstrap}", producer.start, stop=stop, readiness=readiness)
                for bootstrap, producer in self._service.producers.items()
            )
        )
        await stop.wait()

    async def stop(self) -> None:
        """Disconnect the readers of offsets."""
        await asyncio.gather(*(reader.stop() for reader in self._readers.values()))
