"""The REST of clients: list, make, look, change, and their keys."""

from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from fastapi import APIRouter, FastAPI, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from services.intake.clients.domain import MAX_DESCRIPTION, Client, Key, Patch, Refused
from services.intake.clients.handlers import Call, Registry
from shared.auth import clients
from shared.auth.authenticator import Authenticator
from shared.auth.keyed import keyed
from shared.contracts import ids
from shared.contracts.events import RateLimit
from shared.http.http import (
    IdempotencyKey,
    LimitBody,
    Problem,
    documented_answer,
    documented_problem,
    json_response,
    not_ready,
    read_idempotency_key,
)
from shared.http.idempotency import body_hash
from shared.runtime.clock import Clock, from_text, to_text
from shared.runtime.readiness import Readiness

READ: Final = "clients:read"
WRITE: Final = "clients:write"
_MAX_BODY: Final = 64 * 1024
_FASTEST: Final = 1_000_000

_T = TypeVar("_T")


def _name(text: str) -> str:
    if (fault := clients.name_fault(text)) is not None:
        raise ValueError(fault)
    return text


def _scope(text: str) -> str:
    if text not in clients.SCOPES:
        raise ValueError(f"there is no such scope; there are {', '.join(sorted(clients.SCOPES))}")
    return text


def _region(text: str) -> str:
    if (fault := clients.region_fault(text)) is not None:
        raise ValueError(fault)
    return text


def _platform(text: str) -> str:
    if (fault := clients.platform_fault(text)) is not None:
        raise ValueError(fault)
    return text


def _items_rate(rate: float) -> float:
    if 0 < rate < 0.001:
        raise ValueError("expected 0 or at least 0.001")
    return rate


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds characters that cannot be printed")
    return text


def _time(text: str) -> str:
    try:
        from_text(text)
    except ValueError as error:
        raise ValueError("expected RFC 3339 such as 2027-01-31T00:00:00Z") from error
    return text


Scopes = Annotated[
    list[Annotated[str, AfterValidator(_scope), Field(json_schema_extra={"enum": sorted(clients.SCOPES)})]],
    Field(min_length=1, max_length=50, description="What its keys may do"),
]
Regions = Annotated[
    list[Annotated[str, AfterValidator(_region), Field(json_schema_extra={"pattern": rf"^({clients.REGION}|\*)$"})],],
    Field(min_length=1, max_length=100, description="Where it may act; `*` is everywhere"),
]
Platforms = Annotated[
    list[
        Annotated[str, AfterValidator(_platform), Field(json_schema_extra={"pattern": rf"^({clients.PLATFORM}|\*)$"})],
    ],
    Field(
        min_length=1,
        max_length=100,
        description="Whose items, notices and appeals; `*` is everyone's, and all other scopes need it",
    ),
]
Description = Annotated[
    str,
    Field(max_length=MAX_DESCRIPTION, description="For people; stays here"),
    AfterValidator(_printable),
]
Time = Annotated[str, AfterValidator(_time), Field(json_schema_extra={"format": "date-time"})]
Name = Annotated[
    str,
    AfterValidator(_name),
    Path(description="A client's name", examples=["shop"], json_schema_extra={"pattern": f"^{clients.NAME.pattern}$"}),
]
KeyId = Annotated[str, Path(description="A key's id, the first digits of its hash", examples=["9f86d081884c"])]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class LimitInput(_Body):
    """How often it may call each process of a service."""

    requests_per_second: float = Field(ge=0.001, le=_FASTEST, description="On average")
    burst: int = Field(ge=1, le=_FASTEST, description="Calls at once")
    items_per_second: Annotated[float, AfterValidator(_items_rate)] = Field(
        0.0, ge=0, le=_FASTEST, description="Items on average, at least 0.001; 0: as many as its calls hold"
    )

    def limit(self) -> RateLimit:
        """The limit, as it is kept and told."""
        return RateLimit(
            requests_per_second=self.requests_per_second, burst=self.burst, items_per_second=self.items_per_second
        )


