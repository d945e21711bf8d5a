"""Watch of a Kafka cluster: which of its brokers respond, and whether every partition of the service's topics has a
leader that responds.

A broker that hangs closes no connection, so a consumer or producer notices nothing for most of a minute. Each broker is
therefore asked every few seconds, over a connection of its own: the service is not ready within ten seconds, and a
metric names the broker.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from shared.kafka.whole_topic import no_such_topic
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.readiness import Readiness
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

_INTERVAL_SECONDS: Final = 3.0
_SILENT_SECONDS: Final = 5.0  # without a response; then the broker counts as down
_CLOSE_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 86_400.0  # after this time outside of the cluster, a broker was removed for good


class _Broker(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ClusterWatch:
    """Reports the readiness `Kafka <bootstrap servers>` and the metric of each broker, for the service's `topics`."""

    def __init__(
        self, bootstrap: str, topics: Sequence[str], *, client_id: str, readiness: Readiness, clock: Clock
    ) -> None:
        self._bootstrap = bootstrap
        self._topics = list(topics)
        self._client_id = f"{client_id}-watch"
        self._readiness = readiness
        self._clock = clock
        self._connections: dict[_Broker, AIOKafkaConnection] = {}
        self._seen: dict[_Broker, float] = {}
        self._measured: set[_Broker] = set()
        self._missing: str | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Ask the brokers until `stop` is set."""
        condition = f"Kafka {self._bootstrap}"
        self._readiness.set(condition, "not connected yet")
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                probing = asyncio.ensure_future(self.probe())
                await asyncio.wait({probing, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not probing.done():
                    probing.cancel()
                    await asyncio.wait([probing])
                    return
                missing = probing.result()
                if missing != self._missing:
                    log.warning("Kafka: %s", missing or "every broker that is needed responds")
                    self._missing = missing
                self._readiness.set(condition, missing)
                await wait(stop, _INTERVAL_SECONDS)
        finally:
            stopping.cancel()
            await self.close()

    async def close(self) -> None:
        """Disconnect."""
        closing = [connection.close() for connection in self._connections.values()]
        self._connections.clear()
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_SECONDS)

    async def probe(self) -> str | None:
        """Ask all known brokers; a sentence about what is missing, None if nothing is."""
        known = list(self._seen) or [_Broker(host, port) for host, port, _ in collect_hosts(self._bootstrap)]
        answers = dict(zip(known, await asyncio.gather(*map(self._ask, known)), strict=True))
        cluster = next((answer for answer in answers.values() if answer is not None), None)
        if cluster is not None:
            self._remember(cluster)
        self._measure(answers)
        silent = [broker for broker, answer in answers.items() if answer is None]
        if cluster is None:
            return f"Kafka at {self._bootstrap} does not respond: {_list(silent)}"
        return self._gap(cluster, silent)

    def _measure(self, answers: Mapping[_Broker, ClusterMetadata | None]) -> None:
        measured = answers.keys() & (self._seen or answers).keys()
        for broker in measured:
            metrics.KAFKA_BROKER_RESPONDS.labels(str(broker)).set(answers[broker] is not None)
        for broker in self._measured - measured:
            metrics.KAFKA_BROKER_RESPONDS.remove(str(broker))
        self._measured = measured

    def _gap(self, cluster: ClusterMetadata, silent: Sequence[_Broker]) -> str | None:
        partitions = [
            TopicPartition(topic, partition)
            for topic in self._topics
            for partition in cluster.partitions_for_topic(topic) or ()
        ]
        leaders = {tp: _address(cluster, cluster.leader_for_partition(tp)) for tp in partitions}
        leading = set(leaders.values())
        if needed := [broker for broker in silent if broker in leading]:
            return f"Kafka at {self._bootstrap} does not respond: {_list(needed)}"
        if without := [tp for tp, leader in leaders.items() if leader is None]:
            first = f"{without[0].topic}, partition {without[0].partition}"
            return f"Kafka at {self._bootstrap} has no leader for {len(without)} partitions, such as {first}"
        found = {tp.topic for tp in partitions}
        return next((no_such_topic(topic) for topic in self._topics if topic not in found), None)

    def _remember(self, cluster: ClusterMetadata) -> None:
        """Replace the addresses of the bootstrap servers by those of the brokers. A broker that hangs leaves the
        cluster, and is still asked."""
        now = self._clock.monotonic()
        self._seen.update(dict.fromkeys((_Broker(b.host, b.port) for b in cluster.brokers()), now))
        for broker in [broker for broker, seen in self._seen.items() if now - seen > _FORGET_SECONDS]:
            del self._seen[broker]
            self._disconnect(broker)

    async def _ask(self, broker: _Broker) -> ClusterMetadata | None:
        """The broker's view of the cluster; None if it does not respond, or has not joined its cluster yet."""
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                connection = self._connections.get(broker)
                if connection is None or not connection.connected():
                    milliseconds = int(_SILENT_SECONDS * 1000)
                    connection = await create_conn(
                        *broker, client_id=self._client_id, request_timeout_ms=milliseconds, max_idle_ms=None
                    )
                    self._connections[broker] = connection
                response = await connection.send(MetadataRequest(self._topics))
        except (KafkaError, OSError, TimeoutError) as error:
            log.debug("no response from Kafka's broker %s: %r", broker, error)
            self._disconnect(broker)
            return None
        if not response.brokers:
            return None
        cluster = ClusterMetadata()
        cluster.update_metadata(response)
        return cluster

    def _disconnect(self, broker: _Broker) -> None:
        if (connection := self._connections.pop(broker, None)) is not None:
            connection.close()


def _address(cluster: ClusterMetadata, node: int | None) -> _Broker | None:
    found = None if node is None or node < 0 else cluster.broker_metadata(node)
    return None if found is None else _Broker(found.host, found.port)


def _list(brokers: Iterable[_Broker]) -> str:
    return ", ".join(map(str, brokers))
