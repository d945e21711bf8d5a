"""Errors of the REST APIs: RFC 9457 `application/problem+json`, with JSON pointers to each fault of an input.

A `ProblemType` is declared once. It documents the error in OpenAPI and creates the `Problem` that a handler raises.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Final, TypedDict, Unpack

import msgspec
from starlette.responses import Response

from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.validation.faults import MALFORMED_JSON, RETRY_AFTER, TOO_LARGE, ErrorType, Fault, InputRejected, pointer_to

PROBLEM_JSON: Final = "application/problem+json"
_URN: Final = "urn:piepowder:problem:"
_encode = msgspec.json.Encoder().encode


class InputError(msgspec.Struct, frozen=True, omit_defaults=True):  # the JSON form of `Fault`, under a published name
    """A fault of an input: its place (RFC 6901 JSON pointer) and a description with the expected value."""

    pointer: str
    detail: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error response, RFC 9457. `errors` lists each fault of an input; `retry_after` is in seconds."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[InputError] = []
    retry_after: int | None = None


class Extras(TypedDict, total=False):
    """The optional parts of a `Problem`; with `pointer`, the detail describes the only fault of the input."""

    errors: Sequence[Fault]
    pointer: str | None
    retry_after: int | None
    headers: Mapping[str, str] | None


class Problem(Exception):  # noqa: N818 - RFC 9457's term
    """An error response. `slug` is the permanent name of its type; `retry_after` is in seconds."""

    def __init__(self, status: int, slug: str, title: str, detail: str, **extras: Unpack[Extras]) -> None:
        super().__init__(detail)
        pointer, retry_after = extras.get("pointer"), extras.get("retry_after")
        faults = extras.get("errors", ()) if pointer is None else [Fault(pointer, detail)]
        errors = [InputError(*fault) for fault in faults]
        self.details = ProblemDetails(f"{_URN}{slug}", title, status, detail, errors, retry_after)
        self.headers = dict(extras.get("headers") or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def response(self) -> Response:
        """The HTTP response."""
        return Response(_encode(self.details), self.details.status, headers=self.headers, media_type=PROBLEM_JSON)


class ProblemType(ErrorType, frozen=True):
    """A type of error that a handler raises."""

    def __call__(self, detail: str, **extras: Unpack[Extras]) -> Problem:
        """An error of this type."""
        return Problem(self.status, self.slug, self.title, detail, **extras)


BODY_TOO_LARGE: Final = ProblemType(*msgspec.structs.astuple(TOO_LARGE))
BODY_TOO_SLOW: Final = ProblemType("too-slow", 408, "Body too slow", "The body did not arrive within 30 seconds.")
UNSUPPORTED_MEDIA_TYPE: Final = ProblemType(
    "unsupported-media-type",
    415,
    "Unsupported media type",
    "The Content-Type is text/plain; expected application/json.",
)
NOT_READY: Final = ProblemType(
    "not-ready", 503, "Service not ready", "Not ready: database: PostgreSQL does not answer."
)
UNAVAILABLE: Final = ProblemType(
    "unavailable",
    503,
    "Temporarily unavailable",
    "Region eu did not acknowledge. Send the same request again later.",
    RETRY_AFTER,
)
OVERLOADED: Final = ProblemType(
    "overloaded", 429, "Too many calls at the same time", "Send the same call again in a moment.", RETRY_AFTER
)
DEFECT: Final = ProblemType("defect", 500, "Internal error")

BODY_PROBLEMS: Final = (MALFORMED_JSON, BODY_TOO_SLOW, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE)
"""Errors of every operation with a JSON body."""


def problems(*types: ErrorType) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that can return these types of error; one status can have several types."""
    by_status: defaultdict[int | str, list[ErrorType]] = defaultdict(list)
    for kind in types:
        by_status[kind.status].append(kind)
    return {status: _documented(kinds) for status, kinds in by_status.items()}


def _documented(kinds: Sequence[ErrorType]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
    shown = [kind for kind in kinds if kind.example]
    if len(shown) == 1:
        content["example"] = _example(shown[0])
    elif shown:
        content["examples"] = {kind.slug: {"value": _example(kind)} for kind in shown}
    response = {"description": "; ".join(kind.title for kind in kinds), "content": {PROBLEM_JSON: content}}
    headers = {name: header for kind in kinds for name, header in kind.headers.items()}
    return response | ({"headers": headers} if headers else {})


def _example(kind: ErrorType) -> dict[str, Any]:
    details = {"type": f"{_URN}{kind.slug}", "title": kind.title, "status": kind.status, "detail": kind.example}
    return details | ({"retry_after": 1} if "Retry-After" in kind.headers else {})


def json_pointer(location: Sequence[int | str]) -> str:
    """RFC 6901; each step has at most 100 characters."""
    return reduce(pointer_to, location, "")


def problem_of(error: Exception) -> Problem:
    """The error response for an exception of a rule or a use case; raises any other exception again."""
    match error:
        case Problem():
            return error
        case InputRejected():
            return Problem(
                error.status,
                error.slug,
                error.title,
                str(error),
                errors=error.faults,
                retry_after=error.retry_after,
            )
        case Transient():
            return unavailable(error)
    raise error


def not_ready(readiness: Readiness) -> Problem:
    """503 while the service cannot do its work; names each missing condition."""
    missing = "; ".join(f"{name}: {state}" for name, state in readiness.conditions.items() if state != "ok")
    return NOT_READY(f"Not ready: {missing}.", retry_after=2)


def unavailable(error: Transient) -> Problem:
    """503 while a dependency of the service does not respond; the same request can be sent again."""
    return UNAVAILABLE(f"{error} Send the same request again later.", retry_after=2)
