"""Checking a change without publishing it: what it would change, or why it cannot come into force, and where."""

import asyncio
from typing import Any

import pytest

from services.router import check as check_module
from services.router.check import Checks
from services.router.control import Control, PolicySetContent
from services.router.policies import compile_policy_set
from shared.contracts.events import Policy, Queue, Region
from shared.http.http import Problem
from tests.support.router_samples import on_control, operating_model, policies, region, rule


def control(*, empty: bool = False) -> Control:
    """Regions eu and us, and a policy that sends to the queue `safety`, in force."""
    made = Control(["eu"], compile_policy_set)
    if not empty:
        made.apply(on_control(operating_model(region("eu"), region("us", ["US"]))))
        made.apply(on_control(policies(rule("a", queue="safety"), terms={"w": ["gun"]})))
    return made


async def checked(
    *,
    regions: list[Region] | None = None,
    diff: list[Region] | None = None,
    policy_set: PolicySetContent | None = None,
    of: Control | None = None,
) -> dict[str, str]:
    """What would change, by name."""
    found = await Checks(of or control()).check(regions, diff, policy_set)
    parts = [part for part in (found.operating_model, found.policy_set) if part is not None]
    assert all(part.changed == bool(part.differences) and part.differing == len(part.differences) for part in parts)
    return {difference.what: difference.how for part in parts for difference in part.differences}


async def refused(**asked: Any) -> dict[str, str]:
    """The faults, by pointer."""
    with pytest.raises(Problem) as raised:
        await checked(**asked)
    assert raised.value.details.status == 422
    return {error.pointer: error.detail for error in raised.value.details.errors}


def content(*rules: Policy, default: str = "approve", terms: dict[str, list[str]] | None = None) -> PolicySetContent:
    return PolicySetContent(terms or {"w": ["gun"]}, list(rules), default)


async def test_what_is_the_same_changes_nothing() -> None:
    same = content(rule("a", queue="safety"))
    assert await checked(policy_set=same) == {}
    assert await checked(diff=[region("us", ["US"])]) == {}
    assert await checked(regions=[region("eu"), region("us", ["US"])], policy_set=same) == {}


async def test_it_says_what_a_policy_set_would_change() -> None:
    new = content(rule("b"), rule("a", verdict="reject"), default="review", terms={"w": ["gun", "rifle"], "x": ["y"]})
    assert await checked(policy_set=new) == {
        "terms/w": "changed",
        "terms/x": "added",
        "policies/b": "added",
        "policies/a": "changed",
        "default_verdict": "changed",
    }
    assert await checked(policy_set=content(rule("c"))) == {"policies/c": "added", "policies/a": "removed"}


async def test_the_order_of_policies_counts_because_the_first_among_equals_gives_the_queue() -> None:
    of = control()
    of.apply(on_control(policies(rule("a"), rule("b"), terms={"w": ["gun"]}, number=2)))
    assert await checked(policy_set=content(rule("b"), rule("a")), of=of) == {"policies": "reordered"}


async def test_a_difference_names_regions_as_they_would_be_and_the_others_stay() -> None:
    now = region("eu", ["DE"], ["safety", "brands"])
    assert await checked(diff=[now]) == {"regions/eu/markets/FR": "removed", "regions/eu/queues/brands": "added"}
    slower = [Queue(id="general", service_level_minutes=60), Queue(id="safety", service_level_minutes=60)]
    changed = Region(id="eu", title="E", markets=["DE", "FR"], queues=slower, default_queue="safety")
    assert await checked(diff=[changed]) == {
        "regions/eu/queues/general": "changed",
        "regions/eu/title": "changed",
        "regions/eu/default_queue": "changed",
    }
    assert await checked(diff=[region("uk", ["GB"])]) == {"regions/uk": "added"}
    assert await checked(regions=[region("eu")]) == {"regions/us": "removed"}


async def test_where_nothing_is_in_force_all_of_it_is_new() -> None:
    both = await checked(regions=[region("eu")], policy_set=content(rule("a")), of=control(empty=True))
    assert both == {"operating_model": "added", "policy_set": "added"}
    assert (await refused(policy_set=content(rule("a")), of=control(empty=True))).keys() == {"/operating_model"}
    assert (await refused(diff=[region("eu")], of=control(empty=True))).keys() == {"/operating_model_diff"}


async def test_what_does_not_compile_is_refused_with_its_condition() -> None:
    faults = await refused(policy_set=content(rule("a"), rule("b", "true", 'titel == "x"')))
    assert faults.keys() == {"/policy_set/policies/1/when/1"}
    assert faults["/policy_set/policies/1/when/1"].endswith("^")
    assert (await refused(policy_set=content(rule("a", queue="gone")))).keys() == {"/policy_set/policies/0/queue"}


async def test_faults_of_a_difference_point_into_the_difference() -> None:
    stolen = region("uk", ["GB", "US"])
    assert (await refused(diff=[region("eu"), stolen])).keys() == {"/operating_model_diff/regions/1/markets/1"}
    twice = await refused(diff=[region("us", ["US"]), region("us", ["CA"])])
    assert twice.keys() == {"/operating_model_diff/regions/1/id"}
    lost = await refused(diff=[region("eu", queues=[])])
    assert lost.keys() == {"/operating_model_diff/regions"}
    assert "has no queue 'safety'" in lost["/operating_model_diff/regions"]
    assert (await refused(regions=[region("us", ["US"])])).keys() == {"/operating_model/regions"}


async def test_a_policy_may_need_a_queue_that_comes_with_it() -> None:
    needs = content(rule("a", queue="brands", markets=["DE"]))
    assert (await refused(policy_set=needs)).keys() == {"/policy_set/policies/0/queue"}
    assert "policies/a" in await checked(policy_set=needs, diff=[region("eu", queues=["safety", "brands"])])


async def test_checks_are_bounded_in_size_and_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "MOST_CONDITIONS", 2)
    assert (await refused(policy_set=content(rule("a", "true", "true", "true")))).keys() == {"/policy_set/policies"}

    checks = Checks(control())
    answers = await asyncio.gather(
        *(checks.check(None, [region("eu")], None) for _ in range(9)), return_exceptions=True
    )
    overloaded = [answer for answer in answers if isinstance(answer, Problem)]
    assert [(problem.details.status, problem.details.retry_after) for problem in overloaded] == [(429, 2)] * 5
    assert not [answer for answer in answers if isinstance(answer, BaseException) and answer not in overloaded]


async def test_a_check_puts_nothing_into_force() -> None:
    of = control()
    before = of.now
    await checked(policy_set=content(rule("z")), diff=[region("uk", ["GB"])], of=of)
    assert of.now == before
