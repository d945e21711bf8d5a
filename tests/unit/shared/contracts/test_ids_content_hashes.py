"""The hash of a content survives upgrades, so a call that an earlier version accepted can be retried.

Do not change a hash in this file: topics and databases store the hashes.
"""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
import pydantic
import pytest
from msgspec import structs

from services.decision.api.leases import ClaimBody
from services.intake.clients.models import KeyBody
from services.intake.items.domain import posts
from services.intake.notices.domain import appeals, notices
from services.intake.notices.domain.appeals import AppealPost
from services.intake.notices.domain.notices import NoticePost
from services.intake.notices.models import AppealBody, NoticeBody
from services.intake.requests.domain import drafts
from services.intake.requests.domain.drafts import Draft
from services.intake.requests.models import DraftBody
from tests.support.documents import parsed

Content: TypeAlias = msgspec.Struct | pydantic.BaseModel


class Kind(NamedTuple):
    """A kind of content: `read` returns the hashed content of a JSON text; `least` has no optional field, `most` has
    nearly all, and `defaults` has their default values."""

    read: Callable[[bytes], Any]
    hash: Callable[[Any], str]
    least: dict[str, Any]
    least_hash: str
    defaults: dict[str, Any]
    most: dict[str, Any]
    most_hash: str

    def hash_of(self, content: dict[str, Any]) -> str:
        return self.hash(self.read(json.dumps(content).encode()))


def item_hash(item: Any) -> str:
    post = posts.ItemPost(platform="shop", kind="product", id="1", markets=["DE"], version=1)
    return posts.identity(post, item).content_hash


LEAST_ITEM: Final = {"platform": "shop", "kind": "product", "id": "1", "markets": ["DE"]}
LEAST_NOTICE: Final = {
    "platform": "shop",
    "kind": "product",
    "id": "1",
    "markets": ["DE"],
    "reporter": {"kind": "user"},
    "ground": "csam",
    "explanation": "It shows what nobody may show.",
    "locations": ["https://shop.example/1"],
    "good_faith": True,
    "reference": "r",
}
LEAST_APPEAL: Final = {
    "decision_id": "0b7f2f0e-0000-5000-8000-000000000001",
    "appellant": {"kind": "seller"},
    "explanation": "The invoice is enclosed: it is genuine.",
    "reference": "r",
}
KINDS: Final = {
    "item": Kind(
        lambda text: posts.content(posts.read(text)),
        item_hash,
        LEAST_ITEM,
        "9726f5e2fd0c0d8754316a4ba88bd590960cc5f3ae26b2b5f876a7aada7cc278",
        {
            "language": "und",
            "title": "",
            "text": "",
            "category": "",
            "brand": "",
            "gtin": "",
            "attributes": {},
            "media": [],
            "price": None,
            "seller": None,
            "scores": {},
            "trader": None,
            "author": None,
            "links": [],
        },
        LEAST_ITEM
        | {
            "version": 2,
            "reference": "r",
            "markets": ["FR", "DE"],
            "language": "de-AT",
            "title": 'Lampe ä "x"',
            "text": "Zeile\n\u2028\U0001f9ff",
            "category": "home/lamps",
            "brand": "Lux",
            "gtin": "4006381333931",
            "attributes": {"size": "L", "colour": "red"},
            "media": ["https://shop.example/1.jpg"],
            "price": {"currency": "EUR", "amount_minor": 1265},
            "seller": {
                "id": "s",
                "name": "S",
                "country": "DE",
                "age_days": 0,
                "listings": 3,
                "rejected": 1,
                "rating": 4.5,
            },
            "scores": {"nudity": 0.25},
        },
        "7c9c3699ffe82f5c672d6040727487f8b6a207e890494fca63325164f9b2afe9",
    ),
    "notice": Kind(
        lambda text: notices.content(parsed(NoticeBody, NoticePost, text).value or pytest.fail("no notice")),
        notices.content_hash,
        LEAST_NOTICE,
        "0860e8e6e958030a765b3531bc117a31e611eabc125ea69669dfd52fcb0e48c1",
        {"language": "und", "reporter": {"kind": "user", "name": "", "email": "", "reference": ""}},
        LEAST_NOTICE
        | {
            "markets": ["FR", "DE"],
            "reporter": {"kind": "trusted_flagger", "name": "Ada", "email": "ada@example.org", "reference": "x"},
            "ground": "fraud",
            "language": "de",
            "explanation": 'Das ist ä "x"\n und Betrug.',
        },
        "514698514a922927dc67b970a27334f2942d63d6cc34df49be872ae9d09aa89d",
    ),
    "appeal": Kind(
        lambda text: parsed(AppealBody, AppealPost, text).value,
        appeals.content_hash,
        LEAST_APPEAL,
        "ebafbaaa4d3cabf083ce9270ccd58e3ff29995a296ebf381b5e8c08cc54000f7",
        {
            "item_id": "",
            "notice_id": "",
            "region": "",
            "language": "und",
            "appellant": {"kind": "seller", "name": "", "email": "", "reference": ""},
        },
        {
            "item_id": "0b7f2f0e-0000-5000-8000-000000000002",
            "region": "eu",
            "appellant": {"kind": "notifier", "name": "Ada", "email": "ada@example.org", "reference": "x"},
            "explanation": 'Das ist ä "x"\n und Betrug.',
            "language": "de",
            "reference": "s",
        },
        "adcd67949c49e6f6ea1e76cfedfced57ea80a7ab70fb91fbdc0ed62ec74a7cd8",
    ),
    "request": Kind(
        lambda text: parsed(DraftBody, Draft, text).value,
        drafts.content_hash,
        {"title": "Slower", "kind": "capacity", "regions": ["eu"]},
        "bf9d7f5d3b8f77175cb8a7bd8ec87e1fc855bed06cfe89d579a15767c72a90f8",
        {
            "sponsor": "",
            "markets": [],
            "expected_items_per_day": None,
            "expected_date": "",
            "rationale": "",
            "change": None,
        },
        {
            "title": "Schneller ä",
            "kind": "policy_change",
            "sponsor": "Ada",
            "regions": ["us", "eu"],
            "markets": ["DE"],
            "expected_items_per_day": 1000,
            "expected_date": "2026-09-01",
            "rationale": "Because.",
            "change": {
                "policy_set": {
                    "terms": {"b": ["x"], "a": ["y"]},
                    "policies": [{"id": "p", "when": ["true"], "verdict": "review"}],
                    "default_verdict": "approve",
                }
            },
        },
        "1c4813717ff3fff6ebe3466cf4fd1a79f7fee3c9f3c48826cd74ee7cfcd84943",
    ),
    "claim": Kind(
        ClaimBody.model_validate_json,
        ClaimBody.content_hash,
        {"reviewer": "r-71", "team": "t"},
        "03fa9e6c6db6dd13add94eed14044346b4f0d79f50e239374df2c1a56c90a05a",
        {"queues": [], "lease_seconds": 300},
        {"reviewer": 'ä "x" /', "team": "t", "queues": ["general", "b"], "lease_seconds": 60},
        "44765529ffaa575f920b24fb45977bddecaacc0c8735de3e3a1e4bb7d4f8d20d",
    ),
    "client key": Kind(
        KeyBody.model_validate_json,
        KeyBody.content_hash,
        {},
        "155f55d333a00855031a05c86ff8b5e91a86b964e1b494713a9b34a785dd1730",
        {"expires_at": None, "others_expire_at": None},
        {"expires_at": "2027-01-31T00:00:00Z", "others_expire_at": "2026-02-07T00:00:00Z"},
        "ecfa40048b07561a62048e25ec345ba9d38ae36406dd1ed800d52a26a9aa2dd9",
    ),
}
each_kind: Final = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@each_kind
def test_the_hash_of_each_kind_is_the_same_as_in_every_earlier_version(kind: Kind) -> None:
    assert kind.hash_of(kind.least) == kind.least_hash
    assert kind.hash_of(kind.most) == kind.most_hash


