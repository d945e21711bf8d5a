"""A publication is checked as a whole before it is sent, and only the changed part is published."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from services.router.control import ControlState
from services.router.domain.publication import PolicySetContent
from services.router.handlers.publication import NotYetInForce, PublicationResult, PublishControl
from services.router.policies import compile_policy_set
from shared.contracts.envelope import GLOBAL, decode
from shared.contracts.events import Policy, Region
from shared.contracts.topics import CONTROL
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.validation.faults import InputRejected
from tests.support.router_samples import on_control, operating_model, policies, region, rule


class LoopbackTopic:
    """A control topic for one process: each record is applied at once, unless `lost` is set."""

    def __init__(self, control: ControlState) -> None:
        self.control = control
        self.sent: list[Record] = []
        self.lost = False

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        self.sent += records
        if not self.lost:
            for r in records:
                self.control.apply(decode(r.headers, r.key, r.value, region=GLOBAL))


class RouterInMemory:
    """A router's state and its handler for publications; nothing is in force at first."""

    def __init__(self) -> None:
        self.control = ControlState(["eu"], compile_policy_set)
        self.topic = LoopbackTopic(self.control)
        clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.publisher = PublishControl(self.control, self.topic, clock, apply_seconds=0.05)

    async def publish(
        self, regions: list[Region] | None = None, rules: list[Policy] | None = None, **terms: list[str]
    ) -> tuple[PublicationResult | None, PublicationResult | None]:
        content = None if rules is None else PolicySetContent(terms, rules, "approve")
        return await self.publisher.publish(regions, content, by="test")

    async def faults(self, regions: list[Region] | None = None, rules: list[Policy] | None = None) -> dict[str, str]:
        """The faults of a rejected publication: details by pointer."""
        with pytest.raises(InputRejected) as rejected:
            await self.publish(regions, rules)
        return {fault.pointer: fault.detail for fault in rejected.value.faults}


@pytest.fixture
def router() -> RouterInMemory:
    return RouterInMemory()


async def test_a_first_publication_has_number_one_and_the_operating_model_is_sent_first(
    router: RouterInMemory,
) -> None:
    model, policy_set = await router.publish([region()], [rule("a")])
    assert model is not None
    assert policy_set is not None
    assert (model.number, model.changed, policy_set.number, policy_set.changed) == (1, True, 1, True)
    assert model.id.startswith("om-1-")
    assert policy_set.id.startswith("ps-1-")
    assert [(r.topic, r.key) for r in router.topic.sent] == [(CONTROL, b"operating-model"), (CONTROL, b"policy-set")]
    assert router.control.rules.operating_model.id == model.id
    assert router.control.rules.policy_set.id == policy_set.id


async def test_equal_content_is_not_published_again(router: RouterInMemory) -> None:
    first = await router.publish([region()], [rule("a")], weapons=["gun"], drugs=["x"])
    again = await router.publish([region()], [rule("a")], drugs=["x"], weapons=["gun"])
    assert [result and result.changed for result in again] == [False, False]
    assert [result and result.id for result in again] == [result and result.id for result in first]
    assert len(router.topic.sent) == 2


async def test_only_the_part_that_differs_is_published_with_the_next_number(router: RouterInMemory) -> None:
    await router.publish([region()], [rule("a")])
    model, policy_set = await router.publish([region()], [rule("b")])
    assert (model and model.changed, policy_set and policy_set.number) == (False, 2)
    assert [r.key for r in router.topic.sent] == [b"operating-model", b"policy-set", b"policy-set"]


async def test_concurrent_publications_get_different_numbers(router: RouterInMemory) -> None:
    await router.publish([region()])
    results = await asyncio.gather(*(router.publish(None, [rule(f"p{n}")]) for n in range(5)))
    assert sorted(policy_set.number for _, policy_set in results if policy_set) == [1, 2, 3, 4, 5]


async def test_a_publication_that_does_not_come_into_force_in_time_is_reported(router: RouterInMemory) -> None:
    router.topic.lost = True
    with pytest.raises(NotYetInForce, match="reached Kafka but not this router"):
        await router.publish([region()])


async def test_a_policy_set_needs_an_operating_model(router: RouterInMemory) -> None:
    assert "no operating model is in force" in (await router.faults(None, [rule("a")]))["/operating_model"]


async def test_a_condition_that_does_not_compile_is_reported_with_policy_index_and_caret(
    router: RouterInMemory,
) -> None:
    faults = await router.faults([region()], [rule("fine"), rule("typo", "true", 'titel == "x"')])
    (detail,) = faults.values()
    assert list(faults) == ["/policy_set/policies/1/when/1"]
    assert detail.startswith("policy 'typo', condition 1: 1:1: undeclared reference to 'titel'")
    assert detail.endswith("^")


async def test_faults_of_both_parts_are_reported_together_and_nothing_is_published(router: RouterInMemory) -> None:
    faults = await router.faults([region(markets=["XX"])], [rule("a", "nope"), rule("b", verdict="maybe")])
    assert list(faults) == [
        "/operating_model/regions/0/markets/0",
        "/policy_set/policies/1/verdict",
        "/policy_set/policies/0/when/0",
    ]
    assert router.topic.sent == []


async def test_a_new_operating_model_must_fit_the_policy_set_in_force(router: RouterInMemory) -> None:
    await router.publish([region()], [rule("a", queue="safety")])
    faults = await router.faults([region(queues=[])])
    assert "region eu has no queue 'safety'" in faults["/operating_model/regions"]
    await router.publish([region(queues=[])], [rule("a")])


async def test_a_new_policy_set_must_fit_the_operating_model_in_force(router: RouterInMemory) -> None:
    await router.publish([region()])
    faults = await router.faults(None, [rule("a", queue="gone")])
    assert "has no queue 'gone'" in faults["/policy_set/policies/0/queue"]


async def test_an_operating_model_without_a_region_of_this_router_is_rejected(router: RouterInMemory) -> None:
    assert "this router serves it" in (await router.faults([region("us", ["US"])]))["/operating_model/regions"]


async def test_a_deleted_part_stays_in_force_until_its_next_publication_with_any_number(router: RouterInMemory) -> None:
    await router.publish([region()], [rule("a")])
    await router.publish(None, [rule("b")])
    for entity in ("operating-model", "policy-set"):
        router.control.delete(entity)
    assert router.control.rules.policy_set.published.number == 2

    model, policy_set = await router.publish([region()], [rule("b")])
    again = await router.publish([region()], [rule("b")])

    assert [(part.number, part.changed) for part in (model, policy_set) if part] == [(2, True), (3, True)]
    assert [part.changed for part in again if part] == [False, False]
    router.control.delete("policy-set")
    router.control.apply(on_control(policies(number=1)))  # from a router that found the topic empty
    router.control.apply(on_control(operating_model(number=1)))
    rules = router.control.rules
    assert (rules.policy_set.id, rules.operating_model.published.number) == ("ps-1-test", 2)
