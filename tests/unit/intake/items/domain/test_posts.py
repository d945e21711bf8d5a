"""The format and rules of items: every fault has a pointer, and equal content has one hash."""

import json
import random
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.intake.items.domain import posts
from services.intake.items.domain.ownership import MarketOwnership
from services.intake.items.domain.posts import MalformedItem
from services.intake.items.handlers import ItemIntake, PreparedItem
from shared.auth.principal import Principal
from shared.contracts.envelope import decode
from shared.http.problems import InputError
from shared.runtime.errors import Poison, Transient
from shared.validation import codes
from shared.validation.faults import Fault, InputRejected
from tests.support.intake_items import ANYONE, NOW, item_intake, model, published

PRODUCT: dict[str, Any] = {
    "platform": "shop",
    "kind": "product",
    "id": "B-1",
    "version": 7,
    "reference": "import 5",
    "markets": ["DE", "US"],
    "language": "pt-BR",
    "title": "Lamp",
    "text": "Two lines\nof text",
    "category": "home/light",
    "brand": "Lux",
    "gtin": "4006381333931",
    "attributes": {"color": "black", "a/b~c": "x"},
    "media": ["https://img.example/1.jpg"],
    "price": {"amount_minor": 1265, "currency": "EUR"},
    "seller": {"id": "s-1", "name": "Audio GmbH", "country": "DE", "age_days": 3, "rating": 4.5},
    "scores": {"counterfeit": 0.02},
}

SELLER: dict[str, Any] = {
    "platform": "shop",
    "kind": "seller",
    "id": "s-1",
    "markets": ["DE"],
    "title": "Audio GmbH",
    "seller": {"id": "s-1", "country": "DE", "age_days": 3},
    "trader": {
        "name": "Audio Handels GmbH",
        "address": "Am Markt 1\n10115 Berlin",
        "country": "DE",
        "register": "Handelsregister Berlin",
        "register_number": "HRB 12345",
        "email": "info@audio.example",
        "phone": "+49 (30) 123 45-67",
        "self_certification": True,
    },
}
CONTENT: dict[str, Any] = {
    "platform": "shop",
    "kind": "content",
    "id": "r-1",
    "markets": ["DE"],
    "text": "It is good.",
    "media": ["https://img.example/1.jpg"],
    "author": {"id": "u-7", "name": "Anna"},
    "links": ["shop:product:B-1", "shop:seller:a:b/c"],
}


@pytest.fixture(scope="module")
def intake() -> ItemIntake:
    return item_intake()


def prepared(intake: ItemIntake, post: object, client: Principal = ANYONE) -> PreparedItem:
    return intake.prepare(post if isinstance(post, bytes) else json.dumps(post).encode(), client, NOW)


def rejection(intake: ItemIntake, post: object, client: Principal = ANYONE) -> InputRejected:
    with pytest.raises(InputRejected) as caught:
        prepared(intake, post, client)
    return caught.value


def test_a_valid_item_becomes_one_event_for_each_region_that_owns_its_markets(intake: ItemIntake) -> None:
    accepted = prepared(intake, PRODUCT)
    assert accepted.regions == ("eu", "us")
    assert [record.topic for record in accepted.records] == ["piepowder.submissions.eu", "piepowder.submissions.us"]
    for region, event_id, record in zip(accepted.regions, accepted.event_ids, accepted.records, strict=True):
        event = decode(tuple(record.headers), record.key, record.value, region=region)
        assert record.key == b"shop:product:B-1"
        assert event.attributes.id == event.attributes.correlation_id == event_id
        assert event.attributes.source == "piepowder/intake"
        assert event.attributes.time == event.data.received_at == NOW
        assert (event.data.item_id, event.data.regions, event.data.version) == (accepted.item_id, ["eu", "us"], 7)
        assert (event.data.operating_model, event.data.markets_by_region) == ("om-1", {"eu": ["DE"], "us": ["US"]})
        assert event.data.client == "shop"
        sent = msgspec.to_builtins(event.data.item)
        assert sent == {name: PRODUCT[name] for name in sent}
        assert sent.keys() == PRODUCT.keys() - {"platform", "kind", "id", "version", "reference"}


