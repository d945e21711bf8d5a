"""The rules of clients: changes, keys, and the rights to grant.

A changed client is a new value with a larger revision. Revisions derive from the clock, so that they increase even
after intake's database was lost and created again: newly published clients then still replace the earlier ones.
"""

import math
from datetime import datetime
from typing import Final

import msgspec

from shared.auth import clients
from shared.auth.clients import ACTIVE, ANY, KEPT_KEYS, LIVE_KEYS
from shared.auth.principal import Principal
from shared.contracts.events import ClientChanged, ClientKey, RateLimit
from shared.runtime.clock import to_text
from shared.validation.faults import INVALID_REQUEST, KEY_REUSED, RejectionType

MAX_DESCRIPTION: Final = 500

UNKNOWN_CLIENT: Final = RejectionType(
    "unknown-client", 404, "No such client", "No client 'shop' is visible to this key."
)
UNKNOWN_KEY: Final = RejectionType("unknown-key", 404, "No such key", "Client 'shop' has no key '9f86d081884c'.")
EXISTS: Final = RejectionType("client-exists", 409, "The name is taken", "Another client 'shop' exists.")
TOO_MANY_KEYS: Final = RejectionType(
    "too-many-keys", 409, "The client has two live keys", "Client 'shop' has 2 live keys. Revoke one of them first."
)
KEY_SHOWN: Final = RejectionType(
    "key-shown-already", 409, "The key was created before", "Key 9f86d081884c cannot be shown again."
)
KEY_REJECTIONS: Final = (TOO_MANY_KEYS, KEY_SHOWN, KEY_REUSED)
BEYOND_OWN_RIGHTS: Final = RejectionType(
    "beyond-own-rights",
    403,
    "Only existing rights can be granted",
    "Client 'lead' does not have audit:read and cannot grant it.",
)


class ApiKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key: its hash and times. `made_with` is the id of the call that created it, if it had an
    Idempotency-Key."""

    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    made_with: str | None = None
    made_body: str | None = None

    @property
    def key_id(self) -> str:
        """The public id of the key."""
        return clients.key_id(self.sha256)

    def state(self, now: datetime) -> str:
        """`live`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


class NewClient(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a client that its creator chooses."""

    name: str
    description: str
    scopes: frozenset[str]
    regions: frozenset[str]
    platforms: frozenset[str]
    limit: RateLimit | None


class ClientRecord(NewClient, frozen=True, kw_only=True):
    """A client and its keys, oldest first."""

    state: str = ACTIVE
    revision: int
    created_at: datetime
    changed_at: datetime
    keys: tuple[ApiKeyRecord, ...] = ()


class ClientPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A partial change; UNSET keeps a value."""

    description: str | msgspec.UnsetType = msgspec.UNSET
    scopes: frozenset[str] | msgspec.UnsetType = msgspec.UNSET
    regions: frozenset[str] | msgspec.UnsetType = msgspec.UNSET
    platforms: frozenset[str] | msgspec.UnsetType = msgspec.UNSET
    limit: RateLimit | msgspec.UnsetType | None = msgspec.UNSET
    state: str | msgspec.UnsetType = msgspec.UNSET


def created(new: NewClient, now: datetime) -> ClientRecord:
    """A new client without keys."""
    return ClientRecord(**msgspec.structs.asdict(new), revision=_revision(0, now), created_at=now, changed_at=now)


def is_as_created(client: ClientRecord, new: NewClient) -> bool:
    """True if the client is active and has all fields of `new`, so that creating it again changes nothing."""
    fields = NewClient.__struct_fields__
    return client.state == ACTIVE and all(getattr(client, field) == getattr(new, field) for field in fields)


def changed(client: ClientRecord, patch: ClientPatch, now: datetime) -> ClientRecord:
    """The client after a change; the same object if nothing differs."""
    changes = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not msgspec.UNSET}
    if all(getattr(client, name) == value for name, value in changes.items()):
        return client
    return _renewed(client, now, **changes)


def with_key(client: ClientRecord, key: ApiKeyRecord, others_expire_at: datetime | None, now: datetime) -> ClientRecord:
    """The client with one more key; with `others_expire_at`, its other live keys expire at that time at the latest.

    Raises InputRejected when it has the maximum number of live keys.
    """
    live = [other.key_id for other in client.keys if other.state(now) == "live"]
    if len(live) >= LIVE_KEYS:
        detail = f"Client {client.name!r} has {len(live)} live keys, {' and '.join(live)}. Revoke one of them first."
        raise TOO_MANY_KEYS.with_message(detail)
    others = tuple(
        msgspec.structs.replace(other, expires_at=others_expire_at)
        if others_expire_at is not None
        and other.state(now) == "live"
        and (other.expires_at is None or other.expires_at > others_expire_at)
        else other
        for other in client.keys
    )
    return _renewed(client, now, keys=(*others, key))


