"""The contract of the topics: the committed document is up to date, valid AsyncAPI, and compatible with old events."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from shared.contracts import envelope, events, ids
from shared.kafka import topic_admin
from tests.conftest import project_root
from tools import asyncapi, compatibility

Json = dict[str, Any]
COMMITTED = project_root() / "docs" / "asyncapi.yaml"
REFERENCE: Json = {
    "type": "object",
    "properties": {"$ref": {"type": "string", "pattern": "^#/"}},
    "required": ["$ref"],
    "additionalProperties": False,
}
ESSENTIALS: Json = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations", "components"],
    "additionalProperties": False,
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "id": {"type": "string"},
        "defaultContentType": {"type": "string"},
        "servers": {"type": "object"},
        "info": {
            "type": "object",
            "required": ["title", "version"],
            "properties": {"license": {"type": "object", "required": ["name"]}},
        },
        "channels": {
            "type": "object",
            "propertyNames": {"pattern": r"^[^{}\s]+$"},
            "additionalProperties": {
                "type": "object",
                "required": ["address", "messages"],
                "additionalProperties": False,
                "properties": {
                    "address": {"type": ["string", "null"]},
                    "title": {"type": "string"},
                    "description": {"type": "string"},
                    "messages": {"type": "object", "minProperties": 1, "additionalProperties": REFERENCE},
                    "parameters": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "description": {"type": "string"},
                                "default": {"type": "string"},
                                "enum": {"type": "array", "items": {"type": "string"}},
                                "examples": {"type": "array", "items": {"type": "string"}},
                            },
                        },
                    },
                    "bindings": {
                        "type": "object",
                        "properties": {
                            "kafka": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {
                                    "topic": {"type": "string"},
                                    "partitions": {"type": "integer", "minimum": 1},
                                    "replicas": {"type": "integer", "minimum": 1},
                                    "topicConfiguration": {
                                        "type": "object",
                                        "properties": {
                                            "cleanup.policy": {"items": {"enum": ["compact", "delete"]}},
                                            "retention.ms": {"type": "integer"},
                                            "max.message.bytes": {"type": "integer"},
                                        },
                                    },
                                    "bindingVersion": {"const": "0.5.0"},
                                },
                            }
                        },
                    },
                },
            },
        },
        "operations": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["action", "channel"],
                "additionalProperties": False,
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": REFERENCE,
                    "summary": {"type": "string"},
                },
            },
        },
        "components": {
            "type": "object",
            "required": ["messages", "schemas"],
            "propertyNames": {"enum": ["messages", "schemas"]},
            "additionalProperties": {"propertyNames": {"pattern": r"^[\w\d.\-_]+$"}},
            "properties": {
                "messages": {
                    "additionalProperties": {
                        "type": "object",
                        "required": ["name", "headers", "payload"],
                        "properties": {
                            "examples": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {"headers": {"type": "object"}, "payload": {}, "name": {}},
                                },
                            },
                            "correlationId": {"required": ["location"]},
                        },
                    }
                },
                "schemas": {"additionalProperties": {"$ref": "http://json-schema.org/draft-07/schema#"}},
            },
        },
    },
}


@pytest.fixture
def document() -> Json:
    loaded: Json = yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))
    return loaded


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


def test_the_committed_document_is_up_to_date() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == asyncapi.render(), (
        "run: .venv/bin/python -m tools.asyncapi > docs/asyncapi.yaml"
    )


def test_the_document_is_valid_asyncapi_and_all_its_references_resolve(document: Json) -> None:
    jsonschema.Draft7Validator(ESSENTIALS).validate(document)
    for reference in set(references(document)):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for name, channel in document["channels"].items():
        parameters = {part.partition("}")[0] for part in channel["address"].split("{")[1:]}
        assert parameters == channel.get("parameters", {}).keys(), name


def test_every_event_type_is_on_exactly_one_topic_and_every_topic_is_described(document: Json) -> None:
    names = [name for channel in document["channels"].values() for name in channel["messages"]]
    assert sorted(names) == sorted([*events.TYPES, "deadletter", "parkedkey", "stoppedpartition"])
    assert sorted(channel["address"] for channel in document["channels"].values()) == sorted(
        spec.name for spec in topic_admin.load()
    )


@pytest.mark.parametrize("name", events.TYPES)
def test_the_examples_match_their_schemas_and_decode_as_events(document: Json, name: str) -> None:
    message = document["components"]["messages"][name]
    for example in message["examples"]:
        for part in ("headers", "payload"):
            schema = {**message[part], "components": document["components"]}
            jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate(example[part])
        headers = [(header, value.encode()) for header, value in example["headers"].items()]
        key = example["headers"]["ce_subject"].encode()
        value = json.dumps(example["payload"]).encode()
        assert envelope.decode(headers, key, value) == asyncapi.examples()[name]


@pytest.fixture
def before() -> Json:
    loaded: Json = json.loads(compatibility.SNAPSHOT.read_text(encoding="utf-8"))
    return loaded


def test_the_events_are_compatible_with_the_snapshot_and_the_snapshot_is_complete(before: Json) -> None:
    now = compatibility.snapshot()
    assert compatibility.breaks(before, now) == []
    assert before == now, "run: .venv/bin/python -m tools.compatibility"


def rename(now: Json) -> None:
    fields = now["structs"]["Item"]["properties"]
    fields["headline"] = fields.pop("title")


def retype(now: Json) -> None:
    now["structs"]["Money"]["properties"]["amount_minor"] = {"type": "number"}


def remove(now: Json) -> None:
    del now["structs"]["DecisionMade"]["properties"]["action"]
    now["structs"]["DecisionMade"]["required"].remove("action")


def add_without_default(now: Json) -> None:
    now["structs"]["Seller"]["properties"]["vat"] = {"type": "string"}
    now["structs"]["Seller"]["required"].append("vat")


def give_a_default(now: Json) -> None:
    now["structs"]["CaseOpened"]["required"].remove("verdict")


def lose_a_default(now: Json) -> None:
    now["structs"]["CaseOpened"]["required"].append("reasons")


def change_a_default(now: Json) -> None:
    now["structs"]["Policy"]["properties"]["priority"]["default"] = 1


def retype_within(now: Json) -> None:
    now["structs"]["Item"]["properties"]["markets"]["items"] = {"type": "integer"}


def close_an_enumeration(now: Json) -> None:
    now["structs"]["CaseOpened"]["properties"]["verdict"] = {"enum": ["approve", "reject"]}


def remove_an_event(now: Json) -> None:
    del now["events"][events.CASE_EXPIRED]


def rename_a_struct(now: Json) -> None:
    now["structs"]["Fact"] = now["structs"].pop("Trace")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (rename, "Item.title was removed or renamed"),
        (retype, 'Money.amount_minor was retyped: it was {"type": "integer"} and is now {"type": "number"}'),
        (remove, "DecisionMade.action was removed or renamed"),
        (add_without_default, "Seller.vat was added without a default"),
        (give_a_default, "CaseOpened.verdict was given a default"),
        (lose_a_default, "CaseOpened.reasons lost its default"),
        (change_a_default, "Policy.priority had the default 5 and now has 1"),
        (retype_within, "Item.markets was retyped"),
        (close_an_enumeration, "CaseOpened.verdict was retyped"),
        (remove_an_event, "event piepowder.case.expired.v1 was removed"),
        (rename_a_struct, "Trace was removed or renamed"),
    ],
)
def test_an_incompatible_change_is_reported_with_its_field(
    before: Json, change: Callable[[Json], None], sentence: str
) -> None:
    now = copy.deepcopy(before)
    change(now)
    [found, *others] = compatibility.breaks(before, now)
    assert found.startswith(sentence)
    assert not others


def test_a_field_with_a_default_a_new_event_and_new_descriptions_are_compatible(before: Json) -> None:
    now = copy.deepcopy(before)
    now["structs"]["Item"]["properties"]["condition"] = {"type": "string", "default": ""}
    now["structs"]["Item"]["properties"]["title"]["description"] = "What the listing is called."
    now["structs"]["Item"]["description"] = "A new description."
    now["structs"]["ItemAdmired"] = {"type": "object", "properties": {}, "required": []}
    now["events"]["piepowder.item.admired.v1"] = "ItemAdmired"
    assert compatibility.breaks(before, now) == []


def test_the_snapshot_is_not_overwritten_by_an_incompatible_change(
    before: Json, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = tmp_path_factory.mktemp("contracts") / "v1.json"
    record.write_text(json.dumps(before))
    monkeypatch.setattr(compatibility, "SNAPSHOT", record)
    broken = copy.deepcopy(before)
    retype(broken)
    monkeypatch.setattr(compatibility, "snapshot", lambda: broken)
    with pytest.raises(SystemExit, match=r"Money\.amount_minor was retyped"):
        compatibility.main()
    assert json.loads(record.read_text()) == before


def test_the_examples_have_the_ids_that_the_services_derive() -> None:
    found: dict[str, Any] = dict(asyncapi.examples())
    submitted, opened, made = (
        found[name] for name in (events.ITEM_SUBMITTED, events.CASE_OPENED, events.DECISION_MADE)
    )
    item_id = ids.item_id("shop", "product", "B07-1", "3")
    case_id = ids.case_id(item_id, "eu", "item")
    assert submitted.data.item_id == item_id
    assert submitted.attributes.id == ids.event_id(item_id, events.ITEM_SUBMITTED, "eu")
    assert (opened.data.case_id, opened.attributes.causation_id) == (case_id, submitted.attributes.id)
    trace = opened.data.trace
    rules = f"{trace.policy_set}/{trace.operating_model}"
    assert opened.attributes.id == ids.event_id(submitted.attributes.id, events.CASE_OPENED, rules)
    assert submitted.data.markets_by_region == {"eu": submitted.data.item.markets}
    assert made.data.decision_id == ids.decision_id(case_id, 1)
    notice, appeal = found[events.NOTICE_SUBMITTED].data, found[events.APPEAL_SUBMITTED].data
    assert notice.notice_id == ids.notice_id("shop", "shop:product:B07-1", "report 12")
    assert appeal.appeal_id == ids.appeal_id("shop", "eu", "shop:product:B07-1", "complaint 3")
