"""The OpenAPI document: schemas of msgspec types, and examples."""

import msgspec
import pytest
from fastapi import FastAPI
from pydantic import create_model

from shared.http.app import create_app
from shared.http.responses import struct
from shared.runtime.readiness import Readiness


@pytest.fixture
def app() -> FastAPI:
    return create_app("test", "A service for tests.", Readiness("test"))


class Lamp(msgspec.Struct):
    """A lamp."""

    watts: int


class Shop(msgspec.Struct):
    """The stock of a shop."""

    lamps: list[Lamp]


def document_response(app: FastAPI, name: str, kind: type[msgspec.Struct], example: object = None) -> None:
    async def route() -> None: ...

    app.add_api_route(f"/v1/{name}", route, name=name, responses={200: struct(kind, example)})


def test_a_schema_of_several_responses_is_in_the_document_once(app: FastAPI) -> None:
    document_response(app, "shops", Shop)
    document_response(app, "lamps", Lamp)
    document = app.openapi()
    schemas = document["components"]["schemas"]
    assert schemas["Shop"]["properties"]["lamps"]["items"] == {"$ref": "#/components/schemas/Lamp"}
    schema = document["paths"]["/v1/lamps"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Lamp"}
    assert "$defs" not in str(document)


@pytest.mark.parametrize("name", ["Lamp", "ProblemDetails"])
def test_two_types_with_the_same_name_are_an_error_of_the_document(app: FastAPI, name: str) -> None:
    clash = f"two types of the API are named {name}"
    document_response(app, "lamps", Lamp)
    app.openapi()
    app.add_api_route("/v1/models", lambda: None, response_model=create_model(name, volts=int))
    app.openapi_schema = None
    with pytest.raises(AssertionError, match=clash):
        app.openapi()
    app.router.routes.pop()
    document_response(app, "others", msgspec.defstruct(name, [("volts", int)]))
    app.openapi_schema = None
    with pytest.raises(AssertionError, match=clash):
        app.openapi()


def test_an_example_keeps_its_null_values(app: FastAPI) -> None:
    example = {"lamps": [{"watts": None}], "next": None}
    document_response(app, "shops", Shop, example)
    for _ in range(2):
        content = app.openapi()["paths"]["/v1/shops"]["get"]["responses"]["200"]["content"]["application/json"]
        assert (content["example"], content.keys()) == (example, {"schema", "example"})
