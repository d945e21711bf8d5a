"""The policy sets of the bench have the stated sizes, and their conditions are those of ordinary policies."""

import pytest

from services.router.cel.conditions import CelConditions
from services.router.domain.publication import consistency_faults, policy_set_faults
from services.router.policies import compile_policy_set
from tests.bench import data
from tests.bench.policies import Measured


@pytest.mark.parametrize("count", [20, 200])
def test_a_set_can_come_into_force_and_no_condition_is_slow(count: int) -> None:
    measured = Measured(count)
    assert str(measured) == f"{count} policies, {3 * count} conditions"
    model, _ = data.published()
    assert policy_set_faults(measured.published) == []
    assert consistency_faults(model, measured.published) == []
    assert compile_policy_set(measured.published).slow_conditions == {}


def test_the_conditions_of_more_policies_differ() -> None:
    few, many = ({condition for own in Measured(count).when for condition in own} for count in (20, 200))
    assert len(many) > 6 * len(few)
    assert len({*map(tuple, Measured(200).when)}) > 180
    assert CelConditions(Measured(20).when).slow == {}