def test_an_event_names_the_regions_and_markets_of_the_operating_model_in_force() -> None:
    intake = item_intake()
    post = PRODUCT | {"markets": ["US", "FR", "DE"]}
    found = []
    models = ((["DE", "FR"], ["US"]), (["FR"], ["US", "DE"]), (["DE", "FR", "US"], ["MX"]))
    for number, owned in enumerate(models, 2):
        intake.apply(published(model(("eu", owned[0]), ("us", owned[1]), number=number)))
        intake.caught_up()
        accepted = prepared(intake, post)
        [record, *_] = accepted.records
        event = decode(tuple(record.headers), record.key, record.value, region="eu")
        assert list(accepted.regions) == event.data.regions == list(event.data.markets_by_region)
        found.append(event.data.markets_by_region)
    assert found == [
        {"eu": ["FR", "DE"], "us": ["US"]},
        {"eu": ["FR"], "us": ["US", "DE"]},
        {"eu": ["US", "FR", "DE"]},
    ]


@pytest.mark.parametrize("post", [SELLER, CONTENT], ids=["seller", "content"])
def test_the_event_has_all_fields_of_sellers_and_content(intake: ItemIntake, post: dict[str, Any]) -> None:
    [record] = prepared(intake, post).records
    sent = msgspec.to_builtins(decode(tuple(record.headers), record.key, record.value, region="eu").data.item)
    assert sent == {name: post[name] for name in sent}
    assert sent.keys() == post.keys() - {"platform", "kind", "id"}


@pytest.mark.parametrize(
    ("post", "fields"),
    [
        (
            SELLER,
            {
                "brand": "Lux",
                "gtin": "96385074",
                "price": PRODUCT["price"],
                "author": {"id": "x"},
                "links": ["a:seller:b"],
            },
        ),
        (CONTENT, {"brand": "Lux", "gtin": "96385074", "price": PRODUCT["price"], "trader": {"name": "x"}}),
        (PRODUCT, {"trader": {"name": "x"}, "author": {"id": "x"}, "links": ["shop:product:x"]}),
    ],
    ids=["seller", "content", "product"],
)
def test_a_field_of_another_kind_is_rejected_with_its_pointer(
    intake: ItemIntake, post: dict[str, Any], fields: dict[str, Any]
) -> None:
    error = rejection(intake, post | fields)
    assert {fault.pointer for fault in error.faults} == {f"/{name}" for name in fields}
    assert all(f"this is a {post['kind']}" in fault.detail for fault in error.faults)


