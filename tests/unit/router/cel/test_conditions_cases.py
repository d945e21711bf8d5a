"""A case does not show which engine evaluated its conditions: its bytes are the same."""

import csv
from collections.abc import Iterator, Sequence
from functools import cache

import msgspec
import pytest

from deploy.local import sample
from services.router import policies as router_policies
from services.router.cel.conditions import CelConditions
from services.router.domain.routing import Evaluation, OperatingModel, PolicySet, route
from services.router.policies import compile_policy_set
from shared.contracts.events import Item, ItemSubmitted, Money, OperatingModelPublished, PolicySetPublished, Region
from tests.conftest import project_root
from tests.support.router_samples import policies, rule, submitted

CONTROL = project_root() / "deploy" / "local" / "control"
DATA = project_root().parent / "shared" / "data"


class ByCel(CelConditions):
    """Conditions that only CEL evaluates."""

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation:
        return self.evaluate_by_cel(submitted, terms)


def policy_sets(published: PolicySetPublished) -> tuple[PolicySet, PolicySet]:
    """The set with both engines, and with CEL only."""
    both = compile_policy_set(published)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(router_policies, "CelConditions", ByCel)
        return both, compile_policy_set(published)


@cache
def sample_rules() -> tuple[OperatingModel, PolicySetPublished]:
    regions = msgspec.yaml.decode((CONTROL / "operating-model.yaml").read_bytes(), type=dict[str, list[Region]])
    content = msgspec.yaml.decode((CONTROL / "policies.yaml").read_bytes())
    model = OperatingModelPublished(id="om-1-sample", number=1, published_by="test", regions=regions["regions"])
    lists = {name: one if isinstance(one, list) else one["phrases"] for name, one in content.pop("terms").items()}
    stamp = {"id": "ps-1-sample", "number": 1, "published_by": "test"}
    return OperatingModel(model), msgspec.convert({**stamp, "terms": lists, **content}, PolicySetPublished)


def assert_same_cases(items: Iterator[ItemSubmitted], published: PolicySetPublished) -> int:
    """Route the items by both sets, compare the cases, and return their number."""
    model, _ = sample_rules()
    both, by_cel = policy_sets(published)
    count = 0
    for item in items:
        count += 1
        cases = [route(item, "eu", policy_set, model) for policy_set in (both, by_cel)]
        assert msgspec.json.encode(cases[0]) == msgspec.json.encode(cases[1])
    return count


def sampled() -> Iterator[ItemSubmitted]:
    for line in sample.make(1_000, 3):
        if line.action != "refused":
            post = msgspec.json.decode(line.body)
            item = msgspec.convert({name: post[name] for name in post if name in Item.__struct_fields__}, Item)
            fields = msgspec.structs.asdict(item)
            yield submitted(kind=post["kind"], **{**fields, "markets": item.markets})


def listings() -> Iterator[ItemSubmitted]:
    for name, delimiter in (("d8-amazon", "|"), ("d8-walmart", "|"), ("d3-amazon", "#"), ("d3-gp", "#")):
        with (DATA / f"listings-{name}.csv").open(encoding="utf-8", errors="replace", newline="") as file:
            for row in list(csv.DictReader(file, delimiter=delimiter))[::10]:
                try:
                    price = Money(amount_minor=round(float(row["price"]) * 100), currency="USD")
                except ValueError:
                    price = None
                brand = row.get("brand") or row.get("manufacturer") or ""
                text = row.get("description") or ""
                yield submitted(markets=["DE", "US"], title=row["title"] or "", text=text, brand=brand, price=price)


def test_the_sample_policies_give_the_same_cases_for_the_sample() -> None:
    assert assert_same_cases(sampled(), sample_rules()[1]) > 900


def test_the_sample_policies_give_the_same_cases_for_real_listings() -> None:
    if not DATA.exists():
        pytest.skip(f"{DATA} does not exist")
    assert assert_same_cases(listings(), sample_rules()[1]) > 2_500


def test_errors_have_the_same_texts_in_the_trace() -> None:
    failing = policies(
        rule("a", 'attributes["colour"] == "red"', "kind == 'product'"),
        rule("b", "text_length / title_length > 3", "scores.nudity > 0.5"),
        rule("c", "links[3] == 'a' || price.minor > 5"),
        rule("d", "seller.age_days * 9223372036854775807 > 1", "true"),
        rule("e", "links.all(l, l != 'b')"),
    )
    items = [
        submitted(),
        submitted(price=Money(amount_minor=2**63, currency="EUR")),
        submitted(attributes={"colour": "red"}, title="x", links=["a"] * 10_001),
    ]
    assert assert_same_cases(iter(items), failing) == 3
    both, _ = policy_sets(failing)
    assert route(items[0], "eu", both, sample_rules()[0]).trace.errors == {
        "a/0": 'NOT_FOUND: Key not found in map : "colour"',
        "b/0": "INVALID_ARGUMENT: divide by zero",
        "b/1": 'NOT_FOUND: Key not found in map : "nudity"',
        "c/0": "UNKNOWN: Index error: index=3 size=0",
    }


def test_every_condition_of_the_sample_policies_is_covered() -> None:
    assert CelConditions([policy.when for policy in sample_rules()[1].policies]).slow == {}
