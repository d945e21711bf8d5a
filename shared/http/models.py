"""Base classes of REST models: `Body` for requests, `View` for responses, `Embedded` for events inside a view."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

EXAMPLE: Final = "x-example"
EMBEDDED: Final = "x-embedded"
"""Keys that `shared.http.openapi` replaces. Their values are JSON text, because FastAPI drops nulls from examples."""


class Body(BaseModel):
    """A JSON request body: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class View(BaseModel):
    """A JSON response."""

    model_config = ConfigDict(frozen=True)


def example(value: object) -> ConfigDict:
    """A `model_config` that documents a model by an example."""
    return ConfigDict(json_schema_extra={EXAMPLE: msgspec.json.encode(value).decode()})


class Embedded:
    """Annotation for a field of a view that holds a msgspec struct: `Annotated[Item, Embedded()]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            source, serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = msgspec.json.schema(schema["cls"], ref_template="#/components/schemas/{name}")
        return {EMBEDDED: msgspec.json.encode(described).decode()}


def _require_text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("expected a UUID as text")  # noqa: TRY004 - pydantic expects a ValueError
    return value


Uuid = Annotated[UUID, Strict(False), BeforeValidator(_require_text)]
"""A UUID in a strict body: JSON has it as text."""
