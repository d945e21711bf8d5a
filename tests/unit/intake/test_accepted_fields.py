"""Each field that a body accepts reaches the event: no field is lost."""

import json
from collections.abc import Collection
from typing import Any, Final

import msgspec
import pytest
from pydantic import BaseModel

from services.intake.items import models as item_models
from services.intake.items.domain import posts, status
from services.intake.notices import models as complaint_models
from services.intake.notices.domain import appeals
from services.intake.notices.domain.appeals import AppealPost, ContestedDecision
from services.intake.notices.domain.notices import NoticePost
from services.intake.notices.handlers import Notices
from services.intake.requests import models as request_models
from services.intake.requests.domain import drafts
from services.intake.requests.domain.drafts import Draft
from shared.contracts import envelope, events, ids
from tests.support.documents import parsed
from tests.support.intake_cluster import Cluster
from tests.support.intake_complaints import CODES, EVERYWHERE, TIME, appeal, clock, notice
from tests.support.intake_complaints import intake as intake_of
from tests.support.intake_items import ANYONE, item_intake

IDENTITY: Final = {"platform", "kind", "id", "reference"}  # fields of the event, not of its content
DERIVED: Final[dict[type, set[str]]] = {
    events.Notice: {"category"},  # from the ground
    events.Appeal: {"decision"},  # from the facts of the projection
    events.BusinessRequest: {"change_hash"},  # from the change
}
NOT_IN_CONTENT: Final[dict[type, set[str]]] = {
    events.Item: IDENTITY | {"version"},
    events.Notice: IDENTITY,
    # `reference` is a field of the event; the others identify the contested decision
    events.Appeal: {"decision_id", "item_id", "notice_id", "region", "reference"},
    events.BusinessRequest: {"change"},  # a field of the event `request.submitted`
}
BODIES: Final[list[tuple[type[BaseModel], type[msgspec.Struct], type[msgspec.Struct]]]] = [
    (item_models.ItemBody, posts.ItemPost, events.Item),
    (item_models.PriceBody, posts.PriceInput, events.Money),
    (item_models.SellerBody, posts.SellerInput, events.Seller),
    (item_models.TraderBody, posts.TraderInput, events.Trader),
    (item_models.AuthorBody, posts.AuthorInput, events.Author),
    (complaint_models.NoticeBody, NoticePost, events.Notice),
    (complaint_models.ReporterBody, events.Reporter, events.Reporter),
    (complaint_models.AppealBody, AppealPost, events.Appeal),
    (complaint_models.AppellantBody, events.Appellant, events.Appellant),
    (request_models.DraftBody, Draft, events.BusinessRequest),
]
PARTS: Final[dict[str, type[BaseModel]]] = {
    "price": item_models.PriceBody,
    "seller": item_models.SellerBody,
    "trader": item_models.TraderBody,
    "author": item_models.AuthorBody,
    "reporter": complaint_models.ReporterBody,
    "appellant": complaint_models.AppellantBody,
}
COMMON: Final[dict[str, Any]] = {
    "platform": "shop",
    "id": "1",
    "version": 2,
    "reference": "ref",
    "markets": ["DE"],
    "language": "de",
    "title": "Lamp",
    "text": "A lamp.",
    "category": "Home/Lighting",
    "attributes": {"colour": "red"},
    "media": ["https://shop.example/1"],
    "scores": {"spam": 0.5},
    "seller": {
        "id": "s-1",
        "name": "Audio GmbH",
        "country": "DE",
        "age_days": 1,
        "listings": 2,
        "rejected": 3,
        "rating": 4.5,
    },
}
ITEMS: Final[list[dict[str, Any]]] = [
    COMMON
    | {
        "kind": "product",
        "brand": "Brand",
        "gtin": "96385074",
        "price": {"amount_minor": 1265, "currency": "EUR"},
    },
    COMMON
    | {
        "kind": "seller",
        "trader": {
            "name": "Audio GmbH",
            "address": "Berlin",
            "country": "DE",
            "register": "HRB",
            "register_number": "12",
            "email": "a@audio.example",
            "phone": "+49 30 1234567",
            "self_certification": True,
        },
    },
    COMMON | {"kind": "content", "author": {"id": "u-7", "name": "Anna"}, "links": ["shop:product:B-1"]},
]


def names(body: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in body.model_fields.items()}


