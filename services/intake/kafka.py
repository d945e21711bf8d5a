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
_SILENT_SECONDS = 5.0  # a cluster that says nothing for so long does not answer
_FOR_EVER = Backoff(bound=math.inf)  # posting goes on without the database, so following it waits instead of ending


class _Following(Protocol[M]):
    """What follows topics: a group, and what it makes of records."""

    @property
    def group(self) -> str: ...

    @property
    def topics(self) -> list[str]: ...

    def decode(self, record: RawRecord) -> M: ...

    async def handle(self, batch: Sequence[Received[M]]) -> None: ...


class Consumers:
    """The ways between intake and its regions' Kafka clusters."""

    def __init__(
        self, settings: Settings, producers: dict[str, KafkaProducer], readiness: Readiness, clock: Clock
    ) -> None:
        self._settings = settings
        self._producers = producers
        self._readiness = readiness
        self._clock = clock

    def producer_of(self, topic: str) -> Producer:
        """The way to the cluster that a topic is on: its region's, or the one of what is global."""
        region = topic.rpartition(".")[2]
        is_regional = topic != topics.CONTROL and region in self._settings.regions
        return self._producers[self._settings.bootstrap(region) if is_regional else self._settings.kafka]

    def of(self, following: _Following[M], region: str, *, linger_seconds: float = 0.0) -> BatchConsumer[M]:
        """The consumer of what follows a region's topics; its facts add up in any order, so it parks no key."""
        return consumers.consumer(
            self._settings,
            region,
            group=following.group,
            reads=following.topics,
            decode=following.decode,
            handle=following.handle,
            producer=self._producers[self._settings.bootstrap(region)],
            readiness=self._readiness,
            clock=self._clock,
            parks=False,
            backoff=_FOR_EVER,
            linger_seconds=linger_seconds,
        )


def topic_on(bootstrap: str, settings: Settings, regions: Sequence[str]) -> str:
    """A topic that the cluster has."""
    return next((topics.submissions(one) for one in regions if settings.bootstrap(one) == bootstrap), topics.CONTROL)


async def watch(bootstrap: str, reach: Reach, topic: str, readiness: Readiness, stop: asyncio.Event) -> None:
    """Have readiness say whether a cluster answers, until `stop` is set."""
    while not stop.is_set():
        missing = None
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                await reach.ends([topic])
        except (Transient, TimeoutError) as error:
            missing = str(error) or f"Kafka at {bootstrap} does not answer"
        readiness.set(f"Kafka {bootstrap}", missing)
        await wait(stop, _WATCH_SECONDS)
