"""Promise 8 for any item and policies: same input, same output; the strictest verdict wins; no error is ignored."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.router.cel.conditions import CelConditions
from services.router.domain.routing import STRICTEST_FIRST, OperatingModel, due_at, route
from shared.contracts.events import ItemSubmitted, Money, Policy, Seller
from tests.support.router_samples import (
    FixedConditions,
    compiled,
    model,
    operating_model,
    region,
    submitted,
    with_conditions,
)

CONDITIONS = [
    'kind == "product"',
    '"weapons" in terms',
    "price.known && price.minor < 100",
    "price.minor > 500000",
    "seller.age_days < 14",
    "seller.known && seller.rating < 2.5",
    "title_length + text_length < 10",
    'language.startsWith("de")',
    'title.lowerAscii().contains("gun")',
    "market_count > 1",
    'attributes["colour"] == "red"',
    'scores["nudity"] > 0.5',
    "text_length / title_length > 3",
    'markets.exists(m, m == "DE")',
    "media_count == 0",
    'brand == "" || gtin == ""',
]

whole = st.none() | st.integers(-5, 10**6) | st.integers()
texts = st.text(max_size=30) | st.sampled_from(["gun", "A Gun.", "begun", "ｇｕｎ"])


@st.composite
def items(draw: st.DrawFn) -> ItemSubmitted:
    price = draw(st.none() | st.builds(Money, amount_minor=st.integers(0, 2**64), currency=st.just("EUR")))
    rating = st.none() | st.floats(0, 5)
    seller = draw(
        st.none() | st.builds(Seller, id=st.text(), age_days=whole, listings=whole, rejected=whole, rating=rating)
    )
    return submitted(
        markets=draw(st.lists(st.sampled_from(["DE", "FR"]), min_size=1, unique=True)),
        kind=draw(st.sampled_from(["product", "seller", "content"])),
        language=draw(st.sampled_from(["und", "de", "de-AT", "en"])),
        title=draw(texts),
        text=draw(texts),
        brand=draw(texts),
        media=draw(st.lists(texts, max_size=2)),
        attributes=draw(st.dictionaries(st.sampled_from(["colour", "size"]), texts)),
        scores=draw(st.dictionaries(st.sampled_from(["nudity", "violence"]), st.floats(0, 1))),
        price=price,
        seller=seller,
    )


rules = st.lists(
    st.builds(
        Policy,
        id=st.uuids().map(str),
        when=st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3),
        verdict=st.sampled_from(STRICTEST_FIRST),
        reasons=st.lists(st.sampled_from(["A", "B"]), max_size=2),
        queue=st.sampled_from(["", "safety", "general"]),
        priority=st.integers(1, 9),
        markets=st.lists(st.sampled_from(["DE", "FR"]), max_size=1),
    ),
    max_size=8,
    unique_by=lambda policy: policy.id,
)
defaults = st.sampled_from(STRICTEST_FIRST)
each = [CelConditions([[condition]]) for condition in CONDITIONS]
together = CelConditions([CONDITIONS])


@given(rules, defaults, items())
@settings(max_examples=60)
def test_the_same_item_under_the_same_set_gives_the_same_case(
    policies: list[Policy], default: str, item: ItemSubmitted
) -> None:
    cached = compiled(*policies, default=default, terms={"weapons": ["gun"]})
    fresh = compiled(*policies, default=default, terms={"weapons": ["gun"]})
    first = route(item, "eu", cached, model())
    assert first == route(item, "eu", cached, model()) == route(item, "eu", fresh, model())


@st.composite
def models(draw: st.DrawFn, number: int) -> OperatingModel:
    """An operating model with the regions eu and us; each market belongs to one of them, or to none."""
    owners = {market: draw(st.sampled_from(["eu", "us", ""])) for market in ("DE", "FR", "US")}
    queues = {name: draw(st.lists(st.sampled_from(["safety", "content"]), unique=True)) for name in ("eu", "us")}
    regions = [region(name, [m for m, owner in owners.items() if owner == name], queues[name]) for name in queues]
    return OperatingModel(operating_model(*regions, number=number))


@given(rules, items(), models(1), models(2), st.booleans())
@settings(max_examples=200)
def test_no_change_of_the_operating_model_changes_the_verdict_of_an_accepted_item(
    policies: list[Policy],
    item: ItemSubmitted,
    first: OperatingModel,
    second: OperatingModel,
    older: bool,
) -> None:
    """Promises 1 and 5: an accepted item is routed under every model, to a queue of the model in force."""
    policy_set = compiled(*policies, terms={"weapons": ["gun"]})
    if not older:
        item = replace(item, markets_by_region={"eu": item.item.markets})
    cases = [route(item, "eu", policy_set, one) for one in (first, second)]
    assert cases[0].case_id == cases[1].case_id
    for case, in_force in zip(cases, (first, second), strict=True):
        levels = in_force.region_route("eu").service_levels
        assert case.due_at == due_at(case.received_at, levels[case.queue])
        assert case.trace.operating_model == in_force.id
    judged = [(case.verdict, case.reasons, case.priority, case.trace.matched, case.trace.held) for case in cases]
    assert judged[0] == judged[1]


@given(st.lists(st.sampled_from(["DE", "FR", "US"]), min_size=1, unique=True), models(1), models(2))
def test_the_markets_of_an_older_event_are_never_empty_and_are_exact_while_no_market_has_moved(
    markets: list[str], accepted_under: OperatingModel, in_force: OperatingModel
) -> None:
    owned = {
        name: [m for m in markets if m in accepted_under.region_route(name).markets] for name in accepted_under.regions
    }
    if sum(map(len, owned.values())) < len(markets):
        return  # intake does not accept it
    event = submitted(markets=markets, regions=[name for name, own in owned.items() if own])
    for name in event.regions:
        assert accepted_under.markets_of(event, name) == owned[name]
        assert in_force.markets_of(event, name)
        fact = replace(event, markets_by_region={name: own for name, own in owned.items() if own})
        assert in_force.markets_of(fact, name) == owned[name]


@given(items(), st.booleans())
@settings(max_examples=200)
def test_conditions_have_the_same_results_alone_and_together(item: ItemSubmitted, has_terms: bool) -> None:
    terms = ["weapons"] if has_terms else []
    held, errors = together.evaluate(item, terms)
    alone = [conditions.evaluate(item, terms) for conditions in each]
    for index, evaluation in enumerate(alone):
        assert not (held[index] and index in errors)
        if not _is_beyond_64_bits(item):
            assert evaluation.held == (held[index],)
            assert bool(evaluation.errors) == (index in errors)


@given(rules, defaults, st.data())
@settings(max_examples=200)
def test_the_strictest_matching_verdict_wins_and_an_error_never_counts_as_no_match(
    policies: list[Policy], default: str, data: st.DataObject
) -> None:
    count = sum(len(policy.when) for policy in policies)
    results = data.draw(st.lists(st.sampled_from([True, False, None]), min_size=count, max_size=count))
    errors = {index: "failed" for index, result in enumerate(results) if result is None}
    conditions = FixedConditions(*(result is True for result in results), errors=errors)
    case = route(submitted(markets=["DE"]), "eu", with_conditions(policies, conditions, default), model())

    proposed: list[str] = []
    start = 0
    for policy in policies:
        own = results[start : start + len(policy.when)]
        start += len(policy.when)
        if policy.markets == ["FR"] or False in own:
            continue
        proposed.append("review" if None in own else policy.verdict)
    assert case.verdict == min(proposed, key=STRICTEST_FIRST.index, default=default)
    assert len(case.trace.errors) == len(errors)


def _is_beyond_64_bits(item: ItemSubmitted) -> bool:
    seller = item.item.seller
    numbers = [seller.age_days, seller.listings, seller.rejected] if seller is not None else []
    if item.item.price is not None:
        numbers.append(item.item.price.amount_minor)
    return any(number is not None and not -(2**63) <= number < 2**63 for number in numbers)
