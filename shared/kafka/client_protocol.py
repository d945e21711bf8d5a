"""Topic ids and committed offsets with their metadata: parts of Kafka's protocol without a public API in aiokafka."""

import asyncio
import base64
from collections.abc import Collection
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
    UnsignedVarInt32,
)
from aiokafka.structs import OffsetAndMetadata

_UUID_BYTES: Final = 16
_BROKER_SECONDS: Final = 3.0


class _Uuid:
    @classmethod
    def decode(cls, data: Any) -> bytes:
        return bytes(data.read(_UUID_BYTES))

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value


class _Ids(CompactArray):  # type: ignore[misc]  # aiokafka has no types for it
    def decode(self, data: Any) -> list[Any]:
        return [self.array_of.decode(data) for _ in range(UnsignedVarInt32.decode(data) - 1)]


class _MetadataResponse(Response):  # type: ignore[misc]  # the same
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            _Ids(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            _Ids(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    _Ids(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", _Ids(Int32)),
                        ("isr", _Ids(Int32)),
                        ("offline_replicas", _Ids(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc]  # the same
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc]  # the same
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> _MetadataRequestStruct:
        topics: list[tuple[bytes, str, dict[int, bytes]]] = [(bytes(_UUID_BYTES), topic, {}) for topic in self._topics]
        return request_struct_class(topics, False, False, False, {})


async def topic_ids(consumer: AIOKafkaConsumer, topics: Collection[str]) -> dict[str, str]:
    """The ids of the topics that exist, as Kafka's own tools show them; raises KafkaError.

    A topic that was deleted and created again has the same name and another id.
    """
    response = await _ask_any_broker(consumer._client, _MetadataRequest(sorted(topics)))
    found = {}
    for code, topic, topic_id, *_ in response.topics:
        error = for_code(code)
        if error is UnknownTopicOrPartitionError:
            continue
        if topic_id == bytes(_UUID_BYTES):
            raise error(topic)
        found[topic] = base64.urlsafe_b64encode(topic_id).decode().rstrip("=")
    return found


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic, in order; raises KafkaError. The client itself knows those of assigned topics only."""
    response = await _ask_any_broker(consumer._client, _MetadataRequest([topic]))
    [(code, _, _, _, partitions, *_)] = response.topics
    if not partitions:
        raise for_code(code)(topic)
    return [TopicPartition(topic, number) for number in sorted(partition for _, partition, *_ in partitions)]


def refresh_metadata(consumer: AIOKafkaConsumer) -> None:
    """Let the client read the metadata of its topics now; a topic that it did not know then joins the assignment."""
    consumer._client.force_metadata_update()


async def _ask_any_broker(client: Any, request: _MetadataRequest) -> Any:
    failure: KafkaError = NodeNotReadyError("no broker is known")
    for broker in client.cluster.brokers():
        try:
            async with asyncio.timeout(_BROKER_SECONDS):  # a broker that hangs must not hide the others
                return await client.send(broker.nodeId, request)
        except KafkaError as error:
            failure = error
        except TimeoutError:
            failure = RequestTimedOutError(f"broker {broker.nodeId}")
    raise failure


async def committed_offsets(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """The committed offsets of the consumer's group, of the partitions that have one; raises KafkaError."""
    coordinator = consumer._coordinator
    found: dict[TopicPartition, OffsetAndMetadata] = await coordinator.fetch_committed_offsets(list(partitions))
    return found
