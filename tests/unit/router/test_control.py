"""An invalid record leaves the previous one in force, and routing waits until both parts are in force."""

import asyncio

import pytest
from msgspec.structs import replace

from services.router.control import ControlState
from services.router.domain.routing import route
from services.router.policies import compile_policy_set
from shared.runtime.errors import Poison, Transient
from tests.support.router_samples import on_control, operating_model, policies, region, rule, submitted


def test_an_invalid_record_leaves_the_previous_one_in_force() -> None:
    control = ControlState(["eu"], compile_policy_set)
    control.apply(on_control(operating_model()))
    control.apply(on_control(policies(rule("a"))))
    for bad in (
        policies(rule("b", "nope"), number=2),
        policies(rule("b", verdict="maybe"), number=2),
        operating_model(region(markets=["XX"]), number=2),
    ):
        with pytest.raises(Poison):
            control.apply(on_control(bad))
    assert (control.rules.operating_model.id, control.rules.policy_set.id) == ("om-1-test", "ps-1-test")


def test_a_set_in_force_with_a_refused_condition_routes_its_items_to_review() -> None:
    """An older version has published it."""
    control = ControlState(["eu"], compile_policy_set)
    control.apply(on_control(operating_model()))
    control.apply(on_control(policies(rule("a", 'text.replace("a", text) == ""'), rule("b", "title == 'x'"))))
    model, policy_set = control.rules
    opened = route(submitted(text="a" * 50_000), "eu", policy_set, model)
    reason = (
        "replace() is not allowed: its result can be much larger than the text: compare with contains(), startsWith()"
        " or endsWith(), or use a word list."
    )
    assert (opened.verdict, opened.reasons, opened.trace.errors) == ("review", ["POLICY_ERROR"], {"a/0": reason})


def test_a_record_with_an_older_number_does_not_come_into_force() -> None:
    control = ControlState(["eu"], compile_policy_set)
    for number in (1, 3, 2):
        control.apply(on_control(operating_model(number=number)))
        control.apply(on_control(policies(number=number)))
    assert (control.rules.operating_model.id, control.rules.policy_set.id) == ("om-3-test", "ps-3-test")


def test_a_record_that_came_too_late_is_reported_until_the_one_in_force_follows_it() -> None:
    control = ControlState(["eu"], compile_policy_set)
    first = operating_model(number=2)
    for number in (1, 2):
        control.apply(on_control(operating_model(number=number)))
        control.apply(on_control(policies(number=number)))
    assert (control.outcome("om-2-test"), control.outcome("om-2-late"), control.overtaken) == (True, None, [])
    with pytest.raises(Poison, match="om-2-test was published first"):
        control.apply(on_control(replace(first, id="om-2-late")))
    assert (control.outcome("om-2-test"), control.outcome("om-2-late"), control.overtaken) == (True, False, [first])
    control.apply(on_control(first))
    assert control.overtaken == []
    control.apply(on_control(replace(policies(), id="ps-1-late")))
    assert (control.outcome("ps-1-late"), control.overtaken) == (False, [policies(number=2)])
    control.delete("policy-set")
    assert control.overtaken == [], "the deletion follows it"
    control.apply(on_control(policies(number=3)))
    control.apply(on_control(replace(policies(), id="ps-1-later")))
    assert control.overtaken == [policies(number=3)]
    control.apply(on_control(policies(number=4)))
    assert control.overtaken == []
    with pytest.raises(Poison):
        control.apply(on_control(policies(rule("b", "nope"), number=5)))
    assert control.overtaken == [], "a record that only this version cannot use is not overwritten"


async def test_routing_waits_until_the_topic_is_read_and_both_parts_are_in_force() -> None:
    control = ControlState(["eu"], compile_policy_set)
    waiting = asyncio.ensure_future(control.wait_complete())
    expected = "no operating model and no policy set in force: publish with `"
    assert (control.caught_up() or "").startswith(expected)
    control.apply(on_control(operating_model()))
    assert "no policy set in force" in (control.caught_up() or "")
    with pytest.raises(Transient, match="no policy set"):
        _ = control.rules
    control.apply(on_control(policies()))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert control.caught_up() is None
    await waiting


def test_a_region_is_routed_while_the_operating_model_in_force_has_it() -> None:
    control = ControlState(["eu", "us"], compile_policy_set)
    routed = [[control.routes(name) for name in ("eu", "us")]]
    both = region(), region("us", ["US"])
    for number, regions in enumerate((both[:1], both, both[1:]), 1):
        control.apply(on_control(operating_model(*regions, number=number)))
        routed.append([control.routes(name) for name in ("eu", "us")])
    assert routed == [[False, False], [True, False], [True, True], [False, True]]


def test_the_number_of_slow_conditions_in_force_is_known() -> None:
    control = ControlState(["eu"], compile_policy_set)
    assert control.slow_conditions == 0
    control.apply(on_control(policies(rule("a", "price.minor % 2 == 0", "price.known"), number=1)))
    assert control.slow_conditions == 1
    control.apply(on_control(policies(rule("a", "price.known"), number=2)))
    assert control.slow_conditions == 0
