"""Progress of a consumer group, measured in Kafka's offsets: unlike clocks, they neither jump nor disagree."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata

from shared.kafka.client_protocol import topic_ids
from shared.kafka.closing import close
from shared.runtime.errors import Transient
from shared.runtime.user_errors import cause


class LogRange(NamedTuple):
    """The offset of the first record of a partition and the one after its last record, in the topic with this id."""

    start: int
    end: int
    topic_id: str


EndOffsets: TypeAlias = dict[TopicPartition, LogRange]
"""The ends of all partitions of some topics."""

_TIMEOUT_MS = 5_000


class CommittedOffset(NamedTuple):
    """A committed offset of the topic with this id; the id is empty if a tool or an old version has committed it.

    `highest`: all records before this offset have been handled once. It is larger than `offset` while a restored
    database, or a reset, lets the group handle records again. Kafka has it after the id, in the offset's metadata:
    another backup that is restored meanwhile does not know it.
    """

    offset: int
    topic_id: str
    highest: int

    @classmethod
    def of(cls, committed: OffsetAndMetadata) -> "CommittedOffset":
        """The parts of a committed offset."""
        topic_id, _, highest = committed.metadata.partition(" ")
        if not (highest.isascii() and highest.isdigit()):
            return cls(committed.offset, committed.metadata, committed.offset)
        return cls(committed.offset, topic_id, max(committed.offset, int(highest)))

    @property
    def to_commit(self) -> OffsetAndMetadata:
        """The offset with its metadata."""
        is_behind = self.highest > self.offset
        return OffsetAndMetadata(self.offset, f"{self.topic_id} {self.highest}" if is_behind else self.topic_id)


class ReadUntil(NamedTuple):
    """The offset of the next record that a group reads, of the topic with this id; an empty id is not known."""

    offset: int
    topic_id: str


class OffsetClient:
    """Reads offsets of one cluster. Connects at the first call; every call raises Transient when Kafka is down."""

    def __init__(self, bootstrap: str, *, client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._clients: tuple[AIOKafkaAdminClient, AIOKafkaConsumer] | None = None
        self._connecting = asyncio.Lock()

    async def ends(self, topics: Sequence[str]) -> EndOffsets:
        """The current end offsets of these topics."""
        ranges = await self._ranges(topics)
        known = {topic: await self._id(topic) for topic in topics}  # read afterwards: no old id gets a new end
        return {tp: LogRange(start, end, known[tp.topic]) for tp, (start, end) in ranges.items()}

    async def behind(self, group: str, topic: str) -> int:
        """The number of records of a topic that the group has not committed yet; see `unread`."""
        committed = await self._committed(group)
        return await self.unread(topic, {tp.partition: at for tp, at in committed.items() if tp.topic == topic})

    async def unread(self, topic: str, positions: Mapping[int, ReadUntil]) -> int:
        """The number of offsets of a topic from these positions, by partition, to the end; 0 without a position.

        Records that were deleted before they were read count. All records of a partition count if its position belongs
        to a deleted topic of the same name, or is after the end of the log.
        """
        ranges, topic_id = await self._ranges([topic]), await self._id(topic)
        return sum(
            _unread(positions.get(tp.partition, ReadUntil(0, "")), topic_id, begin, end)
            for tp, (begin, end) in ranges.items()
        )

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        """True if the group has committed all records before these offsets; False while its coordinator moves.

        The offsets of a deleted topic of the same name do not count.
        """
        try:
            committed = await self._committed(group)
        except Transient as error:
            if isinstance(error.__cause__, GroupCoordinatorNotAvailableError | NotCoordinatorForGroupError):
                return False
            raise
        return all(
            log.end == log.start
            or (tp in committed and committed[tp].topic_id in ("", log.topic_id) and committed[tp].offset >= log.end)
            for tp, log in ends.items()
        )

    async def _committed(self, group: str) -> dict[TopicPartition, ReadUntil]:
        """The committed offsets of a group; its consumers commit the topic's id as the metadata."""
        try:
            admin, _ = await self._connected()
            committed = await admin.list_consumer_group_offsets(group)
        except (KafkaError, OSError) as error:
            raise Transient(
                f"Kafka at {self._bootstrap} does not return the offsets of {group}: {cause(error)}."
            ) from error
        known = {tp: CommittedOffset.of(at) for tp, at in committed.items() if at.offset >= 0}
        return {tp: ReadUntil(at.offset, at.topic_id) for tp, at in known.items()}

    async def _id(self, topic: str) -> str:
        try:
            _, consumer = await self._connected()
            return (await topic_ids(consumer, [topic])).get(topic, "")
        except (KafkaError, OSError) as error:
            raise Transient(f"Kafka at {self._bootstrap} does not return the id of {topic}: {cause(error)}.") from error

    async def _ranges(self, topics: Sequence[str]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset and the offset after the last record of each partition."""
        try:
            admin, consumer = await self._connected()
            described = await admin.describe_topics(list(topics))
            partitions = [TopicPartition(t["topic"], p["partition"]) for t in described for p in t["partitions"]]
            if {tp.topic for tp in partitions} != set(topics):
                raise Transient(f"Kafka at {self._bootstrap} does not have all of the topics {', '.join(topics)}.")
            ends = await consumer.end_offsets(partitions)
            begins = await consumer.beginning_offsets(partitions)
        except (KafkaError, OSError) as error:
            raise Transient(
                f"Kafka at {self._bootstrap} does not return the end offsets of its topics: {cause(error)}."
            ) from error
        return {tp: (begins[tp], end) for tp, end in ends.items()}

    async def stop(self) -> None:
        """Disconnect."""
        if self._clients is not None:
            admin, consumer = self._clients
            self._clients = None
            await close(consumer)
            await close(admin)

    async def _connected(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
        async with self._connecting:
            if self._clients is None:
                options = {"bootstrap_servers": self._bootstrap, "request_timeout_ms": _TIMEOUT_MS}
                admin = AIOKafkaAdminClient(client_id=f"{self._client_id}-offsets", **options)
                consumer = AIOKafkaConsumer(client_id=f"{self._client_id}-ends", enable_auto_commit=False, **options)
                try:
                    await admin.start()
                    await consumer.start()
                except BaseException:
                    await close(consumer)
                    await close(admin)
                    raise
                self._clients = admin, consumer
            return self._clients


def _unread(at: ReadUntil, topic_id: str, begin: int, end: int) -> int:
    is_of_this_log = at.topic_id in ("", topic_id) and at.offset <= end
    return end - (at.offset if is_of_this_log else begin)