SELLER_AND_CONTENT_FAULTS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    (SELLER, {"trader": {"address": "x"}}, "/trader/name", "is required"),
    (SELLER, {"trader": {"name": ""}}, "/trader/name", "at least 1"),
    (SELLER, {"trader": {"name": "x" * 501}}, "/trader/name", "at most 500"),
    (SELLER, {"trader": {"name": "x", "address": "x" * 1001}}, "/trader/address", "at most 1000"),
    (SELLER, {"trader": {"name": "x", "address": "a\x00b"}}, "/trader/address", "U+0000 at 1"),
    (SELLER, {"trader": {"name": "x", "country": "de"}}, "/trader/country", "write 'DE'"),
    (SELLER, {"trader": {"name": "x", "country": "UK"}}, "/trader/country", "ISO 3166-1"),
    (SELLER, {"trader": {"name": "x", "register": "x" * 201}}, "/trader/register", "at most 200"),
    (SELLER, {"trader": {"name": "x", "register_number": "x" * 201}}, "/trader/register_number", "at most 200"),
    (SELLER, {"trader": {"name": "x", "register_number": 5}}, "/trader/register_number", "expected text"),
    (SELLER, {"trader": {"name": "x", "email": "info.audio.example"}}, "/trader/email", "not an e-mail"),
    (SELLER, {"trader": {"name": "x", "email": "a@b@c.example"}}, "/trader/email", "not an e-mail"),
    (SELLER, {"trader": {"name": "x", "email": "a b@c.example"}}, "/trader/email", "not an e-mail"),
    (SELLER, {"trader": {"name": "x", "email": "x" * 321}}, "/trader/email", "at most 320"),
    (SELLER, {"trader": {"name": "x", "phone": "call me"}}, "/trader/phone", "not a telephone"),
    (SELLER, {"trader": {"name": "x", "phone": "1" * 41}}, "/trader/phone", "at most 40"),
    (SELLER, {"trader": {"name": "x", "self_certification": "yes"}}, "/trader/self_certification", "true or false"),
    (SELLER, {"trader": {"name": "x", "certified": True}}, "/trader/certified", "unknown field"),
    (SELLER, {"trader": None, "seller": {"id": "s", "age_days": 2**63}}, "/seller/age_days", "not more than"),
    (CONTENT, {"author": {"name": "x"}}, "/author/id", "is required"),
    (CONTENT, {"author": {"id": "x\x1f"}}, "/author/id", "printable"),
    (CONTENT, {"author": {"id": "e\u0301"}}, "/author/id", "NFC"),
    (CONTENT, {"author": {"id": "x", "name": "a\x7fb"}}, "/author/name", "U+007F"),
    (CONTENT, {"author": "Anna"}, "/author", "expected an object"),
    (CONTENT, {"links": ["B-1"]}, "/links/0", "not a subject"),
    (CONTENT, {"links": ["shop:product:B-1", "shop:thing:B-1"]}, "/links/1", "not a subject"),
    (CONTENT, {"links": ["shop:product:"]}, "/links/0", "not a subject"),
    (CONTENT, {"links": ["shop:product:" + "x" * 201]}, "/links/0", "not a subject"),
    (CONTENT, {"links": ["shop:product:a\nb"]}, "/links/0", "not a subject"),
    (CONTENT, {"links": ["Shop:product:B-1"]}, "/links/0", "not a subject"),
    (CONTENT, {"links": ["shop:product:B-1"] * 101}, "/links", "at most 100"),
    (CONTENT, {"links": "shop:product:B-1"}, "/links", "expected a list"),
]


@pytest.mark.parametrize(
    ("post", "change", "pointer", "expected"), SELLER_AND_CONTENT_FAULTS, ids=lambda value: str(value)[:40]
)
def test_each_fault_of_a_seller_or_content_has_its_pointer(
    intake: ItemIntake, post: dict[str, Any], change: dict[str, Any], pointer: str, expected: str
) -> None:
    error = rejection(intake, post | change)
    assert error.status == 422
    found = [fault.detail for fault in error.faults if fault.pointer == pointer]
    assert any(expected in detail for detail in found), error.faults


