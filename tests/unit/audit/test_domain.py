"""Parsing of events and dead letters."""

from typing import Any

import msgspec
import pytest

from services.audit.domain import (
    CONTENT,
    VALUE,
    Conflict,
    LoggedEvent,
    conflict,
    logged_topics,
    parse_dead_letter,
    parse_event,
)
from services.intake.items.domain import posts
from services.intake.items.domain.posts import ItemPost
from services.intake.notices.domain import notices
from shared.contracts import events, ids, topics
from shared.contracts.envelope import Attributes, Encoded, RecordId, encode
from shared.contracts.events import Item
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


PAYLOAD = events.CaseExpired(case_id="c", item_id="i", queue="q", reviewer="r", team="t", lease_token=1)


def event_of(kind: str, value: bytes, **attributes: str) -> LoggedEvent:
    values = {"source": "piepowder/test", "time": TIME, "subject": "shop:product:1"} | attributes
    event = encode(Attributes(FIRST, kind, region="eu", correlation_id=FIRST, **values), PAYLOAD)
    return parse_event(SOURCE, event.headers, event.key, value, region="eu")


def found(first: bytes, other: bytes, kind: str = "piepowder.case.praised.v9") -> Conflict | None:
    return conflict(event_of(kind, first), event_of(kind, other))


def test_the_order_of_fields_numbers_and_white_space_make_no_conflict() -> None:
    assert found(b'{"a": 1, "b": {"c": [1], "d": null}}', b'{"b":{"d":null,"c":[1]},"a":1}') is None
    assert found(b"[1]", b" [ 1 ] ") is None


@pytest.mark.parametrize("other", [b'{"a": 2}', b'{"a": "1"}', b'{"a": 1, "b": 0}', b"{}", b"[]", b"1", b'{"a": true}'])
def test_other_values_of_an_unknown_type_are_a_conflict(other: bytes) -> None:
    assert (conflicting := found(b'{"a": 1}', other)) is not None
    assert conflicting.reason == VALUE


def test_equal_conflicts_have_the_same_id_and_different_ones_another() -> None:
    first, second, third = (found(b"{}", value) for value in (b'{"a":1,"b":2}', b'{"b": 2, "a": 1}', b'{"a":1}'))
    assert first == second != third


def test_the_time_and_the_trace_are_not_compared_and_other_attributes_are() -> None:
    first = event_of(events.CASE_CLAIMED, b"{}")
    assert conflict(first, event_of(events.CASE_CLAIMED, b"{}", time="2027-05-01T09:30:00.000Z")) is None
    assert conflict(first, event_of(events.CASE_CLAIMED, b"{}", traceparent="00-1")) is None
    for attributes in ({"source": "piepowder/other"}, {"subject": "shop:product:2"}, {"causation_id": FIRST}):
        assert conflict(first, event_of(events.CASE_CLAIMED, b"{}", **attributes)) is not None


POST = msgspec.convert({"platform": "p", "kind": "product", "id": "s", "markets": ["DE"]}, ItemPost)


def submitted(content: Item, /, **fields: Any) -> bytes:
    """An `item.submitted` event's data, with the true hash of its item, or other fields."""
    hashed = posts.identity(POST, content)
    about = {"item_id": "i", "platform": "p", "kind": "k", "subject_id": "s", "version": 1, "client": "a"}
    data = about | {"content_hash": hashed.content_hash, "received_at": TIME, "regions": ["eu"], "item": content}
    return msgspec.json.encode(data | fields)


LAMP, KNIFE = Item(markets=["DE"], title="Lamp"), Item(markets=["DE"], title="Knife")
REPORT = events.Notice(
    markets=["DE"], ground="g", category="c", explanation="e", locations=[], good_faith=True,
    reporter=events.Reporter(kind="user"),
)  # fmt: skip


