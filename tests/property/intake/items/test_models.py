"""The two models of an item accept the same values and report the same pointers of faults.

msgspec's `ItemPost` decodes the hot paths, and pydantic's `ItemBody` documents them.
"""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect
from pydantic import ValidationError

from services.intake.items.domain.posts import AuthorInput, ItemPost, PriceInput, SellerInput, TraderInput
from services.intake.items.models import AuthorBody, ItemBody, PriceBody, SellerBody, TraderBody
from shared.contracts.events import Item, Struct
from shared.http.input_errors import input_error
from shared.http.models import EXAMPLE, Body
from shared.validation.faults import mismatches

_SHAPE = inspect.type_info(ItemPost)
_EXAMPLE: dict[str, Any] = json.loads(ItemBody.model_config["json_schema_extra"][EXAMPLE])  # type: ignore[index,arg-type]  # the project's own example
_COMPLETE: dict[str, Any] = _EXAMPLE | {
    "trader": {"name": "Audio GmbH", "country": "DE", "register": "HRB", "self_certification": True},
    "author": {"id": "u-7", "name": "Anna"},
    "links": ["shop:product:B-1"],
    "seller": _EXAMPLE["seller"] | {"rating": 4.5},
}
_MEMBERS = st.sampled_from(["x", 1, 0.5, None, 2])
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**64),
    st.sampled_from([2**53 - 1, 2**53, 2**63 - 1, 2**63, 0, 1, -1]),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.sampled_from(["product", "x" * 200, "x" * 201, "x" * 1_001, "x" * 50_001]),
    st.lists(st.sampled_from(["DE", 1, None, "x" * 2_049]), max_size=3),
    st.just(["DE"] * 51),
    st.dictionaries(st.sampled_from(["", "a", "x" * 201, "id", "name"]), _MEMBERS, max_size=3),
)


def test_a_posted_item_has_every_field_of_the_event() -> None:
    assert set(Item.__struct_fields__) <= set(ItemPost.__struct_fields__)


@pytest.mark.parametrize(
    ("decoded", "body"),
    [
        (ItemPost, ItemBody),
        (PriceInput, PriceBody),
        (SellerInput, SellerBody),
        (TraderInput, TraderBody),
        (AuthorInput, AuthorBody),
    ],
    ids=lambda model: str(model.__name__),
)
def test_both_models_have_the_same_fields(decoded: type[Struct], body: type[Body]) -> None:
    names = {field.alias or name for name, field in body.model_fields.items()}
    assert names == set(decoded.__struct_encode_fields__)


def pointers_of_msgspec(value: object) -> set[str]:
    return {fault.pointer for fault in mismatches(value, _SHAPE)}


def faults_of_pydantic(value: object) -> list[tuple[str, str]]:
    """Pointer and type of each fault."""
    try:
        ItemBody.model_validate(value)
    except ValidationError as error:
        return [(input_error({**f, "loc": ("body", *f["loc"])}, value).pointer, f["type"]) for f in error.errors()]
    return []


def paths(value: Any, steps: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [steps, *(found for name, member in members for found in paths(member, (*steps, name)))]


@given(st.data())
@settings(max_examples=500)
def test_both_models_report_the_same_faults(data: st.DataObject) -> None:
    item: Any = {"item": copy.deepcopy(_COMPLETE)}
    for _ in range(data.draw(st.integers(0, 3))):
        *path, last = data.draw(st.sampled_from([("item", *steps) for steps in paths(item["item"])]))
        parent = item
        for step in path:
            parent = parent[step]
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                parent[last] = copy.deepcopy(data.draw(_VALUES))
            case "remove" if len(path) > 0:
                del parent[last]
            case "add" if isinstance(parent[last], dict):
                parent[last][data.draw(st.sampled_from(["colour", "a/b~c"]))] = copy.deepcopy(data.draw(_VALUES))
    faults, expected = faults_of_pydantic(item["item"]), pointers_of_msgspec(item["item"])
    # pydantic does not validate the members of a list or an object that is too long
    too_long = tuple(f"{pointer}/" for pointer, kind in faults if kind == "too_long")
    expected = {pointer for pointer in expected if not pointer.startswith(too_long)}
    assert {pointer for pointer, _ in faults} == expected


@pytest.mark.parametrize("change", [{}, {"version": None}, {"price": None, "seller": None}])
def test_both_models_accept_a_valid_item(change: dict[str, Any]) -> None:
    assert faults_of_pydantic(_COMPLETE | change) == []
    assert pointers_of_msgspec(_COMPLETE | change) == set()