PRODUCT_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"colour": "red"}, "/colour", "unknown field"),
    ({"a/b": "red"}, "/a~1b", "unknown field"),
    ({"a~b": "red"}, "/a~0b", "unknown field"),
    ({"c" * 101: "red"}, "/" + "c" * 100, "unknown field"),
    ({"titel": "x"}, "/titel", "did you mean 'title'?"),
    ({"platform": "Shop"}, "/platform", "a-z, 0-9"),
    ({"platform": "-shop"}, "/platform", "not starting with"),
    ({"platform": "s" * 64}, "/platform", "1 to 63"),
    ({"platform": "shop\n"}, "/platform", "a-z"),
    ({"kind": "products"}, "/kind", "'product'"),
    ({"id": ""}, "/id", "at least 1"),
    ({"id": "x" * 201}, "/id", "at most 200"),
    ({"id": "a\x1fb"}, "/id", "printable"),
    ({"id": " "}, "/id", "begins or ends with a space"),
    ({"id": "B07 "}, "/id", "begins or ends with a space"),
    ({"id": "gru\u0308n"}, "/id", "NFC"),
    ({"id": 5}, "/id", "expected text, got 5"),
    ({"version": 0}, "/version", "not less than 1"),
    ({"version": 2**53}, "/version", "not more than 9007199254740991"),
    ({"version": 10**40}, "/version", "not more than"),
    ({"version": "1"}, "/version", "a whole number"),
    ({"version": True}, "/version", "a whole number"),
    ({"reference": "r" * 201}, "/reference", "at most 200"),
    ({"markets": []}, "/markets", "at least 1"),
    ({"markets": "DE"}, "/markets", "expected a list"),
    ({"markets": ["DE"] * 51}, "/markets", "at most 50"),
    ({"markets": ["DE", "GB"]}, "/markets/1", "the operating model has DE, FR, SG, US"),
    ({"markets": ["de"]}, "/markets/0", "write 'DE'"),
    ({"markets": ["DE", "DE"]}, "/markets/1", "repeated"),
    ({"markets": ["SG"]}, "/markets/0", "belongs to region 'sea'; this service accepts items for eu, us"),
    ({"markets": [None]}, "/markets/0", "expected text, got null"),
    ({"language": "german"}, "/language", "BCP 47"),
    ({"language": "en_US"}, "/language", "BCP 47"),
    ({"language": ""}, "/language", "BCP 47"),
    ({"title": None}, "/title", "leave the field out"),
    ({"title": "x" * 1001}, "/title", "1001 characters; at most 1000"),
    ({"title": "a\x00b"}, "/title", "U+0000 at 1"),
    ({"title": "N\x97\x9f"}, "/title", "U+0097 at 1"),
    ({"text": "5 \x80"}, "/text", "U+0080 at 2"),
    ({"attributes": {"a": "\x85"}}, "/attributes/a", "U+0085 at 0"),
    ({"attributes": {"a\x9f": "b"}}, "/attributes/a\x9f", "control character in the name"),
    ({"text": "x" * 50_001}, "/text", "at most 50000"),
    ({"text": "a\x7fb"}, "/text", "U+007F"),
    ({"category": "x" * 501}, "/category", "at most 500"),
    ({"category": "/".join("abcdefghijk")}, "/category", "11 levels; at most 10"),
    ({"category": "/home"}, "/category", "empty"),
    ({"category": "home/ /light"}, "/category", "empty"),
    ({"brand": "x" * 501}, "/brand", "at most 500"),
    ({"gtin": "4006381333932"}, "/gtin", "expected 1"),
    ({"gtin": "40063813339310"}, "/gtin", "check digit"),
    ({"gtin": "123"}, "/gtin", "8, 12, 13 or 14 digits"),
    ({"gtin": "٤٠٠٦٣٨١٣"}, "/gtin", "digits"),
    ({"gtin": 4006381333931}, "/gtin", "expected text"),
    ({"attributes": {"a/b": 1}}, "/attributes/a~1b", "expected text, got 1"),
    ({"attributes": {"": "x"}}, "/attributes/", "its name: 0 characters"),
    ({"attributes": {"a": "x" * 5001}}, "/attributes/a", "at most 5000"),
    ({"attributes": {"a\x01": "x"}}, "/attributes/a\x01", "in the name"),
    ({"attributes": {str(n): "" for n in range(201)}}, "/attributes", "at most 200"),
    ({"media": ["ftp://x/y"]}, "/media/0", "http"),
    ({"media": ["https://x.example/1", "https:///y"]}, "/media/1", "http"),
    ({"media": ["https://x.example/a b"]}, "/media/0", "http"),
    ({"media": ["https://x.example/" + "a" * 2048]}, "/media/0", "at most 2048"),
    ({"media": ["https://x.example/"] * 101}, "/media", "at most 100"),
    ({"price": 12.65}, "/price", "expected an object"),
    ({"price": {"amount_minor": 12.65, "currency": "EUR"}}, "/price/amount_minor", "12.65 EUR is 1265"),
    ({"price": {"amount_minor": -1, "currency": "EUR"}}, "/price/amount_minor", "not less than 0"),
    ({"price": {"amount_minor": 2**63, "currency": "EUR"}}, "/price/amount_minor", "not more than"),
    ({"price": {"amount_minor": 1, "currency": "eur"}}, "/price/currency", "write 'EUR'"),
    ({"price": {"amount_minor": 1, "currency": "XYZ"}}, "/price/currency", "ISO 4217"),
    ({"price": {"amount_minor": 1}}, "/price/currency", "is required"),
    ({"price": {"currency": "EUR"}}, "/price/amount_minor", "is required"),
    ({"price": {"amount": 1, "currency": "EUR"}}, "/price/amount", "did you mean 'amount_minor'?"),
    ({"seller": {"name": "x"}}, "/seller/id", "is required"),
    ({"seller": {"id": "x\x02"}}, "/seller/id", "printable"),
    ({"seller": {"id": " x"}}, "/seller/id", "begins or ends with a space"),
    ({"seller": {"id": "x", "country": "UK"}}, "/seller/country", "ISO 3166-1"),
    ({"seller": {"id": "x", "age_days": -1}}, "/seller/age_days", "not less than 0"),
    ({"seller": {"id": "x", "rating": -0.5}}, "/seller/rating", "not less than 0"),
    ({"scores": {"nsfw": 1.01}}, "/scores/nsfw", "not more than 1"),
    ({"scores": {"nsfw": -0.01}}, "/scores/nsfw", "not less than 0"),
    ({"scores": {"nsfw": "0.5"}}, "/scores/nsfw", "expected a number"),
]


