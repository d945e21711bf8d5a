"""The policy set in force in a process of the decision service."""

import msgspec
import pytest

from services.decision.handlers.control import ReasonsInForce
from shared.runtime.errors import Poison
from tests.support.decision.domain import on_control, policy_set


def in_force(reasons: ReasonsInForce) -> str | None:
    reasons.caught_up()
    return None if reasons.codes is None else reasons.codes.policy_set


def test_a_set_comes_into_force_when_the_topic_was_read_to_its_end_and_no_earlier_one() -> None:
    reasons = ReasonsInForce()
    seen = [reasons.codes]
    for number in (1, 2, 3):
        reasons.apply(on_control(policy_set(number)))
        seen.append(reasons.codes)
    assert seen == [None] * 4
    assert in_force(reasons) == "ps-3"
    reasons.apply(on_control(policy_set(4)))
    assert reasons.codes is not None
    assert reasons.codes.policy_set == "ps-3"
    assert in_force(reasons) == "ps-4"


def test_the_set_with_the_largest_number_is_in_force() -> None:
    reasons = ReasonsInForce()
    assert in_force(reasons) is None
    seen = []
    for number in (2, 1, 3, 3):
        reasons.apply(on_control(policy_set(number)))
        seen.append(in_force(reasons))
    assert seen == ["ps-2", "ps-2", "ps-3", "ps-3"]


def test_of_two_sets_with_one_number_the_first_is_in_force() -> None:
    reasons = ReasonsInForce()
    reasons.apply(on_control(policy_set(3)))
    with pytest.raises(Poison, match="ps-3 was published first: two routers have published at the same time"):
        reasons.apply(on_control(msgspec.structs.replace(policy_set(3), id="ps-3-other")))
    assert in_force(reasons) == "ps-3"


def test_after_a_deletion_any_number_comes_into_force_and_until_then_the_set_stays() -> None:
    reasons = ReasonsInForce()
    reasons.apply(on_control(policy_set(7)))
    reasons.delete("client:shop")
    reasons.apply(on_control(policy_set(1)))
    assert in_force(reasons) == "ps-7"
    reasons.delete("policy-set")
    reasons.delete("client:shop")
    assert in_force(reasons) == "ps-7"
    reasons.apply(on_control(policy_set(1)))
    assert in_force(reasons) == "ps-1"
    reasons.apply(on_control(policy_set(2)))
    reasons.apply(on_control(policy_set(1)))
    assert in_force(reasons) == "ps-2"
