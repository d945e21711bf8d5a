"""The control files of the local stack can come into force, and each of their policies works as its title states."""

import csv
from collections import Counter
from functools import cache
from typing import Any

import msgspec
import pytest

from deploy.local.sample import DATA
from services.router.api import MAX_BYTES, PublicationBody
from services.router.domain.publication import ControlSnapshot, PolicySetContent, publication_faults
from services.router.domain.routing import OperatingModel, PolicySet, route
from services.router.policies import compile_policy_set
from services.router.terms import Terms, term_lists
from services.router.terms.lists import TermList
from shared.contracts.events import Money, OperatingModelPublished, PolicySetPublished, Region, Seller
from shared.contracts.policy_documents import published_form
from tests.conftest import project_root
from tests.support.router_samples import submitted

FOLDER = project_root() / "deploy" / "local" / "control"
LISTINGS = project_root().parent / "shared" / "data"
EUR = "EUR"
GOOD = Seller(id="s", age_days=800, listings=40, rejected=0, rating=4.8)


@cache
def published() -> tuple[OperatingModelPublished, PolicySetPublished]:
    regions = msgspec.yaml.decode((FOLDER / "operating-model.yaml").read_bytes(), type=dict[str, list[Region]])
    document = published_form(msgspec.yaml.decode((FOLDER / "policies.yaml").read_bytes()))
    content = msgspec.convert(document, PolicySetContent)
    model = OperatingModelPublished(id="om-1-sample", number=1, published_by="test", regions=regions["regions"])
    return model, PolicySetPublished(id="ps-1-sample", number=1, published_by="test", **msgspec.structs.asdict(content))


@cache
def sample() -> tuple[OperatingModel, PolicySet]:
    model, policies = published()
    return OperatingModel(model), compile_policy_set(policies)


def test_the_files_have_no_faults_and_fit_into_one_publication() -> None:
    model, policies = published()
    nothing = ControlSnapshot(None, None)
    assert publication_faults(model, policies, nothing, ["eu", "us"], compile_policy_set) == []
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
    "medicine-without-prescription": ("reject", {"title": "Antibiotiques sans ordonnance"}),
    "recalled-products": ("reject", {"title": "Hoverboard 6.5 inch"}),
    "bait-price": ("reject", {"title": "Camera with two lenses", "price": Money(amount_minor=5, currency=EUR)}),
    "radar-warners": ("reject", {"title": "Radarwarner für das Auto"}),
    "prescription-medicine": ("review", {"title": "Tramadol 50 mg"}),
    "endangered-species": ("review", {"title": "Figure of carved ivory"}),
    "tobacco": ("review", {"title": "Zigaretten, eine Stange"}),
    "adult-content": ("review", {"title": "Sex toys, discreet box"}),
    "hate-symbols": ("review", {"text": "Original Nazi flag"}),
    "counterfeit-words": ("review", {"title": "Handtasche, täuschend echte Nachbildung"}),
    "brand-far-below-price": (
        "review",
        {"brand": "Apple", "title": "MacBook Air", "price": Money(amount_minor=500, currency=EUR)},
    ),
    "brand-but-not-original": ("review", {"brand": "HP", "title": "Remanufactured toner cartridge"}),
    "counterfeit-score": ("review", {"scores": {"counterfeit": 0.9}}),
    "unsafe-content-score": ("review", {"scores": {"violence": 0.95}}),
    "surveillance": ("review", {"title": "Versteckte Kamera in der Uhr"}),
    "lasers": ("review", {"title": "Laserpointer grün"}),
    "off-platform": ("review", {"text": "Płatność poza platformą, kontakt telefoniczny"}),
    "personal-data": ("review", {"text": "Write to jo@example.com"}),
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


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("weapon", {"weapons"}),
        ("counterfeit", {"counterfeit-words"}),
        ("medicine", {"medicine-without-prescription"}),
        ("recalled", {"recalled-products"}),
        ("contact", {"off-platform"}),
        ("spy_camera", {"surveillance"}),
        ("replica", set[str]()),
        ("laser", set[str]()),
    ],
)
def test_the_texts_of_the_sample_match_in_each_of_their_languages(planted: str, expected: set[str]) -> None:
    model, policy_set = sample()
    price = Money(amount_minor=1999, currency=EUR)
    for language, text in DATA["planted"][planted].items():
        item = submitted(title=text, brand="Koss", price=price, language=language)
        assert {*route(item, "eu", policy_set, model).trace.matched} == expected, text