def without_key(client: ClientRecord, key_id: str, now: datetime) -> ClientRecord:
    """The client with a revoked key; the same object when it was revoked already.

    Raises InputRejected for an unknown key.
    """
    if key_id not in [key.key_id for key in client.keys]:
        key_ids = ", ".join(key.key_id for key in client.keys) or "none"
        raise UNKNOWN_KEY.with_message(f"Client {client.name!r} has no key {key_id!r:.60}; it has {key_ids}.")
    keys = tuple(
        msgspec.structs.replace(key, revoked_at=now) if key.key_id == key_id and key.revoked_at is None else key
        for key in client.keys
    )
    return client if keys == client.keys else _renewed(client, now, keys=keys)


def is_visible(client: ClientRecord, regions: frozenset[str]) -> bool:
    """True if a client is visible in `regions`, which must contain all of its regions."""
    return ANY in regions or (ANY not in client.regions and client.regions <= regions)


def check_platforms(client: ClientRecord, patch: ClientPatch | None = None) -> None:
    """Require that a client with limited platforms has no scope that concerns all platforms; raises InputRejected.

    A `patch` is checked only if it changes the scopes or the platforms, so that a client can always be disabled.
    """
    checked_fields = (
        ["platforms"]
        if patch is None
        else [n for n in ("platforms", "scopes") if getattr(patch, n) is not msgspec.UNSET]
    )
    if checked_fields and (fault := clients.too_wide(client.scopes, client.platforms)) is not None:
        raise INVALID_REQUEST.with_message(
            f"{fault}; these scopes require `platforms` [{ANY!r}].", f"/{checked_fields[0]}"
        )


def check_grant(client: ClientRecord, before: ClientRecord | None, by: Principal) -> None:
    """Require that `by` has the rights that it grants; raises InputRejected. `before` is the client before the change.

    Restricting or disabling a client requires only that `by` can see it. Enabling it, or extending its regions,
    platforms or limit, counts as granting all of its scopes.
    """
    if not is_visible(client, by.regions):
        own = ", ".join(sorted(by.regions)) or "no region"
        detail = f"Client {by.name!r} may act in {own} and can grant no other region."
        raise BEYOND_OWN_RIGHTS.with_message(detail, "/regions")
    had = frozenset[str]() if before is None or _is_extended(client, before) else before.scopes
    granted = client.scopes - had
    if beyond := sorted(granted - by.scopes):
        detail = f"Client {by.name!r} does not have {', '.join(beyond)} and cannot grant it."
        raise BEYOND_OWN_RIGHTS.with_message(detail, "/scopes")


def _is_extended(client: ClientRecord, before: ClientRecord) -> bool:
    """True if the change enables the client, or extends its regions, platforms or limit."""
    if client.state == ACTIVE != before.state:
        return True
    if _is_wider(client.regions, before.regions) or _is_wider(client.platforms, before.platforms):
        return True
    return any(now > then for now, then in zip(_limits(client.limit), _limits(before.limit), strict=True))


def _is_wider(now: frozenset[str], then: frozenset[str]) -> bool:
    return ANY not in then and not now <= then


def _limits(limit: RateLimit | None) -> tuple[float, float, float]:
    if limit is None:
        return math.inf, math.inf, math.inf
    return limit.requests_per_second, limit.burst, limit.items_per_second or math.inf


def to_event(client: ClientRecord, change: str, by: str) -> ClientChanged:
    """The client as an event for all services, with its most relevant keys."""
    return ClientChanged(
        name=client.name,
        revision=client.revision,
        state=client.state,
        change=change,
        changed_by=by,
        scopes=sorted(client.scopes),
        regions=sorted(client.regions),
        platforms=sorted(client.platforms),
        limit=client.limit,
        keys=[
            ClientKey(
                sha256=key.sha256,
                created_at=to_text(key.created_at),
                expires_at=_text(key.expires_at),
                revoked_at=_text(key.revoked_at),
            )
            for key in _published_keys(client)
        ],
    )


def _published_keys(client: ClientRecord) -> list[ApiKeyRecord]:
    """The keys in the event: all live keys, then the newest others."""
    now = client.changed_at
    wanted = sorted(client.keys, key=lambda key: (key.state(now) == "live", key.created_at), reverse=True)
    return sorted(wanted[:KEPT_KEYS], key=lambda key: key.created_at)


def _renewed(client: ClientRecord, now: datetime, **fields: object) -> ClientRecord:
    return msgspec.structs.replace(client, revision=_revision(client.revision, now), changed_at=now, **fields)


def _revision(before: int, now: datetime) -> int:
    return max(before + 1, int(now.timestamp() * 1000))


def _text(moment: datetime | None) -> str:
    return "" if moment is None else to_text(moment)
