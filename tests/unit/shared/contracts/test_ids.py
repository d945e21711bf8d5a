"""Ids are deterministic and follow RFC 9562, and a mistyped API key is distinguished from an unknown one."""

import uuid

import msgspec
import pytest

from shared.contracts import ids


@pytest.mark.parametrize("parts", [(), ("",), ("a",), ("a", "b"), ("größe", "日本", "\U0001f9ff"), ("x" * 5000, "")])
def test_derive_is_uuid5_of_the_parts(parts: tuple[str, ...]) -> None:
    assert ids.derive(*parts) == str(uuid.uuid5(ids.NAMESPACE, "\x1f".join(parts)))


def test_the_namespace_is_that_of_urls_in_rfc_9562() -> None:
    assert ids.derive("www.example.com") == str(uuid.uuid5(uuid.NAMESPACE_URL, "www.example.com"))


def test_different_parts_give_different_ids() -> None:
    assert ids.derive("a", "bc") != ids.derive("ab", "c")
    assert ids.derive("a") != ids.derive("a", "")


def test_different_objects_have_different_ids() -> None:
    item = ids.item_id("shop", "product", "1", "1")
    case = ids.case_id(item, "eu", "item")
    made = {
        item,
        ids.item_id("shop", "product", "1", "2"),
        ids.item_id("shop", "seller", "1", "1"),
        case,
        ids.case_id(item, "us", "item"),
        ids.event_id(item, "t"),
        ids.event_id(item, "t", 1),
        ids.event_id(item, "u"),
        ids.decision_id(case, 1),
        ids.decision_id(case, 2),
    }
    assert len(made) == 10


def test_an_explicit_default_and_a_missing_field_give_the_same_hash() -> None:
    class Content(msgspec.Struct):
        title: str
        language: str = "not given"
        tags: list[str] = []

    sent = b"not given".decode()  # equal to the default, but another object, as a decoder makes it
    assert sent is not Content("a").language
    plain = ids.struct_hash(Content("a"), always=())
    assert plain == ids.content_hash(b'{"title":"a"}') == ids.struct_hash(Content("a", sent, []), always=())
    assert ids.struct_hash(Content("a"), always={"tags"}) == ids.content_hash(b'{"tags":[],"title":"a"}')


def test_an_api_key_is_well_formed_and_every_single_typing_error_is_detected() -> None:
    key = ids.new_api_key("live")
    assert key.startswith("pp_live_")
    assert ids.is_well_formed_api_key(key)
    for at in range(len(key)):
        for typed in "0aZ_":
            mistyped = key[:at] + typed + key[at + 1 :]
            assert mistyped == key or not ids.is_well_formed_api_key(mistyped)
        assert not ids.is_well_formed_api_key(key[:at] + key[at + 1 :])


@pytest.mark.parametrize("key", ["", "pp", "pp_live_", "key", "00000000", "pp_live_größe"])
def test_other_texts_are_not_api_keys(key: str) -> None:
    assert not ids.is_well_formed_api_key(key)


def test_new_keys_differ_and_hash_to_64_digits() -> None:
    one, two = ids.new_api_key("test"), ids.new_api_key("test")
    assert one != two
    assert len(ids.hash_api_key(one)) == 64
