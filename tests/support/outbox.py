"""Targets and helpers for tests of the outbox."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from shared.contracts.envelope import Encoded
from shared.kafka.producer import MAX_RECORD_BYTES, KafkaProducer, Record
from shared.postgres import outbox
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime.errors import Poison, Transient


class Target(Protocol):
    """A producer that also returns the published event ids: by key, in order."""

    topic: str

    async def send(self, records: Sequence[Record]) -> None: ...

    async def arrived(self, count: int) -> dict[bytes, list[str]]: ...


class InMemoryTarget:
    """A target in memory; like Kafka, it rejects records that are too large."""

    topic = "piepowder.decisions.eu"

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if any(len(record.value or b"") > MAX_RECORD_BYTES for record in records):
            raise Poison("too large")
        self.records += records

    async def arrived(self, count: int) -> dict[bytes, list[str]]:
        assert len(self.records) >= count
        return by_key((record.key, record.headers) for record in self.records)


class KafkaTarget:
    """A target on real Kafka."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._bootstrap = bootstrap
        self._producer = KafkaProducer(bootstrap, client_id="test-outbox")

    async def send(self, records: Sequence[Record]) -> None:
        await self._producer.send(records)

    async def arrived(self, count: int) -> dict[bytes, list[str]]:
        consumer = AIOKafkaConsumer(self.topic, bootstrap_servers=self._bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            found: list[ConsumerRecord[bytes, bytes]] = []
            async with asyncio.timeout(60):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
            return by_key((record.key, record.headers) for record in found)
        finally:
            await consumer.stop()

    async def stop(self) -> None:
        await self._producer.stop()


class FailingOnce:
    """A target whose first send fails, before or after the records are published."""

    def __init__(self, target: Target, *, after: bool) -> None:
        self._target = target
        self._after = after
        self.failures = 0

    async def send(self, records: Sequence[Record]) -> None:
        if not self.failures and not self._after:
            self.failures += 1
            raise Transient("Kafka does not respond")
        await self._target.send(records)
        if not self.failures:
            self.failures += 1
            raise Transient("the acknowledgement was lost")


def by_key(records: object) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = defaultdict(list)
    for key, headers in records:  # type: ignore[attr-defined]  # pairs of key and headers
        found[key].append(dict(headers)["ce_id"].decode())
    return found


def event(key: str, n: int, *, size: int = 100) -> Encoded:
    return Encoded(key.encode(), b"x" * size, [("ce_id", f"{key}-{n}".encode())])


async def write(database: Database, topic: str, events: Sequence[Encoded]) -> None:
    async with database.transaction() as connection:
        await outbox.write(connection, [(topic, event) for event in events])


async def rows_left(database: Database) -> int:
    async with database.held() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM outbox"))


@asynccontextmanager
async def relaying(database: Database, producer: object, **settings: int) -> AsyncIterator[Relay]:
    relay, stop = Relay(database, producer, service="test", **settings), asyncio.Event()  # type: ignore[arg-type]  # fakes too
    task = asyncio.create_task(relay.run(stop))
    try:
        yield relay
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def until_rows_left(database: Database, count: int) -> None:
    async with asyncio.timeout(60):
        while await rows_left(database) > count:  # noqa: ASYNC110 - the table has no event to wait for
            await asyncio.sleep(0.02)
