"""The command knows decision's limits, and after which of its rejections the reviewer no longer holds the case."""

import annotated_types
import pytest

from piepowder.review_session import LEASE_ENDED, LONGEST_NOTE, MAX_REASONS, MAX_SKIPPED
from services.decision.api.decisions import DecisionBody
from services.decision.api.leases import ClaimBody
from services.decision.domain import rejections

STILL_HELD = {"own-decision", "replaced"}


def test_every_conflict_of_a_lease_or_a_decision_is_known() -> None:
    conflicts = {one.slug for one in rejections.OF_DECISION if one.status == 409}
    assert conflicts == LEASE_ENDED | STILL_HELD
    assert {one.slug for one in rejections.OF_LEASE if one.status == 409} == LEASE_ENDED


@pytest.mark.parametrize(
    ("body", "field", "limit"),
    [
        (DecisionBody, "note", LONGEST_NOTE),
        (DecisionBody, "reasons", MAX_REASONS),
        (ClaimBody, "skipped_cases", MAX_SKIPPED),
    ],
)
def test_the_limits_are_those_of_the_review_api(body: type[DecisionBody | ClaimBody], field: str, limit: int) -> None:
    limits = [one.max_length for one in body.model_fields[field].metadata if isinstance(one, annotated_types.MaxLen)]
    assert limits == [limit]
