"""Base classes of REST models: `Body` for requests, `View` for responses, `Embedded` for events inside a view, and
`EmbeddedInput` for structs inside a body."""

from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec import inspect
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from shared.http.input_errors import STRUCT_FAULT
from shared.validation.faults import MAX_FAULTS, Fault, mismatches

EXAMPLE: Final = "x-example"
EMBEDDED: Final = "x-embedded"
"""Keys that `shared.http.openapi` replaces. Their values are JSON text, because FastAPI drops nulls from examples."""

_encode = msgspec.json.Encoder().encode


class Body(BaseModel):
    """A JSON request body: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class View(BaseModel):
    """A JSON response; `model_validate` accepts any object with its fields as attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


def example(value: object) -> ConfigDict:
    """A `model_config` that documents a model by an example: a value, or its JSON text."""
    text = value if isinstance(value, str) else _encode(value).decode()
    return ConfigDict(json_schema_extra={EXAMPLE: text})


def embedded(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of a msgspec struct, for `shared.http.openapi`."""
    return {EMBEDDED: _encode(msgspec.json.schema(kind, ref_template="#/components/schemas/{name}")).decode()}


class Embedded:
    """Annotation for a field of a view that holds a msgspec struct: `Annotated[Item, Embedded()]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            source, serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return embedded(schema["cls"])


class EmbeddedInput:
    """Annotation for a field of a body that holds a msgspec struct; all faults of the struct are reported."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shape = inspect.type_info(source)

        def convert(value: Any) -> Any:
            faults = list(islice(mismatches(value, shape), MAX_FAULTS))
            if faults:
                raise ValidationError.from_exception_data(source.__name__, [_line(fault, value) for fault in faults])
            return msgspec.convert(value, source)

        return core_schema.no_info_plain_validator_function(convert, metadata={"struct": source})

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return embedded(schema["metadata"]["struct"])


def _line(fault: Fault, value: Any) -> InitErrorDetails:
    place: list[str | int] = []
    for name in fault.pointer.split("/")[1:]:
        step: str | int = int(name) if isinstance(value, list) else name.replace("~1", "/").replace("~0", "~")
        place.append(step)
        try:
            value = value[step]
        except (LookupError, TypeError):
            value = None
    described = PydanticCustomError(STRUCT_FAULT, "{detail}", {"detail": fault.detail})
    return InitErrorDetails(type=described, loc=tuple(place), input=value)


def _require_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


Printable = Annotated[str, AfterValidator(_require_printable)]
"""A text without line ends and control characters."""
