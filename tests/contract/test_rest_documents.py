"""The published OpenAPI documents: the committed ones are the present ones, and both are compatible with version 1."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract import rest_documents
from tests.contract.rest_compatibility import incompatibilities
from tests.contract.rest_documents import BASELINE, COMMAND, PRESENT, load, read, text_of
from tests.contract.rest_services import SERVICES

Json = dict[str, Any]


@pytest.mark.parametrize("service", SERVICES)
async def test_the_committed_document_is_the_one_that_the_service_publishes(service: str) -> None:
    published = await rest_documents.generate(service)
    committed = read(PRESENT, service)
    assert committed == text_of(published), f"docs/openapi/{service}.json is out of date; run: {COMMAND}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_is_compatible_with_version_1(service: str) -> None:
    found = incompatibilities(load(BASELINE, service), load(PRESENT, service))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["PRESENT", "BASELINE"])
def test_a_missing_document_is_reported_with_the_command(folder: str) -> None:
    with pytest.raises(AssertionError, match=r"/labels\.json is missing; run: \.venv/bin/python -m tests"):
        load(getattr(rest_documents, folder), "labels")


def test_the_command_creates_the_baseline_of_a_new_service_and_changes_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def generate(service: str) -> Json:
        return {"title": service}

    folder = tmp_path_factory.mktemp("documents")
    monkeypatch.setattr(rest_documents, "generate", generate)
    monkeypatch.setattr(rest_documents, "PRESENT", folder)
    monkeypatch.setattr(rest_documents, "SERVICES", ("intake", "labels"))
    baseline = tmp_path_factory.mktemp("baseline")
    monkeypatch.setattr(rest_documents, "BASELINE", baseline)
    (baseline / "intake.json").write_text("version 1")
    rest_documents.write()
    assert (baseline / "intake.json").read_text() == "version 1"
    assert (baseline / "labels.json").read_text() == text_of({"title": "labels"})
    assert (folder / "intake.json").read_text() == text_of({"title": "intake"})


@pytest.fixture
def document() -> Json:
    """A small document with each construct that the checker compares."""
    text = {"type": "string", "maxLength": 20}
    lamp = {
        "type": "object",
        "title": "Lamp",
        "properties": {
            "name": {**text, "description": "The name"},
            "watts": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
            "color": {"enum": ["black", "white"]},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}, "maxItems": 5},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    part = {"type": "object", "properties": {"id": {"type": "string"}, "part": {"$ref": "#/components/schemas/Part"}}}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Lamp"}}}
    operation = {
        "operationId": "postLamp",
        "security": [{"apiKey": ["lamps:write"]}],
        "parameters": [
            {"in": "path", "name": "shop", "required": True, "schema": {"type": "string"}},
            {"in": "query", "name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": 50, "default": 5}},
            {"in": "header", "name": "Idempotency-Key", "schema": {"type": "string"}},
        ],
        "requestBody": {"content": content},
        "responses": {
            "200": {"description": "", "content": copy.deepcopy(content), "headers": {"ETag": {}}},
            "404": {"description": ""},
        },
    }
    return copy.deepcopy(
        {"paths": {"/lamps/{shop}": {"post": operation}}, "components": {"schemas": {"Lamp": lamp, "Part": part}}}
    )


def operation_of(document: Json) -> Json:
    found: Json = document["paths"]["/lamps/{shop}"]["post"]
    return found


def own_schema(document: Json, *, response: bool) -> Json:
    """The schema of the request alone, or of the response alone, to be changed."""
    schema: Json = copy.deepcopy(document["components"]["schemas"]["Lamp"])
    operation = operation_of(document)
    where = operation["responses"]["200"] if response else operation["requestBody"]
    where["content"]["application/json"]["schema"] = schema
    return schema


def change(path: str, *, response: bool = False, **members: object) -> Callable[[Json], None]:
    def apply(document: Json) -> None:
        node = own_schema(document, response=response)
        for part in filter(None, path.split("/")):
            node = node[part]
        node.update(members)

    return apply


def remove(path: str, *, response: bool = False) -> Callable[[Json], None]:
    def apply(document: Json) -> None:
        node = own_schema(document, response=response)
        *parts, last = path.split("/")
        for part in parts:
            node = node[part]
        del node[last]

    return apply


def in_operation(*path: str | int, to: object = None) -> Callable[[Json], None]:
    """Set a member of the operation, or delete it."""

    def apply(document: Json) -> None:
        node: Any = operation_of(document)
        for part in path[:-1]:
            node = node[part]
        if to is None:
            del node[path[-1]]
        else:
            node[path[-1]] = to

    return apply


def require_parameter(document: Json) -> None:
    operation_of(document)["parameters"].append({"in": "query", "name": "x", "required": True, "schema": {}})


@pytest.mark.parametrize(
    ("apply", "sentence"),
    [
        (lambda document: document["paths"].clear(), "path /lamps/{shop} was removed"),
        (lambda document: document["paths"]["/lamps/{shop}"].clear(), "POST /lamps/{shop} was removed"),
        (in_operation("operationId", to="createLamp"), "operationId was postLamp and is now createLamp"),
        (in_operation("security", to=[{"key": ["admin"]}]), "security was [['lamps:write']] and is now [['admin']]"),
        (in_operation("responses", "404"), "response 404 was removed"),
        (in_operation("responses", "200", "headers", "ETag"), "response 200: header ETag was removed"),
        (in_operation("responses", "200", "content", "application/json"), "content type application/json was removed"),
        (in_operation("requestBody", "content", "application/json"), "request body application/json was removed"),
        (in_operation("requestBody", "required", to=True), "the request body is newly required"),
        (in_operation("parameters", 1), "query parameter limit was removed"),
        (in_operation("parameters", 2, "required", to=True), "header parameter Idempotency-Key is newly required"),
        (in_operation("parameters", 1, "schema", "maximum", to=20), "maximum was 50 and is now 20"),
        (in_operation("parameters", 1, "schema", "default", to=7), "the default was 5 and is now 7"),
        (require_parameter, "query parameter x was added and is required"),
        (remove("properties/color"), "request/color was removed"),
        (change("", required=["name", "color"]), "request/color is newly required"),
        (change("properties/name", maxLength=10), "request/name: maxLength was 20 and is now 10"),
        (change("properties/name", minLength=1), "request/name: minLength was not limited and is now 1"),
        (change("properties/name", pattern="^a"), "request/name: pattern was None and is now '^a'"),
        (change("properties/name", format="uuid"), "request/name: format was None and is now 'uuid'"),
        (change("properties/name", type="integer"), "request/name was string and is now integer"),
        (change("properties/watts", anyOf=[{"type": "integer"}]), "request/watts was null and is now integer"),
        (change("properties/color", enum=["black"]), "request/color no longer accepts ['white']"),
        (change("properties/parts", maxItems=4), "request/parts: maxItems was 5 and is now 4"),
        (change("properties/parts", uniqueItems=True), "request/parts: items must be unique now"),
        (change("properties/parts", items={"type": "string"}), "request/parts/* was object and is now string"),
        (remove("properties/color", response=True), "application/json/color was removed"),
        (change("", response=True, required=[]), "application/json/name was always present and is now optional"),
        (change("properties/name", response=True, type="integer"), "json/name was string and is now integer"),
        (
            change("properties/name", response=True, anyOf=[{"type": "string"}, {"type": "null"}]),
            "json/name was string and is now null",
        ),
        (change("properties/parts", response=True, items={"type": "string"}), "json/parts/* was object and is now"),
    ],
)
def test_an_incompatible_change_is_reported_with_its_place(
    document: Json, apply: Callable[[Json], None], sentence: str
) -> None:
    now = copy.deepcopy(document)
    apply(now)
    [found] = incompatibilities(document, now)
    assert sentence in found


def test_a_removed_field_that_requests_and_responses_share_is_reported_for_both(document: Json) -> None:
    now = copy.deepcopy(document)
    del now["components"]["schemas"]["Part"]["properties"]["id"]
    assert [sentence.rpartition(": ")[2] for sentence in incompatibilities(document, now)] == [
        "request/parts/*/id was removed",
        "application/json/parts/*/id was removed",
    ]


def rename_schemas(document: Json) -> None:
    schemas = document["components"]["schemas"]
    schemas["LampBody"], schemas["PartBody"] = schemas.pop("Lamp"), schemas.pop("Part")
    schemas["LampBody"]["properties"]["parts"]["items"]["$ref"] = "#/components/schemas/PartBody"
    schemas["PartBody"]["properties"]["part"]["$ref"] = "#/components/schemas/PartBody"
    operation = operation_of(document)
    for where in (operation["requestBody"], operation["responses"]["200"]):
        where["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/LampBody"}


def add_a_path(document: Json) -> None:
    document["paths"]["/chairs"] = {"get": {"operationId": "listChairs", "responses": {}}}


@pytest.mark.parametrize(
    "apply",
    [
        rename_schemas,
        add_a_path,
        in_operation("summary", to="Another text"),
        in_operation("responses", "409", to={"description": ""}),
        in_operation("parameters", 2, "name", to="idempotency-key"),
        in_operation("parameters", 0, "example", to="shop-1"),
        in_operation("parameters", 1, "schema", "maximum", to=100),
        change("", title="Another", description="Another text", examples=[{"name": "a"}]),
        change("", required=[]),
        change("properties", extra={"type": "string"}),
        change("properties/name", maxLength=30),
        change("properties/name", minLength=0),
        change("properties/color", enum=["black", "red", "white"]),
        change("properties/watts", anyOf=[{"type": "null"}, {"type": "number"}]),
        change("", response=True, required=["color", "name"]),
        change("properties", response=True, extra={"type": "string"}),
        change("properties/watts", response=True, anyOf=[{"type": "integer"}]),
        change("properties/color", response=True, enum=["black", "red", "white"]),
    ],
)
def test_a_compatible_change_is_not_reported(document: Json, apply: Callable[[Json], None]) -> None:
    now = copy.deepcopy(document)
    apply(now)
    assert incompatibilities(document, now) == []


def test_a_nullable_object_as_a_list_of_types_equals_one_as_alternatives(document: Json) -> None:
    now = copy.deepcopy(document)
    size = {"type": "object", "properties": {"width": {"type": "integer"}}}
    own_schema(document, response=True)["properties"]["size"] = {**size, "type": ["object", "null"]}
    own_schema(now, response=True)["properties"]["size"] = {"anyOf": [size, {"type": "null"}]}
    assert incompatibilities(document, now) == []
    assert incompatibilities(now, document) == []


def test_a_limit_beside_the_alternatives_is_a_limit_of_each(document: Json) -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    after = copy.deepcopy(document)
    operation_of(document)["parameters"][2]["schema"] = {**schema, "pattern": "^a$"}
    operation_of(after)["parameters"][2]["schema"] = {"anyOf": [{"type": "string", "pattern": "^a$"}, {"type": "null"}]}
    assert incompatibilities(document, after) == []
    operation_of(document)["parameters"][2]["schema"] = schema
    assert [sentence.partition(": ")[2] for sentence in incompatibilities(document, after)] == [
        "header parameter Idempotency-Key: pattern was None and is now '^a$'"
    ]
