"""The command knows decision's limits, and after which of its rejections the reviewer no longer holds the case."""

from typing import Any

import annotated_types
import pytest

from piepowder.review_session import LEASE_ENDED, LONGEST_NOTE, MAX_REASONS, MAX_SKIPPED, ReviewSession
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


class _Api:
    """A review API that grants each claim."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, str, dict[str, Any]]] = []
        self.keys: list[str] = []

    async def post(self, service: str, path: str, body: dict[str, Any], *, key: str = "") -> dict[str, Any]:
        self.posts.append((service, path, body))
        self.keys.append(key)
        return {"case": {"case_id": "c1"}, "lease": {"token": 7}}


async def test_the_calls_of_a_review_have_the_lease_and_what_the_reviewer_entered() -> None:
    api: Any = _Api()
    session = ReviewSession(api, "eu", "r-71", "team", ["q"])
    leased = await session.claim(skipped=["c0"])
    assert leased is not None
    await session.heartbeat(leased)
    await session.decide(leased, "reject", ["FAKE"], "see the seal")
    await session.decide(leased, "approve", [])
    await session.release(leased, "skipped")
    await session.claim()
    lease = {"lease_token": 7, "reviewer": "r-71"}
    claim = {"reviewer": "r-71", "team": "team", "lease_seconds": 120, "queues": ["q"]}
    assert api.posts == [
        ("decision-eu", "/v1/claims", {**claim, "skipped_cases": ["c0"]}),
        ("decision-eu", "/v1/cases/c1/heartbeat", {**lease, "lease_seconds": 120}),
        (
            "decision-eu",
            "/v1/cases/c1/decisions",
            {**lease, "action": "reject", "reasons": ["FAKE"], "note": "see the seal"},
        ),
        ("decision-eu", "/v1/cases/c1/decisions", {**lease, "action": "approve", "reasons": []}),
        ("decision-eu", "/v1/cases/c1/release", {**lease, "reason": "skipped"}),
        ("decision-eu", "/v1/claims", claim),
    ]
    assert len({api.keys[0], api.keys[-1]} - {""}) == 2, "a repeated key would return the first case again"
