"""The contract of the topics, as AsyncAPI 3.0, made from the code's own types: `python -m shared.asyncapi` prints it.

Nothing in it is written twice: messages are the structs of `shared.events`, headers the envelope's, topics those of
`deploy/kafka/topics.yaml`. What it prints is committed as `docs/asyncapi.yaml`, and a test fails when the two differ.
Source: AsyncAPI 3.0.0; its Kafka binding 0.5.0; CloudEvents 1.0.2, Kafka Protocol Binding.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from shared import events, ids
from shared.envelope import GLOBAL, REQUIRED, Attributes, Event, encode, subject_of
from shared.kafka import topics
from shared.kafka.topics import TopicSpec

Json = dict[str, Any]


class Channel(NamedTuple):
    """A topic (`{region}` stands for each), what it is for, the event types on it, who writes and who reads them."""

    name: str
    topic: str
    description: str
    types: Sequence[str]
    writers: Sequence[str]
    readers: Sequence[str]


CHANNELS: Final = (
    Channel(
        "submissions",
        topics.submissions("{region}"),
        "What upstream systems posted and intake accepted for a region.",
        [events.ITEM_SUBMITTED],
        ["intake"],
        ["router", "audit", "intake"],
    ),
    Channel(
        "cases",
        topics.cases("{region}"),
        "A region's cases, with the verdict of its policies and the trace of how it came out.",
        [events.CASE_OPENED],
        ["router"],
        ["decision", "audit"],
    ),
    Channel(
        "decisions",
        topics.decisions("{region}"),
        "A region's decisions, and the life of its cases until then.",
        [
            events.DECISION_MADE,
            events.CASE_CLAIMED,
            events.CASE_RELEASED,
            events.CASE_EXPIRED,
            events.CASE_SUPERSEDED,
        ],
        ["decision"],
        ["intake", "audit", "upstream"],
    ),
    Channel(
        "control",
        topics.CONTROL,
        "What is in force everywhere; compacted by entity, without personal data.",
        [events.OPERATING_MODEL_PUBLISHED, events.POLICY_SET_PUBLISHED],
        ["router"],
        ["router", "intake", "decision", "audit"],
    ),
    Channel(
        "deadletters",
        topics.deadletters("{region}"),
        "Records that could not be handled, whole, with the reason in `dl_*` headers.",
        [],
        ["intake", "router", "decision", "audit"],
        ["audit"],
    ),
)

_TIME: Final = "2026-05-01T09:30:00.000Z"
_DUE: Final = "2026-05-02T09:30:00.000Z"
_REGION: Final = "eu"
_SUBJECT: Final = subject_of("shop", "product", "B07-1")
_ITEM_ID: Final = ids.item_id("shop", "product", "B07-1", "3")
_CASE_ID: Final = ids.case_id(_ITEM_ID, _REGION, "item")
_FIRST: Final = ids.event_id(_ITEM_ID, events.ITEM_SUBMITTED, _REGION)
_OPENED: Final = ids.event_id(_FIRST, events.CASE_OPENED)
_CLAIMED: Final = ids.event_id(_OPENED, events.CASE_CLAIMED, 7)
_ITEM: Final = events.Item(
    markets=["DE", "FR"],
    language="de",
    title="Tischlampe Messing",
    text="Gebraucht, voll funktionsfähig.",
    category="home/lighting/lamps",
    brand="Lumen",
    gtin="4006381333931",
    attributes={"color": "brass"},
    media=["https://media.example/B07-1.jpg"],
    price=events.Money(amount_minor=4990, currency="EUR"),
    seller=events.Seller(id="s-17", name="Licht & Co", country="DE", age_days=412, listings=96, rejected=1, rating=4.7),
    scores={"counterfeit": 0.12},
)


def _example(
    event_type: str, source: str, cause: str | None, data: events.Struct, *, subject: str = _SUBJECT
) -> Event[events.Struct]:
    first = _FIRST if subject == _SUBJECT else ids.event_id(subject, event_type, 1)
    event_id = first if cause is None else ids.event_id(cause, event_type)
    region = _REGION if subject == _SUBJECT else GLOBAL
    return Event(Attributes(event_id, event_type, source, _TIME, subject, region, first, cause), data)


def examples() -> dict[str, Event[events.Struct]]:
    """One event of each type, as it may be met on its topic."""
    router, decision = f"piepowder/router/{_REGION}", f"piepowder/decision/{_REGION}"
    held: Json = {
        "case_id": _CASE_ID,
        "item_id": _ITEM_ID,
        "queue": "general",
        "reviewer": "r-8",
        "team": "eu-1",
        "lease_token": 7,
    }
    about: Json = {
        "item_id": _ITEM_ID,
        "platform": "shop",
        "kind": "product",
        "subject_id": "B07-1",
        "version": 3,
        "received_at": _TIME,
    }
    region = events.Region(
        id=_REGION,
        title="European Union",
        markets=["DE", "FR"],
        queues=[events.Queue(id="general", title="General", service_level_minutes=1440)],
        default_queue="general",
    )
    policy = events.Policy(
        id="too-good",
        title="Price far below the usual",
        when=["item.price.amount_minor < 5000"],
        verdict="review",
        reasons=["counterfeit"],
        queue="general",
        priority=3,
        markets=["DE"],
    )
    found: Sequence[Event[events.Struct]] = (
        _example(
            events.ITEM_SUBMITTED,
            "piepowder/intake",
            None,
            events.ItemSubmitted(
                **about,
                content_hash=ids.content_hash(b"Tischlampe Messing"),
                client="shop",
                reference="import 81",
                regions=[_REGION],
                item=_ITEM,
            ),
        ),
        _example(
            events.CASE_OPENED,
            router,
            _FIRST,
            events.CaseOpened(
                **about,
                case_id=_CASE_ID,
                queue="general",
                priority=3,
                due_at=_DUE,
                verdict="review",
                reasons=["counterfeit"],
                trace=events.Trace(
                    policy_set="3-9f2c", operating_model="1-07ab", matched=["too-good"], held=["too-good/0"]
                ),
                item=_ITEM,
            ),
        ),
        _example(events.CASE_CLAIMED, decision, _OPENED, events.CaseClaimed(**held, lease_until=_DUE)),
        _example(events.CASE_RELEASED, decision, _CLAIMED, events.CaseReleased(**held, reason="not my language")),
        _example(events.CASE_EXPIRED, decision, _CLAIMED, events.CaseExpired(**held)),
        _example(
            events.CASE_SUPERSEDED,
            decision,
            _OPENED,
            events.CaseSuperseded(
                case_id=_CASE_ID, item_id=_ITEM_ID, superseded_by=ids.item_id("shop", "product", "B07-1", "4")
            ),
        ),
        _example(
            events.DECISION_MADE,
            decision,
            _CLAIMED,
            events.DecisionMade(
                **about,
                decision_id=ids.decision_id(_CASE_ID, 1),
                case_id=_CASE_ID,
                queue="general",
                n=1,
                action="reject",
                reasons=["counterfeit"],
                policy_set="3-9f2c",
                automated=False,
                reviewer="r-8",
                team="eu-1",
                lease_token=7,
                note="The brand does not make this lamp.",
                due_at=_DUE,
            ),
        ),
        _example(
            events.OPERATING_MODEL_PUBLISHED,
            "piepowder/router",
            None,
            events.OperatingModelPublished(id="1-07ab", number=1, published_by="lead", regions=[region]),
            subject="operating-model",
        ),
        _example(
            events.POLICY_SET_PUBLISHED,
            "piepowder/router",
            None,
            events.PolicySetPublished(
                id="3-9f2c",
                number=3,
                published_by="lead",
                terms={"weapons": ["switchblade"]},
                policies=[policy],
                default_verdict="approve",
            ),
            subject="policy-set",
        ),
    )
    return {event.attributes.type: event for event in found}


def schemas() -> dict[str, Json]:
    """The JSON Schema of every struct that travels, by its name; references are as in an AsyncAPI document."""
    return msgspec.json.schema_components(list(events.TYPES.values()), ref_template="#/components/schemas/{name}")[1]


def document() -> Json:
    """The whole contract."""
    specs = {spec.name: spec for spec in topics.load()}
    shown = examples()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Piepowder events",
            "version": "1.0.0",
            "description": "Event-driven moderation for a marketplace that trades in many regions. Events are"
            " CloudEvents 1.0 in Kafka's binary mode, at least once, in order per subject: a consumer leaves out a"
            " `ce_id` it has seen. Inside a `.v1`, fields are added with a default; none is renamed, retyped or"
            " removed. A reader takes any string where it knows some, and lets unknown fields pass.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel, specs[channel.topic]) for channel in CHANNELS},
        "operations": {
            f"{who}.{action}.{channel.name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel.name}"},
                "summary": f"{who} {'writes' if action == 'send' else 'reads'} {channel.topic}",
            }
            for channel in CHANNELS
            for action, parties in (("send", channel.writers), ("receive", channel.readers))
            for who in parties
        },
        "components": {
            "messages": {name: _message(name, shown[name]) for name in events.TYPES} | {"deadletter": _dead_letter()},
            "schemas": {"Headers": _headers(), "DeadLetterHeaders": _dead_letter_headers(), **schemas()},
        },
    }


def render() -> str:
    """The document as YAML, as it is committed."""
    text: str = yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Generated by `python -m shared.asyncapi > docs/asyncapi.yaml`.\n{text}"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - what is said twice is written twice
        return True


def _channel(channel: Channel, spec: TopicSpec) -> Json:
    described: Json = {
        "address": channel.topic,
        "title": channel.name,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.types or ["deadletter"]},
        "bindings": {
            "kafka": {
                "topic": channel.topic,
                "partitions": spec.partitions,
                "replicas": spec.replication,
                "topicConfiguration": {name: _config(name, value) for name, value in spec.config.items()},
                "bindingVersion": "0.5.0",
            }
        },
    }
    if "{region}" in channel.topic:
        region = {"description": "The operating region that owns the data", "examples": ["eu", "us"]}
        described["parameters"] = {"region": region}
    return described


def _config(name: str, value: str) -> object:
    if name == "cleanup.policy":
        return value.split(",")
    return int(value) if value.isdigit() else value


def _message(name: str, example: Event[events.Struct]) -> Json:
    kind = events.TYPES[name]
    encoded = encode(example.attributes, example.data)
    schema = f"urn:piepowder:schema:{name}"
    return {
        "name": name,
        "title": kind.__name__,
        "summary": (kind.__doc__ or "").partition("\n")[0],
        "contentType": "application/json",
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "headers": {
            "allOf": [
                {"$ref": "#/components/schemas/Headers"},
                {"properties": {"ce_type": {"const": name}, "ce_dataschema": {"const": schema}}},
            ]
        },
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "The subject"}, "bindingVersion": "0.5.0"}},
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
        "description": "The CloudEvents attributes, each UTF-8 text.",
        "required": ["ce_specversion", *REQUIRED],
        "properties": {
            "content-type": {"const": "application/json"},
            "ce_specversion": {"const": "1.0"},
            "ce_id": {**uuid, "description": "The same again is the same event."},
            "ce_type": text,
            "ce_source": {**text, "description": "The service that wrote it."},
            "ce_time": {"type": "string", "format": "date-time", "description": "UTC, with milliseconds."},
            "ce_subject": {**text, "description": "`<platform>:<kind>:<the platform's own id>`; the record's key."},
            "ce_dataschema": text,
            "ce_region": {**text, "description": f"The region that owns it, `{GLOBAL}` for none."},
            "ce_correlationid": {**uuid, "description": "The item's first event."},
            "ce_causationid": {**uuid, "description": "The event that brought this one about."},
            "traceparent": {"type": "string", "description": "W3C Trace Context."},
        },
    }


def _dead_letter() -> Json:
    return {
        "name": "deadletter",
        "title": "Dead letter",
        "summary": "A record that could not be handled: its key, value and headers, and why it was set aside.",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
        "payload": {"description": "The original value, whatever it is."},
    }


def _dead_letter_headers() -> Json:
    described = {
        "dl_reason": "Why, as a sentence.",
        "dl_group": "The consumer group that set it aside.",
        "dl_topic": "Where it stood.",
        "dl_partition": "Where it stood.",
        "dl_offset": "Where it stood.",
        "dl_time": "When it was set aside.",
    }
    return {
        "type": "object",
        "description": "The original headers, and these.",
        "required": list(described),
        "properties": {name: {"type": "string", "description": text} for name, text in described.items()},
    }


if __name__ == "__main__":
    sys.stdout.write(render())
