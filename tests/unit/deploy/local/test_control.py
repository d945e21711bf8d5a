"""The control files of the local stack can come into force, and each of their policies works as its title states."""

import csv
from collections import Counter
from functools import cache
from typing import Any

import msgspec
import pytest

from services.router.api import MAX_BYTES, PublicationBody
from services.router.domain.publication import (
    PolicySetContent,
    consistency_faults,
    operating_model_faults,
    policy_set_faults,
)
from services.router.domain.routing import OperatingModel, PolicySet, route
from services.router.policies import compile_policy_set
from shared.contracts.events import Money, OperatingModelPublished, PolicySetPublished, Region, Seller
from tests.conftest import project_root
from tests.support.router_samples import submitted

FOLDER = project_root() / "deploy" / "local" / "control"
LISTINGS = project_root().parent / "shared" / "data" / "listings-d8-amazon.csv"
EUR = "EUR"
GOOD = Seller(id="s", age_days=800, listings=40, rejected=0, rating=4.8)


@cache
def published() -> tuple[OperatingModelPublished, PolicySetPublished]:
    regions = msgspec.yaml.decode((FOLDER / "operating-model.yaml").read_bytes(), type=dict[str, list[Region]])
    content = msgspec.yaml.decode((FOLDER / "policies.yaml").read_bytes(), type=PolicySetContent)
    model = OperatingModelPublished(id="om-1-sample", number=1, published_by="test", regions=regions["regions"])
    return model, PolicySetPublished(id="ps-1-sample", number=1, published_by="test", **msgspec.structs.asdict(content))


@cache
def sample() -> tuple[OperatingModel, PolicySet]:
    model, policies = published()
    return OperatingModel(model), compile_policy_set(policies)


def test_the_files_have_no_faults_and_fit_into_one_publication() -> None:
    model, policies = published()
    assert operating_model_faults(model.regions) == []
    assert [*policy_set_faults(policies), *consistency_faults(model, policies)] == []
    parts: dict[str, Any] = {
        name: msgspec.yaml.decode((FOLDER / file).read_bytes())
        for name, file in (("operating_model", "operating-model.yaml"), ("policy_set", "policies.yaml"))
    }
    body = msgspec.json.encode(parts)
    PublicationBody.model_validate_json(body)
    assert len(body) < MAX_BYTES


EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "weapons": ("reject", {"title": "Sturmgewehr, neuwertig"}),
    "drugs": ("reject", {"title": "Cocaïne pure, livraison discrète"}),
    "recalled-products": ("reject", {"title": "Hoverboard 6.5 inch"}),
    "bait-price": ("reject", {"title": "Camera with two lenses", "price": Money(amount_minor=5, currency=EUR)}),
    "radar-warners": ("reject", {"title": "Radarwarner für das Auto"}),
    "counterfeit-words": ("review", {"title": "Handtasche, täuschend echte Nachbildung"}),
    "brand-far-below-price": ("review", {"brand": "Apple", "price": Money(amount_minor=500, currency=EUR)}),
    "brand-but-not-original": ("review", {"brand": "HP", "title": "Remanufactured toner cartridge"}),
    "counterfeit-score": ("review", {"scores": {"counterfeit": 0.9}}),
    "unsafe-content-score": ("review", {"scores": {"violence": 0.95}}),
    "surveillance": ("review", {"title": "Versteckte Kamera in der Uhr"}),
    "lasers": ("review", {"title": "Laserpointer grün"}),
    "off-platform": ("review", {"text": "Płatność poza platformą, kontakt telefoniczny"}),
    "high-value": ("review", {"price": Money(amount_minor=250_000, currency=EUR)}),
    "new-seller-many-listings": ("review", {"seller": Seller(id="s", age_days=2, listings=300)}),
    "seller-often-rejected": ("review", {"seller": Seller(id="s", age_days=900, rejected=7)}),
    "facts-missing": ("review", {"title": "Thing", "brand": "", "price": None}),
    "low-risk": ("approve", {"seller": GOOD}),
}


def test_every_policy_has_an_example() -> None:
    assert [policy.id for policy in published()[1].policies] == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_only_its_own_policy_matches_an_example(name: str) -> None:
    verdict, facts = EXAMPLES[name]
    plain = {
        "title": "Koss EQ50 3-Band Stereo Equalizer",
        "brand": "Koss",
        "price": Money(amount_minor=1999, currency=EUR),
    }
    model, policy_set = sample()
    case = route(submitted(**{**plain, **facts}), "eu", policy_set, model)
    assert (case.trace.matched, case.verdict, case.trace.errors) == ([name], verdict, {})


def test_an_ordinary_listing_is_approved_by_default() -> None:
    model, policy_set = sample()
    case = route(submitted(title="Koss EQ50 3-Band Stereo Equalizer", brand="Koss"), "eu", policy_set, model)
    assert (case.verdict, case.trace.matched) == ("approve", [])


def test_few_real_listings_are_rejected_and_some_go_to_reviewers() -> None:
    if not LISTINGS.exists():
        pytest.skip(f"{LISTINGS} does not exist")
    model, policy_set = sample()
    verdicts: Counter[str] = Counter()
    with LISTINGS.open(encoding="utf-8", newline="") as file:
        for row in list(csv.DictReader(file, delimiter="|"))[::5]:
            price = Money(amount_minor=round(float(row["price"]) * 100), currency="USD") if row["price"] else None
            item = submitted(markets=["DE", "US"], title=row["title"], brand=row["brand"], price=price)
            case = route(item, "us", policy_set, model)
            assert case.trace.errors == {}
            verdicts[case.verdict] += 1
    assert 0.005 < verdicts["reject"] / verdicts.total() < 0.03
    assert 0.02 < verdicts["review"] / verdicts.total() < 0.06
