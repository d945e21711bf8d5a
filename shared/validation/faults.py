"""Rejections of an input, and all faults of a value against a msgspec type, each with its JSON pointer.

msgspec itself stops at the first fault. That suits the hot path, but a person who corrects a file needs all faults.
This slower comparison runs only after msgspec has rejected the value.
"""

import difflib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect

MAX_FAULTS: Final = 20
_ENDLESS: Final = (math.inf, -math.inf)  # `strict_json` decodes a number out of range as infinite


class Fault(NamedTuple):
    """A fault of an input: its place (RFC 6901 JSON pointer) and the expected value."""

    pointer: str
    detail: str


class ErrorType(msgspec.Struct, frozen=True):
    """A type of error in a response: its permanent name, HTTP status and title, with an example for OpenAPI.

    `headers` documents response headers by name, as OpenAPI's header objects.
    """

    slug: str
    status: int
    title: str
    example: str = ""
    headers: dict[str, Any] = {}


class RejectionType(ErrorType, frozen=True):
    """A reason for which a rule rejects an input."""

    def __call__(self, detail: str, pointer: str = "") -> "InputRejected":
        """The rejection for one fault."""
        return InputRejected(self, [Fault(pointer, detail)])

    def with_message(
        self, detail: str, pointer: str | None = None, *, retry_after: int | None = None
    ) -> "InputRejected":
        """The rejection with `detail` as its whole message; `pointer` is the invalid field, if any. The same input can
        be accepted after `retry_after` seconds, if given."""
        faults = [] if pointer is None else [Fault(pointer, detail)]
        return InputRejected(self, faults, detail, retry_after=retry_after)


RETRY_AFTER: Final[dict[str, Any]] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}


INVALID_REQUEST: Final = RejectionType("invalid-request", 422, "Invalid request", "/limit: expected 1 to 200.")
MALFORMED_JSON: Final = RejectionType(
    "malformed-json", 400, "Malformed JSON", "The input is not JSON: it is truncated."
)
TOO_LARGE: Final = RejectionType("too-large", 413, "Body too large", "The body exceeds the limit of 131072 bytes.")
IN_FLIGHT: Final = RejectionType("in-flight", 409, "The same call is in progress", "Send the same call again.")
KEY_REUSED: Final = RejectionType(
    "idempotency-key-reused", 422, "The key was used with another body", "Use a new key for a new call."
)
CHANGED_MEANWHILE: Final = RejectionType(
    "changed-meanwhile", 409, "The object was changed at the same time", "Read it and send the call again"
)


class InputRejected(Exception):  # noqa: N818 - a rejection, not an error of the service
    """The rejection of an input, with the first `limit` faults. Without `detail`, the message is a summary of
    them."""

    def __init__(
        self,
        kind: RejectionType,
        faults: list[Fault],
        detail: str = "",
        *,
        limit: int | None = MAX_FAULTS,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail or _summary(faults[:limit]))
        self.status = kind.status
        self.slug = kind.slug
        self.title = kind.title
        self.faults = faults[:limit]
        self.retry_after = retry_after


def _summary(faults: list[Fault]) -> str:
    (pointer, detail), *more = faults
    first = f"{pointer}: {detail}" if pointer else detail[0].upper() + detail[1:]
    return f"{first}; {len(more)} more in `errors`" if more else first


