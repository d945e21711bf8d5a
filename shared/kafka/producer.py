"""Batch producer: `send` returns after all in-sync replicas have acknowledged every record.

A batch costs the same round trips as one record, so callers pass as many records as they have. The batches, one per
partition, are built here, because that is several times cheaper than one future per record. The partition is the CRC-32
of the key: all producers of this project use it, and it costs a twentieth of murmur2 in Python.

An idempotent aiokafka producer retries without a limit and, after some errors, never recovers. So each send has a
deadline, and a producer that has failed is replaced before the next send.
"""

import asyncio
import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import prometheus_client
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from shared.contracts.envelope import Encoded, Headers
from shared.kafka.closing import close
from shared.runtime import metrics
from shared.runtime.errors import Poison, Transient
from shared.runtime.user_errors import cause

log = logging.getLogger(__name__)

MAX_RECORD_BYTES = 4 * 1024 * 1024
ACKNOWLEDGE_SECONDS = 20.0
_MAX_BATCH_BYTES = 512 * 1024


class Record(NamedTuple):
    """A record to send; without `partition`, its key determines the partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None = None


def record(topic: str, event: Encoded) -> Record:
    """The record of an encoded event."""
    return Record(topic, event.key, event.value, event.headers)


class Appended(NamedTuple):
    """Acknowledged records of one partition: the offset of the first one, and the offset after the last one."""

    topic: str
    partition: int
    first: int
    end: int


class Producer(Protocol):
    """Sends records; `send` returns after all are acknowledged, and raises Transient if some may not be stored."""

    async def send(self, records: Sequence[Record]) -> None: ...


class LocatingProducer(Producer, Protocol):
    """A producer that knows the offsets of the records that it has sent."""

    async def append(self, records: Sequence[Record]) -> list[Appended]:
        """As `send`; returns the offsets, where the broker tells them."""
        ...


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition of a key in a topic; `partitions` is the number of its partitions."""
    return zlib.crc32(key or b"") % partitions


class MultiClusterProducer:
    """A `Producer` for several clusters; `of_topic` returns the producer of a topic's cluster.

    A cluster that is down does not delay the records of the others, but the whole send fails.
    """

    def __init__(self, of_topic: Callable[[str], Producer]) -> None:
        self._of_topic = of_topic

    async def send(self, records: Sequence[Record]) -> None:
        """Send each record to its cluster; raises the first error, after all clusters have finished."""
        shares: dict[Producer, list[Record]] = {}
        for r in records:
            shares.setdefault(self._of_topic(r.topic), []).append(r)
        await _all([asyncio.ensure_future(producer.send(share)) for producer, share in shares.items()])


class KafkaProducer:
    """A `Producer` for one cluster. `timeout` limits a send, in seconds; after it the outcome is unknown."""

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
        """Connect; raises Transient when no broker responds."""
        await self._connected()

    async def stop(self) -> None:
        """Flush pending records, for a bounded time, and disconnect."""
        if self._producer is not None:
            await self._discard(self._producer)

    async def send(self, records: Sequence[Record]) -> None:
        """Send all records, in order within each partition; return when all are acknowledged.

        Raises Transient when some may be missing (send the same records again: consumers ignore repeated ids), Poison
        when one is larger than Kafka accepts.
        """
        await self.append(records)

    async def append(self, records: Sequence[Record]) -> list[Appended]:
        """As `send`; returns the offsets. A broker does not tell them for a batch that the client has sent twice."""
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._timeout):
                producer = await self._connected()
                appended = await self._send(producer, records)
        except TimeoutError as error:
            _count(metrics.PRODUCE_FAILURES, records)
            raise Transient(f"Kafka at {self._bootstrap} did not acknowledge within {self._timeout:g} s.") from error
        except (KafkaTimeoutError, KafkaConnectionError) as error:
            _count(metrics.PRODUCE_FAILURES, records)
            raise Transient(
                f"Kafka at {self._bootstrap} did not accept {len(records)} records: {cause(error)}."
            ) from error
        except MessageSizeTooLargeError as error:
            await self._replace(producer)  # the rejected batch leaves a gap in its sequence numbers
            raise Poison(f"a record is larger than Kafka accepts: {error}") from error
        except KafkaError as error:
            _count(metrics.PRODUCE_FAILURES, records)
            await self._replace(producer)
            raise Transient(f"Kafka at {self._bootstrap} rejected {len(records)} records: {cause(error)}.") from error
        _count(metrics.PRODUCED, records)
        return appended

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> list[Appended]:
        pending: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        for r in records:
            partition = r.partition
            if partition is None:
                partition = partition_of(
                    r.key, self._partitions.get(r.topic) or await self._partitions_of(producer, r.topic)
                )
            pending[r.topic, partition].append(r)
        acknowledgements: list[asyncio.Future[RecordMetadata]] = []
        sizes: list[int] = []
        try:
            while pending:  # Kafka's protocol allows one batch per partition at a time
                for (topic, partition), waiting in list(pending.items()):
                    batch = producer.create_batch()
                    appended = 0
                    for r in waiting:
                        if batch.append(key=r.key, value=r.value, timestamp=None, headers=r.headers) is None:
                            break
                        appended += 1
                    batch.close()
                    acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
                    sizes.append(appended)
                    if appended < len(waiting):
                        pending[topic, partition] = waiting[appended:]
                    else:
                        del pending[topic, partition]
        except BaseException:
            for acknowledgement in acknowledgements:
                acknowledgement.cancel()
            raise
        await _all(acknowledgements)
        placed = [
            (acknowledgement.result(), size) for acknowledgement, size in zip(acknowledgements, sizes, strict=True)
        ]
        return [
            Appended(place.topic, place.partition, place.offset, place.offset + size)
            for place, size in placed
            if place.offset >= 0
        ]

    async def _partitions_of(self, producer: AIOKafkaProducer, topic: str) -> int:
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
                    raise Transient(f"Kafka at {self._bootstrap} does not respond: {cause(error)}.") from error
                self._producer = producer
        return self._producer

    async def _replace(self, producer: AIOKafkaProducer | None) -> None:
        if producer is not None and self._producer is producer:
            self._producer = None
            await self._discard(producer)

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        if not await close(producer, cancel_late=True):
            log.warning("the producer was closed with records not acknowledged")


def _count(metric: prometheus_client.Counter, records: Iterable[Record]) -> None:
    for topic, n in Counter(r.topic for r in records).items():
        metric.labels(topic).inc(n)


async def _all(acknowledgements: Sequence[asyncio.Future[Any]]) -> None:
    results = await asyncio.gather(*acknowledgements, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
