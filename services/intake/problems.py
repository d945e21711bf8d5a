"""The error responses for exceptions of the use cases."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from services.intake.publishing.regions import Overloaded
from shared.http.problems import BODY_TOO_LARGE, OVERLOADED, Problem, problem_of
from shared.runtime.errors import Poison


def submission_problem(error: Exception) -> Problem:
    """The error response for an exception of a submission; raises any other exception again."""
    match error:
        case Overloaded():
            return OVERLOADED(str(error), retry_after=1)
        case Poison():
            return BODY_TOO_LARGE(f"Kafka rejects the record: {error.reason}. Make the item smaller.")
    return problem_of(error)


def add_error_responses(app: FastAPI) -> None:
    """Let `app` return the error responses for exceptions of the use cases."""
    for kind in (Overloaded, Poison):
        app.add_exception_handler(kind, _on_error)


async def _on_error(_: Request, error: Exception) -> Response:
    return submission_problem(error).response()
