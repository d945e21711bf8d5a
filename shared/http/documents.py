"""Bodies that people or forms write, compressed or not: one response reports all faults of format and rules.

FastAPI reports only the faults of the format; the faults of rules that need the service's state would follow in a later
response. A parameter of type `Document[SomeBody]` therefore accepts every JSON value. It has the faults of the format
and, if possible, a body with placeholders for the invalid fields. The operation checks its rules and rejects the body
with all faults:

    @router.post("/notices")
    async def post_notice(body: Document[NoticeBody]) -> NoticeReceiptView: ...
"""

import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, ClassVar, Final, Generic, TypeVar, get_args

import msgspec
from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from shared.http.bodies import parse_json
from shared.http.input_errors import input_error
from shared.http.models import Body
from shared.http.problems import json_pointer
from shared.validation import strict_json
from shared.validation.documents import ParsedDocument, top_level
from shared.validation.faults import MAX_FAULTS, Fault, hint

_LARGEST: Final = 2**63 - 1
_control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search


class DocumentBody(Body):
    """A body that can be validated in part; `placeholders` are valid values of its required fields."""

    placeholders: ClassVar[dict[str, Any]] = {}


B = TypeVar("B", bound=DocumentBody)
S = TypeVar("S", bound=msgspec.Struct)


class Document(Generic[B]):
    """A JSON value with the faults of its format. `body` is None if no part of it is usable."""

    def __init__(self, value: Any, body: B | None, faults: list[Fault], invalid_fields: frozenset[str]) -> None:
        self.value = value
        self.body = body
        self.faults = faults
        self.invalid_fields = invalid_fields

    @classmethod
    def parse(cls, model: type[B], value: Any) -> "Document[B]":
        """Validate a decoded JSON value."""
        try:
            body: B | None = model.model_validate(value)
            found: Iterator[Fault] = iter(())
        except ValidationError as error:
            body, found = None, _format_faults(error, model, value)
        faults = list(islice(chain(found, _value_faults(value)), MAX_FAULTS))
        invalid = frozenset(top_level(fault.pointer) for fault in faults)
        if faults and ("" in invalid or len(faults) == MAX_FAULTS):
            return cls(value, None, faults, invalid)
        if faults:
            valid = {name: value[name] for name in value.keys() & model.model_fields.keys() - invalid}
            body = model.model_validate(model.placeholders | valid)
        return cls(value, body, faults, invalid)

    def parsed(self, kind: type[S]) -> ParsedDocument[S]:
        """The document with its body as a struct of the domain."""
        value = None if self.body is None else msgspec.convert(self.body, kind, from_attributes=True)
        return ParsedDocument(value, self.faults, self.invalid_fields)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        [model] = get_args(source)
        return core_schema.no_info_wrap_validator_function(lambda value, _: cls.parse(model, value), handler(model))


def decode(text: bytes) -> Any:
    """A JSON value; `null` becomes `_NULL`. Raises InputRejected (400) for malformed JSON."""
    value = parse_json(text)
    return _NULL if value is None else value


class _Null:
    """JSON's `null` as a body: FastAPI would treat None as a missing body."""

    def __repr__(self) -> str:
        return "null"


_NULL: Final = _Null()


def _format_faults(error: ValidationError, model: type[Body], value: Any) -> Iterator[Fault]:
    for fault in error.errors(include_url=False):
        pointer, detail = input_error({**fault, "loc": ("body", *fault["loc"])}, value)
        name = str(fault["loc"][-1])[:100] if fault["loc"] else ""
        if fault["type"] == "missing":
            detail = "is required"
        elif fault["type"] == "model_type":
            detail = "expected an object"
        elif fault["type"] == "extra_forbidden":
            known = hint(name, tuple(model.model_fields)) if len(fault["loc"]) == 1 else ""
            detail = f"unknown field {name!r}{known}"
        yield Fault(pointer, detail)


def _value_faults(value: object) -> Iterator[Fault]:
    """The faults that no type describes: control characters, integers above 64 bits, and duplicate object keys."""
    for place, member in strict_json.walk(value):
        if isinstance(member, str):
            if found := _control(member):
                detail = (
                    f"control character U+{ord(found[0]):04X} at {found.start()}; only tab and line ends are allowed"
                )
                yield Fault(json_pointer(place), detail)
        elif isinstance(member, int):
            if abs(member) > _LARGEST:
                yield Fault(json_pointer(place), "an integer above 64 bits")
        elif isinstance(member, dict):
            for name in member.duplicates if isinstance(member, strict_json.ObjectWithDuplicates) else ():
                yield Fault(json_pointer([*place, name]), "duplicate object key")
            for name in member:
                if _control(name):
                    yield Fault(json_pointer([*place, name]), "control character in the name")
