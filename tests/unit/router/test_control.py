"""What comes into force was checked whole before; what cannot be used leaves what was in force in force."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from services.router.control import (
    Control,
    PolicySetContent,
    Published,
    Publisher,
    joint_faults,
    model_faults,
    policy_set_faults,
)
from services.router.policies import compile_policy_set
from shared.contracts.envelope import GLOBAL, decode
from shared.contracts.events import Policy, Region
from shared.contracts.topics import CONTROL
from shared.http.http import Problem
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison, Transient
from tests.support.router_samples import on_control, operating_model, policies, region, rule


class Loopback:
    """A control topic of one process: what is sent is applied at once, unless it is `lost`."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.sent: list[Record] = []
        self.lost = False

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        self.sent += records
        if not self.lost:
            for r in records:
                self.control.apply(decode(r.headers, r.key, r.value, region=GLOBAL))


class Here:
    """A router's control with its publisher, nothing in force yet."""

    def __init__(self) -> None:
        self.control = Control(["eu"], compile_policy_set)
        self.topic = Loopback(self.control)
        clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.publisher = Publisher(self.control, self.topic, clock, apply_seconds=0.05)

    async def publish(
        self, regions: list[Region] | None = None, rules: list[Policy] | None = None, **terms: list[str]
    ) -> tuple[Published | None, Published | None]:
        content = None if rules is None else PolicySetContent(terms, rules, "approve")
        return await self.publisher.publish(regions, content, by="test")

    async def refusal(self, regions: list[Region] | None = None, rules: list[Policy] | None = None) -> dict[str, str]:
        with pytest.raises(Problem) as problem:
            await self.publish(regions, rules)
        assert problem.value.details.status == 422
        return {error.pointer: error.detail for error in problem.value.details.errors}


async def test_a_first_publication_is_number_one_of_each_and_the_operating_model_goes_first() -> None:
    here = Here()
    model, policy_set = await here.publish([region()], [rule("a")])
    assert model is not None
    assert policy_set is not None
    assert (model.number, model.changed, policy_set.number, policy_set.changed) == (1, True, 1, True)
    assert model.id.startswith("om-1-")
    assert policy_set.id.startswith("ps-1-")
    assert [(r.topic, r.key) for r in here.topic.sent] == [(CONTROL, b"operating-model"), (CONTROL, b"policy-set")]
    assert here.control.in_force.model.id == model.id
    assert here.control.in_force.policy_set.id == policy_set.id


async def test_the_same_content_again_changes_and_publishes_nothing() -> None:
    here = Here()
    first = await here.publish([region()], [rule("a")], weapons=["gun"], drugs=["x"])
    again = await here.publish([region()], [rule("a")], drugs=["x"], weapons=["gun"])
    assert [outcome and outcome.changed for outcome in again] == [False, False]
    assert [outcome and outcome.id for outcome in again] == [outcome and outcome.id for outcome in first]
    assert len(here.topic.sent) == 2


async def test_what_differs_alone_is_published_with_the_next_number() -> None:
    here = Here()
    await here.publish([region()], [rule("a")])
    model, policy_set = await here.publish([region()], [rule("b")])
    assert (model and model.changed, policy_set and policy_set.number) == (False, 2)
    assert [r.key for r in here.topic.sent] == [b"operating-model", b"policy-set", b"policy-set"]


async def test_publications_at_the_same_time_get_numbers_of_their_own() -> None:
    here = Here()
    await here.publish([region()])
    outcomes = await asyncio.gather(*(here.publish(None, [rule(f"p{n}")]) for n in range(5)))
    assert sorted(policy_set.number for _, policy_set in outcomes if policy_set) == [1, 2, 3, 4, 5]


async def test_a_publication_that_does_not_come_into_force_in_time_is_a_503() -> None:
    here = Here()
    here.topic.lost = True
    with pytest.raises(Problem) as problem:
        await here.publish([region()])
    assert (problem.value.details.status, problem.value.details.retry_after) == (503, 2)


async def test_a_policy_set_needs_an_operating_model() -> None:
    assert "no operating model is in force" in (await Here().refusal(None, [rule("a")]))["/operating_model"]


async def test_a_condition_that_does_not_compile_is_told_with_policy_index_and_caret() -> None:
    faults = await Here().refusal([region()], [rule("fine"), rule("typo", "true", 'titel == "x"')])
    (detail,) = faults.values()
    assert list(faults) == ["/policy_set/policies/1/when/1"]
    assert detail.startswith("policy 'typo', condition 1: 1:1: undeclared reference to 'titel'")
    assert detail.endswith("^")


async def test_faults_of_both_are_told_together_and_nothing_is_published() -> None:
    here = Here()
    faults = await here.refusal([region(markets=["XX"])], [rule("a", "nope"), rule("b", verdict="maybe")])
    assert list(faults) == [
        "/operating_model/regions/0/markets/0",
        "/policy_set/policies/1/verdict",
        "/policy_set/policies/0/when/0",
    ]
    assert here.topic.sent == []


async def test_a_new_operating_model_is_held_against_the_policy_set_in_force() -> None:
    here = Here()
    await here.publish([region()], [rule("a", queue="safety")])
    faults = await here.refusal([region(queues=[])])
    assert "region eu has no queue 'safety'" in faults["/operating_model/regions"]
    await here.publish([region(queues=[])], [rule("a")])


