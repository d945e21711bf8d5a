"""The router's REST: what is in force, and bringing something else into force.

A publication's form is checked by the models here, which describe it in `/openapi.json` too; its meaning in `control`.
"""

from typing import Any, Final

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from services.router.control import Control, PolicySetContent, Publisher
from shared.auth import Authenticator, Client, require_region
from shared.events import Region
from shared.http import PROBLEM_JSON, InputError, Problem, json_response, not_ready
from shared.readiness import Readiness

MAX_BYTES: Final = 2 * 1024 * 1024


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class QueueInput(_Input):
    id: str = Field(description="1 to 63 of a-z, 0-9 and '-'; unique in its region")
    title: str = Field("", max_length=200)
    service_level_minutes: int = Field(description="from receipt of the item to its decision")


class RegionInput(_Input):
    id: str = Field(description="1 to 31 of a-z, 0-9 and '-'")
    title: str = Field("", max_length=200)
    markets: list[str] = Field(max_length=300, description="ISO 3166-1 alpha-2; each in one region only")
    queues: list[QueueInput] = Field(max_length=200)
    default_queue: str = Field(description="where cases go that no policy sends elsewhere")


class OperatingModelInput(_Input):
    regions: list[RegionInput] = Field(max_length=100)


class PolicyInput(_Input):
    id: str = Field(description="1 to 63 of a-z, 0-9 and '-'; unique in the set")
    title: str = Field("", max_length=200)
    when: list[str] = Field(max_length=50, description="conditions in CEL, each true or false; all must hold")
    verdict: str = Field(description="approve, review or reject; the strictest of those that match wins")
    reasons: list[str] = Field(default=[], max_length=20, description="codes such as WEAPONS")
    queue: str = Field("", description="where a review goes; the region's default queue when empty")
    priority: int = Field(5, description="1 (first) to 9")
    markets: list[str] = Field(default=[], max_length=300, description="only for items offered there; all when empty")


class PolicySetInput(_Input):
    terms: dict[str, list[str]] = Field(default={}, description="word lists by name, looked for in title and text")
    policies: list[PolicyInput] = Field(max_length=1000)
    default_verdict: str = Field(description="approve, review or reject, when no policy matches")


class ControlInput(_Input):
    operating_model: OperatingModelInput | None = None
    policy_set: PolicySetInput | None = None


def add_routes(
    app: FastAPI, *, control: Control, publisher: Publisher, authenticator: Authenticator, readiness: Readiness
) -> None:
    """`GET` and `POST /v1/control`."""

    def client_of(request: Request, scope: str) -> Client:
        client = authenticator.client(request, scope)
        if not control.read:
            raise not_ready(readiness)
        return client

    async def show(request: Request) -> Response:
        client_of(request, "control:read")
        return json_response(
            {
                "operating_model": control.model and control.model.published,
                "policy_set": control.policy_set and control.policy_set.published,
            }
        )

    async def publish(request: Request) -> Response:
        client = client_of(request, "control:publish")
        sent = _parse(await _body(request))
        model, policy_set = sent.operating_model, sent.policy_set
        for region in sorted({region.id for region in model.regions} if model else set()) + sorted(
            control.model.regions if control.model else ()
        ):
            require_region(client, region)
        published_model, published_set = await publisher.publish(
            None if model is None else msgspec.convert(model.model_dump()["regions"], list[Region]),
            None if policy_set is None else msgspec.convert(policy_set.model_dump(), PolicySetContent),
            by=client.name,
        )
        return json_response({"operating_model": published_model, "policy_set": published_set})

    app.add_api_route("/v1/control", show, methods=["GET"], summary="What is in force", openapi_extra=_SHOWN)
    app.add_api_route(
        "/v1/control",
        publish,
        methods=["POST"],
        summary="Bring an operating model, a policy set or both into force",
        description="All is checked before anything is published: both, and each against the other (the one in force"
        " where one is not sent). What is the same as in force is not published again. Answers when it is in force"
        " here.",
        openapi_extra=_PUBLISHED,
    )


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            415,
            "unsupported-media-type",
            "Not JSON",
            f"The body's Content-Type is {kind or 'missing'!r}, expected 'application/json'.",
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Problem(
                413,
                "too-large",
                "The body is too large",
                f"A publication may have {MAX_BYTES} bytes; word lists are what is large, as a rule.",
            )
    return bytes(body)


def _parse(body: bytes) -> ControlInput:
    try:
        sent = ControlInput.model_validate_json(body)
    except ValidationError as error:
        faults = [
            InputError(_pointer(fault["loc"]), f"{fault['msg']} (given: {fault['input']!r:.80})")
            for fault in error.errors(include_url=False)
        ]
        where = faults[0].pointer or "the body"
        raise Problem(
            422, "invalid-control", "What was sent does not fit", f"{where}: {faults[0].detail}", errors=faults
        ) from error
    if sent.operating_model is None and sent.policy_set is None:
        raise Problem(
            422,
            "invalid-control",
            "There is nothing to publish",
            "Send `operating_model`, `policy_set` or both.",
            pointer="",
        )
    return sent


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema with each reference replaced by what it names, as OpenAPI wants it inside a route."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items() if name != "$defs"}


def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    inlined: dict[str, Any] = _inlined(schema, schema.get("$defs", {}))
    return inlined


def _answer(description: str, example: object, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


def _refusal(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM_JSON: {"schema": {"type": "object"}}}}


_MODEL_EXAMPLE: Final = {
    "regions": [
        {
            "id": "eu",
            "title": "European Union",
            "markets": ["DE", "FR"],
            "queues": [{"id": "general", "title": "General", "service_level_minutes": 1440}],
            "default_queue": "general",
        }
    ]
}
_SET_EXAMPLE: Final = {
    "terms": {"weapons": ["assault rifle", "sturmgewehr"]},
    "policies": [
        {
            "id": "weapons",
            "title": "Weapons are not sold here",
            "when": ['kind == "product"', '"weapons" in terms'],
            "verdict": "reject",
            "reasons": ["WEAPONS"],
        }
    ],
    "default_verdict": "approve",
}
_STAMPED: Final = {"id": "om-1-0a1b2c3d4e5f", "number": 1, "published_by": "policy-team"}
_OUTCOME: Final = {
    "type": ["object", "null"],
    "properties": {"id": {"type": "string"}, "number": {"type": "integer"}, "changed": {"type": "boolean"}},
}
_SHOWN: Final[dict[str, Any]] = {
    "responses": {
        "200": _answer(
            "What is in force; null for what is not there yet",
            {
                "operating_model": {**_STAMPED, **_MODEL_EXAMPLE},
                "policy_set": {**_STAMPED, "id": "ps-1-5f4e3d2c1b0a", **_SET_EXAMPLE},
            },
            {
                "type": "object",
                "properties": {name: {"type": ["object", "null"]} for name in ("operating_model", "policy_set")},
            },
        )
    }
}
_PUBLISHED: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema(ControlInput),
                "example": {"operating_model": _MODEL_EXAMPLE, "policy_set": _SET_EXAMPLE},
            }
        },
    },
    "responses": {
        "200": _answer(
            "In force; `changed` is false for what was in force already",
            {
                "operating_model": {"id": "om-1-0a1b2c3d4e5f", "number": 1, "changed": False},
                "policy_set": {"id": "ps-2-5f4e3d2c1b0a", "number": 2, "changed": True},
            },
            {"type": "object", "properties": {"operating_model": _OUTCOME, "policy_set": _OUTCOME}},
        ),
        "413": _refusal(f"The body has more than {MAX_BYTES} bytes"),
        "415": _refusal("The body is not JSON"),
    },
}
