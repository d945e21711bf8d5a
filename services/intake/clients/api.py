"""The REST API of clients and their keys."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Security
from starlette.requests import Request
from starlette.responses import Response

from services.intake.clients.domain import ClientChangeRejected, ClientPatch, ClientRecord
from services.intake.clients.handlers import IdempotentCall, Registry
from services.intake.clients.models import (
    ChangeBody,
    ChangedClientView,
    ClientBody,
    ClientsView,
    ClientView,
    KeyBody,
    KeysView,
    NewKeyView,
    RateLimitBody,
    checked,
    client_view,
    time_text,
)
from shared.auth import clients
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.http.problems import INVALID_REQUEST, Problem, ProblemType, problems
from shared.http.queries import IdempotencyKey
from shared.http.route import Available, StrictRoute
from shared.runtime.clock import from_text

MAX_BODY_BYTES: Final = 64 * 1024

_UNKNOWN_CLIENT: Final = ProblemType(
    "unknown-client", 404, "No such client", "No client 'shop' is visible to this key."
)
_UNKNOWN_KEY: Final = ProblemType("unknown-key", 404, "No such key", "Client 'shop' has no key '9f86d081884c'.")
_EXISTS: Final = ProblemType("client-exists", 409, "The name is taken", "Another client 'shop' exists.")
_CHANGED: Final = ProblemType("changed-meanwhile", 409, "The client was changed", "Client 'shop' was changed.")
_TOO_MANY_KEYS: Final = ProblemType(
    "too-many-keys",
    409,
    "The client has two live keys",
    "Client 'shop' has 2 live keys, 9f86d081884c and 60303ae22b99. Revoke one of them first.",
)
_SHOWN: Final = ProblemType(
    "key-shown-already",
    409,
    "The key was created before",
    "The call with this Idempotency-Key created key 9f86d081884c, which cannot be shown again.",
)
_KEY_REUSED: Final = ProblemType(
    "idempotency-key-reused", 422, "The key was used with another body", "Use a new key for a new API key."
)
_BEYOND: Final = ProblemType(
    "beyond-own-rights",
    403,
    "Only existing rights can be granted",
    "Client 'lead' does not have audit:read and cannot grant it.",
)
_TYPES: Final = {
    kind.slug: kind
    for kind in (
        _UNKNOWN_CLIENT,
        _UNKNOWN_KEY,
        _EXISTS,
        _CHANGED,
        _TOO_MANY_KEYS,
        _SHOWN,
        _KEY_REUSED,
        _BEYOND,
        INVALID_REQUEST,
    )
}

router: Final = APIRouter(prefix="/v1/clients", route_class=StrictRoute, responses=PROTECTED)
available_registry: Final = Available[Registry]("registry")

Reader = Annotated[Principal, Security(api_key, scopes=["clients:read"])]
Writer = Annotated[Principal, Security(api_key, scopes=["clients:write"])]
TheRegistry = Annotated[Registry, Depends(available_registry)]
Name = Annotated[
    str,
    checked(clients.name_fault),
    Path(description="A client's name", examples=["shop"], json_schema_extra={"pattern": f"^{clients.NAME.pattern}$"}),
]
KeyId = Annotated[str, Path(description="A key's id, the first digits of its hash", examples=["9f86d081884c"])]


async def on_rejected(_: Request, error: Exception) -> Response:
    """The error response for a ClientChangeRejected."""
    assert isinstance(error, ClientChangeRejected)  # noqa: S101 - registered for it
    return Problem(error.status, error.slug, _TYPES[error.slug].title, str(error), pointer=error.pointer).response()


@router.get("", summary="Clients by name", description="Clients whose regions are all among those of the key.")
async def list_clients(
    by: Reader,
    registry: TheRegistry,
    state: Annotated[Literal["active", "disabled"] | None, Query(description="Only in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Maximum entries of a page")] = 50,
    cursor: Annotated[str, Query(max_length=63, description="`next` of the previous page")] = "",
) -> ClientsView:
    if cursor and clients.NAME.fullmatch(cursor) is None:
        detail = "Not a cursor of this list: send `next` of the previous page, or no cursor to start."
        raise INVALID_REQUEST(detail, pointer="/query/cursor")
    found, following = await registry.page(cursor, limit, state, by)
    return ClientsView(clients=[client_view(client, registry.now()) for client in found], next=following)


@router.get("/{name}", summary="A client", responses=problems(_UNKNOWN_CLIENT))
async def show_client(by: Reader, registry: TheRegistry, name: Name) -> ClientView:
    return client_view(await registry.show(name, by), registry.now())


@router.get("/{name}/keys", summary="The keys of a client", responses=problems(_UNKNOWN_CLIENT))
async def list_keys(by: Reader, registry: TheRegistry, name: Name) -> KeysView:
    view = client_view(await registry.show(name, by), registry.now())
    return KeysView(client=view.name, keys=view.keys)


@router.post(
    "",
    status_code=201,
    summary="Create a client",
    description="It has no key yet. A repetition finds it (200). Only scopes and regions of the caller can be granted.",
    responses=problems(_BEYOND, _EXISTS)
    | {200: {"model": ChangedClientView, "description": "The same client was created before"}},
    max_body_size=MAX_BODY_BYTES,
)
async def create_client(by: Writer, registry: TheRegistry, body: ClientBody, response: Response) -> ChangedClientView:
    client, is_new = await registry.create(
        name=body.name,
        description=body.description,
        scopes=frozenset(body.scopes),
        regions=frozenset(body.regions),
        platforms=frozenset(body.platforms),
        limit=None if body.limit is None else body.limit.limit(),
        by=by,
    )
    response.status_code = 201 if is_new else 200
    return await _changed(registry, client)


@router.patch(
    "/{name}",
    summary="Change, disable or enable a client",
    responses=problems(_BEYOND, _UNKNOWN_CLIENT, _CHANGED),
    max_body_size=MAX_BODY_BYTES,
)
async def change_client(by: Writer, registry: TheRegistry, name: Name, body: ChangeBody) -> ChangedClientView:
    return await _changed(registry, await registry.change(name, patch_of(body), body.revision, by))


@router.post(
    "/{name}/keys",
    status_code=201,
    summary="Create a key and show it once",
    description="A client has at most two live keys: one and its successor. With an `Idempotency-Key`, a repetition"
    " creates no second key; it cannot show the first one again and returns its id (409).",
    responses=problems(_BEYOND, _UNKNOWN_CLIENT, _TOO_MANY_KEYS, _SHOWN, _KEY_REUSED),
    max_body_size=MAX_BODY_BYTES,
)
async def create_key(  # noqa: PLR0917 - FastAPI calls it by name
    by: Writer,
    registry: TheRegistry,
    name: Name,
    body: KeyBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> NewKeyView:
    new = await registry.add_key(
        name,
        expires_at=_time(body.expires_at),
        others_expire_at=_time(body.others_expire_at),
        call=None if idempotency_key is None else _call(by.name, idempotency_key, body),
        by=by,
    )
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(
        client=new.client.name,
        key=new.secret,
        key_id=new.key.key_id,
        expires_at=time_text(new.key.expires_at),
        in_force=await registry.is_in_force(new.client),
    )


@router.delete(
    "/{name}/keys/{key_id}",
    summary="Revoke a key",
    description="It stops working at once. A repetition changes nothing.",
    responses=problems(_UNKNOWN_CLIENT, _UNKNOWN_KEY),
)
async def revoke_key(by: Writer, registry: TheRegistry, name: Name, key_id: KeyId) -> ChangedClientView:
    return await _changed(registry, await registry.revoke(name, key_id, by))


async def _changed(registry: Registry, client: ClientRecord) -> ChangedClientView:
    return ChangedClientView(client=client_view(client, registry.now()), in_force=await registry.is_in_force(client))


def patch_of(body: ChangeBody) -> ClientPatch:
    """The patch with the sent fields."""
    given: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - {"revision"}}
    for name in given.keys() & {"scopes", "regions", "platforms"}:
        given[name] = frozenset(given[name])
    if isinstance(limit := given.get("limit"), RateLimitBody):
        given["limit"] = limit.limit()
    return ClientPatch(**given)


def _call(by: str, key: str, body: KeyBody) -> IdempotentCall:
    return IdempotentCall(ids.derive("client-key", by, key), body.content_hash())


def _time(text: str | None) -> datetime | None:
    return None if text is None else from_text(text)
