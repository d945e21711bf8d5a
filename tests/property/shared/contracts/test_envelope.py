"""Any event decodes as it was encoded, and any record is either an event or poison."""

from contextlib import suppress

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from shared.contracts import events, ids
from shared.contracts.envelope import REQUIRED, Attributes, decode, decode_any, encode
from shared.runtime.clock import to_text
from shared.runtime.errors import Poison

_words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_ids = st.builds(ids.derive, _words)
_times = st.builds(to_text, st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999))
_attributes = st.builds(
    Attributes,
    id=_ids,
    type=st.just(events.ITEM_SUBMITTED),
    source=_words,
    time=_times,
    subject=_words,
    region=_words,
    correlation_id=_ids,
    causation_id=st.none() | _ids,
)
_submitted = st.builds(
    events.ItemSubmitted,
    item_id=_texts,
    platform=_texts,
    kind=_texts,
    subject_id=_texts,
    version=st.none() | st.integers(-(2**63), 2**63),
    content_hash=_texts,
    client=_texts,
    reference=_texts,
    received_at=_texts,
    regions=st.lists(_texts, max_size=3),
    item=st.builds(
        events.Item,
        markets=st.lists(_texts, max_size=3),
        title=_texts,
        text=_texts,
        attributes=st.dictionaries(_texts, _texts, max_size=3),
        price=st.none() | st.builds(events.Money, amount_minor=st.integers(-(2**63), 2**64 - 1), currency=_texts),
        seller=st.none()
        | st.builds(events.Seller, id=_texts, rating=st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        scores=st.dictionaries(_texts, st.floats(0, 1), max_size=3),
    ),
)
_names = st.sampled_from([*REQUIRED, "ce_causationid", "ce_specversion", "traceparent", "content-type", "x"])
_values = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([b"1.0", events.CASE_EXPIRED.encode(), b"eu"])
    | st.builds(str.encode, _ids)
)


@given(_attributes, _submitted)
def test_an_encoded_event_decodes_to_the_same_event(attributes: Attributes, data: events.ItemSubmitted) -> None:
    encoded = encode(attributes, data)
    event = decode(encoded.headers, encoded.key, encoded.value, region=attributes.region)
    assert (event.attributes, event.data) == (attributes, data)
    assert bytes(decode_any(encoded.headers, encoded.key, encoded.value).data) == encoded.value


@given(_attributes, _submitted, st.data())
def test_a_truncated_event_is_poison(attributes: Attributes, data: events.ItemSubmitted, draw: st.DataObject) -> None:
    encoded = encode(attributes, data)
    value = encoded.value[: draw.draw(st.integers(0, len(encoded.value) - 1))]
    for read in (decode, decode_any):
        try:
            read(encoded.headers, encoded.key, value)
        except Poison:
            continue
        raise AssertionError(f"{value!r} was decoded")


@given(st.lists(st.tuples(_names, _values)), st.none() | st.binary(), st.none() | st.binary())
@example([], b"", b"[" * 100_000)
def test_any_record_is_an_event_or_poison(
    headers: list[tuple[str, bytes]], key: bytes | None, value: bytes | None
) -> None:
    for read in (decode, decode_any):
        with suppress(Poison):
            read(headers, key, value)


@given(_attributes, st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_json_is_an_event_or_poison_and_stays_unchanged(attributes: Attributes, data: object) -> None:
    encoded = encode(
        attributes, events.CaseExpired(case_id="", item_id="", queue="", reviewer="", team="", lease_token=0)
    )
    try:
        value = msgspec.json.encode(data)
    except (OverflowError, UnicodeEncodeError):
        return
    with suppress(Poison):
        decode(encoded.headers, encoded.key, value)
    assert bytes(decode_any(encoded.headers, encoded.key, value).data) == value
