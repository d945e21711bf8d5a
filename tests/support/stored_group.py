"""A consumer group with effects and positions in PostgreSQL, on real Kafka, for tests of the positions."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer, RawRecord, Received, TransactionalHandler
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.postgres import positions
from shared.postgres.database import Database
from shared.postgres.positions import PositionTable
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Fatal
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff
from tests.support import recreation

PARTITIONS = 6


class _Member(BatchConsumer[str]):
    """A member that notes each of its assignments."""

    note: Callable[[list[TopicPartition]], None]

    def partitions_assigned(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        super().partitions_assigned(consumer, partitions)
        self.note(list(partitions))


class StoredGroup:
    """Members of one group, whose effects are rows of a table without a unique key, so that a repeat is visible.

    `before` is awaited before each transaction. With `in_kafka`, the group has no stored positions, like the router.
    """

    def __init__(self, kafka: str, region: str, database_url: str, *, in_kafka: bool = False) -> None:
        self.kafka = kafka
        self.region = region
        self.url = database_url
        self.topic = topics.submissions(region)
        self.name = f"piepowder-{'router' if in_kafka else 'decision'}-{region}"
        self.readiness: dict[str, Readiness] = {}
        self.assigned: dict[str, list[TopicPartition]] = {}
        self.before: Callable[[str], Awaitable[None]] = _at_once
        self._in_kafka = in_kafka
        self._producer = KafkaProducer(kafka, client_id="test")
        self._members: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Self:
        await self._producer.start()
        self.database = await Database.connect(self.url, settings=positions.SESSION)
        async with self.database.held() as connection:
            for statement in positions.SCHEMA:
                await connection.execute(statement)
            await connection.execute("CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, text text)")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        await self.database.close()
        await self._producer.stop()

    async def post(self, *texts: str, partition: int = 0) -> None:
        await self._producer.send([Record(self.topic, b"k", text.encode(), [], partition=partition) for text in texts])

    def start(self, instance: str = "0", *, batch_records: int = 100, drain_seconds: float = 5) -> None:
        clock, stop, readiness = SystemClock(), asyncio.Event(), Readiness("test")

        async def handle(batch: Sequence[Received[str]], moves: Moves) -> None:
            await self.before(instance)
            async with self.database.transaction() as connection:
                await positions.advance(connection, moves)
                rows = [(received.message,) for received in batch]
                await connection.copy_records_to_table("effects", records=rows, columns=["text"])

        async def handle_only(batch: Sequence[Received[str]]) -> None:
            await handle(batch, NO_MOVES)

        member = _Member(
            bootstrap=self.kafka,
            group=self.name,
            topics=[self.topic],
            decode=_decode,
            handle=handle_only if self._in_kafka else TransactionalHandler(handle, PositionTable(self.database)),
            dead_letters=DeadLetterWriter(
                self._producer, topic=topics.deadletters(self.region), group=self.name, clock=clock
            ),
            readiness=readiness,
            clock=clock,
            instance=instance,
            batch_records=batch_records,
            backoff=Backoff(first=0.01, longest=0.05),
            drain_seconds=drain_seconds,
        )
        member.note = partial(self.assigned.__setitem__, instance)
        self.readiness[instance] = readiness
        self._members[instance] = stop, asyncio.create_task(member.run(stop))

    async def stop(self, *instances: str) -> None:
        for instance in instances or list(self._members):
            stop, running = self._members.pop(instance)
            stop.set()
            with contextlib.suppress(Fatal):
                await asyncio.wait_for(running, 30)

    def missing(self, instance: str = "0") -> str:
        """The readiness of the positions: `ok`, or which records are missing."""
        return self.readiness[instance].conditions.get(f"positions {self.name}", "")

    async def effects(self) -> list[str]:
        async with self.database.held() as connection:
            return [row[0] for row in await connection.fetch("SELECT text FROM effects ORDER BY n")]

    async def positions(self) -> dict[int, int]:
        """The stored position of each partition."""
        places = [TopicPartition(self.topic, n) for n in range(PARTITIONS)]
        stored = await PositionTable(self.database).read(self.name, places)
        return {tp.partition: each.position for tp, each in stored.items()}

    async def until_committed(self) -> None:
        """Wait until the group has committed its stored positions, which it does after their transaction."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            async with asyncio.timeout(40):
                while True:
                    found = await admin.list_consumer_group_offsets(self.name)
                    committed = {tp.partition: each.offset for tp, each in found.items()}
                    if {n: at for n, at in (await self.positions()).items() if at}.items() <= committed.items():
                        return
                    await asyncio.sleep(0.05)
        finally:
            await admin.close()

    async def until_effects(self, expected: Sequence[str]) -> None:
        """Wait until the effects are these, in any order."""
        found: list[str] = []
        try:
            async with asyncio.timeout(40):
                while sorted(found) != sorted(expected):
                    with contextlib.suppress(asyncpg.PostgresError):
                        found = await self.effects()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            assert sorted(found) == sorted(expected)

    async def until_missing(self, text: str, instance: str = "0") -> None:
        """Wait until the readiness of the positions contains a text."""
        try:
            async with asyncio.timeout(40):
                while text not in self.missing(instance):  # noqa: ASYNC110 - the condition has no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            assert text in self.missing(instance)

    async def delete_records(self, before: int, partition: int = 0) -> None:
        """Delete the records before an offset, as retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(self.topic, partition): RecordsToDelete(before_offset=before)})
        finally:
            await admin.close()

    async def recreate_topic(self) -> None:
        """Delete the topic, and create it again."""
        await recreation.recreate_topic(self.kafka, self.topic)

    async def commit(self, offsets: dict[int, int], metadata: str = "") -> None:
        """Commit offsets as a tool does, when the group has no member, which takes 15 s after a stop."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, group_id=self.name, enable_auto_commit=False)
        await consumer.start()
        try:
            places = {TopicPartition(self.topic, n): OffsetAndMetadata(at, metadata) for n, at in offsets.items()}
            consumer.assign(list(places))
            async with asyncio.timeout(40):
                while True:
                    try:
                        await consumer.commit(places)
                    except KafkaError:
                        await asyncio.sleep(0.2)
                    else:
                        return
        finally:
            await consumer.stop()


async def _at_once(_: str) -> None: ...


def _decode(record: RawRecord) -> str:
    return (record.value or b"").decode().partition(" ")[0]
