"""A record that is not a valid event is poison, and the reason names the fault."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.contracts import events
from shared.contracts.envelope import Attributes, Encoded, decode, decode_any, decode_attributes, encode
from shared.runtime.errors import Poison, TooNew
from tools import asyncapi

EXAMPLE = asyncapi.examples()[events.CASE_OPENED]
READERS: list[Callable[..., Any]] = [decode, decode_any]


def good() -> Encoded:
    return encode(EXAMPLE.attributes, EXAMPLE.data)


def headers_with(**changes: bytes | None) -> list[tuple[str, Any]]:
    return [(name, changes.get(name, value)) for name, value in good().headers]


def headers_without(name: str) -> list[tuple[str, bytes]]:
    return [header for header in good().headers if header[0] != name]


@pytest.mark.parametrize("name", events.TYPES)
def test_an_encoded_event_decodes_to_the_same_event(name: str) -> None:
    event = asyncapi.examples()[name]
    encoded = encode(event.attributes, event.data)
    assert encoded.key.decode() == event.attributes.subject
    assert decode(tuple(encoded.headers), encoded.key, encoded.value, region=event.attributes.region) == event
    raw = decode_any(tuple(encoded.headers), encoded.key, encoded.value)
    assert (raw.attributes, bytes(raw.data)) == (event.attributes, encoded.value)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "header ce_id, ce_type, ce_source, ce_time, ce_subject, ce_region, ce_correlationid is missing"),
        (headers_without("ce_id"), "header ce_id is missing"),
        (headers_without("ce_correlationid"), "header ce_correlationid is missing"),
        (headers_without("ce_specversion"), "ce_specversion is None, expected b'1.0'"),
        (headers_with(ce_specversion=b"0.3"), "ce_specversion is b'0.3', expected b'1.0'"),
        (headers_with(ce_region=b"us"), "belongs to region 'us', this topic to 'eu'"),
        (headers_with(ce_id=b"1"), "ce_id is '1', expected a UUID"),
        (headers_with(ce_id=EXAMPLE.attributes.id.upper().encode()), "expected a UUID in lower case"),
        (headers_with(ce_correlationid=b""), "ce_correlationid is '', expected a UUID"),
        (headers_with(ce_causationid=b""), "ce_causationid is '', expected a UUID"),
        (headers_with(ce_time=b"yesterday"), "ce_time is 'yesterday', expected RFC 3339"),
        (headers_with(ce_time=b"2026-02-30T00:00:00Z"), "expected RFC 3339"),
        (headers_with(ce_time=b"2026-05-01T00:00:00"), "expected RFC 3339"),
        (headers_with(ce_time=b"2026-W01-1T00:00:00Z"), "expected RFC 3339"),
        (headers_with(ce_time=b"0001-01-01T00:00:00+14:00"), "expected RFC 3339"),
        (headers_with(ce_type=b""), "ce_type has 0 characters"),
        (headers_with(ce_subject=b"x" * 2000), "ce_subject has 2000 characters, expected 1 to 1024"),
        (headers_with(ce_subject="😀".encode() * 600), "ce_subject has 2400 bytes, expected at most 2048"),
        (headers_with(ce_type="😀".encode() * 600), "ce_type has 2400 bytes, expected at most 2048"),
        (headers_with(ce_source=b"a\x00b"), "ce_source is 'a\\x00b', which holds a control character"),
        (headers_with(ce_type=b"\xff"), "header ce_type is not UTF-8"),
        (headers_with(ce_causationid=b"\xc3"), "header ce_causationid is not UTF-8"),
        (headers_with(ce_id=None), "header ce_id has no value"),
        (headers_with(ce_causationid=None), "header ce_causationid has no value"),
        (headers_with(ce_specversion=None), "ce_specversion is None"),
        ([*good().headers, ("ce_id", b"other")], "header ce_id occurs more than once"),
        ([("ce_id", b"other"), *good().headers], "header ce_id occurs more than once"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_invalid_headers_are_rejected_with_the_reason(
    read: Callable[..., Any], headers: list[tuple[str, bytes]], reason: str
) -> None:
    with pytest.raises(Poison) as caught:
        read(headers, good().key, good().value, region="eu")
    assert reason in caught.value.reason
    with pytest.raises(Poison):
        decode_attributes(headers, region="eu")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, good().value, "the record's key None is not its subject"),
        (b"other", good().value, "the record's key b'other' is not its subject"),
        (good().key, None, "the record has no value"),
        (good().key, b"", "truncated"),
        (good().key, good().value[:-1], "truncated"),
        (good().key, b"no json", "malformed"),
        (good().key, good().value.replace(b"Tisch", b"T\xffsch"), "not UTF-8"),
        (good().key, b'{"a":' * 50_000, "nested too deeply"),
        (good().key, good().value + b"x", "trailing characters"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_an_invalid_key_or_value_is_rejected_with_the_reason(
    read: Callable[..., Any], key: bytes | None, value: bytes | None, reason: str
) -> None:
    with pytest.raises(Poison) as caught:
        read(good().headers, key, value, region="eu")
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b"{}", "missing required field `case_id`"),
        (good().value.replace(b'"priority":3', b'"priority":"3"'), "Expected `int`, got `str` - at `$.priority`"),
        (good().value.replace(b'"matched":["too-good"]', b'"matched":[1]'), "at `$.trace.matched[0]`"),
    ],
)
def test_invalid_data_is_rejected_with_its_path(value: bytes, reason: str) -> None:
    with pytest.raises(Poison) as caught:
        decode(good().headers, good().key, value)
    assert reason in caught.value.reason
    assert bytes(decode_any(good().headers, good().key, value).data) == value


def test_an_unknown_type_is_rejected_with_the_known_types_and_decode_any_accepts_it() -> None:
    headers = headers_with(ce_type=b"piepowder.case.opened.v2")
    with pytest.raises(TooNew, match=r"unknown event type 'piepowder\.case\.opened\.v2'; known: .*decision\.made"):
        decode(headers, good().key, good().value)
    for key, value in ((b"another", good().value), (good().key, b"{"), (good().key, None)):
        with pytest.raises(Poison) as no_event:
            decode(headers, key, value)
        assert not isinstance(no_event.value, TooNew)
    assert decode_any(headers, good().key, good().value).attributes.type == "piepowder.case.opened.v2"


def test_unknown_fields_and_headers_are_ignored() -> None:
    value = good().value[:-1] + b',"mood":"good"}'
    assert decode([*good().headers, ("ce_mood", b"good"), ("other", b"\xff")], good().key, value) == EXAMPLE


@pytest.mark.parametrize(
    ("header", "read"),
    [(b"00-0af7-00f0-01", "00-0af7-00f0-01"), (b"\xff", None), (b"", None), (None, None), (b"\n", None)],
)
def test_an_invalid_traceparent_is_ignored(header: bytes | None, read: str | None) -> None:
    headers: Any = [*good().headers, ("traceparent", header)]
    assert decode_attributes(headers).traceparent == read


def test_an_event_without_a_cause_has_no_causation_header() -> None:
    first = asyncapi.examples()[events.ITEM_SUBMITTED]
    assert "ce_causationid" not in dict(encode(first.attributes, first.data).headers)
    traced = Attributes("i", "t", "s", "2026", "x", "eu", "c", "cause", "trace")
    assert dict(encode(traced, first.data).headers)["traceparent"] == b"trace"