@pytest.mark.parametrize(("change", "pointer", "expected"), PRODUCT_FAULTS, ids=lambda value: str(value)[:40])
def test_each_fault_has_its_pointer(intake: ItemIntake, change: dict[str, Any], pointer: str, expected: str) -> None:
    error = rejection(intake, PRODUCT | change)
    assert error.status == 422
    found = [fault.detail for fault in error.faults if fault.pointer == pointer]
    assert any(expected in detail for detail in found), error.faults


def test_all_faults_are_reported_at_once(intake: ItemIntake) -> None:
    post = PRODUCT | {
        "colour": "red",
        "title": 5,
        "gtin": "4006381333932",
        "markets": ["XX", "FR", "FR"],
        "price": {"amount_minor": 1, "currency": "eur"},
        "scores": {"a": 2},
    }
    del post["kind"]
    assert {fault.pointer for fault in rejection(intake, post).faults} == {
        "/colour",
        "/title",
        "/kind",
        "/gtin",
        "/markets/0",
        "/markets/2",
        "/price/currency",
        "/scores/a",
    }


def test_only_the_first_of_thousands_of_faults_are_reported(intake: ItemIntake) -> None:
    text = b'{"platform": "shop", ' + b", ".join(b'"%x": 1' % n for n in range(25_000)) + b"}"
    started = time.process_time()
    error = rejection(intake, text)
    assert time.process_time() - started < 0.5
    assert len(error.faults) == 20
    assert "19 more" in str(error)


_REQUIRED = '"platform":"shop","kind":"product","markets":["DE"]'
DUPLICATES: list[tuple[str, list[str]]] = [
    ('"id": "a", "title": "A", "title": "B"', ["/title"]),
    ('"id": "a", "id": "b"', ["/id"]),
    ('"id":"a","version":1,"version":1', ["/version"]),
    ('"id": "a", "text" : "A", "t\\u0065xt": ""', ["/text"]),
    ('"id":"a","price":{"amount_minor":1,"currency":"EUR","amount_minor":2}', ["/price/amount_minor"]),
    ('"id":"a","attributes":{"a/b":"1","c":"","a/b":"1"}', ["/attributes/a~1b"]),
    ('"id":"a","title":"5\\u0022 \\u0022x\\u0022","brand":"A","brand":"A"', ["/brand"]),
    ('"id":"a","title":"\\\\u0022","brand":"","brand":""', ["/brand"]),
    ('"id":"a","colour":"x","title":"a","title":"b"', ["/colour", "/title"]),
    ('"id":"a","gtin":"1","scores":{"a":0,"a":0}', ["/gtin", "/scores/a"]),
]


