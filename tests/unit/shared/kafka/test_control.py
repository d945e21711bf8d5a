"""Which record of the control topic comes into force: the same one in every process."""

from typing import NamedTuple

import pytest

from shared.kafka.control import comes_into_force
from shared.runtime.errors import Poison


class _Part(NamedTuple):
    id: str
    number: int


CURRENT = _Part("om-7-a", 7)


@pytest.mark.parametrize(
    ("new", "current", "deleted", "expected"),
    [
        (_Part("om-1-a", 1), None, False, True),
        (_Part("om-8-a", 8), CURRENT, False, True),
        (_Part("om-6-a", 6), CURRENT, False, False),
        (CURRENT, CURRENT, False, False),
        (_Part("om-6-a", 6), CURRENT, True, True),
        (_Part("om-7-b", 7), CURRENT, True, True),
    ],
)
def test_a_larger_number_comes_into_force_and_after_a_deletion_any_number(
    *, new: _Part, current: _Part | None, deleted: bool, expected: bool
) -> None:
    assert comes_into_force(new, current, deleted=deleted) is expected


def test_the_second_record_of_one_number_is_refused() -> None:
    with pytest.raises(Poison, match="om-7-a was published first: two routers have published at the same time"):
        comes_into_force(_Part("om-7-b", 7), CURRENT, deleted=False)
