"""Error responses that several areas share."""

from services.intake.publishing.regions import Overloaded
from shared.http.http import InputError, Problem
from shared.runtime.errors import Poison
from shared.validation.faults import InputRejected


def problem(refused: InputRejected) -> Problem:
    """The error response for a rejected input."""
    errors = [InputError(fault.pointer, fault.detail) for fault in refused.faults]
    return Problem(refused.status, refused.slug, refused.title, str(refused), errors=errors)


def overloaded(error: Overloaded) -> Problem:
    """429: the queue is full."""
    return Problem(429, "overloaded", "Too many calls at the same time", str(error), retry_after=1)


def not_taken(poison: Poison) -> Problem:
    """413: Kafka rejects a record of this size."""
    detail = f"Kafka rejects the record: {poison.reason}. Make the item smaller."
    return Problem(413, "too-large", "The item is too large", detail)
