"""Problem types that several areas of intake share, and the error responses for exceptions of the use cases."""

from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from services.intake.errors import UnknownObject
from services.intake.publishing.regions import Overloaded
from shared.http import problems
from shared.http.problems import Problem, ProblemType
from shared.runtime.errors import Poison

_RETRY: Final[dict[str, Any]] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}

NOT_FOUND: Final = ProblemType(
    "not-found",
    404,
    "Not found",
    "No item '0d9f' is known to this key, in its regions and for its platforms. Submissions of the last 0.4 s may be"
    " missing.",
)
OVERLOADED: Final = ProblemType(
    "overloaded", 429, "Too many calls at the same time", "Send the same call again in a moment.", _RETRY
)
UNAVAILABLE: Final = ProblemType(
    "unavailable",
    503,
    "Temporarily unavailable",
    "Region eu did not acknowledge. Send the same request again later.",
    _RETRY,
)
RECORD_TOO_LARGE: Final = ProblemType("too-large", 413, "The record is too large", "Kafka rejects the record.")


def problem_of(error: Exception) -> Problem:
    """The error response for an exception of a use case."""
    match error:
        case Overloaded():
            return OVERLOADED(str(error), retry_after=1)
        case UnknownObject():
            return NOT_FOUND(str(error))
        case Poison():
            return RECORD_TOO_LARGE(f"Kafka rejects the record: {error.reason}. Make the item smaller.")
    return problems.problem_of(error)


def add_error_responses(app: FastAPI) -> None:
    """Let `app` return the error responses for exceptions of the use cases."""
    for kind in (Overloaded, UnknownObject, Poison):
        app.add_exception_handler(kind, _on_error)


async def _on_error(_: Request, error: Exception) -> Response:
    return problem_of(error).response()
