"""Of an item that intake refused, only the faulty optional fields are left out."""

import msgspec
import pytest

from piepowder.imports.rows import Listing
from piepowder.lenience import without_faulty_fields

ITEM = {
    "platform": "shop",
    "kind": "product",
    "id": "1",
    "markets": ["DE"],
    "title": "Lamp",
    "price": {"amount_minor": 5, "currency": "EUX"},
    "attributes": {"a/b": "x", "size": "XL"},
    "media": ["https://a.example/1"],
}


def line(**fields: object) -> Listing:
    return Listing(7, msgspec.json.encode(ITEM | fields))


@pytest.mark.parametrize(
    ("pointers", "left", "omitted"),
    [
        (["/price/currency"], {"price"}, ["price"]),
        (["/media/0", "/title"], {"media", "title"}, ["media", "title"]),
        (["/unknown"], {"unknown"}, ["unknown"]),
    ],
)
def test_the_faulty_fields_are_left_out_and_named(pointers: list[str], left: set[str], omitted: list[str]) -> None:
    repaired = without_faulty_fields(line(unknown=1), [{"pointer": pointer, "detail": "wrong"} for pointer in pointers])
    assert repaired is not None
    assert (ITEM | {"unknown": 1}).keys() - msgspec.json.decode(repaired.body).keys() == left
    assert [one.field for one in repaired.omitted] == omitted
    assert repaired.omitted[0].detail == f"{pointers[0]}: wrong"


def test_a_single_attribute_is_left_out() -> None:
    repaired = without_faulty_fields(line(), [{"pointer": "/attributes/a~1b", "detail": "too long"}])
    assert repaired is not None
    assert msgspec.json.decode(repaired.body)["attributes"] == {"size": "XL"}


@pytest.mark.parametrize("pointer", ["", "/id", "/markets/0", "/kind", "/platform"])
def test_a_fault_of_a_required_field_or_of_the_whole_item_cannot_be_left_out(pointer: str) -> None:
    for faults in ([{"pointer": pointer, "detail": "x"}], [{"pointer": "/title"}, {"pointer": pointer}]):
        assert without_faulty_fields(line(), faults) is None


def test_a_field_that_the_item_does_not_have_cannot_be_left_out() -> None:
    assert without_faulty_fields(line(), [{"pointer": "/absent", "detail": "x"}]) is None


def test_a_text_that_is_not_an_object_stays_as_it_is() -> None:
    for body in (b"[1]", b"{broken", b"\xff"):
        assert without_faulty_fields(Listing(1, body), [{"pointer": "/title", "detail": "x"}]) is None


def test_one_member_of_a_seller_is_left_out_but_not_its_id() -> None:
    seller = {"id": "s1", "name": "Max", "country": "XX"}
    for pointer, left in (("/seller/country", {"id": "s1", "name": "Max"}), ("/seller/id", None)):
        repaired = without_faulty_fields(line(seller=seller), [{"pointer": pointer, "detail": "wrong"}])
        assert repaired is not None
        assert msgspec.json.decode(repaired.body).get("seller") == left
        assert repaired.omitted == ((pointer[1:].replace("/", "."), f"{pointer}: wrong"),)
