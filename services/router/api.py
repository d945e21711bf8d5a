"""The router's REST: what is in force, and bringing something else into force.

A publication's form is checked by the models here, which describe it in `/openapi.json` too; its meaning in `control`.
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from services.router.control import ControlState
from services.router.domain.publication import PolicySetContent, PublicationRejected
from services.router.handlers.check import MAX_CONDITIONS, CheckPublication, TooManyChecks
from services.router.handlers.publication import NotYetInForce, PublishControl
from shared.auth.authenticator import Authenticator, require_region
from shared.auth.principal import Principal
from shared.contracts.events import Region
from shared.http.http import (
    InputError,
    LimitBody,
    Problem,
    documented_body,
    documented_problem,
    json_response,
    not_ready,
    require_json,
    require_query,
    require_sound,
)
from shared.http.openapi_security import security
from shared.runtime.readiness import Readiness

MAX_BYTES: Final = 2 * 1024 * 1024
_MOST_FAULTS: Final = 20
_I = TypeVar("_I", bound="ControlInput")


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
    notice_queue: str = Field("", description="where notices go; the default queue when empty")
    appeal_queue: str = Field("", description="where appeals go; the default queue when empty")


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
    terms: dict[str, Annotated[list[str], FailFast()]] = Field(
        default={}, description="word lists by name, looked for in title and text"
    )
    policies: list[PolicyInput] = Field(max_length=1000)
    default_verdict: str = Field(description="approve, review or reject, when no policy matches")


class RegionsInput(_Input):
    regions: list[RegionInput] = Field(
        min_length=1, max_length=100, description="as they would be, each whole; the others stay as they are"
    )


class ControlInput(_Input):
    operating_model: OperatingModelInput | None = None
    policy_set: PolicySetInput | None = None


class CheckInput(ControlInput):
    operating_model_diff: RegionsInput | None = None


def add_routes(
    app: FastAPI,
    *,
    control: ControlState,
    publisher: PublishControl,
    authenticator: Authenticator,
    readiness: Readiness,
) -> None:
    """`GET` and `POST /v1/control`, `POST /v1/control/check`."""
    app.add_middleware(LimitBody, max_bytes=MAX_BYTES)
    checker = CheckPublication(control)
    for kind in (PublicationRejected, NotYetInForce, TooManyChecks):
        app.add_exception_handler(kind, _on_failure)

    def client_of(request: Request, scope: str) -> Principal:
        client = authenticator.principal(request, scope)
        require_query(request, ())
        if not control.caught_up:
            raise not_ready(readiness)
        return client

    async def show(request: Request) -> Response:
        client_of(request, "control:read")
        return json_response(
            {
                "operating_model": control.snapshot.operating_model,
                "policy_set": control.snapshot.policy_set,
            }
        )

    async def publish(request: Request) -> Response:
        client = client_of(request, "control:publish")
        sent = _parse(ControlInput, await _body(request))
        model, policy_set = sent.operating_model, sent.policy_set
        for region in sorted({region.id for region in model.regions} if model else set()) + sorted(
            control.operating_model.regions if control.operating_model else ()
        ):
            require_region(client, region)
        published_model, published_set = await publisher.publish(_regions(model), _content(policy_set), by=client.name)
        return json_response({"operating_model": published_model, "policy_set": published_set})

    async def check(request: Request) -> Response:
        client_of(request, "control:read")
        sent = _parse(CheckInput, await _body(request))
        checked = await checker.check(
            _regions(sent.operating_model), _regions(sent.operating_model_diff), _content(sent.policy_set)
        )
        return json_response(checked)

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
    app.add_api_route(
        "/v1/control/check",
        check,
        methods=["POST"],
        summary="Whether something would come into force, and what it would change",
        description="All the checks of a publication, against what is in force; nothing is published. Instead of a"
        " whole operating model, `operating_model_diff` may have regions as they would be, each whole.",
        openapi_extra=_CHECKED,
    )


async def _on_failure(_: Request, error: Exception) -> Response:
    match error:
        case PublicationRejected():
            errors = [InputError(*fault) for fault in error.faults]
            title = "What was sent cannot come into force"
            problem = Problem(422, "invalid-control", title, str(error), errors=errors)
        case NotYetInForce():
            title = "Published, but not in force here yet"
            problem = Problem(503, "not-in-force-yet", title, str(error), retry_after=2)
        case _:
            problem = Problem(429, "overloaded", "Too many checks", str(error), retry_after=2)
    return problem.response()


async def _body(request: Request) -> bytes:
    require_json(request)
    return await request.body()


def _regions(sent: OperatingModelInput | RegionsInput | None) -> list[Region] | None:
    return None if sent is None else msgspec.convert(sent.model_dump()["regions"], list[Region])


def _content(sent: PolicySetInput | None) -> PolicySetContent | None:
    return None if sent is None else msgspec.convert(sent.model_dump(), PolicySetContent)


def _parse(kind: type[_I], body: bytes) -> _I:
    require_sound(body)
    try:
        sent = kind.model_validate_json(body)
    except ValidationError as error:
        faults = [
            InputError(_pointer(fault["loc"]), f"{fault['msg']} (given: {fault['input']!r:.80})")
            for fault in error.errors(include_url=False)[:_MOST_FAULTS]
        ]
        where = faults[0].pointer or "the body"
        raise Problem(
            422, "invalid-control", "What was sent does not fit", f"{where}: {faults[0].detail}", errors=faults
        ) from error
    if not sent.model_dump(exclude_none=True):
        raise Problem(
            422,
            "invalid-control",
            "There is nothing to publish",
            f"Send {' or '.join(f'`{name}`' for name in kind.model_fields)}, or more of them.",
            pointer="",
        )
    if isinstance(sent, CheckInput) and sent.operating_model and sent.operating_model_diff:
        raise Problem(
            422,
            "invalid-control",
            "There are two operating models",
            "Send `operating_model` or `operating_model_diff`, not both.",
            pointer="/operating_model_diff",
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


def _refusals(*more: tuple[int, str, str, str]) -> dict[str, Any]:
    """The errors of a body, and more (status, slug, title, detail)."""
    own = (413, "too-large", "The body is too large", f"A publication may have {MAX_BYTES} bytes.")
    documented = documented_body() | {refusal[0]: documented_problem(*refusal) for refusal in (own, *more)}
    return {str(status): problem for status, problem in documented.items()}


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
    "security": security("control:read"),
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
    },
}
_PUBLISHED: Final[dict[str, Any]] = {
    "security": security("control:publish"),
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
        **_refusals(),
    },
}
_WOULD: Final = {
    "type": ["object", "null"],
    "properties": {
        "changed": {"type": "boolean"},
        "differing": {"type": "integer"},
        "differences": {
            "type": "array",
            "items": {"type": "object", "properties": {"what": {"type": "string"}, "how": {"type": "string"}}},
        },
    },
}
_IDS: Final = {name: {"type": ["string", "null"]} for name in ("operating_model", "policy_set")}
_CHECKED: Final[dict[str, Any]] = {
    "security": security("control:read"),
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema(CheckInput),
                "example": {"operating_model_diff": _MODEL_EXAMPLE, "policy_set": _SET_EXAMPLE},
            }
        },
    },
    "responses": {
        "200": _answer(
            "It would come into force, and change this of what is in force; null for what was not sent",
            {
                "in_force": {"operating_model": "om-1-0a1b2c3d4e5f", "policy_set": "ps-1-5f4e3d2c1b0a"},
                "operating_model": {"changed": False, "differing": 0, "differences": []},
                "policy_set": {
                    "changed": True,
                    "differing": 1,
                    "differences": [{"what": "policies/weapons", "how": "added"}],
                },
            },
            {
                "type": "object",
                "properties": {
                    "in_force": {"type": "object", "properties": _IDS},
                    "operating_model": _WOULD,
                    "policy_set": _WOULD,
                },
            },
        ),
        **_refusals(
            (422, "invalid-control", "What was sent does not fit", f"It has more than {MAX_CONDITIONS} conditions."),
            (429, "overloaded", "Too many checks", "Others are being checked. Send the same again."),
        ),
    },
}