def require_every_field(body: type[BaseModel], *examples: dict[str, Any]) -> None:
    """Fail if all examples together omit a field of the body."""
    assert {name for example in examples for name in example} == names(body)
    for example in examples:
        for name, value in example.items():
            if name in PARTS:
                assert value.keys() == names(PARTS[name]), name


def content_of(event: Any, example: dict[str, Any], outside: Collection[str]) -> dict[str, Any]:
    """The fields that an example sets, from the content of the event; without the fields `outside` of it."""
    found: dict[str, Any] = msgspec.to_builtins(event)
    return {name: found[name] for name in example if name not in outside}


@pytest.mark.parametrize(("body", "post", "content"), BODIES)
def test_body_post_and_event_have_the_same_fields(
    body: type[BaseModel], post: type[msgspec.Struct], content: type[msgspec.Struct]
) -> None:
    derived, outside = DERIVED.get(content, set()), NOT_IN_CONTENT.get(content, set())
    derived_in_post = derived & {"category"}  # `NoticePost` inherits it
    assert set(post.__struct_fields__) - derived_in_post == names(body)
    assert set(content.__struct_fields__) - derived == names(body) - outside


@pytest.mark.parametrize("example", ITEMS, ids=lambda example: example["kind"])
def test_each_field_of_an_item_reaches_the_event(example: dict[str, Any]) -> None:
    require_every_field(item_models.ItemBody, *ITEMS)
    prepared = item_intake().prepare(json.dumps(example).encode(), ANYONE, TIME)
    [record] = prepared.records
    submitted = envelope.decode(record.headers, record.key, record.value, region="eu").data
    outside = NOT_IN_CONTENT[events.Item]
    assert content_of(submitted.item, example, outside) == {k: v for k, v in example.items() if k not in outside}
    assert (submitted.platform, submitted.kind, submitted.subject_id) == ("shop", example["kind"], "1")
    assert (submitted.version, submitted.reference) == (2, "ref")


def test_each_field_of_a_notice_reaches_the_event() -> None:
    example = notice()
    example["reporter"] |= {"reference": "own"}
    require_every_field(complaint_models.NoticeBody, example)
    document = parsed(complaint_models.NoticeBody, NoticePost, json.dumps(example).encode())
    record = Notices(intake_of(Cluster()), CODES, clock()).prepare(document, EVERYWHERE).records[0]
    submitted = envelope.decode(record.headers, record.key, record.value, region="eu").data
    assert content_of(submitted.notice, example, IDENTITY) == {k: v for k, v in example.items() if k not in IDENTITY}
    assert (submitted.platform, submitted.kind, submitted.subject_id) == ("shop", "product", example["id"])
    assert submitted.reference == example["reference"]


def test_each_field_of_an_appeal_reaches_the_event() -> None:
    item_id = ids.item_id("shop", "product", "1", "2")
    example = appeal(decision_id="", item_id=item_id, notice_id="", region="eu", language="de")
    example["appellant"] |= {"reference": "own"}
    require_every_field(complaint_models.AppealBody, example)
    document = parsed(complaint_models.AppealBody, AppealPost, json.dumps(example).encode())
    assert document.value is not None
    decision = status.DecisionFact(
        n=1, decision_id="d", action="reject", automated=True, policy_set="ps-1", decided_at=TIME
    )
    contested = ContestedDecision(
        region="eu", case_type="item", about=item_id, facts=status.StatusFacts(decision=decision)
    )
    content = appeals.content(document.value, contested)
    outside = NOT_IN_CONTENT[events.Appeal]
    assert content_of(content, example, outside) == {k: v for k, v in example.items() if k not in outside}
    assert (content.decision.item_id, content.decision.decision_id) == (item_id, "d")


def test_each_field_of_a_draft_reaches_the_event() -> None:
    example = request_models.DRAFT_EXAMPLE | {"expected_date": "2026-06-01"}
    require_every_field(request_models.DraftBody, example)
    draft = drafts.require_valid(parsed(request_models.DraftBody, Draft, json.dumps(example).encode()))
    content = drafts.content(draft)
    outside = NOT_IN_CONTENT[events.BusinessRequest]
    assert content_of(content, example, outside) == {k: v for k, v in example.items() if k not in outside}
    assert draft.change is not None
    assert content.change_hash == ids.content_hash(ids.canonical(draft.change))
    assert drafts.draft_of(content, draft.change) == draft
