"""Request bodies as strict JSON."""

from itertools import chain, islice
from typing import Any

from shared.http.problems import json_pointer
from shared.validation import strict_json
from shared.validation.faults import INVALID_REQUEST, MALFORMED_JSON, MAX_FAULTS, Fault, InputRejected


def parse_json(body: bytes) -> Any:
    """A JSON value, in which duplicate object keys are recorded; raises InputRejected (400) for malformed JSON."""
    try:
        return strict_json.decode(body)
    except strict_json.MalformedJsonError as error:
        raise MALFORMED_JSON.with_message(str(error), "") from error


def decode_json(body: bytes) -> Any:
    """A JSON value, decoded strictly. Raises InputRejected: 400 for malformed JSON, 422 with pointers for a duplicate
    object key and for a number out of range."""
    value = parse_json(body)
    duplicates = (Fault(json_pointer(place), "duplicate object key") for place in strict_json.duplicates(value))
    too_large = (Fault(json_pointer(place), "number too large") for place in strict_json.infinite_numbers(value))
    if errors := list(islice(chain(duplicates, too_large), MAX_FAULTS)):
        raise InputRejected(INVALID_REQUEST, errors)
    return value
