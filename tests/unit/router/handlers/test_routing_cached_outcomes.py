"""Promise 8 with cached outcomes: a case depends on its own item, policy set, region and operating model only, never on
an item that the same router routed before."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from typing import Any, Final, NamedTuple

import pytest
from aiokafka import ConsumerRecord
from msgspec.structs import replace

from services.router.cel.variables import VARIABLES
from services.router.domain import routing
from services.router.domain.routing import OperatingModel, PolicySet, RulesInForce
from services.router.handlers.routing import RouteSubmissions
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, Event, decode, subject_of
from shared.contracts.events import ITEM_SUBMITTED, Author, CaseOpened, ItemSubmitted, Money, Seller, Trader
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from tests.support.router_samples import RECEIVED_AT, compiled, model, operating_model, region, rule, submitted

RECORD: Final[RawRecord] = ConsumerRecord(topics.submissions("eu"), 0, 0, 0, 0, None, None, None, 0, 0, ())


class Pair(NamedTuple):
    """A condition, an item for which it holds, and an item for which it does not; they differ in one respect."""

    condition: str
    matching: ItemSubmitted
    other: ItemSubmitted


def seller(condition: str, **fields: Any) -> Pair:
    return Pair(condition, submitted(seller=Seller(**{"id": "s"} | fields)), submitted(seller=Seller(id="s")))


def trader(condition: str, **fields: Any) -> Pair:
    return Pair(condition, submitted(trader=Trader(**{"name": "t"} | fields)), submitted(trader=Trader(name="t")))


PLAIN: Final = submitted()
CENT: Final = Money(amount_minor=1, currency="EUR")
PAIRS: Final = {
    "kind": Pair('kind == "seller"', submitted(kind="seller"), PLAIN),
    "platform": Pair('platform == "b"', replace(PLAIN, platform="b"), PLAIN),
    "subject_id": Pair('subject_id == "b"', replace(PLAIN, subject_id="b"), PLAIN),
    "markets": Pair('"FR" in markets', submitted(markets=["FR"]), PLAIN),
    "market_count": Pair("market_count == 2", submitted(markets=["DE", "FR"]), PLAIN),
    "language": Pair('language == "fr"', submitted(language="fr"), submitted(language="de")),
    "title": Pair('title == "a"', submitted(title="a"), submitted(title="b")),
    "text": Pair('text == "a"', submitted(text="a"), submitted(text="b")),
    "title_length": Pair("title_length == 1", submitted(title="a"), PLAIN),
    "text_length": Pair("text_length == 1", submitted(text="a"), PLAIN),
    "category": Pair('category == "a"', submitted(category="a"), submitted(category="b")),
    "brand": Pair('brand == "a"', submitted(brand="a"), submitted(brand="b")),
    "gtin": Pair('gtin == "12345670"', submitted(gtin="12345670"), submitted(gtin="12345687")),
    "media_count": Pair("media_count == 1", submitted(media=["a"]), PLAIN),
    "attributes": Pair('attributes["a"] == "b"', submitted(attributes={"a": "b"}), submitted(attributes={"a": "c"})),
    "scores": Pair('scores["a"] > 0.5', submitted(scores={"a": 0.9}), submitted(scores={"a": 0.1})),
    "price.known": Pair("price.known", submitted(price=CENT), PLAIN),
    "price.minor": Pair("price.minor > 1", submitted(price=replace(CENT, amount_minor=2)), submitted(price=CENT)),
    "price.currency": Pair(
        'price.currency == "USD"', submitted(price=replace(CENT, currency="USD")), submitted(price=CENT)
    ),
    "seller.known": Pair("seller.known", submitted(seller=Seller(id="s")), PLAIN),
    "seller.id": seller('seller.id == "b"', id="b"),
    "seller.name": seller('seller.name == "a"', name="a"),
    "seller.country": seller('seller.country == "DE"', country="DE"),
    "seller.age_days": seller("seller.age_days == 1", age_days=1),
    "seller.listings": seller("seller.listings == 1", listings=1),
    "seller.rejected": seller("seller.rejected == 1", rejected=1),
    "seller.rating": seller("seller.rating == 4.5", rating=4.5),
    "trader.known": Pair("trader.known", submitted(trader=Trader(name="t")), PLAIN),
    "trader.name": trader('trader.name == "b"', name="b"),
    "trader.address": trader('trader.address == "a"', address="a"),
    "trader.country": trader('trader.country == "DE"', country="DE"),
    "trader.register": trader('trader.register == "a"', register="a"),
    "trader.register_number": trader('trader.register_number == "1"', register_number="1"),
    "trader.email": trader('trader.email == "a@b.de"', email="a@b.de"),
    "trader.phone": trader('trader.phone == "1"', phone="1"),
    "trader.self_certification": trader("trader.self_certification", self_certification=True),
    "author.known": Pair("author.known", submitted(author=Author(id="a")), PLAIN),
    "author.id": Pair('author.id == "a"', submitted(author=Author(id="a")), submitted(author=Author(id="b"))),
    "author.name": Pair(
        'author.name == "a"', submitted(author=Author(id="a", name="a")), submitted(author=Author(id="a"))
    ),
    "links": Pair('"shop:product:2" in links', submitted(links=["shop:product:2"]), PLAIN),
    "terms": Pair('"weapons" in terms', submitted(title="a gun"), submitted(title="a hat")),
}


class RegionRouting:
    """One region's routing by one policy set and one operating model, and the cases that it produced."""

    def __init__(self, policy_set: PolicySet, in_force: OperatingModel, name: str = "eu") -> None:
        self.in_force = RulesInForce(in_force, policy_set)
        self._name = name
        self._records: list[Record] = []
        clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self._routing = RouteSubmissions(region=name, rules=lambda: self.in_force, producer=self, clock=clock)

    async def send(self, records: Sequence[Record]) -> None:
        self._records += records

    async def cases(self, *batch: ItemSubmitted) -> list[CaseOpened]:
        """Route one batch; returns its cases in order."""
        self._records.clear()
        await self._routing.handle([Received(RECORD, self._event(n, one)) for n, one in enumerate(batch)])
        return [decode(sent.headers, sent.key, sent.value, region=self._name).data for sent in self._records]

    def _event(self, n: int, one: ItemSubmitted) -> Event[ItemSubmitted]:
        subject = subject_of(one.platform, one.kind, one.subject_id)
        first = ids.derive(str(n))
        return Event(Attributes(first, ITEM_SUBMITTED, "test", RECEIVED_AT, subject, self._name, first), one)