def noticed(notice: events.Notice, content_hash: str) -> bytes:
    return msgspec.json.encode(
        events.NoticeSubmitted(
            notice_id="n", platform="p", kind="k", subject_id="s", client="a", reference="r",
            content_hash=content_hash, received_at=TIME, regions=["eu"], notice=notice,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (submitted(LAMP, client="b", reference="x", received_at="later", regions=["us"], operating_model="o"), None),
        (submitted(LAMP, requested_at=TIME, markets_by_region={"eu": ["DE"]}), None),
        (submitted(KNIFE), CONTENT),
        (submitted(KNIFE, version=2), CONTENT),
        (submitted(msgspec.structs.replace(LAMP, language="und", media=[])), None),
        (submitted(LAMP, item=KNIFE), VALUE),
        (submitted(KNIFE, item=LAMP), VALUE),
        (submitted(KNIFE, content_hash="0" * 64), VALUE),
        (submitted(LAMP, content_hash=""), VALUE),
        (submitted(LAMP, item_id="j"), VALUE),
        (submitted(LAMP, version=2), VALUE),
        (submitted(LAMP, version=None), VALUE),
        (submitted(LAMP, item={"markets": "DE"}), VALUE),
        (submitted(LAMP, item=None), VALUE),
        (submitted(LAMP, content_hash="1" * 64, item={"markets": ["DE"], "title": "Knife", "newer": 1}), CONTENT),
        (b"{}", VALUE),
        (b"[1]", VALUE),
    ],
)
def test_another_content_is_found_whatever_hash_the_event_states(other: bytes, reason: str | None) -> None:
    conflicting = found(submitted(LAMP), other, events.ITEM_SUBMITTED)
    assert (conflicting and conflicting.reason) == reason


@pytest.mark.parametrize("forged", [submitted(LAMP, item=KNIFE), submitted(KNIFE, content_hash="0" * 64)])
def test_a_true_event_after_a_forged_one_is_a_conflict_of_values(forged: bytes) -> None:
    conflicting = found(forged, submitted(LAMP), events.ITEM_SUBMITTED)
    assert conflicting is not None
    assert conflicting.reason == VALUE


def test_the_content_of_a_notice_is_compared_with_its_hash() -> None:
    other = msgspec.structs.replace(REPORT, explanation="f")
    first, of_other = noticed(REPORT, notices.content_hash(REPORT)), notices.content_hash(other)
    forged = found(first, noticed(other, notices.content_hash(REPORT)), events.NOTICE_SUBMITTED)
    said = found(first, noticed(other, of_other), events.NOTICE_SUBMITTED)
    assert (forged and forged.reason, said and said.reason) == (VALUE, CONTENT)


def test_a_withdrawal_with_another_reason_is_a_conflict_of_content() -> None:
    first = (
        b'{"item_id":"i","platform":"p","kind":"k","subject_id":"s","client":"a","withdrawn_at":"1","regions":["eu"]}'
    )
    again = first.replace(b'"1"', b'"2"').replace(b'"a"', b'"b"').replace(b'["eu"]', b'["eu","us"]')
    assert found(first, again, events.ITEM_WITHDRAWN) is None
    other = found(first, first[:-1] + b',"reason":"sold"}', events.ITEM_WITHDRAWN)
    assert other is not None
    assert other.reason == CONTENT


def test_a_dead_letter_that_is_discarded_again_by_another_operator_is_no_conflict() -> None:
    first = events.DeadLetterDiscarded(
        group="g", topic="t", partition=0, offset=7, reason="no event", by="ann", why="x"
    )
    again = msgspec.structs.replace(first, by="bob", why="junk", reason="not an event")
    other = msgspec.structs.replace(first, offset=8)
    one, two, three = map(msgspec.json.encode, (first, again, other))
    assert found(one, two, events.DEADLETTER_DISCARDED) is None
    assert found(one, three, events.DEADLETTER_DISCARDED) is not None


def test_a_loss_accepted_again_by_another_operator_is_no_conflict() -> None:
    loss = events.LossAccepted(
        group="g", topic="t", topic_id="i", partition=0, reason="deleted", first=1, last=2, continues_at=3, by="ann"
    )
    again = msgspec.structs.replace(loss, by="bob", note="repeated")
    other = msgspec.structs.replace(loss, continues_at=4)
    first, second, third = map(msgspec.json.encode, (loss, again, other))
    assert found(first, second, events.LOSS_ACCEPTED) is None
    assert found(first, third, events.LOSS_ACCEPTED) is not None
