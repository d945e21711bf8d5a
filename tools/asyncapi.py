"""Generates the AsyncAPI 3.0 document of the topics: `python -m tools.asyncapi > docs/asyncapi.yaml`.

Its parts come from the code: messages from `shared.contracts.events`, headers from the envelope, topics from
`deploy/kafka/topics.yaml`, writers and readers from `deploy/services.py`, examples from `tools/examples.yaml`. A test
compares the committed file with the output.
Source: AsyncAPI 3.0.0; its Kafka binding 0.5.0; CloudEvents 1.0.2, Kafka Protocol Binding.
"""

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from deploy.services import EVERY_SERVICE_READS, EVERY_SERVICE_WRITES, SERVICES
from shared.contracts import events, topics
from shared.contracts.envelope import GLOBAL, REQUIRED, Attributes, Event, encode
from shared.kafka import topic_admin
from shared.kafka.parking import Parked
from shared.kafka.stop_store import DeadLetterRange, Stop
from shared.kafka.topic_admin import TopicSpec

Json = dict[str, Any]

_EXAMPLES: Final = Path(__file__).with_name("examples.yaml")
_EXAMPLE_DEFAULTS: Final = {"time": "2026-05-01T09:30:00.000Z", "subject": "shop:product:B07-1", "region": "eu"}
_BINDING: Final = {"bindingVersion": "0.5.0"}


class Channel(NamedTuple):
    """A topic (`{region}` stands for each region).

    Its messages are the event types of the module with the same name; or `message`, which is not an event. The list of
    services names its writers and readers; `other_readers` are not services of this project.
    """

    name: str
    topic: str
    description: str
    own_messages: tuple[str, ...] = ()
    other_readers: tuple[str, ...] = ()

    @property
    def writers(self) -> list[str]:
        every = self.name in EVERY_SERVICE_WRITES
        return [s.name for s in SERVICES if every or self.name in s.writes or (self.name == "parked" and s.reads)]

    @property
    def readers(self) -> list[str]:
        every = self.name in EVERY_SERVICE_READS
        own = self.name in ("parked", "deadletters")  # every consumer reads what its group wrote
        found = [s.name for s in SERVICES if every or self.name in s.reads or (own and s.reads)]
        return [*found, *self.other_readers]

    @property
    def messages(self) -> list[str]:
        module = f"{events.__name__}.{self.name}"
        return [*self.own_messages] or [n for n, t in events.TYPES.items() if t.__module__ == module]


CHANNELS: Final = (
    Channel(
        "submissions",
        topics.submissions("{region}"),
        "Items, withdrawals, notices and appeals that intake accepted for a region.",
    ),
    Channel(
        "cases",
        topics.cases("{region}"),
        "A region's cases, with the verdict of its policies and the explanation of the verdict; and their withdrawals.",
    ),
    Channel(
        "decisions",
        topics.decisions("{region}"),
        "A region's decisions, and the lifecycle of its cases.",
        other_readers=("upstream",),
    ),
    Channel(
        "requests",
        topics.requests("{region}"),
        "The lifecycle of the business requests that concern a region, in order per request.",
    ),
    Channel(
        "control",
        topics.CONTROL,
        "The configuration in force in all regions; compacted by entity, without personal data.",
    ),
    Channel(
        "access",
        topics.access("{region}"),
        "Refused requests and used API keys, from the services that a region's clients call.",
    ),
    Channel(
        "deadletters",
        topics.deadletters("{region}"),
        "Records that could not be handled, whole, with the reason in `dl_*` headers; and receipts of replayed records."
        " A receipt closes the dead letter of the same group and place.",
        ("deadletter",),
    ),
    Channel(
        "parked",
        topics.parked("{region}"),
        "Keys that each consumer group has parked behind a record that it could not handle, and partitions that it"
        " stopped reading; compacted.",
        ("parkedkey", "stoppedpartition"),
    ),
)


def examples() -> dict[str, Event[events.Struct]]:
    """One event of each type."""
    found: dict[str, Event[events.Struct]] = {}
    for name, example in msgspec.yaml.decode(_EXAMPLES.read_bytes()).items():
        attributes = {"type": name, **_EXAMPLE_DEFAULTS, "correlation_id": example["attributes"]["id"]}
        attributes |= example["attributes"]
        data = msgspec.convert(example["data"], events.TYPES[name])
        found[name] = Event(msgspec.convert(attributes, Attributes), data)
    return found


def schemas() -> dict[str, Json]:
    """The JSON Schemas of all event structs by name, with references as in an AsyncAPI document."""
    return msgspec.json.schema_components(list(events.TYPES.values()), ref_template="#/components/schemas/{name}")[1]


def document() -> Json:
    """The AsyncAPI document."""
    specs = {spec.name: spec for spec in topic_admin.load()}
    operations = [
        (service, action, verb, channel)
        for channel in CHANNELS
        for action, verb, services in (("send", "writes", channel.writers), ("receive", "reads", channel.readers))
        for service in services
    ]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Piepowder events",
            "version": "1.0.0",
            "description": "Event-driven moderation for a marketplace that trades in many regions. Events are"
            " CloudEvents 1.0 in Kafka's binary mode. Delivery is at least once, in order per subject: a consumer must"
            " ignore a `ce_id` that it has seen. Within a `.v1`, fields are added with a default; no field is renamed,"
            " retyped or removed. A reader must accept unknown values of an enumeration, and ignore unknown fields.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel, specs[channel.topic]) for channel in CHANNELS},
        "operations": {
            f"{service}.{action}.{channel.name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel.name}"},
                "summary": f"{service} {verb} {channel.topic}",
            }
            for service, action, verb, channel in operations
        },
        "components": {
            "messages": {name: _message(name, example) for name, example in examples().items()}
            | {"deadletter": _dead_letter(), "parkedkey": _parked_key(), "stoppedpartition": _stopped_partition()},
            "schemas": {"Headers": _headers(), "DeadLetterHeaders": _dead_letter_headers(), **schemas()},
        },
    }


