"""Creates and checks the topics of one declarative file, `deploy/kafka/topics.yaml`.

No topic is deleted, and no partition count is changed, because that would break the order per subject. Differences are
reported instead.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.kafka.closing import close
from shared.runtime.errors import Transient

_LEADER_CHECKS: Final = 100
_LEADER_CHECK_SECONDS: Final = 0.1
FILE: Final = Path(__file__).parents[2] / "deploy" / "kafka" / "topics.yaml"


class TopicSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the file. `{region}` in the name stands for each region; `config` has Kafka's topic options."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topics: list[TopicSpec]


class TopicsReport(msgspec.Struct, frozen=True):
    """Result of `ensure`: names of created, existing and still missing topics, and a sentence for each difference."""

    created: list[str]
    present: list[str]
    differences: list[str]
    missing: list[str]


def load(path: Path = FILE) -> list[TopicSpec]:
    """The topics of the file; raises msgspec.ValidationError, with the path of the invalid value."""
    return msgspec.yaml.decode(path.read_bytes(), type=_File).topics


def expand(specs: Sequence[TopicSpec], regions: Sequence[str]) -> list[TopicSpec]:
    """The topics of these regions, and the global ones."""
    expanded: dict[str, TopicSpec] = {}
    for spec in specs:
        for region in regions if "{region}" in spec.name else [""]:
            topic = msgspec.structs.replace(spec, name=spec.name.replace("{region}", region))
            expanded[topic.name] = topic
    return list(expanded.values())


async def ensure(bootstrap: str, wanted: Sequence[TopicSpec], *, create: bool = True) -> TopicsReport:
    """Create the missing topics (unless `create` is False), and compare the existing ones with the file.

    On a cluster with fewer brokers than a topic's replication factor, the topic gets one replica per broker, and the
    report includes that as a difference. Raises Transient when the cluster does not respond.
    """
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=20_000)
    try:
        await client.start()
        return await _ensure(client, wanted, create=create)
    except (KafkaError, OSError) as error:
        raise Transient(f"Kafka at {bootstrap} does not respond: {error}.") from error
    finally:
        await close(client)


async def _ensure(client: AIOKafkaAdminClient, wanted: Sequence[TopicSpec], *, create: bool) -> TopicsReport:
    brokers = len((await client.describe_cluster())["brokers"])
    existing = set(await client.list_topics())
    missing = [spec for spec in wanted if spec.name not in existing]
    present = [spec for spec in wanted if spec.name in existing]
    differences: list[str] = []
    created: list[str] = []
    if missing and not create:
        differences += [f"{spec.name} is missing" for spec in missing]
    elif missing:
        if any(spec.replication > brokers for spec in missing):
            differences.append(f"replication is {brokers}: the cluster has {brokers} broker(s)")
        new = [
            NewTopic(spec.name, spec.partitions, min(spec.replication, brokers), topic_configs=_config(spec, brokers))
            for spec in missing
        ]
        response = await client.create_topics(new)
        for name, code, *rest in response.topic_errors:
            error = for_code(code)
            if code == 0:
                created.append(name)
            elif error is TopicAlreadyExistsError:  # another process was first
                present += [spec for spec in missing if spec.name == name]
            else:
                differences.append(f"{name} could not be created: {error.__name__} {rest[0] if rest else ''}".rstrip())
    await _await_leaders(client, [*created, *(spec.name for spec in present)])
    differences += await _differences(client, present)
    found = [spec.name for spec in present]
    still_missing = [spec.name for spec in wanted if spec.name not in {*created, *found}]
    return TopicsReport(created, found, differences, still_missing)


async def _await_leaders(client: AIOKafkaAdminClient, names: Sequence[str]) -> None:
    """Wait until every partition has a leader, which happens a moment after the topic's creation."""
    for _ in range(_LEADER_CHECKS):
        described = await client.describe_topics(list(names)) if names else []
        if all(t["partitions"] and all(p["leader"] >= 0 for p in t["partitions"]) for t in described):
            return
        await asyncio.sleep(_LEADER_CHECK_SECONDS)
    raise Transient("Kafka has not elected a leader for every partition: check the brokers.")


def _config(spec: TopicSpec, brokers: int) -> dict[str, str]:
    config = dict(spec.config)
    if "min.insync.replicas" in config:
        config["min.insync.replicas"] = str(min(int(config["min.insync.replicas"]), max(1, brokers - 1)))
    return config


async def _differences(client: AIOKafkaAdminClient, present: Sequence[TopicSpec]) -> list[str]:
    if not present:
        return []
    found: list[str] = []
    names = [spec.name for spec in present]
    partitions = {topic["topic"]: len(topic["partitions"]) for topic in await client.describe_topics(names)}
    configs = await _configs(client, names)
    for spec in present:
        if partitions[spec.name] != spec.partitions:
            found.append(f"{spec.name} has {partitions[spec.name]} partitions, but the file has {spec.partitions}")
        for name, value in spec.config.items():
            actual = configs[spec.name].get(name)
            if actual != value and name != "min.insync.replicas":
                found.append(f"{spec.name} has {name}={actual}, but the file has {value}")
    return found


async def _configs(client: AIOKafkaAdminClient, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    responses = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for response in responses
        for resource in response.resources
    }
