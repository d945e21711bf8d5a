"""The REST models of clients and their keys."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec.structs import asdict
from pydantic import AfterValidator, BeforeValidator, Field

from services.intake.clients.domain import MAX_DESCRIPTION, ClientRecord
from shared.auth import clients
from shared.http.idempotency import body_hash
from shared.http.models import Body, Printable, View, example
from shared.runtime.clock import from_text_or_none, to_text

_MAX_RATE: Final = 1_000_000


def checked(fault: Callable[[str], str | None]) -> AfterValidator:
    """A validator from a function that returns the fault of a text."""

    def check(text: str) -> str:
        if (found := fault(text)) is not None:
            raise ValueError(found)
        return text

    return AfterValidator(check)


def _scope_fault(text: str) -> str | None:
    return None if text in clients.SCOPES else f"unknown scope; expected one of {', '.join(sorted(clients.SCOPES))}"


def _time_fault(text: str) -> str | None:
    return "expected RFC 3339 such as 2027-01-31T00:00:00Z" if from_text_or_none(text) is None else None


def _items_rate(rate: float) -> float:
    if 0 < rate < 0.001:
        raise ValueError("expected 0 or at least 0.001")
    return rate


def _names(text: str) -> Any:
    return Field(min_length=1, max_length=100, description=text)


def _or_all(regex: str) -> Any:
    return Field(json_schema_extra={"pattern": rf"^({regex}|\*)$"})


_FOR_ALL: Final = "The platforms whose items, notices and appeals it may use; `*` is all, which other scopes require"
Scopes: TypeAlias = Annotated[
    list[Annotated[str, checked(_scope_fault), Field(json_schema_extra={"enum": sorted(clients.SCOPES)})]],
    Field(min_length=1, max_length=50, description="The operations that its keys may call"),
]
Regions: TypeAlias = Annotated[
    list[Annotated[str, checked(clients.region_fault), _or_all(clients.REGION)]],
    _names("The regions that it may act in; `*` is all"),
]
Platforms: TypeAlias = Annotated[
    list[Annotated[str, checked(clients.platform_fault), _or_all(clients.PLATFORM)]], _names(_FOR_ALL)
]
Description: TypeAlias = Annotated[
    Printable, Field(max_length=MAX_DESCRIPTION, description="For people; not published")
]
Time: TypeAlias = Annotated[str, checked(_time_fault), Field(json_schema_extra={"format": "date-time"})]


class RateLimitBody(Body):
    """The rate limit in each process of a service."""

    requests_per_second: float = Field(ge=0.001, le=_MAX_RATE, description="On average")
    burst: int = Field(ge=1, le=_MAX_RATE, description="Calls at once")
    items_per_second: Annotated[float, AfterValidator(_items_rate)] = Field(
        0.0, ge=0, le=_MAX_RATE, description="Items on average, at least 0.001; 0 is no separate limit"
    )


class ClientBody(Body):
    """A new client."""

    name: Annotated[
        str,
        checked(clients.name_fault),
        Field(description=clients.NAME_FORMAT, json_schema_extra={"pattern": f"^{clients.NAME.pattern}$"}),
    ]
    description: Description = ""
    scopes: Scopes
    regions: Regions
    platforms: Platforms
    limit: RateLimitBody | None = Field(None, description="null is no limit")

    model_config = example("""{
        "name": "shop", "description": "The shop's importer", "scopes": ["items:write", "items:read"],
        "regions": ["eu"], "platforms": ["shop"],
        "limit": {"requests_per_second": 200, "burst": 400, "items_per_second": 0}
    }""")


class ChangeBody(Body):
    """The fields to change; omitted fields stay."""

    # Default factories keep the defaults out of the OpenAPI document, and so out of generated clients.
    description: Description = Field(default_factory=str)
    scopes: Scopes = Field(default_factory=list)
    regions: Regions = Field(default_factory=list)
    platforms: Platforms = Field(default_factory=list)
    limit: RateLimitBody | None = Field(default_factory=lambda: None, description="null is no limit")
    state: Literal["active", "disabled"] = Field(
        default_factory=lambda: "active", description="The keys of a disabled client do not work"
    )
    revision: int | None = Field(None, ge=1, description="Change the client only at this revision")

    model_config = example({"regions": ["eu", "us"], "revision": 1793750400000})


class KeyBody(Body):
    """A new key."""

    expires_at: Time | None = Field(None, description="null is no expiry")
    others_expire_at: Time | None = Field(None, description="The client's other keys expire at this time at the latest")

    model_config = example({"expires_at": "2027-01-31T00:00:00Z", "others_expire_at": "2026-02-07T00:00:00Z"})

    def content_hash(self) -> str:
        """The hash that distinguishes the retry of a call from another call with the same Idempotency-Key."""
        return body_hash(self, always={"expires_at", "others_expire_at"})


_KEY: Final[dict[str, Any]] = json.loads("""{
    "key_id": "9f86d081884c", "state": "live", "created_at": "2026-05-01T09:30:00.000Z",
    "expires_at": "2027-05-01T00:00:00.000Z", "revoked_at": null, "last_used_at": "2026-05-02T11:04:00.000Z"
}""")
_CLIENT: Final[dict[str, Any]] = {"keys": [_KEY]} | json.loads("""{
    "name": "shop", "description": "The shop's importer", "state": "active", "scopes": ["items:read", "items:write"],
    "regions": ["eu"], "platforms": ["shop"], "revision": 1777627800000,
    "limit": {"requests_per_second": 200, "burst": 400, "items_per_second": 0},
    "created_at": "2026-05-01T09:30:00.000Z", "changed_at": "2026-05-01T09:30:00.000Z"
}""")
TimeText: TypeAlias = Annotated[str, BeforeValidator(to_text)]
OptionalTimeText: TypeAlias = Annotated[str | None, BeforeValidator(lambda time: time and to_text(time))]
Sorted: TypeAlias = Annotated[list[str], BeforeValidator(sorted)]


class KeyView(View):
    """A key without its text. `last_used_at` follows calls to every service within a minute or two."""

    key_id: str
    state: str
    created_at: TimeText
    expires_at: OptionalTimeText
    revoked_at: OptionalTimeText
    last_used_at: OptionalTimeText


class RateLimitView(View):
    """The rate limit in each process of a service; `items_per_second` 0 is no separate limit."""

    requests_per_second: float
    burst: int
    items_per_second: float


class ClientView(View):
    """A client and its keys, oldest first."""

    name: str
    description: str
    state: str
    scopes: Sorted
    regions: Sorted
    platforms: Sorted
    limit: RateLimitView | None
    revision: int
    created_at: TimeText
    changed_at: TimeText
    keys: list[KeyView]

    model_config = example(_CLIENT)


class ChangedClientView(View):
    """A client after a change. `in_force`: the responding process applies it; other processes follow within a
    second."""

    client: ClientView
    in_force: bool

    model_config = example({"client": _CLIENT, "in_force": True})


class NewKeyView(View):
    """A new key. Its text is shown only once, because only its hash is stored."""

    client: str
    key: str
    key_id: str
    expires_at: OptionalTimeText
    in_force: bool

    model_config = example("""{
        "client": "shop", "key": "pp_local_7Y3mGqTn0R5sVb8cWk2dXe6fZh9j1a4c0d9e8f7", "key_id": "9f86d081884c",
        "expires_at": "2027-05-01T00:00:00.000Z", "in_force": true
    }""")


class ClientsView(View):
    """A page of clients by name; `next` is the cursor of the next page."""

    clients: list[ClientView]
    next: str | None

    model_config = example({"clients": [_CLIENT], "next": None})


class KeysView(View):
    """The keys of a client, oldest first."""

    client: str
    keys: list[KeyView]

    model_config = example({"client": "shop", "keys": [_KEY]})


def client_view(client: ClientRecord, now: datetime) -> ClientView:
    """A client, with the states of its keys at the time `now`."""
    keys = [{**asdict(key), "key_id": key.key_id, "state": key.state(now)} for key in client.keys]
    return ClientView.model_validate(asdict(client) | {"keys": keys})