def pointer_to(parent: str, name: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member; names are truncated to 100 characters."""
    return f"{parent}/{str(name)[:100].replace('~', '~0').replace('/', '~1')}"


def mismatches(value: object, shape: inspect.Type, pointer: str = "") -> Iterator[Fault]:
    """The faults of `value`, decoded from JSON without types, against the type `shape`."""
    if isinstance(shape, inspect.Metadata):
        yield from mismatches(value, shape.type, pointer)
    elif isinstance(shape, inspect.UnionType):
        if value is not None:
            yield from mismatches(value, next(t for t in shape.types if not isinstance(t, inspect.NoneType)), pointer)
    elif isinstance(shape, inspect.StructType):
        yield from _in_object(value, shape, pointer)
    elif isinstance(shape, inspect.DictType):
        yield from _in_mapping(value, shape, pointer)
    elif isinstance(shape, inspect.ListType):
        yield from _in_list(value, shape, pointer)
    elif isinstance(shape, inspect.LiteralType):
        if value not in shape.values:
            yield _unlike(pointer, "one of " + ", ".join(map(repr, shape.values)), value)
    elif isinstance(shape, inspect.StrType):
        yield from _in_text(value, shape, pointer)
    elif isinstance(shape, inspect.BoolType):
        yield from () if isinstance(value, bool) else [_unlike(pointer, "true or false", value)]
    elif isinstance(shape, inspect.IntType | inspect.FloatType):
        yield from _in_number(value, shape, pointer)


def _in_object(value: object, shape: inspect.StructType, pointer: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield _unlike(pointer, "an object", value)
        return
    fields = {field.encode_name: field for field in shape.fields}
    for name in value:
        if name not in fields:
            yield Fault(pointer_to(pointer, name), f"unknown field {name[:100]!r}{hint(name[:100], tuple(fields))}")
    for name, field in fields.items():
        if name in value:
            yield from mismatches(value[name], field.type, pointer_to(pointer, name))
        elif field.required:
            yield Fault(pointer_to(pointer, name), "is required")


@lru_cache(maxsize=1024)
def hint(name: str, fields: tuple[str, ...]) -> str:
    """The end of a sentence about an unknown field: the most similar known field, or all of them."""
    near = difflib.get_close_matches(name, fields, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(fields)}"


def _in_mapping(value: object, shape: inspect.DictType, pointer: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield _unlike(pointer, "an object", value)
        return
    yield from _out_of_bounds(pointer, len(value), shape.min_length, shape.max_length, "members")
    for name, element in value.items():
        place = pointer_to(pointer, name)
        yield from (Fault(place, f"its name: {detail}") for _, detail in mismatches(name, shape.key_type))
        yield from mismatches(element, shape.value_type, place)


def _in_list(value: object, shape: inspect.ListType, pointer: str) -> Iterator[Fault]:
    if not isinstance(value, list):
        yield _unlike(pointer, "a list", value)
        return
    yield from _out_of_bounds(pointer, len(value), shape.min_length, shape.max_length, "elements")
    for index, element in enumerate(value):
        yield from mismatches(element, shape.item_type, pointer_to(pointer, index))


def _in_text(value: object, shape: inspect.StrType, pointer: str) -> Iterator[Fault]:
    if isinstance(value, str):
        yield from _out_of_bounds(pointer, len(value), shape.min_length, shape.max_length, "characters")
    else:
        yield _unlike(pointer, "text", value)


def _in_number(value: object, shape: inspect.IntType | inspect.FloatType, pointer: str) -> Iterator[Fault]:
    whole = isinstance(shape, inspect.IntType)
    kind = "a whole number" if whole else "a number"
    if pointer.endswith("_minor"):
        kind += " of minor units (12.65 EUR is 1265)"
    if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool) or value in _ENDLESS:
        yield _unlike(pointer, kind, value)
    elif shape.ge is not None and value < shape.ge:
        yield _unlike(pointer, f"{kind} not less than {shape.ge}", value)
    elif shape.le is not None and value > shape.le:
        yield _unlike(pointer, f"{kind} not more than {shape.le}", value)


def _out_of_bounds(pointer: str, given: int, least: int | None, most: int | None, unit: str) -> Iterator[Fault]:
    if least is not None and given < least:
        yield Fault(pointer, f"{given} {unit}; expected at least {least}")
    if most is not None and given > most:
        yield Fault(pointer, f"{given} {unit}; at most {most} are allowed")


def _unlike(pointer: str, expected: str, given: object) -> Fault:
    is_endless = isinstance(given, float) and given in _ENDLESS
    shown = "one that is too large" if is_endless else msgspec.json.encode(given)[:60].decode(errors="replace")
    hint = "; leave the field out if there is nothing to say" if given is None else ""
    return Fault(pointer, f"expected {expected}, got {shown}{hint}")
