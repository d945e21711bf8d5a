"""Builds a region's consumer for any service: with the region's cluster, dead-letter topic and parked keys."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, Handler, RawRecord
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.parking import ParkedKeyStore
from shared.kafka.producer import Producer
from shared.runtime.clock import Clock
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff
from shared.runtime.settings import CommonSettings

M = TypeVar("M")


def consumer(
    settings: CommonSettings,
    region: str,
    *,
    group: str,
    reads: Sequence[str],
    decode: Callable[[RawRecord], M],
    handle: Handler[M],
    producer: Producer,
    readiness: Readiness,
    clock: Clock,
    parks: bool = True,
    backoff: Backoff = Backoff(),  # noqa: B008 - immutable
    linger_seconds: float = 0.0,
) -> BatchConsumer[M]:
    """A group's consumer of the topics `reads` on the region's cluster; `producer` writes to the same cluster.

    With `parks` False, later records of a key do not wait for an earlier one: for a handler that ignores the order.
    """
    bootstrap, parked = settings.bootstrap(region), None
    if parks:
        parked = ParkedKeyStore(
            producer, bootstrap=bootstrap, topic=topics.parked(region), group=group, limit=settings.parked_keys
        )
    return BatchConsumer(
        bootstrap=bootstrap,
        group=group,
        topics=reads,
        decode=decode,
        handle=handle,
        dead_letters=DeadLetterWriter(producer, topic=topics.deadletters(region), group=group, clock=clock),
        parked=parked,
        readiness=readiness,
        clock=clock,
        instance=settings.instance,
        batch_records=settings.batch_records,
        backoff=backoff,
        drain_seconds=settings.drain_seconds,
        linger_seconds=linger_seconds,
    )