async def test_a_new_policy_set_is_held_against_the_operating_model_in_force() -> None:
    here = Here()
    await here.publish([region()])
    assert (
        "has no queue 'gone'" in (await here.refusal(None, [rule("a", queue="gone")]))["/policy_set/policies/0/queue"]
    )


async def test_a_region_that_this_router_serves_cannot_be_left_out() -> None:
    assert "this router serves it" in (await Here().refusal([region("us", ["US"])]))["/operating_model/regions"]


def test_an_operating_model_is_checked_in_every_part() -> None:
    broken = region(markets=["DE", "DE", "Germany"], queues=["general", "Big Queue"])
    other = region("EU", markets=["FR"])
    again = region(markets=["FR"], queues=[])
    faults = {fault.pointer: fault.detail for fault in model_faults([broken, other, again])}
    assert set(faults) == {
        "/regions/0/markets/1",
        "/regions/0/markets/2",
        "/regions/0/queues/1/id",
        "/regions/0/queues/2/id",
        "/regions/1/id",
        "/regions/2/id",
        "/regions/2/markets/0",
    }
    assert "already listed for 'EU'" in faults["/regions/2/markets/0"]


def test_an_operating_model_needs_regions_markets_queues_and_a_default() -> None:
    assert [fault.pointer for fault in model_faults([])] == ["/regions"]
    empty = Region(id="eu", markets=[], queues=[], default_queue="general")
    assert [fault.pointer for fault in model_faults([empty])] == ["/regions/0/markets", "/regions/0/default_queue"]


def test_a_policy_set_is_checked_in_every_part() -> None:
    content = policies(
        rule("Big Id", verdict="maybe", priority=0, reasons=["lower"], markets=["Germany"]),
        rule("twice"),
        rule("twice"),
        Policy(id="no-condition", when=[], verdict="review"),
        default="shrug",
        terms={"weapons": ["gun", " "]},
    )
    assert {fault.pointer for fault in policy_set_faults(content)} == {
        "/default_verdict",
        "/terms/weapons/1",
        "/policies/0/id",
        "/policies/0/verdict",
        "/policies/0/priority",
        "/policies/0/reasons/0",
        "/policies/0/markets/0",
        "/policies/2/id",
        "/policies/3/when",
    }


def test_a_queue_must_exist_wherever_its_policy_can_apply_and_only_there() -> None:
    regions = operating_model(region(), region("us", ["US"], queues=[]))
    everywhere, in_eu = rule("a", queue="safety"), rule("b", queue="safety", markets=["DE"])
    assert [fault.pointer for fault in joint_faults(regions, policies(everywhere, in_eu))] == ["/policies/0/queue"]
    nowhere = joint_faults(regions, policies(rule("c", markets=["JP"])))
    assert [fault.pointer for fault in nowhere] == ["/policies/0/markets/0"]


def test_a_record_that_cannot_be_used_leaves_the_former_in_force() -> None:
    control = Control(["eu"], compile_policy_set)
    control.apply(on_control(operating_model()))
    control.apply(on_control(policies(rule("a"))))
    for bad in (
        policies(rule("b", "nope"), number=2),
        policies(rule("b", verdict="maybe"), number=2),
        operating_model(region("us", ["US"]), number=2),
        operating_model(region(markets=["XX"]), number=2),
    ):
        with pytest.raises(Poison):
            control.apply(on_control(bad))
    assert (control.in_force.model.id, control.in_force.policy_set.id) == ("om-1-test", "ps-1-test")


def test_an_older_number_met_again_does_not_come_back_into_force() -> None:
    control = Control(["eu"], compile_policy_set)
    for number in (1, 3, 2):
        control.apply(on_control(operating_model(number=number)))
        control.apply(on_control(policies(number=number)))
    assert (control.in_force.model.id, control.in_force.policy_set.id) == ("om-3-test", "ps-3-test")


async def test_what_was_deleted_stays_in_force_until_it_is_published_again_whatever_its_number_and_content() -> None:
    here = Here()
    await here.publish([region()], [rule("a")])
    await here.publish(None, [rule("b")])
    for entity in ("operating-model", "policy-set"):
        here.control.delete(entity)
    assert here.control.in_force.policy_set.published.number == 2

    model, policy_set = await here.publish([region()], [rule("b")])
    again = await here.publish([region()], [rule("b")])

    assert [(put.number, put.changed) for put in (model, policy_set) if put] == [(2, True), (3, True)]
    assert [put.changed for put in again if put] == [False, False]
    here.control.delete("policy-set")
    here.control.apply(on_control(policies(number=1)))  # from a router that found the topic empty
    here.control.apply(on_control(operating_model(number=1)))
    assert (here.control.in_force.policy_set.id, here.control.in_force.model.published.number) == ("ps-1-test", 2)


async def test_routing_waits_until_the_topic_is_read_and_both_are_in_force() -> None:
    control = Control(["eu"], compile_policy_set)
    waiting = asyncio.ensure_future(control.complete())
    nothing = "no operating model and no policy set in force: publish with `"
    assert (control.lacking() or "").startswith(nothing)
    control.apply(on_control(operating_model()))
    assert "no policy set in force" in (control.lacking() or "")
    with pytest.raises(Transient, match="no policy set"):
        _ = control.in_force
    control.apply(on_control(policies()))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert control.lacking() is None
    await waiting