@pytest.mark.parametrize(
    ("minor", "currency", "expected"),
    [
        (150, "EUR", []),  # a dress for 1.50
        (9, "EUR", ["bait-price"]),
        (240, "JPY", []),
        (14, "JPY", ["bait-price"]),
        (300, "HUF", ["bait-price"]),  # 3 forints
        (89_900, "CZK", []),  # a shirt for 899 crowns
        (1_900_000, "CZK", ["high-value"]),
        (75_000, "EUR", ["high-value"]),
        (75_000, "PLN", []),
        (74_999, "USD", []),
        (120_000, "JPY", ["high-value"]),
        (75_000, "SEK", []),
        (850_000, "SEK", ["high-value"]),
        (1, "BGN", []),  # no policy compares an amount in a currency that it does not name
    ],
)
def test_prices_compare_within_a_currency(minor: int, currency: str, expected: list[str]) -> None:
    model, policy_set = sample()
    item = submitted(title="Dress of linen, blue", brand="Koss", price=Money(amount_minor=minor, currency=currency))
    assert route(item, "eu", policy_set, model).trace.matched == expected


def test_a_listing_without_brand_or_without_price_is_ordinary() -> None:
    model, policy_set = sample()
    price = Money(amount_minor=1999, currency=EUR)
    text = "Hand-made of oak, 30 cm wide."
    ordinary: list[dict[str, Any]] = [{"price": price}, {"brand": "Koss"}, {"category": "Home"}, {"text": text}]
    for facts in ordinary:
        item = submitted(title="Wooden bowl", **facts)
        assert route(item, "eu", policy_set, model).trace.matched == [], facts


def test_the_hits_among_real_listings_are_those_that_the_docs_show() -> None:
    """docs/architecture/term-lists.md has these numbers, and the judgement of each hit."""
    if not LISTINGS.exists():
        pytest.skip(f"{LISTINGS} does not exist")
    model, policy_set = sample()
    verdicts: Counter[str] = Counter()
    matched: Counter[str] = Counter()
    for name in ("amazon", "walmart"):
        with (LISTINGS / f"listings-d8-{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="|", quoting=csv.QUOTE_NONE):
                paid = round(float(row["price"] or 0) * 100)
                price = Money(amount_minor=paid, currency="USD") if paid else None
                item = submitted(markets=["US"], title=row["title"], brand=row["brand"] or "", price=price)
                case = route(item, "us", policy_set, model)
                assert case.trace.errors == {}
                verdicts[case.verdict] += 1
                matched.update(case.trace.matched)
    assert verdicts == {"approve": 24_030, "review": 579, "reject": 19}
    assert matched == {
        "high-value": 563,
        "bait-price": 19,
        "brand-but-not-original": 8,
        "surveillance": 4,
        "facts-missing": 2,
        "lasers": 2,
    }


def test_the_hits_that_each_option_adds_among_real_titles_are_those_that_the_docs_show() -> None:
    """Pairs of a title and a list of the sample: with one option for all lists and no exceptions."""
    if not LISTINGS.exists():
        pytest.skip(f"{LISTINGS} does not exist")
    titles: list[str] = []
    for name in ("amazon", "walmart"):
        with (LISTINGS / f"listings-d8-{name}.csv").open(encoding="utf-8", newline="") as file:
            titles += [row["title"] for row in csv.DictReader(file, delimiter="|", quoting=csv.QUOTE_NONE)]
    assert len(titles) == 24_628
    published_lists = term_lists(published()[1].terms, published()[1].term_options)

    def hits(lists: list[TermList]) -> int:
        terms = Terms(lists)
        return sum(len(terms.find(title, "").phrases) for title in titles)

    found = {
        option: hits(
            [one._replace(exceptions=(), options=frozenset(filter(None, [option]))) for one in published_lists]
        )
        for option in ("", "inflection", "joined", "spaced", "leet", "prefixes")
    }
    assert found == {"": 440, "inflection": 447, "joined": 441, "spaced": 440, "leet": 440, "prefixes": 440}
    assert hits([one._replace(options=frozenset()) for one in published_lists]) == 393