@pytest.mark.parametrize(("text", "pointers"), DUPLICATES)
def test_a_duplicate_object_key_is_rejected_with_its_pointer(
    intake: ItemIntake, text: str, pointers: list[str]
) -> None:
    error = rejection(intake, f"{{{_REQUIRED},{text}}}".encode())
    assert error.status == 422
    assert [fault.pointer for fault in error.faults] == pointers
    assert "duplicate object key" in error.faults[-1].detail


_TEXT = st.text(st.sampled_from('"\\:,{} /aä'), max_size=9)
_MEMBERS = st.fixed_dictionaries(
    {"id": _TEXT.map("x{}x".format)},
    optional={
        "version": st.integers(1, 2**53 - 1),
        "title": _TEXT,
        "text": _TEXT,
        "reference": _TEXT,
        "attributes": st.dictionaries(_TEXT.map("x{}".format), _TEXT, max_size=3),
    },
)


@given(_MEMBERS, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=300)
def test_duplicate_object_keys_are_found_in_every_spelling_without_false_positives(
    intake: ItemIntake, post: dict[str, Any], rng: random.Random, plain: bool
) -> None:
    def spelled(name: str, value: Any) -> str:
        text = f"{json.dumps(name)}{rng.choice(('', ' '))}:{json.dumps(value, ensure_ascii=plain)}"
        return re.sub(r"\\.", lambda found: rng.choice((found[0], found[0].replace('\\"', "\\u0022"))), text)

    members = [spelled(name, value) for name, value in post.items()]
    prepared(intake, f"{{{_REQUIRED},{','.join(members)}}}".encode())
    name, value = rng.choice(list(post.items()))
    members.insert(rng.randint(0, len(members)), spelled(name, value))
    error = rejection(intake, f"{{{_REQUIRED},{','.join(members)}}}".encode())
    assert [(fault.pointer, "duplicate object key" in fault.detail) for fault in error.faults] == [(f"/{name}", True)]


