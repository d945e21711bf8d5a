"""The problems of the routes. Each reason for a rejected command is a problem type with the same name."""

from typing import Final
from uuid import UUID

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from services.decision.domain.lifecycle import CommandRejected
from shared.auth.refusals import RATE_LIMITED
from shared.http.problems import INVALID_REQUEST, Problem, ProblemType, problems

_CASE: Final = "case 0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de"

UNKNOWN_CASE: Final = ProblemType("unknown-case", 404, "Unknown case", f"There is no {_CASE} in this region.")
UNKNOWN_QUEUE: Final = ProblemType("unknown-queue", 404, "Unknown queue", "Region 'eu' has no queue 'x'.")
UNKNOWN_QUEUE_IN_BODY: Final = replace(UNKNOWN_QUEUE, status=422)

_CLAIM_PROBLEMS: Final = (
    ProblemType("in-flight", 409, "Claim in progress", "Another claim with this Idempotency-Key is in progress."),
    ProblemType("idempotency-key-reused", 422, "Idempotency-Key reused", "The key was used with another body."),
    ProblemType(
        "too-many-leases",
        429,
        "Too many open leases",
        "Reviewer 'r-71' holds 50 open leases, which is the limit. Decide or release cases, then claim again.",
        {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}},
    ),
)
_LEASE_PROBLEMS: Final = (
    ProblemType("lease-expired", 409, "Lease expired", f"Lease 1 of {_CASE} has expired. Claim again."),
    ProblemType("lease-released", 409, "Lease released", f"Lease 1 of {_CASE} was released. Claim again."),
    ProblemType("wrong-lease-token", 409, "Lease not held", f"Token 1 does not hold {_CASE} (any more)."),
    ProblemType("superseded", 409, "Case superseded", "The case was superseded by an item, a newer version."),
    ProblemType("withdrawn", 409, "Item withdrawn", "The case was closed because its item was withdrawn."),
    ProblemType("closed", 409, "Case closed", "The case was closed without a decision."),
    ProblemType("already-decided", 409, "Case already decided", "The case was decided already: reject, by a policy."),
)
_DECISION_PROBLEMS: Final = (
    ProblemType("own-decision", 409, "Own decision", "Reviewer 'r-71' made the decision that the appeal is about."),
    ProblemType("replaced", 409, "Decision not in force", "The decision is not in force, so it cannot be overturned."),
    ProblemType("wrong-action", 422, "Action not allowed", "The case is of type 'item': expected approve or reject."),
    ProblemType("reasons-needed", 422, "Reason code missing", "A reject needs at least one reason code."),
)
_BY_SLUG: Final = {kind.slug: kind for kind in (*_CLAIM_PROBLEMS, *_LEASE_PROBLEMS, *_DECISION_PROBLEMS)}
_POINTERS: Final = {"wrong-action": "/action", "reasons-needed": "/reasons"}

OF_CASE: Final = problems(UNKNOWN_CASE)
OF_QUEUE: Final = problems(UNKNOWN_QUEUE)
OF_CLAIM: Final = problems(INVALID_REQUEST, RATE_LIMITED, UNKNOWN_QUEUE_IN_BODY, *_CLAIM_PROBLEMS)
OF_LEASE: Final = problems(UNKNOWN_CASE, *_LEASE_PROBLEMS)
OF_DECISION: Final = problems(UNKNOWN_CASE, INVALID_REQUEST, *_LEASE_PROBLEMS, *_DECISION_PROBLEMS)
"""The `responses` of operations."""


def unknown_case(case_id: UUID) -> Problem:
    """404 for a case that does not exist."""
    return UNKNOWN_CASE(f"There is no case {case_id} in this region. Cases are listed at /v1/queues/<queue>/cases.")


def no_queue(region: str, queue: str, queue_names: list[str]) -> str:
    """The detail of a problem with a queue that does not exist."""
    return f"Region {region!r} has no queue {queue!r:.100}; its queues: {', '.join(queue_names) or 'none yet'}."


async def on_command_rejected(_: Request, error: Exception) -> Response:
    """The response to a rejected command."""
    assert isinstance(error, CommandRejected)  # noqa: S101 - registered for this type only
    kind, pointer = _BY_SLUG[error.slug], _POINTERS.get(error.slug)
    return kind(str(error), pointer=pointer, retry_after=error.retry_after).response()
