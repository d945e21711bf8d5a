"""The faults of an input that pydantic reports, with JSON pointers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from shared.http.problems import json_pointer
from shared.validation.faults import INVALID_REQUEST, MAX_FAULTS, Fault, InputRejected, RejectionType

KEY_MISSING: Final = RejectionType(
    "idempotency-key-missing",
    400,
    "Idempotency-Key is missing",
    'Send `Idempotency-Key: "<a text of your choice>"`: with it, a repeated call creates nothing new.',
)
_KEY_PLACE: Final = ("header", "idempotency-key")
STRUCT_FAULT: Final = "struct_fault"
"""The type of faults in a msgspec struct inside a body: see `shared.http.models.EmbeddedInput`."""


def rejection(error: RequestValidationError, kind: RejectionType = INVALID_REQUEST) -> InputRejected:
    """The rejection of a request with its first faults; a required Idempotency-Key has its own type."""
    faults = error.errors()
    if any(fault["type"] == "missing" and fault["loc"] == _KEY_PLACE for fault in faults):
        return KEY_MISSING.with_message(KEY_MISSING.example, "/header/idempotency-key")
    return InputRejected(kind, [input_error(fault, error.body) for fault in faults[:MAX_FAULTS]])


def input_error(fault: Mapping[str, Any], body: object) -> Fault:
    """The fault in `body` that pydantic describes in `fault`."""
    detail = fault["msg"].removeprefix("Value error, ")
    place = fault["loc"]
    if place[0] == "body":
        place = _place_in(body, place[1:], is_missing=fault["type"] in ("missing", STRUCT_FAULT))
    if fault["type"] == STRUCT_FAULT:
        return Fault(json_pointer(place), detail)
    return Fault(json_pointer(place), f"{detail} (given: {fault.get('input')!r:.80})")


def _place_in(body: object, location: Sequence[int | str], *, is_missing: bool) -> list[int | str]:
    """The steps of pydantic's location that exist in the input: names of union members and validators do not."""
    place: list[int | str] = []
    value: Any = body
    for n, step in enumerate(location):
        try:
            value = value[step]
        except (LookupError, TypeError):
            if not (is_missing and n == len(location) - 1):
                continue
        place.append(step)
    return place