@pytest.mark.parametrize("depth", [50, 500, 900, 980, 1_000, 1_100, 5_000])
@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_deeply_nested_input_is_rejected(intake: ItemIntake, depth: int, opening: str) -> None:
    closing = "}" if opening.startswith("{") else "]"
    error = rejection(intake, f'{{"attributes": {opening * depth}1{closing * depth}}}'.encode())
    assert error.status in (400, 422)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b'{"platform": "shop"', "truncated"),
        (b"{} {}", "trailing"),
        (b"'x'", "invalid character"),
        (b'{"title": "\xff"}', "not UTF-8"),
        (b'{"title": "\\ud800"}', "surrogate"),
        (b'{"title": "\\udc00\\ud83d"}', "surrogate"),
        (b'{"title": "a\x01b"}', "invalid character"),
        (b'{"x": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_malformed_json_is_rejected_with_the_reason(intake: ItemIntake, text: bytes, expected: str) -> None:
    error = rejection(intake, text)
    assert error.status == 400
    assert expected in str(error)


@pytest.mark.parametrize("number", ["9" * 5_000, "1e400", "-1e400"])
@pytest.mark.parametrize("field", ["version", "scores/x", "seller/age_days", "seller/rating", "title", "colour"])
def test_a_number_that_is_too_large_for_every_type_is_a_fault_with_its_pointer(
    intake: ItemIntake, number: str, field: str
) -> None:
    outer, _, inner = field.partition("/")
    post = {name: value for name, value in PRODUCT.items() if name != outer}
    seller = '"id":"s", ' if outer == "seller" else ""
    value = f'{{{seller}"{inner}": {number}}}' if inner else number
    text = json.dumps(post)[:-1] + f', "{outer}": {value}}}'
    error = rejection(intake, text.encode())
    assert error.status == 422
    assert [fault.pointer for fault in error.faults] == [f"/{field}"]
    assert "too large" in error.faults[0].detail or "unknown field" in error.faults[0].detail


def test_a_list_or_a_number_is_not_an_item(intake: ItemIntake) -> None:
    for text in (b"[]", b"5", b"null", b'"x"'):
        assert "Expected an object" in str(rejection(intake, text))


def test_a_key_of_another_region_gets_403_with_the_forbidden_market(intake: ItemIntake) -> None:
    european = Principal(name="euro", scopes=frozenset(), regions=frozenset({"eu"}))
    assert prepared(intake, PRODUCT | {"markets": ["DE"]}, european).regions == ("eu",)
    error = rejection(intake, PRODUCT, european)
    assert (error.status, error.slug) == (403, "region-not-allowed")
    assert [fault.pointer for fault in error.faults] == ["/markets/1"]
    assert "'us'" in error.faults[0].detail


def test_an_operating_model_in_which_a_market_has_two_owners_is_rejected(intake: ItemIntake) -> None:
    before = intake.ownership
    with pytest.raises(Poison, match="eu and us both own market DE"):
        intake.apply(published(model(("eu", ["DE"]), ("us", ["DE"]), number=2)))
    assert intake.ownership is before


def test_the_operating_model_with_the_largest_number_is_in_force_and_of_one_number_the_first() -> None:
    intake = item_intake()
    intake.apply(published(model(("eu", ["DE"]), number=7)))
    intake.apply(published(model(("us", ["DE"]), number=6)))  # the topic is read again
    other = msgspec.structs.replace(model(("us", ["DE"]), number=7), id="om-7-other")
    with pytest.raises(Poison, match="om-7 was published first: two routers have published at the same time"):
        intake.apply(published(other))
    assert owner_of_germany(intake) == ("om-7", "eu")
    intake.delete("policy-set")
    intake.apply(published(model(("us", ["DE"]))))
    assert owner_of_germany(intake) == ("om-7", "eu")
    intake.delete("operating-model")
    assert owner_of_germany(intake) == ("om-7", "eu")
    intake.delete("client:shop")  # a later deletion of another entity changes nothing
    intake.apply(published(model(("us", ["DE"]))))
    assert owner_of_germany(intake) == ("om-1", "us")
    intake.apply(published(model(("us", ["DE"]), number=2)))
    intake.apply(published(model(("eu", ["DE"]))))
    assert owner_of_germany(intake) == ("om-2", "us")


def test_a_model_comes_into_force_when_the_topic_was_read_to_its_end_and_no_earlier_one() -> None:
    intake = item_intake()
    intake.apply(published(model(("us", ["DE"]), number=8)))
    intake.apply(published(model(("eu", ["DE"]), number=9)))
    assert intake.ownership is not None
    assert intake.ownership.id == "om-1"
    assert intake.caught_up() is None
    assert owner_of_germany(intake) == ("om-9", "eu")
    assert REGISTRY.get_sample_value("piepowder_control_number", {"entity": "operating-model"}) == 9.0


def test_before_the_topic_was_read_to_its_end_no_item_is_accepted() -> None:
    intake = ItemIntake(codes=codes.load(), publishers={})
    intake.apply(published(model(("eu", ["DE"]))))
    with pytest.raises(Transient, match="No operating model is in force yet"):
        prepared(intake, PRODUCT)


def owner_of_germany(intake: ItemIntake) -> tuple[str, str | None]:
    intake.caught_up()
    assert intake.ownership is not None
    return intake.ownership.id, intake.ownership.owner("DE")


def test_the_operating_model_determines_the_region_of_a_market() -> None:
    ownership = MarketOwnership(model(("eu", ["DE"])), ["eu", "us"])
    assert ownership.regions(["DE"]) == ("eu",)
    assert MarketOwnership(model(("us", ["DE"])), ["eu", "us"]).regions(["DE"]) == ("us",)


def test_the_version_identifies_an_item_and_the_content_identifies_an_item_without_a_version(
    intake: ItemIntake,
) -> None:
    first, other = prepared(intake, PRODUCT), prepared(intake, PRODUCT | {"title": "Another"})
    assert first.item_id == other.item_id
    assert first.content_hash != other.content_hash
    unversioned = {name: value for name, value in PRODUCT.items() if name != "version"}
    assert prepared(intake, unversioned).item_id != prepared(intake, unversioned | {"title": "Another"}).item_id
    assert prepared(intake, unversioned).item_id == prepared(intake, unversioned | {"reference": "other"}).item_id


def test_gaps_between_versions_are_allowed(intake: ItemIntake) -> None:
    least, most = prepared(intake, PRODUCT | {"version": 1}), prepared(intake, PRODUCT | {"version": 2**53 - 1})
    assert (least.version, most.version) == (1, 2**53 - 1)
    assert (least.subject, least.regions) == (most.subject, most.regions)
    assert least.item_id != most.item_id


def test_an_explicit_default_equals_an_omitted_field(intake: ItemIntake) -> None:
    least = {name: PRODUCT[name] for name in ("platform", "kind", "id", "markets")}
    fields = msgspec.structs.fields(posts.ItemPost)
    defaults = {f.name: f.default for f in fields if f.default is not msgspec.NODEFAULT}
    defaults |= {f.name: f.default_factory() for f in fields if f.default_factory is not msgspec.NODEFAULT}
    assert defaults.keys() | least.keys() == {field.name for field in fields}
    for name, value in defaults.items():
        assert prepared(intake, least | {name: value}).item_id == prepared(intake, least).item_id, name


@given(st.data())
@settings(max_examples=50)
def test_equal_content_has_the_same_hash_in_any_order_and_spacing(intake: ItemIntake, data: st.DataObject) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shuffled(value[name]) for name in data.draw(st.permutations(list(value)))}
        return value

    plain = prepared(intake, PRODUCT)
    respelled = json.dumps(
        shuffled(PRODUCT), indent=data.draw(st.sampled_from([None, 1])), ensure_ascii=data.draw(st.booleans())
    )
    again = prepared(intake, respelled.encode())
    assert (again.item_id, again.content_hash) == (plain.item_id, plain.content_hash)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(sorted(PRODUCT)), _JSON, max_size=6),
    st.dictionaries(st.sampled_from(["amount_minor", "currency", "id", "x"]), _JSON, max_size=3),
)
@settings(max_examples=300)
def test_random_fields_give_an_item_or_a_rejection(
    intake: ItemIntake, change: dict[str, Any], inner: dict[str, Any]
) -> None:
    for post in (PRODUCT | change, PRODUCT | {"price": inner}, PRODUCT | {"seller": inner}, change):
        for fault in faults_of(intake, json.dumps(post).encode()):
            assert fault.pointer.startswith("/") or fault.pointer == ""
            msgspec.json.encode(InputError(*fault))


def faults_of(intake: ItemIntake, text: bytes) -> list[Fault]:
    try:
        prepared(intake, text)
    except InputRejected as error:
        return error.faults
    return []


@given(st.binary(max_size=200))
def test_random_bytes_are_rejected(intake: ItemIntake, text: bytes) -> None:
    rejection(intake, text)


def test_the_rules_are_also_checked_for_the_valid_fields_of_a_malformed_item() -> None:
    text = json.dumps(PRODUCT | {"title": 5, "platform": "BAD"}).encode()
    with pytest.raises(MalformedItem) as caught:
        posts.read(text)
    assert caught.value.fields == {"title"}
    assert caught.value.rest is not None
    assert [fault.pointer for fault in posts.check(caught.value.rest, text, codes.load())] == ["/platform"]


@pytest.mark.parametrize("gtin", ["96385074", "036000291452", "4006381333931", "10012345678902"])
def test_a_gtin_of_each_length_is_valid_only_with_its_check_digit(gtin: str) -> None:
    assert posts.gtin_problem(gtin) is None
    wrong = [gtin[:-1] + digit for digit in "0123456789" if digit != gtin[-1]]
    assert all(posts.gtin_problem(other) for other in wrong)
