"""Errors of intake's REST that several areas share."""

from services.intake.publishing.regions import Overloaded
from shared.http.http import InputError, Problem
from shared.runtime.errors import Poison
from shared.validation.faults import Refused


def problem(refused: Refused) -> Problem:
    """A refused post as the answer to it."""
    errors = [InputError(fault.pointer, fault.detail) for fault in refused.faults]
    return Problem(refused.status, refused.slug, refused.title, str(refused), errors=errors)


def overloaded(error: Overloaded) -> Problem:
    """429: the queue is full."""
    return Problem(429, "overloaded", "Too much at a time", str(error), retry_after=1)


def not_taken(poison: Poison) -> Problem:
    """413: Kafka does not take a record of this size."""
    detail = f"Kafka does not take the item's record: {poison.reason}. Make the item smaller."
    return Problem(413, "too-large", "The item is too large", detail)