class ClientBody(_Body):
    """A new client."""

    name: Annotated[
        str,
        AfterValidator(_name),
        Field(description=clients.NAME_FORMAT, json_schema_extra={"pattern": f"^{clients.NAME.pattern}$"}),
    ]
    description: Description = ""
    scopes: Scopes
    regions: Regions
    platforms: Platforms
    limit: LimitInput | None = Field(None, description="null: none")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "shop",
                    "description": "The shop's importer",
                    "scopes": ["items:write", "items:read"],
                    "regions": ["eu"],
                    "platforms": ["shop"],
                    "limit": {"requests_per_second": 200, "burst": 400, "items_per_second": 0},
                }
            ]
        }
    )


class ChangeBody(_Body):
    """What is to be other; what is left out stays, so no member has a default that a caller's tools might send."""

    description: Description = Field(default_factory=str)
    scopes: Scopes = Field(default_factory=list)
    regions: Regions = Field(default_factory=list)
    platforms: Platforms = Field(default_factory=list)
    limit: LimitInput | None = Field(default_factory=lambda: None, description="null: none")
    state: Literal["active", "disabled"] = Field(
        default_factory=lambda: "active", description="A disabled client's keys open nothing"
    )
    revision: int | None = Field(None, ge=1, description="Only if the client is still at this revision")

    model_config = ConfigDict(json_schema_extra={"examples": [{"regions": ["eu", "us"], "revision": 1793750400000}]})


class KeyBody(_Body):
    """A new key."""

    expires_at: Time | None = Field(None, description="null: it does not expire")
    others_expire_at: Time | None = Field(None, description="When the client's other keys are to end, if sooner")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"expires_at": "2027-01-31T00:00:00Z", "others_expire_at": "2026-02-07T00:00:00Z"}]
        }
    )

    def content_hash(self) -> str:
        """The hash that distinguishes the retry of a call from another call with the same Idempotency-Key."""
        return body_hash(self, always={"expires_at", "others_expire_at"})


class KeyView(msgspec.Struct, frozen=True):
    """A key: never its text. `last_used_at` follows calls to every service by a minute or two."""

    key_id: str
    state: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class LimitView(msgspec.Struct, frozen=True):
    """How often a client may call each process of a service; items 0: no limit of their own."""

    requests_per_second: float
    burst: int
    items_per_second: float


class ClientView(msgspec.Struct, frozen=True):
    """A client and its keys, oldest first."""

    name: str
    description: str
    state: str
    scopes: list[str]
    regions: list[str]
    platforms: list[str]
    limit: LimitView | None
    revision: int
    created_at: str
    changed_at: str
    keys: list[KeyView]


class ChangedView(msgspec.Struct, frozen=True):
    """A client after a change. `in_force`: the process that answers goes by it; the others do within about a second."""

    client: ClientView
    in_force: bool


class NewKeyView(msgspec.Struct, frozen=True):
    """A new key, shown this once: what is kept of it is a hash."""

    client: str
    key: str
    key_id: str
    expires_at: str | None
    in_force: bool


class ClientsView(msgspec.Struct, frozen=True):
    """A page of clients by name; `next` is the cursor of the page that follows."""

    clients: list[ClientView]
    next: str | None


class KeysView(msgspec.Struct, frozen=True):
    """A client's keys, oldest first."""

    client: str
    keys: list[KeyView]