def policy_set(condition: str) -> PolicySet:
    """One policy that rejects on a condition, and a word list."""
    return compiled(rule("a", condition, verdict="reject", reasons=["A"]), terms={"weapons": ["gun"]})


def test_every_variable_of_a_condition_has_a_pair_of_items() -> None:
    assert PAIRS.keys() == VARIABLES.keys()


@pytest.mark.parametrize("variable", PAIRS)
async def test_an_item_with_one_difference_from_the_previous_item_gets_its_own_verdict_and_trace(
    variable: str,
) -> None:
    condition, matching, other = PAIRS[variable]
    alone = [(await RegionRouting(policy_set(condition), model()).cases(one))[0] for one in (matching, other)]
    assert [(case.verdict, case.trace.held) for case in alone] == [("reject", ["a/0"]), ("approve", [])]
    for order in ((0, 1, 0, 1), (1, 0, 1, 0)):
        items, expected = [(matching, other)[n] for n in order], [alone[n] for n in order]
        router = RegionRouting(policy_set(condition), model())
        assert await router.cases(*items) == expected
        assert await router.cases(*items) == expected
        router = RegionRouting(policy_set(condition), model())
        assert [case for one in items for case in await router.cases(one)] == expected


async def test_an_item_with_other_markets_than_the_previous_item_is_routed_by_the_policies_of_its_own_markets() -> None:
    rules = [
        rule("de", verdict="review", reasons=["DE"], markets=["DE"], queue="safety"),
        rule("fr", verdict="reject", reasons=["FR"], markets=["FR"]),
        rule("us", verdict="reject", reasons=["US"], markets=["US"]),
        rule("all", verdict="approve", reasons=["ALL"]),
    ]
    markets = region(markets=["DE", "FR", "NL"]), region("us", ["US"])
    expected = {
        ("NL",): ("approve", ["ALL"], ["all"]),
        ("DE",): ("review", ["DE"], ["de", "all"]),
        ("FR",): ("reject", ["FR"], ["fr", "all"]),
        ("FR", "DE"): ("reject", ["FR"], ["de", "fr", "all"]),
        ("DE", "NL"): ("review", ["DE"], ["de", "all"]),
        ("NL", "US"): ("approve", ["ALL"], ["all"]),  # the policy of a market of another region does not count
    }
    for order in permutations(expected):
        batch = [submitted(markets=listed, regions=["eu", "us"] if "US" in listed else ["eu"]) for listed in order]
        router = RegionRouting(compiled(*rules), model(*markets))
        for _ in range(2):
            cases = await router.cases(*batch)
            found = [(case.verdict, case.reasons, case.trace.matched) for case in cases]
            assert found == [expected[listed] for listed in order]


