"""Parsing of events and dead letters."""

import pytest

from services.audit.domain import (
    logged_topics,
    parse_dead_letter,
    parse_event,
)
from shared.contracts import events, ids, topics
from shared.contracts.envelope import Attributes, Encoded, RecordId, encode
from shared.runtime.errors import Poison

TIME = "2026-05-01T09:30:00.000Z"
SOURCE = RecordId("piepowder.submissions.eu", 1, 2)
FIRST = ids.derive("first")


def claimed(event_type: str = events.CASE_CLAIMED, region: str = "eu") -> Encoded:
    data = events.CaseClaimed(
        case_id="c", item_id="i", queue="q", reviewer="r", team="t", lease_token=1, lease_until=TIME
    )
    return encode(Attributes(FIRST, event_type, "piepowder/test", TIME, "shop:product:1", region, FIRST, FIRST), data)


def test_the_log_contains_every_topic_except_the_state_of_consumers() -> None:
    assert {*topics.of_region("eu"), topics.CONTROL} - set(logged_topics("eu")) == {topics.parked("eu")}


def test_an_event_of_an_unknown_type_keeps_its_bytes_and_all_its_headers() -> None:
    encoded = claimed("piepowder.case.praised.v9")
    value = encoded.value[:-1] + b', "new": {} } '
    extra = [("ce_vendor", b"acme"), ("trace-me", b"\xff")]
    event = parse_event(SOURCE, [*encoded.headers, *extra], encoded.key, value, region="eu")
    assert (event.data, event.extensions, event.source) == (value, extra, SOURCE)
    assert event.attributes.type == "piepowder.case.praised.v9"


def test_a_plain_event_has_no_extensions() -> None:
    encoded = claimed()
    assert parse_event(SOURCE, encoded.headers, encoded.key, encoded.value, region="eu").extensions == []


@pytest.mark.parametrize("value", [None, b"", b"{", b'{"a": "\xff"}', b"[" * 9999])
def test_a_value_that_is_not_json_is_poison(value: bytes | None) -> None:
    encoded = claimed()
    with pytest.raises(Poison):
        parse_event(SOURCE, encoded.headers, encoded.key, value, region="eu")


def test_an_event_of_another_region_is_poison() -> None:
    encoded = claimed(region="us")
    with pytest.raises(Poison, match="belongs to region 'us'"):
        parse_event(SOURCE, encoded.headers, encoded.key, encoded.value, region="eu")


def test_a_dead_letter_has_the_position_of_the_original_record() -> None:
    about = {"topic": "t", "partition": "3", "offset": "41", "group": "g", "reason": "why", "time": TIME}
    headers = [*claimed().headers, *((f"dl_{name}", text.encode()) for name, text in about.items())]
    letter = parse_dead_letter(SOURCE, headers, b"shop:product:1", 0)
    assert letter.source == RecordId("t", 3, 41)
    assert (letter.group, letter.reason, letter.time) == ("g", "why", TIME)
    assert (letter.event_id, letter.subject, letter.key) == (FIRST, "shop:product:1", "shop:product:1")


def test_a_dead_letter_without_headers_has_its_own_position() -> None:
    letter = parse_dead_letter(SOURCE, [], None, 1_777_627_800_000)
    assert letter.source == SOURCE
    assert (letter.group, letter.key, letter.event_id, letter.subject) == ("", None, None, None)
    assert letter.time == TIME
