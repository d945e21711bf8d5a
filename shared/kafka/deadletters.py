"""Poison records, kept whole: the original key, value and headers, and why, by whom and from where it was set aside."""

from aiokafka import ConsumerRecord

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

    def _letter(self, record: ConsumerRecord[bytes | None, bytes | None], reason: str) -> Record:
        about = {
            "reason": reason[:2000],
            "group": self._group,
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "time": to_text(self._clock.now()),
        }
        kept: Headers = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
        added: Headers = [(PREFIX + name, text.encode()) for name, text in about.items()]
        return Record(self.topic, record.key, record.value, kept + added)
