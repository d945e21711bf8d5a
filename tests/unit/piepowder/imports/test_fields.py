"""The table of fields is that of intake's items, and the columns of each field can be found."""

import msgspec
import pytest

from piepowder.imports.fields import FIELDS
from piepowder.imports.shop_formats import SHOP_FORMATS, plain_name
from services.intake.items.handlers import ItemIntake
from services.intake.items.models import ItemBody, PriceBody, SellerBody
from shared.validation.faults import InputRejected
from tests.support.intake_items import ANYONE, NOW, item_intake

WITHOUT_A_COLUMN = {"platform", "kind", "attributes", "scores", "trader", "author", "links"}
SELLER_WITHOUT_A_COLUMN = {"age_days", "listings", "rejected", "rating"}


@pytest.fixture(scope="module")
def intake() -> ItemIntake:
    return item_intake()


def accepts(intake: ItemIntake, field: str, text: str) -> bool:
    item: dict[str, object] = {"platform": "shop", "kind": "product", "id": "1", "markets": ["DE"]}
    parent, _, member = field.partition(".")
    item |= {parent: {"id": "s", member: text}} if member else {field: text}
    try:
        intake.prepare(msgspec.json.encode(item), ANYONE, NOW)
    except InputRejected:
        return False
    return True


def test_a_column_can_have_each_field_of_an_item_but_the_listed_ones() -> None:
    fields = {field for field in FIELDS if not field.startswith("seller.")}
    assert fields == ItemBody.model_fields.keys() - WITHOUT_A_COLUMN - {"seller"} | PriceBody.model_fields.keys() - {
        "amount_minor"
    }
    members = {field.removeprefix("seller.") for field in FIELDS if field.startswith("seller.")}
    assert members == SellerBody.model_fields.keys() - SELLER_WITHOUT_A_COLUMN


def test_the_required_fields_are_those_of_intake() -> None:
    of_intake = {field for field, about in ItemBody.model_fields.items() if about.is_required()}
    assert {field for field, about in FIELDS.items() if about.is_required} == of_intake - WITHOUT_A_COLUMN


@pytest.mark.parametrize("field", ["id", "reference", "title", "text", "category", "brand", "seller.id", "seller.name"])
def test_the_limits_of_texts_are_those_of_intake(intake: ItemIntake, field: str) -> None:
    limit = FIELDS[field].limit
    assert accepts(intake, field, "x" * limit)
    assert not accepts(intake, field, "x" * (limit + 1))


def test_all_names_of_columns_are_plain_so_that_they_are_found() -> None:
    general = [name for field in FIELDS.values() for name in field.names.split()]
    own = [name for shop in SHOP_FORMATS for names in shop.names.values() for name in names.split()]
    signatures = [name for shop in SHOP_FORMATS for signature in shop.signatures for name in signature.split()]
    assert [name for name in (*general, *own, *signatures) if name != plain_name(name)] == []
    assert {field for shop in SHOP_FORMATS for field in shop.names} <= FIELDS.keys()
