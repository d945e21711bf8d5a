"""A consumer group on real Kafka, for tests of the consumer loop."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from shared.contracts import topics
from shared.kafka import closing
from shared.kafka.consumer import BatchConsumer, RawRecord, Received
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.producer import KafkaProducer, Record
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Fatal, Poison
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff

Handle = Callable[[Sequence[Received[str]]], Awaitable[None]]


def decode(record: RawRecord) -> str:
    if record.value is None or record.value.startswith(b"bad"):
        raise Poison("not a message")
    return str(record.value, "utf-8")


class ConsumerGroup:
    """Starts and stops members of one consumer group."""

    def __init__(self, kafka: str, region: str, producer: KafkaProducer) -> None:
        self.kafka = kafka
        self.region = region
        self.name = f"g-{region}"
        self.producer = producer
        self.topic = topics.submissions(region)
        self.readiness = Readiness("test")
        self._members: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def post(self, *values: str, key: str = "") -> None:
        await self.producer.send([Record(self.topic, (key or v[-1]).encode(), v.encode(), []) for v in values])

    def start(
        self,
        handle: Handle,
        *,
        instance: str = "0",
        drain_seconds: float = 5,
        batch_records: int = 2000,
        linger_seconds: float = 0.0,
        decode: Callable[[RawRecord], str] = decode,
    ) -> asyncio.Event:
        clock = SystemClock()
        member = BatchConsumer(
            bootstrap=self.kafka,
            group=self.name,
            topics=[self.topic],
            decode=decode,
            handle=handle,
            dead_letters=DeadLetterWriter(
                self.producer, topic=topics.deadletters(self.region), group=self.name, clock=clock
            ),
            readiness=self.readiness,
            clock=clock,
            instance=instance,
            batch_records=batch_records,
            backoff=Backoff(first=0.01, longest=0.05),
            drain_seconds=drain_seconds,
            linger_seconds=linger_seconds,
        )
        stop = asyncio.Event()
        self._members.append((stop, asyncio.create_task(member.run(stop))))
        return stop

    async def ended(self, *stopped: asyncio.Event) -> None:
        """Wait for the members with these stop events (none: for all members) to end; raises their errors."""
        for task in [task for stop, task in self._members if not stopped or stop in stopped]:
            await asyncio.wait_for(asyncio.shield(task), 20)

    async def wait_for_state(self, state: str) -> None:
        """Wait until Kafka reports this state of the group, for a bounded time."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            async with asyncio.timeout(60):
                while True:
                    [response] = await admin.describe_consumer_groups([self.name])
                    if response.groups[0][2] == state:
                        return
                    await asyncio.sleep(0.02)
        finally:
            await admin.close()

    async def stop(self) -> None:
        for stop, _ in self._members:
            stop.set()
        with contextlib.suppress(Fatal):
            await self.ended()
        self._members = []
        await until(lambda: not closing._closing)  # a client in the middle of a rebalance closes later


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until the condition holds, for a bounded time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.02)


async def read_all(kafka: str, topic: str, count: int) -> list[RawRecord]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    found: list[RawRecord] = []
    try:
        async with asyncio.timeout(60):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
    finally:
        await consumer.stop()
    return found


async def send_unreadable(kafka: str, topic: str, count: int = 1) -> int:
    """Send records to partition 0 that the Kafka client cannot parse; returns the offset of the first one."""
    script = [sys.executable, "-c", _UNREADABLE, kafka, topic, str(count)]
    done = await asyncio.to_thread(subprocess.run, script, check=True, capture_output=True, text=True)
    return int(done.stdout)


# Sends a header name that is not UTF-8, which the pure Python client allows; prints the first record's offset.
_UNREADABLE = """
import asyncio, os, sys
os.environ["AIOKAFKA_NO_EXTENSIONS"] = "1"
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_):
        return bytes([255, 254])

async def main():
    _, kafka, topic, count = sys.argv
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for n in range(int(count)):
            sent = await producer.send(topic, b"v", key=b"k%d" % n, headers=[(Name("zz"), b"1")], partition=0)
            if n == 0:
                print((await sent).offset)
        await producer.flush()

asyncio.run(main())
"""
