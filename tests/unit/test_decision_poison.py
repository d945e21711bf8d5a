"""A record that cannot be a case is poison, with a reason that says why."""

from typing import Any

import pytest

from services.decision.handlers import read
from shared import events
from shared.envelope import encode
from shared.errors import Poison
from tests.decision_cases import encoded, opened, taken


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"verdict": "perhaps"}, "verdict is 'perhaps'"),
        ({"case_type": "appeal"}, "case_type is 'appeal'"),
        ({"priority": 0}, "priority is 0"),
        ({"priority": 10}, "priority is 10"),
        ({"version": 2**63}, "version is 9223372036854775808"),
        ({"queue": ""}, "queue is ''"),
        ({"queue": "a\0b"}, "none of them NUL"),
        ({"reasons": ["X" * 201]}, "reasons: at most"),
        ({"reasons": ["X"] * 101}, "reasons: at most"),
        ({"due_at": "tomorrow"}, "not an RFC 3339 time"),
        ({"received_at": "2026-05-01T12:00:00"}, "not an RFC 3339 time"),
        ({"case_id": "7"}, "expected UUIDs"),
        ({"item_id": "0A5FDBB3-6A3D-5F6E-8F9E-3B1C61F0A0DE"}, "expected UUIDs"),
    ],
)
def test_an_impossible_value_is_named(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(Poison, match=reason):
        read(taken(encoded("eu", **changed)), region="eu")


def test_an_event_of_another_type_does_not_belong_here() -> None:
    attributes, _ = opened("eu")
    other = events.CaseSuperseded(case_id="a", item_id="b", superseded_by="c")
    changed = encode(type(attributes)(attributes.id, events.CASE_SUPERSEDED, *list(_rest(attributes))), other)
    with pytest.raises(Poison, match="does not belong on this topic"):
        read(taken(changed), region="eu")


def test_a_case_of_another_region_is_poison() -> None:
    with pytest.raises(Poison, match="region"):
        read(taken(encoded("us")), region="eu")


def _rest(attributes: Any) -> tuple[Any, ...]:
    return tuple(getattr(attributes, name) for name in attributes.__struct_fields__[2:])
