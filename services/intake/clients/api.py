"""The REST API of clients and their keys."""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Security
from starlette.responses import Response

from services.intake.clients import domain, models
from services.intake.clients.domain import ClientPatch, ClientRecord, NewClient
from services.intake.clients.handlers import IdempotentCall, Registry
from shared.auth import clients
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.http.problems import problems
from shared.http.queries import IdempotencyKey, PageLimit, invalid_cursor
from shared.http.route import Available, StrictRoute
from shared.runtime.clock import from_text
from shared.validation.faults import CHANGED_MEANWHILE

MAX_BODY_BYTES: Final = 64 * 1024

router: Final = APIRouter(prefix="/v1/clients", route_class=StrictRoute, responses=PROTECTED)
available_registry: Final = Available[Registry]("registry")

Reader = Annotated[Principal, Security(api_key, scopes=["clients:read"])]
Writer = Annotated[Principal, Security(api_key, scopes=["clients:write"])]
TheRegistry = Annotated[Registry, Depends(available_registry)]
Name = Annotated[
    str,
    models.checked(clients.name_fault),
    Path(description="A client's name", examples=["shop"], json_schema_extra={"pattern": f"^{clients.NAME.pattern}$"}),
]
KeyId = Annotated[str, Path(description="A key's id, the first digits of its hash", examples=["9f86d081884c"])]


@router.get("", summary="Clients by name", description="Clients whose regions are all among those of the key.")
async def list_clients(
    by: Reader,
    registry: TheRegistry,
    state: Annotated[Literal["active", "disabled"] | None, Query(description="Only in this state")] = None,
    limit: PageLimit = 50,
    cursor: Annotated[str, Query(max_length=63, description="`next` of the previous page")] = "",
) -> models.ClientsView:
    if cursor and clients.NAME.fullmatch(cursor) is None:
        raise invalid_cursor()
    found, following = await registry.page(cursor, limit, state, by)
    return models.ClientsView(clients=[models.client_view(client, registry.now()) for client in found], next=following)


@router.get("/{name}", summary="A client", responses=problems(domain.UNKNOWN_CLIENT))
async def show_client(by: Reader, registry: TheRegistry, name: Name) -> models.ClientView:
    return models.client_view(await registry.show(name, by), registry.now())


@router.get("/{name}/keys", summary="The keys of a client", responses=problems(domain.UNKNOWN_CLIENT))
async def list_keys(by: Reader, registry: TheRegistry, name: Name) -> models.KeysView:
    view = models.client_view(await registry.show(name, by), registry.now())
    return models.KeysView(client=view.name, keys=view.keys)


@router.post(
    "",
    status_code=201,
    summary="Create a client",
    description="It has no key yet. A repetition returns it (200). Only the scopes and regions of the caller can be"
    " granted.",
    responses=problems(domain.BEYOND_OWN_RIGHTS, domain.EXISTS)
    | {200: {"model": models.ChangedClientView, "description": "The same client was created before"}},
    max_body_size=MAX_BODY_BYTES,
)
async def create_client(
    by: Writer, registry: TheRegistry, body: models.ClientBody, response: Response
) -> models.ChangedClientView:
    client, is_new = await registry.create(msgspec.convert(body, NewClient, from_attributes=True), by)
    response.status_code = 201 if is_new else 200
    return await _changed(registry, client)


@router.patch(
    "/{name}",
    summary="Change, disable or enable a client",
    responses=problems(domain.BEYOND_OWN_RIGHTS, domain.UNKNOWN_CLIENT, CHANGED_MEANWHILE),
    max_body_size=MAX_BODY_BYTES,
)
async def change_client(
    by: Writer, registry: TheRegistry, name: Name, body: models.ChangeBody
) -> models.ChangedClientView:
    return await _changed(registry, await registry.change(name, patch_of(body), body.revision, by))


@router.post(
    "/{name}/keys",
    status_code=201,
    summary="Create a key and show it once",
    description="A client has at most two live keys: one and its successor. With an `Idempotency-Key`, a repetition"
    " creates no second key; it cannot show the first one again and returns its id (409).",
    responses=problems(domain.BEYOND_OWN_RIGHTS, domain.UNKNOWN_CLIENT, *domain.KEY_REJECTIONS),
    max_body_size=MAX_BODY_BYTES,
)
async def create_key(  # noqa: PLR0917 - FastAPI calls it by name
    by: Writer,
    registry: TheRegistry,
    name: Name,
    body: models.KeyBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> models.NewKeyView:
    new = await registry.add_key(
        name,
        expires_at=_time(body.expires_at),
        others_expire_at=_time(body.others_expire_at),
        call=None if idempotency_key is None else _call(by.name, idempotency_key, body),
        by=by,
    )
    response.headers["Cache-Control"] = "no-store"
    view = {
        "client": new.client.name,
        "key": new.secret,
        "key_id": new.key.key_id,
        "expires_at": new.key.expires_at,
        "in_force": await registry.is_in_force(new.client),
    }
    return models.NewKeyView.model_validate(view)


@router.delete(
    "/{name}/keys/{key_id}",
    summary="Revoke a key",
    description="It stops working at once. A repetition changes nothing.",
    responses=problems(domain.UNKNOWN_CLIENT, domain.UNKNOWN_KEY),
)
async def revoke_key(by: Writer, registry: TheRegistry, name: Name, key_id: KeyId) -> models.ChangedClientView:
    return await _changed(registry, await registry.revoke(name, key_id, by))


async def _changed(registry: Registry, client: ClientRecord) -> models.ChangedClientView:
    return models.ChangedClientView(
        client=models.client_view(client, registry.now()), in_force=await registry.is_in_force(client)
    )


def patch_of(body: models.ChangeBody) -> ClientPatch:
    """The patch with the sent fields."""
    sent = {name: getattr(body, name) for name in body.model_fields_set - {"revision"}}
    return msgspec.convert(sent, ClientPatch, from_attributes=True)


def _call(by: str, key: str, body: models.KeyBody) -> IdempotentCall:
    return IdempotentCall(ids.derive("client-key", by, key), body.content_hash())


def _time(text: str | None) -> datetime | None:
    return None if text is None else from_text(text)
