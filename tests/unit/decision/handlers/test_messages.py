"""Records of the `cases` topic: an invalid record is poison, with a reason that names the invalid value."""

from typing import Any

import pytest
from msgspec.structs import replace

from services.decision.handlers.messages import decode_message
from shared.contracts import events
from shared.contracts.envelope import encode
from shared.runtime.errors import Poison, TooNew
from tests.support.decision.cases import appealed, consumed, encoded, encoded_withdrawal, noticed, opened

NOTICE = noticed("eu")[1].notice
APPEAL = appealed("eu", opened("eu")[1])[1].appeal
assert APPEAL is not None
CONTESTED = APPEAL.decision


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"verdict": "perhaps"}, "verdict is 'perhaps'"),
        ({"case_type": "request"}, "case_type is 'request'"),
        ({"case_type": "appeal"}, "does not match its type"),
        ({"notice": NOTICE}, "does not match its type"),
        ({"case_type": "appeal", "notice": NOTICE}, "does not match its type"),
        ({"case_type": "notice", "notice": NOTICE, "verdict": "approve"}, "needs a reviewer"),
        (
            {"case_type": "appeal", "appeal": replace(APPEAL, decision=replace(CONTESTED, case_id="7"))},
            "expected UUIDs",
        ),
        (
            {"case_type": "appeal", "appeal": replace(APPEAL, decision=replace(CONTESTED, reviewer="\0"))},
            "without NUL",
        ),
        ({"priority": 0}, "priority is 0"),
        ({"priority": 10}, "priority is 10"),
        ({"version": 2**63}, "version is 9223372036854775808"),
        ({"queue": ""}, "queue is ''"),
        ({"queue": "a\0b"}, "without NUL"),
        ({"reasons": ["X" * 201]}, "reasons: expected at most"),
        ({"reasons": ["X"] * 101}, "reasons: expected at most"),
        ({"due_at": "tomorrow"}, "not an RFC 3339 time"),
        ({"received_at": "2026-05-01T12:00:00"}, "not an RFC 3339 time"),
        ({"case_id": "7"}, "expected UUIDs"),
        ({"item_id": "0A5FDBB3-6A3D-5F6E-8F9E-3B1C61F0A0DE"}, "expected UUIDs"),
    ],
)
def test_the_reason_names_an_invalid_value(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(Poison, match=reason):
        decode_message(consumed(encoded("eu", **changed)), region="eu")


@pytest.mark.parametrize("changed", [{"case_id": "7"}, {"item_id": ""}])
def test_a_withdrawal_with_an_invalid_id_is_poison(changed: dict[str, Any]) -> None:
    with pytest.raises(Poison, match="expected UUIDs"):
        decode_message(consumed(encoded_withdrawal("eu", **changed)), region="eu")


def test_a_case_type_of_a_newer_version_is_too_new() -> None:
    with pytest.raises(TooNew):
        decode_message(consumed(encoded("eu", case_type="request")), region="eu")


def test_the_cases_of_a_notice_and_an_appeal_are_valid() -> None:
    for attributes, case in (noticed("eu"), appealed("eu", opened("eu")[1])):
        assert decode_message(consumed(encode(attributes, case)), region="eu").subject == attributes.subject


def test_an_event_of_another_type_is_poison() -> None:
    attributes, _ = opened("eu")
    other = events.CaseSuperseded(case_id="a", item_id="b", superseded_by="c")
    changed = encode(type(attributes)(attributes.id, events.CASE_SUPERSEDED, *list(_rest(attributes))), other)
    with pytest.raises(Poison, match="does not belong on this topic"):
        decode_message(consumed(changed), region="eu")


def test_a_case_of_another_region_is_poison() -> None:
    with pytest.raises(Poison, match="region"):
        decode_message(consumed(encoded("us")), region="eu")


def _rest(attributes: Any) -> tuple[Any, ...]:
    return tuple(getattr(attributes, name) for name in attributes.__struct_fields__[2:])