class Reception:
    """Where the use cases stand once the database answers; until then a call is answered 503."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self.registry: Registry | None = None

    def open(self) -> Registry:
        """The use cases; raises a 503 Problem that says what is lacking."""
        if self.registry is None:
            raise not_ready(self._readiness)
        return self.registry


def add_routes(app: FastAPI, reception: Reception, authenticator: Authenticator, clock: Clock) -> None:
    """Add `/v1/clients` to the application."""
    app.add_middleware(LimitBody, max_bytes=_MAX_BODY, under="/v1/clients")
    reading = APIRouter(route_class=keyed(authenticator, READ))
    writing = APIRouter(route_class=keyed(authenticator, WRITE))

    def view(client: Client) -> ClientView:
        return _view(client, clock.now())

    async def told(client: Client, status: int = 200) -> Response:
        return json_response(ChangedView(view(client), await reception.open().is_in_force(client)), status)

    @reading.get(
        "/v1/clients",
        summary="Clients, by name",
        description="Those that act in no other region than the key's.",
        responses={200: documented_answer(ClientsView, _CLIENTS)},
    )
    async def list_clients(
        request: Request,
        state: Annotated[Literal["active", "disabled"] | None, Query(description="Only these")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Clients on a page, at most")] = 50,
        cursor: Annotated[str, Query(max_length=63, description="`next` of the page before")] = "",
    ) -> Response:
        if cursor and clients.NAME.fullmatch(cursor) is None:
            said = "The cursor is not one of this list: send `next` of the page before, or none to begin."
            raise Problem(422, "invalid-request", "The request does not fit", said, pointer="/query/cursor")
        by = authenticator.principal(request, READ)
        found, following = await reception.open().page(cursor, limit, state, by)
        return json_response(ClientsView([view(client) for client in found], following))

    @reading.get(
        "/v1/clients/{name}",
        summary="A client",
        responses={200: documented_answer(ClientView, _CLIENT), 404: _NO_CLIENT},
    )
    async def show_client(request: Request, name: Name) -> Response:
        return json_response(view(await _acted(reception.open().show(name, authenticator.principal(request, READ)))))

    @reading.get(
        "/v1/clients/{name}/keys",
        summary="A client's keys",
        responses={200: documented_answer(KeysView, {"client": "shop", "keys": [_KEY]}), 404: _NO_CLIENT},
    )
    async def list_keys(request: Request, name: Name) -> Response:
        client = await _acted(reception.open().show(name, authenticator.principal(request, READ)))
        return json_response(KeysView(client.name, view(client).keys))

    @writing.post(
        "/v1/clients",
        status_code=201,
        summary="Make a client",
        description="It has no key yet. The same again finds it (200). Nobody gives scopes or regions that they lack.",
        responses={
            200: documented_answer(ChangedView, _CHANGED) | {"description": "The same was made already"},
            201: documented_answer(ChangedView, _CHANGED),
            403: _BEYOND,
            409: _EXISTS,
        },
    )
    async def create_client(request: Request, body: ClientBody) -> Response:
        by = authenticator.principal(request, WRITE)
        client, is_new = await _acted(
            reception.open().create(
                name=body.name,
                description=body.description,
                scopes=frozenset(body.scopes),
                regions=frozenset(body.regions),
                platforms=frozenset(body.platforms),
                limit=None if body.limit is None else body.limit.limit(),
                by=by,
            )
        )
        return await told(client, 201 if is_new else 200)

    @writing.patch(
        "/v1/clients/{name}",
        summary="Change a client: what it may do, or whether it may do anything",
        responses={
            200: documented_answer(ChangedView, _CHANGED),
            403: _BEYOND,
            404: _NO_CLIENT,
            409: _MEANWHILE,
        },
    )
    async def change_client(request: Request, name: Name, body: ChangeBody) -> Response:
        by = authenticator.principal(request, WRITE)
        return await told(await _acted(reception.open().change(name, _patch(body), body.revision, by)))

    @writing.post(
        "/v1/clients/{name}/keys",
        status_code=201,
        summary="Make a key, and show it this once",
        description="A client has at most two living keys: one and its successor. With an `Idempotency-Key`, the same"
        " call again makes no second key; it cannot show the first again either, and says which it was (409).",
        responses={201: documented_answer(NewKeyView, _NEW_KEY), 403: _BEYOND, 404: _NO_CLIENT, 409: _TOO_MANY},
    )
    async def create_key(
        request: Request,
        name: Name,
        body: KeyBody,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        by = authenticator.principal(request, WRITE)
        registry = reception.open()
        made = await _acted(
            registry.add_key(
                name,
                expires_at=_moment(body.expires_at),
                others_expire_at=_moment(body.others_expire_at),
                call=None if idempotency_key is None else _call(by.name, idempotency_key, body),
                by=by,
            )
        )
        key = made.key
        in_force = await registry.is_in_force(made.client)
        shown = NewKeyView(made.client.name, made.secret, key.key_id, _text(key.expires_at), in_force)
        return json_response(shown, 201, {"Cache-Control": "no-store"})

    @writing.delete(
        "/v1/clients/{name}/keys/{key_id}",
        summary="Revoke a key: end it at once. The same again changes nothing",
        responses={200: documented_answer(ChangedView, _CHANGED), 404: _NO_CLIENT},
    )
    async def revoke_key(request: Request, name: Name, key_id: KeyId) -> Response:
        return await told(await _acted(reception.open().revoke(name, key_id, authenticator.principal(request, WRITE))))

    app.include_router(reading)
    app.include_router(writing)


async def _acted(act: Awaitable[_T]) -> _T:
    try:
        return await act
    except Refused as refused:
        title = _TITLES[refused.slug]
        raise Problem(refused.status, refused.slug, title, str(refused), pointer=refused.pointer) from refused


def _patch(body: ChangeBody) -> Patch:
    given: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - {"revision"}}
    for name in given.keys() & {"scopes", "regions", "platforms"}:
        given[name] = frozenset(given[name])
    if isinstance(limit := given.get("limit"), LimitInput):
        given["limit"] = limit.limit()
    return Patch(**given)


def _call(by: str, header: str, body: KeyBody) -> Call:
    call_id = ids.derive("client-key", by, read_idempotency_key(header))
    return Call(call_id, body.content_hash())


def _moment(text: str | None) -> datetime | None:
    return None if text is None else from_text(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


def _view(client: Client, now: datetime) -> ClientView:
    limit = client.limit
    return ClientView(
        client.name,
        client.description,
        client.state,
        sorted(client.scopes),
        sorted(client.regions),
        sorted(client.platforms),
        None if limit is None else LimitView(limit.requests_per_second, limit.burst, limit.items_per_second),
        client.revision,
        to_text(client.created_at),
        to_text(client.changed_at),
        [_key_view(key, now) for key in client.keys],
    )


def _key_view(key: Key, now: datetime) -> KeyView:
    return KeyView(
        key.key_id,
        key.state(now),
        to_text(key.created_at),
        _text(key.expires_at),
        _text(key.revoked_at),
        _text(key.last_used_at),
    )


_TITLES: Final = {
    "unknown-client": "No such client",
    "unknown-key": "No such key",
    "client-exists": "The name is taken",
    "changed-meanwhile": "The client was changed meanwhile",
    "too-many-keys": "The client has two living keys",
    "key-shown-already": "The key was made and shown already",
    "idempotency-key-reused": "The key came with another body",
    "beyond-own-rights": "Nobody gives what they do not have",
    "invalid-request": "The request does not fit",
}
_NO_CLIENT: Final = documented_problem(404, "unknown-client", "No such client", "There is no client 'shop'.")
_BEYOND: Final = documented_problem(
    403, "beyond-own-rights", _TITLES["beyond-own-rights"], "Client 'lead' lacks audit:read itself, and cannot give it."
)
_EXISTS: Final = documented_problem(409, "client-exists", _TITLES["client-exists"], "There is a client 'shop' already.")
_MEANWHILE: Final = documented_problem(
    409, "changed-meanwhile", _TITLES["changed-meanwhile"], "Client 'shop' was changed meanwhile."
)
_TOO_MANY: Final = documented_problem(
    409, "too-many-keys", _TITLES["too-many-keys"], "Client 'shop' has 2 living keys, 9f86d081884c and 60303ae22b99."
)
_KEY: Final[dict[str, Any]] = {
    "key_id": "9f86d081884c",
    "state": "live",
    "created_at": "2026-05-01T09:30:00.000Z",
    "expires_at": "2027-05-01T00:00:00.000Z",
    "revoked_at": None,
    "last_used_at": "2026-05-02T11:04:00.000Z",
}
_CLIENT: Final[dict[str, Any]] = {
    "name": "shop",
    "description": "The shop's importer",
    "state": "active",
    "scopes": ["items:read", "items:write"],
    "regions": ["eu"],
    "platforms": ["shop"],
    "limit": {"requests_per_second": 200, "burst": 400, "items_per_second": 0},
    "revision": 1777627800000,
    "created_at": "2026-05-01T09:30:00.000Z",
    "changed_at": "2026-05-01T09:30:00.000Z",
    "keys": [_KEY],
}
_CHANGED: Final = {"client": _CLIENT, "in_force": True}
_CLIENTS: Final = {"clients": [_CLIENT], "next": None}
_NEW_KEY: Final = {
    "client": "shop",
    "key": "pp_local_7Y3mGqTn0R5sVb8cWk2dXe6fZh9j1a4c0d9e8f7",
    "key_id": "9f86d081884c",
    "expires_at": "2027-05-01T00:00:00.000Z",
    "in_force": True,
}
