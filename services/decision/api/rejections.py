"""The problems of the routes."""

from typing import Final
from uuid import UUID

from msgspec.structs import replace

from services.decision.domain import rejections
from shared.auth.refusals import RATE_LIMITED
from shared.http.problems import NOT_READY, Problem, ProblemType, problems
from shared.validation.faults import INVALID_REQUEST

UNKNOWN_CASE: Final = ProblemType(
    "unknown-case", 404, "Unknown case", "There is no case 0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de in this region."
)
UNKNOWN_QUEUE: Final = ProblemType("unknown-queue", 404, "Unknown queue", "Region 'eu' has no queue 'x'.")
UNKNOWN_QUEUE_IN_BODY: Final = replace(UNKNOWN_QUEUE, status=422)

OF_CASE: Final = problems(UNKNOWN_CASE, rejections.RECOVERING)
OF_REASONS: Final = problems(NOT_READY, rejections.NO_POLICY_SET)
OF_QUEUE: Final = problems(UNKNOWN_QUEUE)
OF_CLAIM: Final = problems(NOT_READY, INVALID_REQUEST, RATE_LIMITED, UNKNOWN_QUEUE_IN_BODY, *rejections.OF_CLAIM)
OF_LEASE: Final = problems(NOT_READY, UNKNOWN_CASE, *rejections.OF_LEASE)
OF_DECISION: Final = problems(NOT_READY, UNKNOWN_CASE, INVALID_REQUEST, *rejections.OF_DECISION)
"""The `responses` of operations."""


def unknown_case(case_id: UUID) -> Problem:
    """404 for a case that does not exist."""
    return UNKNOWN_CASE(f"There is no case {case_id} in this region. Cases are listed at /v1/queues/<queue>/cases.")


def no_queue(region: str, queue: str, queue_names: list[str]) -> str:
    """The detail of a problem with a queue that does not exist."""
    return f"Region {region!r} has no queue {queue!r:.100}; its queues: {', '.join(queue_names) or 'none yet'}."
