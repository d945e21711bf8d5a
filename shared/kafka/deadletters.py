"""Poison records, kept whole: the original key, value and headers, and why, by whom and from where it was set aside."""

from aiokafka import ConsumerRecord, TopicPartition

from shared.clock import Clock, to_text
from shared.envelope import Headers
from shared.kafka.producer import Producer, Record

PREFIX = "dl_"


class DeadLetters:
    """Sets records aside on a region's dead-letter topic; `send` returns when they are acknowledged."""

    def __init__(self, producer: Producer, *, topic: str, group: str, clock: Clock) -> None:
        self.topic = topic
        self._producer = producer
        self._group = group
        self._clock = clock

    async def send(self, rejected: list[tuple[ConsumerRecord[bytes | None, bytes | None], str]]) -> None:
        """Set aside each record with its reason; raises Transient when Kafka did not take them all."""
        await self._producer.send([self._letter(record, reason) for record, reason in rejected])

    async def send_unread(self, tp: TopicPartition, offset: int, reason: str) -> None:
        """Say where a record stands that the client cannot read: it stays whole in its own topic, and nowhere else."""
        await self._producer.send([Record(self.topic, None, b"", self._about(tp.topic, tp.partition, offset, reason))])

    def _letter(self, record: ConsumerRecord[bytes | None, bytes | None], reason: str) -> Record:
        kept: Headers = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
        added = self._about(record.topic, record.partition, record.offset, reason)
        return Record(self.topic, record.key, record.value, kept + added)

    def _about(self, topic: str, partition: int, offset: int, reason: str) -> Headers:
        about = {
            "reason": reason[:2000],
            "group": self._group,
            "topic": topic,
            "partition": str(partition),
            "offset": str(offset),
            "time": to_text(self._clock.now()),
        }
        return [(PREFIX + name, text.encode()) for name, text in about.items()]
