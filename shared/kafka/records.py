"""Record types of the consumer loop."""

from typing import Generic, NamedTuple, TypeAlias, TypeVar

from aiokafka import ConsumerRecord, TopicPartition

M = TypeVar("M")

RawRecord: TypeAlias = ConsumerRecord[bytes | None, bytes | None]
RecordsByPartition: TypeAlias = dict[TopicPartition, list[RawRecord]]


class Received(NamedTuple, Generic[M]):
    """A record and its decoded message."""

    record: RawRecord
    message: M
