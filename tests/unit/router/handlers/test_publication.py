"""A publication is checked as a whole before it is sent, and only the changed part is published."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from services.router.control import ControlState
from services.router.domain.publication import PolicySetContent
from services.router.handlers.publication import (
    ConflictingPublication,
    NotYetInForce,
    PublicationResult,
    PublishControl,
)
from services.router.policies import compile_policy_set
from shared.contracts.envelope import GLOBAL, Event, decode
from shared.contracts.events import Policy, Region
from shared.contracts.topics import CONTROL
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison, Transient
from shared.validation.faults import InputRejected
from tests.support.router_samples import Progress, on_control, operating_model, policies, region, rule


class LoopbackTopic:
    """A control topic: each record is applied at once by the readers that are not in `stopped`.

    It refuses records while `refuses` is set.
    """

    def __init__(self) -> None:
        self.readers: list[ControlState] = []
        self.stopped: set[ControlState] = set()
        self.sent: list[Record] = []
        self.refuses = False
        self._read: Counter[ControlState] = Counter()

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if self.refuses:
            raise Transient("Kafka does not respond.")
        self.sent += records
        self.deliver()

    def deliver(self) -> None:
        for control in set(self.readers) - self.stopped:
            for sent in self.sent[self._read[control] :]:
                with suppress(Poison):
                    control.apply(decoded(sent))
            self._read[control] = len(self.sent)

    @property
    def compacted(self) -> dict[str, str]:
        """The ids that a process finds that starts after the compaction, by entity."""
        return {event.attributes.subject: event.data.id for event in map(decoded, self.sent)}


def decoded(sent: Record) -> Event[Any]:
    return decode(sent.headers, sent.key, sent.value, region=GLOBAL)


class RouterInMemory:
    """A router's state and its handler for publications; nothing is in force at first."""

    def __init__(self, topic: LoopbackTopic | None = None) -> None:
        self.control = ControlState(["eu"], compile_policy_set)
        self.topic = LoopbackTopic() if topic is None else topic
        self.topic.readers.append(self.control)
        self.progress = Progress()
        clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.publisher = PublishControl(self.control, self.topic, clock, self.progress, apply_seconds=0.05)

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
    router.topic.stopped = {router.control}
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


async def test_a_condition_that_could_need_much_memory_is_reported_with_policy_condition_and_remedy(
    router: RouterInMemory,
) -> None:
    refused = rule("long", "true", 'title.matches("a+")', "[text + text].exists(t, t + t == text)")
    assert await router.faults([region()], [rule("fine"), refused]) == {
        "/policy_set/policies/1/when/1": "policy 'long', condition 1: matches() is not allowed: it would compile its"
        ' pattern for every item. Add a word list under `terms` and write `"<list>" in terms`.',
        "/policy_set/policies/1/when/2": "policy 'long', condition 2: `+` of texts or lists is not allowed there: it"
        " would make a new value for every element. Use it outside of macros.",
    }


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


async def test_a_region_leaves_the_model_without_markets_and_drained(router: RouterInMemory) -> None:
    eu, us = region(), region("us", ["US"])
    await router.publish([eu, us], [rule("a")])
    [detail] = (await router.faults([eu])).values()
    assert detail == "region 'us' cannot leave the model yet: it owns US, so publish it without markets first"
    await router.publish([region(markets=["DE", "FR", "US"]), region("us", [])])
    router.progress.waiting["us"] = ["12 open cases (general 12)", "3 records"]
    assert await router.faults([eu]) == {
        "/operating_model/regions": "region 'us' cannot leave the model yet: 12 open cases (general 12); 3 records"
    }
    router.progress.waiting.clear()
    await router.publish([eu])
    assert router.control.rules.operating_model.regions == {"eu"}


async def test_a_publication_waits_while_it_is_not_known_whether_a_leaving_region_is_drained(
    router: RouterInMemory,
) -> None:
    await router.publish([region(), region("us", ["US"])], [rule("a")])
    await router.publish([region(markets=["DE", "FR", "US"]), region("us", [])])
    router.progress.unknown = True
    with pytest.raises(Transient, match="decision service of us"):
        await router.publish([region()])
    await router.publish([region(queues=["safety", "content"]), region("us", ["US"])])  # no region leaves
    [detail] = (await router.faults([region()])).values()
    assert "owns US" in detail
    assert "is not known: The decision service of us does not respond." in detail


