"""A check reports what a publication would change, or every fault with its pointer, and publishes nothing."""

import asyncio
from typing import Any

import pytest

from services.router.control import ControlState
from services.router.domain.publication import PolicySetContent
from services.router.handlers import check as check_module
from services.router.handlers.check import CheckPublication, TooManyChecks
from services.router.policies import compile_policy_set
from shared.contracts.events import Policy, Queue, Region
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected
from tests.support.router_samples import Progress, on_control, operating_model, policies, region, rule


def empty_control() -> ControlState:
    return ControlState(["eu"], compile_policy_set)


def control() -> ControlState:
    """A state with the regions eu and us, and a policy with the queue `safety`, in force."""
    state = empty_control()
    state.apply(on_control(operating_model(region("eu"), region("us", ["US"]))))
    state.apply(on_control(policies(rule("a", queue="safety"), terms={"w": ["gun"]})))
    return state


async def differences(
    *,
    regions: list[Region] | None = None,
    diff: list[Region] | None = None,
    policy_set: PolicySetContent | None = None,
    in_force: ControlState | None = None,
) -> dict[str, str]:
    """The differences of a publication, by name."""
    result = await CheckPublication(in_force or control(), Progress()).check(regions, diff, policy_set)
    return {one.what: one.how for part in (result.operating_model, result.policy_set) for one in part or []}


async def faults(**publication: Any) -> dict[str, str]:
    """The faults of a publication: details by pointer."""
    with pytest.raises(InputRejected) as rejected:
        await differences(**publication)
    return {fault.pointer: fault.detail for fault in rejected.value.faults}


def content(*rules: Policy, default: str = "approve", terms: dict[str, list[str]] | None = None) -> PolicySetContent:
    return PolicySetContent(terms or {"w": ["gun"]}, list(rules), default)


async def test_equal_content_has_no_differences() -> None:
    same = content(rule("a", queue="safety"))
    assert await differences(policy_set=same) == {}
    assert await differences(diff=[region("us", ["US"])]) == {}
    assert await differences(regions=[region("eu"), region("us", ["US"])], policy_set=same) == {}


async def test_slow_conditions_are_named_with_their_construct() -> None:
    slow = rule("b", "price.known", "price.minor / 2 > 100", 'title.trim() == "b"')
    checker = CheckPublication(control(), Progress())
    result = await checker.check(None, None, content(rule("a"), slow))
    assert result.slow_conditions == {"b/1": "`/`", "b/2": "`trim`"}
    assert (await checker.check([region("eu"), region("us", ["US"])], None, None)).slow_conditions == {}


async def test_differences_of_a_policy_set_are_named() -> None:
    new = content(rule("b"), rule("a", verdict="reject"), default="review", terms={"w": ["gun", "rifle"], "x": ["y"]})
    assert await differences(policy_set=new) == {
        "terms/w": "changed",
        "terms/x": "added",
        "policies/b": "added",
        "policies/a": "changed",
        "default_verdict": "changed",
    }
    assert await differences(policy_set=content(rule("c"))) == {"policies/c": "added", "policies/a": "removed"}


async def test_another_order_of_policies_is_a_difference_because_the_order_can_change_the_queue() -> None:
    in_force = control()
    in_force.apply(on_control(policies(rule("a"), rule("b"), terms={"w": ["gun"]}, number=2)))
    assert await differences(policy_set=content(rule("b"), rule("a")), in_force=in_force) == {"policies": "reordered"}


async def test_a_diff_has_only_the_changed_regions_and_the_others_stay() -> None:
    changed = region("eu", ["DE"], ["safety", "brands"])
    assert await differences(diff=[changed]) == {
        "regions/eu/markets/FR": "removed",
        "regions/eu/queues/brands": "added",
    }
    slower = [Queue(id="general", service_level_minutes=60), Queue(id="safety", service_level_minutes=60)]
    changed = Region(id="eu", title="E", markets=["DE", "FR"], queues=slower, default_queue="safety")
    assert await differences(diff=[changed]) == {
        "regions/eu/queues/general": "changed",
        "regions/eu/title": "changed",
        "regions/eu/default_queue": "changed",
    }
    assert await differences(diff=[region("uk", ["GB"])]) == {"regions/uk": "added"}
    both = [region("eu"), region("us", ["US", "MX"])]
    assert await differences(regions=both) == {"regions/us/markets/MX": "added"}


