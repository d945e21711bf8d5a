"""The cost of policies by their number: sets with three conditions for each policy, and twenty kinds of policies.

Policies of the same kind differ in word list, thresholds, categories, brands, countries and market, like the policies
of a marketplace for its categories and markets. One in three is limited to a market.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx
import msgspec

from deploy.local import sample
from services.router.cel.conditions import CelConditions
from services.router.cel.program import program
from shared.contracts import topics
from shared.contracts.events import ItemSubmitted, PolicySetPublished
from tests.bench import data, floors
from tests.bench.data import REGION, REGIONS
from tests.bench.kafka import fill
from tests.bench.report import WARM, Figure, Mark, Round, of_rounds
from tests.bench.services import Service
from tests.bench.stages import Bench, floor_consumer, floor_producer, resumed, stopped
from tests.bench.usage import peak_mb

_EVALUATED: Final = 20_000  # items of the evaluation alone

_BRANDS: Final = ("Apple", "Bose", "Canon", "Garmin", "Nikon", "Rolex", "Samsung", "Sony", "Lego", "Nike", "Gucci")
_CATEGORIES: Final = ("Toys", "Electronics", "Baby", "Home/Kitchen", "Fashion", "Sport", "Books", "Garden")
_SCORES: Final = ("counterfeit", "nudity", "violence", "spam", "drugs", "weapons", "hate")
_COUNTRIES: Final = ("CN", "DE", "FR", "GB", "HK", "PL", "TR", "US")
_VERDICTS: Final = ("reject", "review", "review", "approve")

_PRODUCT: Final = 'kind == "product"'
_When = Callable[[int], list[str]]


def _pick(values: tuple[str, ...], number: int) -> str:
    return values[number // len(_KINDS) % len(values)]


def _listed(number: int) -> str:
    return f'"list-{number}" in terms'


def _scored(number: int, threshold: float) -> str:
    name = _pick(_SCORES, number)
    return f'"{name}" in scores && scores["{name}"] >= {threshold + number % 7 / 100}'


def _in_category(number: int) -> str:
    return f'category.startsWith("{_pick(_CATEGORIES, number)}")'


def _cheaper(number: int) -> str:
    return f"price.known && price.minor < {500 + 250 * number}"


def _of_brand(number: int) -> str:
    first, second = _pick(_BRANDS, number), _pick(_BRANDS, number + 3 * len(_KINDS))
    return f'brand in ["{first}", "{second}"]'


_KINDS: Final[tuple[_When, ...]] = (
    lambda n: [_listed(n), _PRODUCT, _in_category(n)],
    lambda n: [_listed(n), _PRODUCT, _cheaper(n)],
    lambda n: [_listed(n), f'seller.country == "{_pick(_COUNTRIES, n)}"', "seller.known"],
    lambda n: [_scored(n, 0.8), _PRODUCT, _in_category(n)],
    lambda n: [_scored(n, 0.5), 'kind == "content"', f"author.known && text_length > {n}"],
    lambda n: [_of_brand(n), _cheaper(n), "price.known"],
    lambda n: [_of_brand(n), _listed(n), _PRODUCT],
    lambda n: ["seller.known", f"seller.age_days >= 0 && seller.age_days < {7 + n}", f"seller.listings > {20 + n}"],
    lambda n: ["seller.known", f"seller.rejected >= {2 + n}", f"seller.rating < {2 + n % 20 / 10}"],
    lambda n: [_PRODUCT, f"price.minor >= {50_000 + 100 * n}", "!seller.known || seller.age_days < 180"],
    lambda n: [_PRODUCT, _in_category(n), '!("condition" in attributes)'],
    lambda n: [_PRODUCT, f'"ce_mark_{n}" in attributes', _in_category(n)],
    lambda n: ['kind == "content"', f'text.contains("http://site-{n}")', "media_count == 0"],
    lambda n: [_PRODUCT, f"title_length + text_length < {16 + n % 5}", 'brand == ""'],
    lambda n: [_listed(n), f'"{_pick(_COUNTRIES, n)}" in markets', _PRODUCT],
    lambda n: [f'markets.exists(m, m == "{_pick(_COUNTRIES, n)}")', _scored(n, 0.6), f"media_count > {n % 9}"],
    lambda n: [f'language.startsWith("{_pick(_COUNTRIES, n).lower()}")', _listed(n), "trader.known"],
    lambda n: ['kind == "seller"', f"seller.rating >= 0.0 && seller.rating < {1 + n % 9 / 10}", "!trader.known"],
    lambda n: [_PRODUCT, f'title.lowerAscii().contains("lot of {n}")', _cheaper(n)],
    lambda n: [_listed(n), f'trader.country != "{_pick(_COUNTRIES, n)}"', "!trader.self_certification"],
)


def policies(count: int) -> list[dict[str, Any]]:
    """This number of policies, as the body of a publication has them."""
    return [_policy(number) for number in range(count)]


def _policy(number: int) -> dict[str, Any]:
    one: dict[str, Any] = {
        "id": f"p-{number:03d}",
        "when": _KINDS[number % len(_KINDS)](number),
        "verdict": _VERDICTS[number % len(_VERDICTS)],
        "reasons": [f"REASON_{number}"],
        "priority": 1 + number % 9,
    }
    return one | ({"markets": [sample.EU[number % len(sample.EU)]]} if number % 3 == 0 else {})


class Measured:
    """A policy set with the rounds of the router and of the floor."""

    def __init__(self, count: int) -> None:
        body = {
            **data.POLICY_SET,
            "policies": policies(count),
            "id": f"ps-{count}",
            "number": 1,
            "published_by": "bench",
        }
        self.published = msgspec.convert(body, PolicySetPublished)
        self.when = [policy.when for policy in self.published.policies]
        self.rounds: list[Round] = []
        self.floors: list[Round] = []

    def __str__(self) -> str:
        return f"{len(self.when)} policies, {sum(map(len, self.when))} conditions"


async def scaling(bench: Bench) -> list[Figure]:
    """The router with 20 and with 200 policies, in turns; and the evaluation of their conditions alone."""
    await bench.launcher.topics(*REGIONS)
    await bench.publish_control()
    source, target, group = topics.submissions(REGION), topics.cases(REGION), f"piepowder-router-{REGION}"
    names = {target: "bench.policies.out"}
    await bench.launcher.plain_topics("bench.policies.in", *names.values())
    submitted = [life.submitted for life in data.lives(bench.items, tag="scaled")]
    few, many = Measured(20), Measured(200)
    async with bench.launcher.service("router", REGIONS=REGION) as service, floor_producer(bench) as producer:
        await bench.watch.until_committed(group, [source])
        for number in range(bench.rounds + WARM):
            bench.say(f"policies: round {number + 1} of {bench.rounds + WARM}")
            for one in (few, many):
                await _publish(service, one.published)
                before = await bench.watch.ends([target])
                async with stopped(service):
                    await fill(bench.producer, source, submitted)
                working = bench.watch.until_committed(group, [source])
                one.rounds.append(await bench.round(bench.items, {"router": service.pid}, resumed(service, working)))
                outputs = floors.moved(await bench.watch.read([target], since=before), names)
                assert sum(map(len, outputs.values())) == bench.items, "every item became a case"
                begin = await bench.watch.ends(["bench.policies.in"])
                await fill(bench.producer, "bench.policies.in", submitted)
                async with floor_consumer(bench) as consumer:
                    passing = floors.pass_on(consumer, begin, producer, outputs, bench.items)
                    one.floors.append(await bench.round(bench.items, {"client": os.getpid()}, passing))
        peak = {"router": peak_mb(service.pid)}
    figures = [
        of_rounds(f"router: items/s, {one}", "items/s", one.rounds[WARM:], one.floors[WARM:], peak=peak)
        for one in (few, many)
    ]
    name = f"router: items/s, {many}; beside {few}"
    figures.append(of_rounds(name, "items/s", many.rounds[WARM:], few.rounds[WARM:], mark=Mark(0.2), peak={}))
    items = [msgspec.json.decode(one.value, type=ItemSubmitted) for one in submitted[:_EVALUATED]]
    for one in (few, many):
        figures += await _evaluation(bench, one, items)
    return figures


async def _publish(service: Service, policy_set: PolicySetPublished) -> None:
    """Publish a policy set; it is in force when the router responds."""
    fields = ("terms", "policies", "default_verdict")
    body = msgspec.json.encode({"policy_set": {name: getattr(policy_set, name) for name in fields}})
    headers = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
        answer = await client.post(f"{service.url}/v1/control", content=body, headers=headers)
        assert answer.status_code == 200, answer.text


async def _evaluation(bench: Bench, one: Measured, items: Sequence[ItemSubmitted]) -> list[Figure]:
    """Evaluations per second in this process; the floor evaluates by CEL. Also the share of results that are CEL's."""
    conditions, pids = CelConditions(one.when), {"bench": os.getpid()}
    by_both, by_cel = [], []
    for _ in range(bench.rounds):
        by_both.append(await bench.round(len(items), pids, _evaluated(conditions.evaluate, items)))
        by_cel.append(await bench.round(len(items), pids, _evaluated(conditions.evaluate_by_cel, items)))
    name = f"evaluation alone: items/s, {one}; floor: by CEL"
    compiled = program([condition for own in one.when for condition in own])
    left = len(compiled.not_covered) * len(items)
    for item in items:
        evaluated = compiled.evaluate(item, [], [False] * len(compiled.not_covered))
        left += len(one.when) if evaluated is None else len(evaluated[1])
    share = 100 * left / (len(items) * sum(map(len, one.when)))
    return [
        of_rounds(name, "items/s", by_both, by_cel, peak={}),
        Figure(name=f"results of CEL, {one}", unit="%", values=[share]),
    ]


async def _evaluated(
    evaluate: Callable[[ItemSubmitted, Sequence[str]], object], items: Sequence[ItemSubmitted]
) -> None:
    for item in items:
        evaluate(item, [])
