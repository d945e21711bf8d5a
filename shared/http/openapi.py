"""The OpenAPI document of a service: FastAPI's own, with examples that contain null and with embedded event schemas."""

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from shared.http.models import EMBEDDED, EXAMPLE, embedded
from shared.http.problems import ProblemDetails


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Complete FastAPI's document in place; raises AssertionError if two types have the same name."""
    _, components = msgspec.json.schema_components([ProblemDetails], ref_template="#/components/schemas/{name}")
    _add(document, components)
    _replace(document["paths"], document)
    schemas = document["components"]["schemas"]
    _replace(list(schemas.values()), document)
    for path in document["paths"].values():
        for operation in path.values():
            for shown in (operation.get("requestBody", {}), *operation["responses"].values()):
                for content in shown.get("content", {}).values():
                    _show_example(content, schemas)
    return document


def body_of(model: type[BaseModel], description: str) -> dict[str, Any]:
    """The `openapi_extra` of an operation that decodes its JSON body itself, which `model` documents."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {}) | {model.__name__: schema}
    described = {"$ref": f"#/components/schemas/{model.__name__}", "$defs": definitions}
    content = {"application/json": {"schema": {EMBEDDED: msgspec.json.encode(described).decode()}}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def lines_of(*kinds: type[msgspec.Struct], description: str, example: str) -> dict[str, Any]:
    """The documentation of an NDJSON response with lines of these types."""
    schema = {"type": "string", "x-line-schema": {"oneOf": [embedded(kind) for kind in kinds]}}
    return {"description": description, "content": {"application/x-ndjson": {"schema": schema, "example": example}}}


def _show_example(content: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    """Repeat the example of a model beside its reference: many tools show only an example there."""
    model = schemas.get(content.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
    if "examples" in model and "examples" not in content:
        content.setdefault("example", model["examples"][0])


def _add(document: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in schemas.items():
        if known.setdefault(name, schema) != schema:
            raise AssertionError(f"two types of the API are named {name}")


def _replace(node: Any, document: dict[str, Any]) -> None:
    if isinstance(node, list):
        for part in node:
            _replace(part, document)
    elif isinstance(node, dict):
        if (text := node.pop(EMBEDDED, None)) is not None:
            schema = msgspec.json.decode(text)
            _add(document, schema.pop("$defs", {}))
            node.update(schema)
        if (text := node.pop(EXAMPLE, None)) is not None:
            value = msgspec.json.decode(text)
            node.update({"example": value} if "schema" in node else {"examples": [value]})
        if (schemas := node.pop("$defs", None)) is not None:
            _replace(list(schemas.values()), document)
            _add(document, schemas)
        if isinstance(reference := node.get("$ref"), str):
            node["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
        for part in list(node.values()):
            _replace(part, document)