def render() -> str:
    """The document as YAML, as it is committed."""
    text: str = yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Generated by `python -m tools.asyncapi > docs/asyncapi.yaml`.\n{text}"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - never writes aliases
        return True


def _channel(channel: Channel, spec: TopicSpec) -> Json:
    described: Json = {
        "address": channel.topic,
        "title": channel.name,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        "bindings": {
            "kafka": {
                "topic": channel.topic,
                "partitions": spec.partitions,
                "replicas": spec.replication,
                "topicConfiguration": {name: _topic_option(name, value) for name, value in spec.config.items()},
                **_BINDING,
            }
        },
    }
    if "{region}" in channel.topic:
        region = {"description": "The operating region that owns the data", "examples": ["eu", "us"]}
        described["parameters"] = {"region": region}
    return described


def _topic_option(name: str, value: str) -> object:
    if name == "cleanup.policy":
        return value.split(",")
    return int(value) if value.isdigit() else value


def _message(name: str, example: Event[events.Struct]) -> Json:
    kind = events.TYPES[name]
    encoded = encode(example.attributes, example.data)
    constants = {"ce_type": {"const": name}, "ce_dataschema": {"const": f"urn:piepowder:schema:{name}"}}
    return {
        "name": name,
        "title": kind.__name__,
        "summary": " ".join((kind.__doc__ or "").partition("\n\n")[0].split()),
        "contentType": "application/json",
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "headers": {"allOf": [{"$ref": "#/components/schemas/Headers"}, {"properties": constants}]},
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "The subject"}, **_BINDING}},
        "examples": [
            {
                "headers": {header: value.decode() for header, value in encoded.headers},
                "payload": msgspec.json.decode(encoded.value),
            }
        ],
    }


def _headers() -> Json:
    text: Json = {"type": "string", "minLength": 1, "maxLength": 1024}
    uuid: Json = {"type": "string", "format": "uuid"}
    return {
        "type": "object",
        "description": "The CloudEvents attributes, each as UTF-8 text.",
        "required": ["ce_specversion", *REQUIRED],
        "properties": {
            "content-type": {"const": "application/json"},
            "ce_specversion": {"const": "1.0"},
            "ce_id": {**uuid, "description": "Two events with the same id are the same event."},
            "ce_type": text,
            "ce_source": {**text, "description": "The service that wrote the event."},
            "ce_time": {"type": "string", "format": "date-time", "description": "UTC, with milliseconds."},
            "ce_subject": {**text, "description": "`<platform>:<kind>:<the platform's id>`; equals the record's key."},
            "ce_dataschema": text,
            "ce_region": {**text, "description": f"The region that owns the event; `{GLOBAL}` for no region."},
            "ce_correlationid": {**uuid, "description": "The id of the first event of the item, notice or request."},
            "ce_causationid": {**uuid, "description": "The id of the event that caused this event."},
            "traceparent": {"type": "string", "description": "W3C Trace Context."},
        },
    }


def _dead_letter() -> Json:
    return {
        "name": "deadletter",
        "title": "Dead letter",
        "summary": "A record that could not be handled: its key, value and headers, and the reason.",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
        "payload": {"description": "The original value, in any format."},
    }


def _dead_letter_headers() -> Json:
    required = {
        "dl_reason": "The reason, as a sentence.",
        "dl_group": "The consumer group that dead-lettered the record.",
        "dl_topic": "The record's topic.",
        "dl_partition": "The record's partition.",
        "dl_offset": "The record's original offset.",
        "dl_time": "The time when the record was dead-lettered.",
    }
    optional = {
        "dl_parked": "The offset from which the record's key is parked; missing if it is dead-lettered alone.",
        "dl_met": "The offset of the replayed copy, for a record that was replayed and dead-lettered again.",
        "dl_returned": "Marks a receipt, which has no value: the offset of the replayed copy.",
        "dl_unread": "The Kafka client cannot read the record: only its own topic has its content.",
    }
    properties = {name: {"type": "string", "description": text} for name, text in (required | optional).items()}
    return {
        "type": "object",
        "description": "The original headers, and these. An original header that begins with `dl_` has one more `dl_`.",
        "required": list(required),
        "properties": properties,
    }


def _parked_key() -> Json:
    key = {"type": "string", "description": "`<group>/<topic>/<partition>/<the records' key>`"}
    return {
        "name": "parkedkey",
        "title": "Parked key",
        "summary": "The dead-lettered records of a key in a partition; without a value, the key is no longer parked.",
        "contentType": "application/json",
        "headers": {"type": "object", "description": "None: the record is stored state, not an event."},
        "payload": msgspec.json.schema_components([Parked], ref_template="{name}")[1]["Parked"],
        "bindings": {"kafka": {"key": key, **_BINDING}},
    }


def _stopped_partition() -> Json:
    key = {"type": "string", "description": "`stopped/<group>/<topic>/<partition>`"}
    states = msgspec.json.schema_components([Stop, DeadLetterRange], ref_template="{name}")[1]
    return {
        "name": "stoppedpartition",
        "title": "Stopped partition",
        "summary": "A partition that a group does not read, or a range of it that the group dead-letters; without a"
        " value, the group reads the partition.",
        "contentType": "application/json",
        "headers": {"type": "object", "description": "None: the record is stored state, not an event."},
        "payload": {"oneOf": [states["Stop"], states["DeadLetterRange"]]},
        "bindings": {"kafka": {"key": key, **_BINDING}},
    }


if __name__ == "__main__":
    sys.stdout.write(render())
