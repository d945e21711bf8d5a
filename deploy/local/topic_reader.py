"""Reads a system's topics from their first offset into a ledger, with a plain consumer that has no group and commits
nothing."""

from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from deploy.local.accounting import Ledger
from piepowder.hints import command
from piepowder.topic_reading import new_consumer, read_to_end
from shared.contracts import topics
from shared.contracts.envelope import RecordId, decode, decode_any
from shared.kafka.closing import close
from shared.runtime.errors import Poison
from shared.runtime.user_errors import UserError, cause

_NOT_ACCOUNTED: Final = (topics.access, topics.parked)


class TopicReader:
    """Fills a ledger from the topics of some regions; each `catch_up` continues after the previous one."""

    def __init__(self, bootstrap: str, regions: Sequence[str], ledger: Ledger) -> None:
        self.ledger = ledger
        self._bootstrap = bootstrap
        accounted = [topic for topic in topics.REGIONAL if topic not in _NOT_ACCOUNTED]
        self._region_of = {topic(region): region for region in regions for topic in accounted}
        self._dead = {topics.deadletters(region) for region in regions}
        self._consumer: AIOKafkaConsumer | None = None

    async def catch_up(self) -> None:
        """Read to the current end of the topics; raises `UserError` when Kafka does not respond."""
        try:
            consumer = await self._connected()
            async for record in read_to_end(consumer):
                self._add(record)
        except (KafkaError, OSError, TimeoutError) as error:
            raise UserError(
                f"Kafka at {self._bootstrap} cannot be read ({cause(error)}).", "Look at its log; nothing is lost."
            ) from error

    async def close(self) -> None:
        if self._consumer is not None:
            await close(self._consumer)

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is not None:
            return self._consumer
        wanted = [*self._region_of, topics.CONTROL]
        self._consumer = consumer = new_consumer(self._bootstrap, "piepowder-command", *wanted)
        await consumer.start()
        if missing := set(wanted) - {tp.topic for tp in consumer.assignment()}:
            names = ", ".join(sorted(missing))
            raise UserError(f"The topics {names} do not exist.", f"Create them with `{command('topics')}`.")
        for tp, begin in (await consumer.beginning_offsets(consumer.assignment())).items():
            if begin > 0 and tp.topic in self._region_of.keys() - self._dead:
                self.ledger.set_truncated(self._region_of[tp.topic])
        return consumer

    def _add(self, record: ConsumerRecord[Any, Any]) -> None:
        record_id = RecordId(record.topic, record.partition, record.offset)
        region = self._region_of.get(record.topic)
        if record.topic in self._dead and region is not None:
            self.ledger.add_letter(region, record)
            return
        try:
            if region is None:
                self.ledger.add_control(decode_any(record.headers, record.key, record.value).attributes.id)
            else:
                self.ledger.add(region, decode(record.headers, record.key, record.value, region=region), record_id)
        except Poison:
            self._add_undecodable(region, record, record_id)

    def _add_undecodable(self, region: str | None, record: ConsumerRecord[Any, Any], record_id: RecordId) -> None:
        """Add an event of a newer version, which the audit log has too; any other record is dead-lettered there."""
        try:
            event = decode_any(record.headers, record.key, record.value, region=region)
        except Poison:
            return
        if region is not None:
            self.ledger.add_unknown(region, event.attributes.id, record_id)