async def test_an_item_of_the_same_markets_in_two_regions_gets_the_queue_of_each_region() -> None:
    regions = region("eu", ["DE"]), region("us", ["US"], queues=["weapons"])
    rules, in_force = compiled(rule("a", queue="weapons")), model(*regions)
    markets = {"eu": ["DE"], "us": ["DE"]}  # its market was in the other region at an earlier post
    for order in permutations(["eu", "us"]):
        for name in order:
            one = submitted(markets=["DE"], regions=["eu", "us"], markets_by_region=markets)
            [case] = await RegionRouting(rules, in_force, name).cases(one)
            assert case.queue == {"eu": "general", "us": "weapons"}[name]
        rules = compiled(rule("a", queue="weapons"))


async def test_an_item_that_was_accepted_before_its_market_moved_has_its_own_outcome() -> None:
    rules = [rule("de", verdict="reject", markets=["DE"]), rule("us", verdict="review", markets=["US"])]
    router = RegionRouting(compiled(*rules), model(region(markets=["FR"]), region("us", ["US", "DE"])), "us")
    before = submitted(markets=["DE", "US"], regions=["eu", "us"], markets_by_region={"eu": ["DE"], "us": ["US"]})
    after = submitted(markets=["DE", "US"], regions=["us"], markets_by_region={"us": ["DE", "US"]})
    for _ in range(2):
        assert [case.verdict for case in await router.cases(before, after, before)] == ["review", "reject", "review"]


async def test_regions_with_one_policy_set_route_the_same_item_by_their_own_markets_and_queues() -> None:
    rules = [rule("de", verdict="reject", markets=["DE"]), rule("us", queue="safety", markets=["US"])]
    shared_set = compiled(*rules)
    both = model(region(queues=["safety"]), region("us", ["US"], queues=[]))
    eu, us = RegionRouting(shared_set, both), RegionRouting(shared_set, both, "us")
    one = submitted(markets=["DE", "US"], regions=["eu", "us"])
    for _ in range(2):
        [here], [there] = await eu.cases(one), await us.cases(one)
        assert (here.verdict, here.trace.matched, here.queue) == ("reject", ["de"], "general")
        assert (there.verdict, there.trace.matched, there.queue) == ("review", ["us"], "general")


async def test_an_item_is_routed_by_the_rules_in_force_and_its_trace_names_them() -> None:
    strict, mild = compiled(rule("a", verdict="reject")), compiled(rule("a", verdict="approve", queue="safety"))
    strict.id, mild.id = "ps-strict", "ps-mild"
    narrow, wide = model(region(queues=[])), OperatingModel(operating_model(region(), number=2))
    router = RegionRouting(strict, narrow)
    expected = {
        ("ps-strict", "om-1-test"): ("reject", "general", "2026-05-02T09:30:00.125Z"),
        ("ps-strict", "om-2-test"): ("reject", "general", "2026-05-02T09:30:00.125Z"),
        ("ps-mild", "om-1-test"): ("approve", "general", "2026-05-02T09:30:00.125Z"),
        ("ps-mild", "om-2-test"): ("approve", "safety", "2026-05-01T10:30:00.125Z"),
    }
    for _ in range(2):
        for set_in_force in (strict, mild):
            for model_in_force in (narrow, wide):
                router.in_force = RulesInForce(model_in_force, set_in_force)
                [case] = await router.cases(submitted())
                names = case.trace.policy_set, case.trace.operating_model
                assert names == (set_in_force.id, model_in_force.id)
                assert (case.verdict, case.queue, case.due_at) == expected[names]


async def test_a_failed_condition_does_not_affect_later_items() -> None:
    rules = [rule(name, f'attributes["{name}"] == "x"', verdict="reject") for name in ("a", "b")]
    router = RegionRouting(compiled(*rules), model())
    batch = [submitted(attributes=dict.fromkeys(names, "y")) for names in ("ab", "b", "a", "", "ab")]
    expected = [
        ("approve", set()),
        ("review", {"a/0"}),
        ("review", {"b/0"}),
        ("review", {"a/0", "b/0"}),
        ("approve", set()),
    ]
    for _ in range(2):
        found = [(case.verdict, set(case.trace.errors)) for case in await router.cases(*batch)]
        assert found == expected


async def test_a_router_with_a_full_cache_still_gives_each_item_its_own_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routing, "_MAX_CACHED_OUTCOMES", 1)
    router = RegionRouting(compiled(rule("fr", verdict="reject", markets=["FR"])), model())
    for _ in range(3):
        cases = await router.cases(*(submitted(markets=[market]) for market in ("DE", "FR", "FR", "DE")))
        assert [case.verdict for case in cases] == ["approve", "reject", "reject", "approve"]
