"""Producers, consumers and readiness checks of the Kafka clusters of intake's regions."""

import asyncio
import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from services.intake.settings import Settings
from shared.contracts import topics
from shared.kafka import consumers
from shared.kafka.consumer import BatchConsumer, RawRecord, Received
from shared.kafka.offsets import Reach
from shared.kafka.producer import KafkaProducer, Producer
from shared.runtime.clock import Clock
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, wait

M = TypeVar("M")

_WATCH_SECONDS = 2.0
_SILENT_SECONDS = 5.0  # after which a cluster counts as not answering
_FOR_EVER = Backoff(bound=math.inf)  # without the database, submissions continue and consumers wait


class _Handler(Protocol[M]):
    """Handles the records of some topics in one consumer group."""

    @property
    def group(self) -> str: ...

    @property
    def topics(self) -> list[str]: ...

    def decode(self, record: RawRecord) -> M: ...

    async def handle(self, batch: Sequence[Received[M]]) -> None: ...


class Consumers:
    """The consumers and producers of the regions' Kafka clusters."""

    def __init__(
        self, settings: Settings, producers: dict[str, KafkaProducer], readiness: Readiness, clock: Clock
    ) -> None:
        self._settings = settings
        self._producers = producers
        self._readiness = readiness
        self._clock = clock

    def producer_of(self, topic: str) -> Producer:
        """The producer for a topic's cluster: the cluster of its region, or the cluster of the control topic."""
        region = topic.rpartition(".")[2]
        is_regional = topic != topics.CONTROL and region in self._settings.regions
        return self._producers[self._settings.bootstrap(region) if is_regional else self._settings.kafka]

    def of(self, handler: _Handler[M], region: str, *, linger_seconds: float = 0.0) -> BatchConsumer[M]:
        """The consumer of one region for a handler. It parks no key, because the handlers accept records in any
        order."""
        return consumers.consumer(
            self._settings,
            region,
            group=handler.group,
            reads=handler.topics,
            decode=handler.decode,
            handle=handler.handle,
            producer=self._producers[self._settings.bootstrap(region)],
            readiness=self._readiness,
            clock=self._clock,
            parks=False,
            backoff=_FOR_EVER,
            linger_seconds=linger_seconds,
        )


def topic_on(bootstrap: str, settings: Settings, regions: Sequence[str]) -> str:
    """The name of a topic of the cluster."""
    return next((topics.submissions(one) for one in regions if settings.bootstrap(one) == bootstrap), topics.CONTROL)


async def watch(bootstrap: str, reach: Reach, topic: str, readiness: Readiness, stop: asyncio.Event) -> None:
    """Report to readiness whether a cluster answers, until `stop` is set."""
    while not stop.is_set():
        missing = None
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                await reach.ends([topic])
        except (Transient, TimeoutError) as error:
            missing = str(error) or f"Kafka at {bootstrap} does not answer"
        readiness.set(f"Kafka {bootstrap}", missing)
        await wait(stop, _WATCH_SECONDS)
