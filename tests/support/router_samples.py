"""Factories and fakes for the router's tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.router.domain.routing import NOTHING_FOUND, Evaluation, OperatingModel, PolicySet
from services.router.policies import compile_policy_set
from shared.contracts.envelope import GLOBAL, Attributes, Event
from shared.contracts.events import (
    OPERATING_MODEL_PUBLISHED,
    POLICY_SET_PUBLISHED,
    Item,
    ItemSubmitted,
    OperatingModelPublished,
    Policy,
    PolicySetPublished,
    Queue,
    Region,
    TermOptions,
)
from shared.runtime.errors import Transient

RECEIVED_AT = "2026-05-01T09:30:00.125Z"


def region(name: str = "eu", markets: Sequence[str] = ("DE", "FR"), queues: Sequence[str] = ("safety",)) -> Region:
    """A region with a `general` queue (service level of a day) and more `queues` (an hour)."""
    all_queues = [Queue(id="general", service_level_minutes=1440)]
    all_queues += [Queue(id=queue, service_level_minutes=60) for queue in queues]
    return Region(id=name, markets=list(markets), queues=all_queues, default_queue="general")


def operating_model(*regions: Region, number: int = 1) -> OperatingModelPublished:
    return OperatingModelPublished(
        id=f"om-{number}-test", number=number, published_by="test", regions=list(regions) or [region()]
    )


def policies(
    *rules: Policy,
    default: str = "approve",
    number: int = 1,
    terms: Mapping[str, list[str]] | None = None,
    term_options: Mapping[str, TermOptions] | None = None,
) -> PolicySetPublished:
    return PolicySetPublished(
        id=f"ps-{number}-test",
        number=number,
        published_by="test",
        terms=dict(terms or {}),
        term_options=dict(term_options or {}),
        policies=list(rules),
        default_verdict=default,
    )


def compiled(*rules: Policy, default: str = "approve", terms: Mapping[str, list[str]] | None = None) -> PolicySet:
    return compile_policy_set(policies(*rules, default=default, terms=terms))


def model(*regions: Region) -> OperatingModel:
    return OperatingModel(operating_model(*regions))


def rule(name: str, *when: str, verdict: str = "review", **more: Any) -> Policy:
    return Policy(id=name, when=list(when) or ["true"], verdict=verdict, **more)


def submitted(
    *,
    markets: Sequence[str] = ("DE",),
    kind: str = "product",
    regions: Sequence[str] = ("eu",),
    markets_by_region: Mapping[str, list[str]] | None = None,
    **item: Any,
) -> ItemSubmitted:
    """An item as intake accepted it; without `markets_by_region`, by an older intake."""
    return ItemSubmitted(
        item_id="0b7f2f0e-0000-5000-8000-000000000001",
        platform="shop",
        kind=kind,
        subject_id="1",
        version=1,
        content_hash="0" * 64,
        client="test",
        received_at=RECEIVED_AT,
        regions=list(regions),
        operating_model="om-0-test" if markets_by_region else "",
        markets_by_region=dict(markets_by_region or {}),
        item=Item(markets=list(markets), **item),
    )


def on_control(data: OperatingModelPublished | PolicySetPublished) -> Event[Any]:
    """The event on the control topic."""
    is_model = isinstance(data, OperatingModelPublished)
    kind = OPERATING_MODEL_PUBLISHED if is_model else POLICY_SET_PUBLISHED
    subject = "operating-model" if is_model else "policy-set"
    return Event(Attributes(data.id, kind, "test", RECEIVED_AT, subject, GLOBAL, data.id), data)


class FixedConditions:
    """Conditions with fixed results."""

    def __init__(self, *held: bool, errors: Mapping[int, str] | None = None) -> None:
        self.slow: Mapping[int, str] = {}
        self._evaluation = Evaluation(held, errors or {})

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation:  # noqa: ARG002 - parameters of the port
        return self._evaluation


def with_conditions(rules: Sequence[Policy], conditions: FixedConditions, default: str = "approve") -> PolicySet:
    """A policy set whose conditions have fixed results."""
    return PolicySet(policies(*rules, default=default), find_terms=lambda _, __: NOTHING_FOUND, conditions=conditions)


class Progress:
    """The reasons why regions are not drained; none by default. With `unknown`, every call raises Transient."""

    def __init__(self, **waiting: list[str]) -> None:
        self.waiting = waiting
        self.unknown = False

    async def unfinished(self, region: str) -> list[str]:
        if self.unknown:
            raise Transient(f"The decision service of {region} does not respond.")
        return self.waiting.get(region, [])