async def test_without_anything_in_force_everything_is_added() -> None:
    both = await differences(regions=[region("eu")], policy_set=content(rule("a")), in_force=empty_control())
    assert both == {"operating_model": "added", "policy_set": "added"}
    assert (await faults(policy_set=content(rule("a")), in_force=empty_control())).keys() == {"/operating_model"}
    assert (await faults(diff=[region("eu")], in_force=empty_control())).keys() == {"/operating_model_diff"}


async def test_a_condition_that_does_not_compile_is_reported_with_its_pointer() -> None:
    found = await faults(policy_set=content(rule("a"), rule("b", "true", 'titel == "x"')))
    assert found.keys() == {"/policy_set/policies/1/when/1"}
    assert found["/policy_set/policies/1/when/1"].endswith("^")
    assert (await faults(policy_set=content(rule("a", queue="gone")))).keys() == {"/policy_set/policies/0/queue"}


async def test_faults_of_a_diff_have_pointers_into_the_diff() -> None:
    stolen = region("uk", ["GB", "US"])
    assert (await faults(diff=[region("eu"), stolen])).keys() == {"/operating_model_diff/regions/1/markets/1"}
    twice = await faults(diff=[region("us", ["US"]), region("us", ["CA"])])
    assert twice.keys() == {"/operating_model_diff/regions/1/id"}
    lost = await faults(diff=[region("eu", queues=[])])
    assert lost.keys() == {"/operating_model_diff/regions"}
    assert "has no queue 'safety'" in lost["/operating_model_diff/regions"]
    assert (await faults(regions=[region("us", ["US"])])).keys() == {"/operating_model/regions"}


async def test_a_policy_may_use_a_queue_of_the_same_publication() -> None:
    needs = content(rule("a", queue="brands", markets=["DE"]))
    assert (await faults(policy_set=needs)).keys() == {"/policy_set/policies/0/queue"}
    assert "policies/a" in await differences(policy_set=needs, diff=[region("eu", queues=["safety", "brands"])])


async def test_checks_are_bounded_in_size_and_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "MAX_CONDITIONS", 2)
    assert (await faults(policy_set=content(rule("a", "true", "true", "true")))).keys() == {"/policy_set/policies"}

    checker = CheckPublication(control(), Progress())
    results = await asyncio.gather(
        *(checker.check(None, [region("eu")], None) for _ in range(9)), return_exceptions=True
    )
    assert [type(result) for result in results if isinstance(result, BaseException)] == [TooManyChecks] * 5


async def test_a_check_brings_nothing_into_force() -> None:
    in_force = control()
    before = in_force.rules
    await differences(policy_set=content(rule("z")), diff=[region("uk", ["GB"])], in_force=in_force)
    assert in_force.rules == before


async def test_a_check_reports_what_waits_in_a_region_that_leaves_the_model() -> None:
    checker = CheckPublication(control(), Progress(us=["3 open cases"]))
    with pytest.raises(InputRejected) as rejected:
        await checker.check([region(markets=["DE", "FR", "US"])], None, None)
    [fault] = rejected.value.faults
    assert fault.detail.endswith("it owns US, so publish it without markets first; 3 open cases")
    state = empty_control()
    state.apply(on_control(operating_model(region("eu"), region("us", []))))
    with pytest.raises(InputRejected, match="3 open cases"):
        await CheckPublication(state, Progress(us=["3 open cases"])).check([region()], None, None)
    result = await CheckPublication(state, Progress()).check([region()], None, None)
    assert [(one.what, one.how) for one in result.operating_model or []] == [("regions/us", "removed")]
    unknown = Progress()
    unknown.unknown = True
    with pytest.raises(Transient, match="decision service of us"):
        await CheckPublication(state, unknown).check([region()], None, None)
