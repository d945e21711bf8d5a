"""Records to Kafka in batches: `send` returns when all in-sync replicas have every one of them, and not before.

A batch costs the same round trips as a record, so callers hand over as many as they have. Batches are built here, one
per partition, because that is several times cheaper than one future a record. The partition is the CRC-32 of the key:
every producer of ours agrees on it, and it costs a twentieth of murmur2 in Python.

An idempotent aiokafka producer retries for ever and, after some errors, never recovers; so a send has a deadline here,
and a producer that failed for good is replaced before the next send.
"""

import asyncio
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from shared.contracts.envelope import Encoded, Headers
from shared.runtime import metrics
from shared.runtime.errors import Poison, Transient

log = logging.getLogger(__name__)

MAX_RECORD_BYTES = 4 * 1024 * 1024
ACKNOWLEDGE_SECONDS = 20.0
_MAX_BATCH_BYTES = 512 * 1024
_STOP_SECONDS = 5.0


class Record(NamedTuple):
    """What is sent, and where to. `partition` None means the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None = None


def record(topic: str, event: Encoded) -> Record:
    """The record of an event on a topic."""
    return Record(topic, event.key, event.value, event.headers)


class Producer(Protocol):
    """Where records go. `send` returns when all are acknowledged; raises Transient when that is not known to be so."""

    async def send(self, records: Sequence[Record]) -> None: ...


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition that holds a key, of `partitions`."""
    return zlib.crc32(key or b"") % partitions


class Producers:
    """A `Producer` over several clusters: `of_topic` gives the one that a topic is on.

    One that is away holds nothing up on the others, but all of a send counts as not done.
    """

    def __init__(self, of_topic: Callable[[str], Producer]) -> None:
        self._of_topic = of_topic

    async def send(self, records: Sequence[Record]) -> None:
        """Send each record to its cluster; raises as the first of them that does, when all have ended."""
        shares: dict[Producer, list[Record]] = {}
        for r in records:
            shares.setdefault(self._of_topic(r.topic), []).append(r)
        await _all([asyncio.ensure_future(producer.send(share)) for producer, share in shares.items()])


class KafkaProducer:
    """A `Producer` on a real cluster. `timeout` bounds one send, in seconds; after it the outcome is unknown."""

    def __init__(
        self, bootstrap: str, *, client_id: str, timeout: float = ACKNOWLEDGE_SECONDS, max_bytes: int = MAX_RECORD_BYTES
    ) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._partitions: dict[str, int] = {}

    async def start(self) -> None:
        """Connect; raises Transient when no broker answers."""
        await self._connected()

    async def stop(self) -> None:
        """Flush what is under way, for a bounded time, and disconnect."""
        if self._producer is not None:
            await self._discard(self._producer)

    async def send(self, records: Sequence[Record]) -> None:
        """Send all of `records`, those of a partition in their order; return when all are acknowledged.

        Raises Transient when some may not have arrived (sending the same again is right: their ids repeat), Poison when
        one is larger than Kafka takes.
        """
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._timeout):
                producer = await self._connected()
                await self._send(producer, records)
        except TimeoutError as error:
            self._count_failures(records)
            raise Transient(f"Kafka at {self._bootstrap} did not acknowledge within {self._timeout:g} s") from error
        except (KafkaTimeoutError, KafkaConnectionError) as error:
            self._count_failures(records)
            raise Transient(f"Kafka at {self._bootstrap} did not take {len(records)} records: {error!r}") from error
        except MessageSizeTooLargeError as error:
            await self._replace(producer)  # the refused batch leaves a gap in the idempotent producer's sequence
            raise Poison(f"a record is larger than Kafka takes: {error}") from error
        except KafkaError as error:
            self._count_failures(records)
            await self._replace(producer)
            raise Transient(f"Kafka at {self._bootstrap} refused {len(records)} records: {error!r}") from error
        for topic, n in Counter(r.topic for r in records).items():
            metrics.PRODUCED.labels(topic).inc(n)

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> None:
        lanes: dict[tuple[str, int], list[Record]] = {}
        for r in records:
            partition = r.partition
            if partition is None:
                count = self._partitions.get(r.topic) or await self._count_partitions(producer, r.topic)
                partition = zlib.crc32(r.key or b"") % count
            lane = lanes.get((r.topic, partition))
            if lane is None:
                lanes[r.topic, partition] = [r]
            else:
                lane.append(r)
        acknowledgements: list[asyncio.Future[object]] = []
        try:
            while lanes:  # as Kafka's protocol has it: one batch of each partition at a time
                for (topic, partition), lane in list(lanes.items()):
                    batch = producer.create_batch()
                    taken = 0
                    for r in lane:
                        if batch.append(key=r.key, value=r.value, timestamp=None, headers=r.headers) is None:
                            break
                        taken += 1
                    batch.close()
                    acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
                    if taken < len(lane):
                        lanes[topic, partition] = lane[taken:]
                    else:
                        del lanes[topic, partition]
        except BaseException:
            for acknowledgement in acknowledgements:
                acknowledgement.cancel()  # nobody waits for it any more
            raise
        await _all(acknowledgements)

    async def _count_partitions(self, producer: AIOKafkaProducer, topic: str) -> int:
        self._partitions[topic] = len(await producer.partitions_for(topic))
        return self._partitions[topic]

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=_MAX_BATCH_BYTES,
                    max_request_size=self._max_bytes + _MAX_BATCH_BYTES,
                    request_timeout_ms=int(self._timeout * 1000),
                    metadata_max_age_ms=30_000,
                    compression_type="zstd",
                    retry_backoff_ms=100,
                )
                try:
                    await producer.start()
                except (KafkaError, OSError) as error:
                    await self._discard(producer)
                    raise Transient(f"Kafka at {self._bootstrap} does not answer: {error!r}") from error
                self._producer = producer
        return self._producer

    async def _replace(self, producer: AIOKafkaProducer | None) -> None:
        if producer is not None and self._producer is producer:
            self._producer = None
            await self._discard(producer)

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        stopping = asyncio.ensure_future(producer.stop())
        done, _ = await asyncio.wait([stopping], timeout=_STOP_SECONDS)
        if not done:
            stopping.cancel()
            log.warning("the producer was closed with records not acknowledged")
        elif (error := stopping.exception()) is not None:
            log.warning("the producer did not close cleanly", extra={"error": repr(error)})

    @staticmethod
    def _count_failures(records: Iterable[Record]) -> None:
        for topic, n in Counter(r.topic for r in records).items():
            metrics.PRODUCE_FAILURES.labels(topic).inc(n)


async def _all(acknowledgements: Sequence[asyncio.Future[Any]]) -> None:
    results = await asyncio.gather(*acknowledgements, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
