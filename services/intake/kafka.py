"""The Kafka clusters of intake's regions: connection, readiness, offsets and consumers.

Unlike other services, intake serves its API before Kafka responds, and reports each cluster in its readiness.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, RawRecord, Received
from shared.kafka.offsets import OffsetClient
from shared.kafka.producer import Producer
from shared.runtime.errors import Transient
from shared.runtime.retry import until_done, wait
from shared.service import Service

M = TypeVar("M")

_WATCH_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 5.0  # after which a cluster counts as not responding
_LINGER_SECONDS: Final = 0.1  # the status is read seldom, and a large batch costs little more than a small one


class _Handler(Protocol[M]):
    """Handles the records of some topics in one consumer group."""

    @property
    def group(self) -> str: ...

    @property
    def topics(self) -> list[str]: ...
    def decode(self, record: RawRecord) -> M: ...
    async def handle(self, batch: Sequence[Received[M]]) -> None: ...


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

    def consumer(self, handler: _Handler[M], region: str) -> BatchConsumer[M]:
        """The consumer of one region for a handler, without parking, because the handlers accept any order."""
        return self._service.consumer(
            region,
            reads=handler.topics,
            decode=handler.decode,
            handle=handler.handle,
            group=handler.group,
            parks=False,
            linger_seconds=_LINGER_SECONDS,
        )

    async def watch(self, stop: asyncio.Event) -> None:
        """Connect the producers, then report to readiness which clusters respond, until `stop` is set."""
        readiness = self._service.readiness
        await asyncio.gather(
            *(
                until_done(f"Kafka {bootstrap}", producer.start, stop=stop, readiness=readiness)
                for bootstrap, producer in self._service.producers.items()
            )
        )
        await asyncio.gather(*(self._watch(bootstrap, stop) for bootstrap in self._readers))

    async def stop(self) -> None:
        """Disconnect the readers of offsets."""
        await asyncio.gather(*(reader.stop() for reader in self._readers.values()))

    async def _watch(self, bootstrap: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            missing = None
            try:
                async with asyncio.timeout(_SILENT_SECONDS):
                    await self._readers[bootstrap].ends([self._topic_on(bootstrap)])
            except (Transient, TimeoutError) as error:
                missing = str(error) or f"Kafka at {bootstrap} does not respond"
            self._service.readiness.set(f"Kafka {bootstrap}", missing)
            await wait(stop, _WATCH_SECONDS)

    def _topic_on(self, bootstrap: str) -> str:
        """The name of a topic of the cluster."""
        regions = self._service.regions
        own = (
            topics.submissions(region) for region in regions if self._service.settings.bootstrap(region) == bootstrap
        )
        return next(own, topics.CONTROL)