async def test_only_a_region_of_the_model_in_force_may_own_no_market(router: RouterInMemory) -> None:
    await router.publish([region(), region("us", ["US"])], [rule("a")])
    faults = await router.faults([region(), region("us", []), region("uk", [])])
    assert faults == {"/operating_model/regions/2/markets": "region 'uk' is new and owns no market"}
    faults = await router.faults([region(markets=[]), region("us", [])])
    assert list(faults) == ["/operating_model/regions/0/markets", "/operating_model/regions/1/markets"]


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


async def test_of_two_publications_at_the_same_time_the_first_is_in_force_everywhere_and_the_other_one_is_told() -> (
    None
):
    topic = LoopbackTopic()
    first, second = RouterInMemory(topic), RouterInMemory(topic)
    eu, us = region(), region("us", [])
    await first.publish([eu, region("us", ["US"])], [rule("a")])
    await first.publish([region(markets=["DE", "FR", "US"]), us])  # us may leave now
    returns, leaves = await asyncio.gather(
        first.publish([eu, region("us", ["US"])]), second.publish([region()]), return_exceptions=True
    )
    assert isinstance(returns, tuple)
    assert returns[0] is not None
    assert returns[0].number == 3
    assert isinstance(leaves, ConflictingPublication)
    assert str(leaves).endswith(
        " did not come into force: another router has published at the same time. Compare with `GET /v1/control`, and"
        " publish again."
    )
    for router in (first, second):
        assert router.control.rules.operating_model.id == returns[0].id
        assert router.control.routes("us"), "it has a market again"
    assert topic.compacted["operating-model"] != returns[0].id
    noted = await second.publisher.repair([])
    assert len(topic.sent) == 5
    assert await second.publisher.repair(noted) == noted
    assert len(topic.sent) == 6
    assert topic.compacted["operating-model"] == returns[0].id
    assert [await router.publisher.repair(noted) for router in (first, second)] == [[], []]
    assert len(topic.sent) == 6
    model, _ = await second.publish([region(queues=["safety", "later"]), us])
    assert model is not None
    assert (model.number, first.control.rules.operating_model.id) == (4, model.id)


async def test_a_late_publication_of_a_router_that_was_stopped_does_not_come_into_force() -> None:
    topic = LoopbackTopic()
    first, second = RouterInMemory(topic), RouterInMemory(topic)
    await first.publish([region()], [rule("a")])
    topic.stopped = {second.control}
    for name in "bc":
        await first.publish(None, [rule(name)])
    late = asyncio.create_task(second.publish(None, [rule("late")]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(topic.sent) == 5
    topic.stopped = set()
    topic.deliver()
    with pytest.raises(ConflictingPublication):
        await late
    assert [router.control.rules.policy_set.published.number for router in (first, second)] == [3, 3]
    await first.publisher.repair(await first.publisher.repair([]))
    assert topic.compacted["policy-set"] == first.control.rules.policy_set.id


async def test_a_part_is_sent_again_as_soon_as_kafka_accepts_it(router: RouterInMemory) -> None:
    await router.publish([region()], [rule("a")])
    with pytest.raises(Poison):
        router.control.apply(on_control(policies(number=1)))
    overtaken = await router.publisher.repair([])
    router.topic.refuses = True
    assert await router.publisher.repair(overtaken) == overtaken
    router.topic.refuses = False
    await router.publisher.repair(overtaken)
    assert [r.key for r in router.topic.sent] == [b"operating-model", b"policy-set", b"policy-set"]
    assert router.control.overtaken == []


async def test_parts_that_do_not_fit_because_two_routers_published_them_are_reported() -> None:
    topic = LoopbackTopic()
    first, second = RouterInMemory(topic), RouterInMemory(topic)
    await first.publish([region()], [rule("a")])
    _, lost = await asyncio.gather(
        first.publish([region(queues=[])]),
        second.publish(None, [rule("a", queue="safety")]),
        return_exceptions=True,
    )
    assert isinstance(lost, ConflictingPublication)
    assert "the parts in force do not fit: /policies/0/queue: policy 'a': region eu has no queue 'safety'" in str(lost)
