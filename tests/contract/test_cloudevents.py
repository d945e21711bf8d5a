"""The official CloudEvents SDK reads every event of Piepowder without change."""

import json

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event

from shared.contracts import events
from shared.contracts.envelope import encode
from shared.runtime.clock import from_text
from tools import asyncapi


@pytest.mark.parametrize("name", events.TYPES)
def test_the_sdk_reads_all_attributes_and_the_data_of_an_event(name: str) -> None:
    event = asyncapi.examples()[name]
    ours = event.attributes
    encoded = encode(ours, event.data)
    assert len(dict(encoded.headers)) == len(encoded.headers)
    read = from_binary_event(KafkaMessage(dict(encoded.headers), encoded.key, encoded.value))
    assert (read.get_specversion(), read.get_datacontenttype()) == ("1.0", "application/json")
    assert (read.get_id(), read.get_type(), read.get_source(), read.get_subject()) == (
        ours.id,
        ours.type,
        ours.source,
        ours.subject,
    )
    assert read.get_time() == from_text(ours.time)
    assert read.get_dataschema() == f"urn:piepowder:schema:{name}"
    extensions = {
        "region": ours.region,
        "correlationid": ours.correlation_id,
        "causationid": ours.causation_id,
        "partitionkey": ours.subject,
    }
    assert {extension: read.get_extension(extension) for extension in extensions} == extensions
    assert read.get_data() == json.loads(encoded.value)
