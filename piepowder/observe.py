"""Reads a system's topics from their first offset, as anybody could: a plain consumer, no group, nothing committed."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.errors import StackError
from piepowder.accounting import Ledger, Place
from shared.contracts import topics
from shared.contracts.envelope import decode, decode_any
from shared.kafka.parking import REPLAY_HEADER
from shared.runtime.errors import Poison

_CLOSE_SECONDS: Final = 0.3  # a client whose broker stands still takes seconds to close
_PATIENCE: Final = 30.0  # seconds without a record before the cluster counts as away


async def dead_letters(bootstrap: str, regions: Sequence[str], *, seconds: float) -> dict[str, int] | None:
    """How many records each region's dead-letter topic holds now; None when Kafka does not tell within `seconds`."""
    region_of = {topics.deadletters(region): region for region in regions}
    consumer = AIOKafkaConsumer(
        *region_of, bootstrap_servers=bootstrap, client_id="piepowder-command", group_id=None, enable_auto_commit=False
    )
    try:
        async with asyncio.timeout(seconds):
            await consumer.start()
            places = consumer.assignment()
            first, end = await asyncio.gather(consumer.beginning_offsets(places), consumer.end_offsets(places))
    except (KafkaError, OSError, TimeoutError):
        return None
    finally:
        await asyncio.wait([asyncio.ensure_future(consumer.stop())], timeout=_CLOSE_SECONDS)
    held = dict.fromkeys(regions, 0)
    for place in places:
        held[region_of[place.topic]] += end[place] - first[place]
    return held


class Observer:
    """Fills a ledger from the topics of some regions; `catch_up` reads on from where it was."""

    def __init__(self, bootstrap: str, regions: Sequence[str], ledger: Ledger) -> None:
        self.ledger = ledger
        self._bootstrap = bootstrap
        self._region_of: dict[str, str] = {}
        self._dead: set[str] = set()
        for region in regions:
            for topic in (
                topics.submissions(region),
                topics.cases(region),
                topics.decisions(region),
                topics.requests(region),
            ):
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
            names = ", ".join(sorted(missing))
            raise StackError(f"The topics {names} do not exist.", "Create them with `piepowder topics`.")
        for tp, begin in (await consumer.beginning_offsets(consumer.assignment())).items():
            if begin > 0 and tp.topic in self._region_of.keys() - self._dead:
                self.ledger.note_retention(self._region_of[tp.topic])
        return consumer

    def _note(self, topic: str, record: ConsumerRecord[Any, Any]) -> None:
        place = Place(topic, record.partition, record.offset)
        region = self._region_of.get(topic)
        if topic in self._dead and region is not None:
            self._note_letter(region, {name: value or b"" for name, value in record.headers}, place)
            return
        try:
            if region is None:
                self.ledger.note_control(decode_any(record.headers, record.key, record.value).attributes.id)
            else:
                self.ledger.note(region, decode(record.headers, record.key, record.value, region=region), place)
        except Poison:
            self._note_unread(region, record, place)

    def _note_letter(self, region: str, headers: dict[str, bytes], stands: Place) -> None:
        group, correlation = headers.get("dl_group", b"").decode(errors="replace"), headers.get("ce_correlationid")
        topic, partition, offset = (headers.get(f"dl_{name}", b"") for name in ("topic", "partition", "offset"))
        is_told = partition.isdigit() and offset.isdigit()
        place = Place(topic.decode(errors="replace"), int(partition), int(offset)) if is_told else stands
        if "dl_returned" in headers:
            self.ledger.note_returned(region, group, place)
        elif REPLAY_HEADER not in headers:
            item = None if correlation is None else correlation.decode(errors="replace")
            self.ledger.note_dead_letter(region, item, group, place, parked="dl_parked" in headers)

    def _note_unread(self, region: str | None, record: ConsumerRecord[Any, Any], place: Place) -> None:
        """An event of a newer version is in the audit log as well; what is no event at all is dead-lettered there."""
        try:
            event = decode_any(record.headers, record.key, record.value, region=region)
        except Poison:
            return
        if region is not None:
            self.ledger.note_other(region, event.attributes.id, place)
