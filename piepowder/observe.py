"""Reads a system's topics from their first offset, as anybody could: a plain consumer, no group, nothing committed."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.errors import StackError
from piepowder.accounting import Ledger, Place
from shared.envelope import decode, decode_any
from shared.errors import Poison
from shared.kafka import topics

_PATIENCE: Final = 30.0  # seconds without a record before the cluster counts as away


class Observer:
    """Fills a ledger from the topics of some regions; `catch_up` reads on from where it was."""

    def __init__(self, bootstrap: str, regions: Sequence[str], ledger: Ledger) -> None:
        self.ledger = ledger
        self._bootstrap = bootstrap
        self._region_of: dict[str, str] = {}
        self._dead: set[str] = set()
        for region in regions:
            for topic in (topics.submissions(region), topics.cases(region), topics.decisions(region)):
                self._region_of[topic] = region
            self._region_of[topics.deadletters(region)] = region
            self._dead.add(topics.deadletters(region))
        self._consumer: AIOKafkaConsumer | None = None

    async def catch_up(self) -> None:
        """Read every record up to where the topics end now; raises `StackError` when Kafka does not answer."""
        try:
            consumer = await self._connected()
            ends = await consumer.end_offsets(consumer.assignment())
            while behind := [tp for tp, end in ends.items() if await consumer.position(tp) < end]:
                async with asyncio.timeout(_PATIENCE):
                    lanes: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = {}
                    while not lanes:
                        lanes = await consumer.getmany(*behind, timeout_ms=500, max_records=5000)
                for tp, records in lanes.items():
                    for record in records:
                        self._note(tp.topic, record)
                await asyncio.sleep(0)
        except (KafkaError, OSError, TimeoutError) as error:
            raise StackError(
                f"Kafka at {self._bootstrap} cannot be read ({error!r}).", "Look at its log; nothing is lost by this."
            ) from error

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is not None:
            return self._consumer
        wanted = [*self._region_of, topics.CONTROL]
        consumer = AIOKafkaConsumer(
            *wanted,
            bootstrap_servers=self._bootstrap,
            client_id="piepowder-command",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=8 * 2**20,
        )
        self._consumer = consumer
        await consumer.start()
        if missing := set(wanted) - {tp.topic for tp in consumer.assignment()}:
            raise StackError(f"The topics {', '.join(sorted(missing))} do not exist.", "Create them: piepowder topics.")
        return consumer

    def _note(self, topic: str, record: ConsumerRecord[Any, Any]) -> None:
        place = Place(topic, record.partition, record.offset)
        region = self._region_of.get(topic)
        if topic in self._dead and region is not None:
            headers = dict(record.headers)
            correlation = headers.get("ce_correlationid")
            self.ledger.note_dead_letter(
                region,
                None if correlation is None else correlation.decode(errors="replace"),
                headers.get("dl_group", b"").decode(errors="replace"),
                headers.get("dl_reason", b"no reason was given").decode(errors="replace"),
            )
            return
        try:
            if region is None:
                self.ledger.note_control(decode_any(record.headers, record.key, record.value).attributes.id)
            else:
                self.ledger.note(region, decode(record.headers, record.key, record.value, region=region), place)
        except Poison:
            self._note_unread(region, record, place)

    def _note_unread(self, region: str | None, record: ConsumerRecord[Any, Any], place: Place) -> None:
        """An event of a newer version is in the audit log as well; what is no event at all is dead-lettered there."""
        try:
            event = decode_any(record.headers, record.key, record.value, region=region)
        except Poison:
            return
        if region is not None:
            self.ledger.note_other(region, event.attributes.id, place)