@each_kind
def test_an_explicit_default_and_a_missing_field_give_the_same_hash(kind: Kind) -> None:
    assert kind.hash_of(kind.least | kind.defaults) == kind.least_hash
    for name, value in kind.defaults.items():
        assert kind.hash_of(kind.least | {name: value}) == kind.least_hash, name


@each_kind
def test_the_order_of_names_and_white_space_do_not_change_the_hash(kind: Kind) -> None:
    text = json.dumps(dict(reversed(kind.most.items())), indent=2, ensure_ascii=False).encode()
    assert kind.hash(kind.read(text)) == kind.most_hash


@each_kind
def test_a_new_optional_field_does_not_change_the_hash_until_it_is_used(kind: Kind) -> None:
    for text, expected in ((kind.least, kind.least_hash), (kind.most, kind.most_hash)):
        before = kind.read(json.dumps(text).encode())
        for default in ("", "some default", None, 7, 2.5, False):
            assert kind.hash(with_field(before, default)) == expected, default
        assert kind.hash(with_field(before, "", "used")) != expected


@each_kind
def test_each_field_of_a_content_is_part_of_its_hash(kind: Kind) -> None:
    least, most = (kind.read(json.dumps(text).encode()) for text in (kind.least, kind.most))
    names = least.__struct_fields__ if isinstance(least, msgspec.Struct) else type(least).model_fields
    others: dict[str, Any] = {"trader": "t", "author": "a", "links": ["l"], "good_faith": False, "notice_id": "n"}
    others |= {"skipped_cases": [UUID(int=1)], "only_cases": [UUID(int=1)]}
    hashes = [kind.most_hash]
    for name in names:
        value = getattr(least, name) if name not in others else others[name]
        if value == getattr(most, name):
            value = "other"
        hashes.append(kind.hash(changed(most, name, value)))
    assert len(set(hashes)) == len(names) + 1


def with_field(content: Any, default: object, *value: object) -> Any:
    """The content in a later version with one more optional field, which is set to `value` if that is given."""
    given = dict(zip(["added"], value, strict=False))
    if isinstance(content, msgspec.Struct):
        kind = msgspec.defstruct("Later", [("added", Any, default)], bases=(type(content),), frozen=True, kw_only=True)
        return kind(**structs.asdict(content), **given)
    fields: Any = {"added": (Any, default)}
    model = pydantic.create_model("Later", __base__=type(content), **fields)
    return model(**dict(content), **given)


def changed(content: Any, name: str, value: object) -> Any:
    """The content with another value in one field."""
    if isinstance(content, msgspec.Struct):
        return structs.replace(content, **{name: value})
    return content.model_copy(update={name: value})
