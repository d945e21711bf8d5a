"""A client's life as pure rules: what it is after a change, who may change it, and how that is told.

A client that was changed is a new value with a larger revision. Revisions go by the clock, so that they grow even if
intake's database was lost and begun again: what is told then still holds over what was told before.
"""

import math
from datetime import datetime
from typing import Final, Protocol

import msgspec

from shared.auth import clients
from shared.auth.clients import ACTIVE, ANY, KEPT_KEYS, LIVE_KEYS
from shared.contracts.events import ClientChanged, ClientKey, RateLimit
from shared.runtime.clock import to_text
from shared.runtime.errors import PiepowderError

MAX_DESCRIPTION: Final = 500


class Granting(Protocol):
    """Whoever makes or changes clients."""

    @property
    def name(self) -> str: ...

    @property
    def scopes(self) -> frozenset[str]: ...

    @property
    def regions(self) -> frozenset[str]: ...


class ClientChangeRejected(PiepowderError):  # noqa: N818 - what came of it
    """It is not done; `slug` names why for good, `pointer` the field, if it is one."""

    def __init__(self, status: int, slug: str, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.pointer = pointer


class ApiKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: its hash, and its times. `made_with` names the call that made it, if the call had a name."""

    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    made_with: str | None = None
    made_body: str | None = None

    @property
    def key_id(self) -> str:
        """What it is called where it must not be shown."""
        return clients.key_id(self.sha256)

    def state(self, now: datetime) -> str:
        """`live`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A client and its keys, oldest first."""

    name: str
    description: str
    scopes: frozenset[str]
    regions: frozenset[str]
    platforms: frozenset[str]
    limit: RateLimit | None
    state: str = ACTIVE
    revision: int
    created_at: datetime
    changed_at: datetime
    keys: tuple[ApiKeyRecord, ...] = ()


class ClientPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be other; UNSET leaves it."""

    description: str | msgspec.UnsetType = msgspec.UNSET
    scopes: frozenset[str] | msgspec.UnsetType = msgspec.UNSET
    regions: frozenset[str] | msgspec.UnsetType = msgspec.UNSET
    platforms: frozenset[str] | msgspec.UnsetType = msgspec.UNSET
    limit: RateLimit | msgspec.UnsetType | None = msgspec.UNSET
    state: str | msgspec.UnsetType = msgspec.UNSET


def created(
    *,
    name: str,
    description: str,
    scopes: frozenset[str],
    regions: frozenset[str],
    platforms: frozenset[str],
    limit: RateLimit | None,
    now: datetime,
) -> ClientRecord:
    """A client without a key."""
    return ClientRecord(
        name=name,
        description=description,
        scopes=scopes,
        regions=regions,
        platforms=platforms,
        limit=limit,
        revision=_revision(0, now),
        created_at=now,
        changed_at=now,
    )


def is_as_created(client: ClientRecord, other: ClientRecord) -> bool:
    """Whether a client is what somebody would create, so that creating it again changes nothing."""
    fields = ("name", "description", "scopes", "regions", "platforms", "limit")
    return client.state == ACTIVE and all(getattr(client, field) == getattr(other, field) for field in fields)


def changed(client: ClientRecord, patch: ClientPatch, now: datetime) -> ClientRecord:
    """The client after a change; itself when nothing is other."""
    given = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not msgspec.UNSET}
    if all(getattr(client, name) == value for name, value in given.items()):
        return client
    return _renewed(client, now, **given)


def with_key(client: ClientRecord, key: ApiKeyRecord, others_expire_at: datetime | None, now: datetime) -> ClientRecord:
    """The client with one more key, the living others ending at a time if one is given.

    Raises ClientChangeRejected when it has as many living keys as it may.
    """
    live = [known.key_id for known in client.keys if known.state(now) == "live"]
    if len(live) >= LIVE_KEYS:
        detail = f"Client {client.name!r} has {len(live)} living keys, {' and '.join(live)}. Revoke one of them first."
        raise ClientChangeRejected(409, "too-many-keys", detail)
    others = tuple(
        msgspec.structs.replace(known, expires_at=others_expire_at)
        if others_expire_at is not None
        and known.state(now) == "live"
        and (known.expires_at is None or known.expires_at > others_expire_at)
        else known
        for known in client.keys
    )
    return _renewed(client, now, keys=(*others, key))


def without_key(client: ClientRecord, key_id: str, now: datetime) -> ClientRecord:
    """The client with a revoked key; the same object when it was revoked already.

    Raises ClientChangeRejected for an unknown key.
    """
    if key_id not in [key.key_id for key in client.keys]:
        known = ", ".join(key.key_id for key in client.keys) or "none"
        raise ClientChangeRejected(
            404, "unknown-key", f"Client {client.name!r} has no key {key_id!r:.60}; it has {known}."
        )
    keys = tuple(
        msgspec.structs.replace(key, revoked_at=now) if key.key_id == key_id and key.revoked_at is None else key
        for key in client.keys
    )
    return client if keys == client.keys else _renewed(client, now, keys=keys)


def is_visible(client: ClientRecord, regions: frozenset[str]) -> bool:
    """Whether somebody who acts in `regions` sees a client: when all of its regions are among them."""
    return ANY in regions or (ANY not in client.regions and client.regions <= regions)


def check_platforms(client: ClientRecord, patch: ClientPatch | None = None) -> None:
    """Raises ClientChangeRejected when a client of some platforms has scopes that concern all platforms.

    A `patch` is checked only if it changes the scopes or the platforms, so that a client can always be disabled.
    """
    given = (
        ["platforms"]
        if patch is None
        else [n for n in ("platforms", "scopes") if getattr(patch, n) is not msgspec.UNSET]
    )
    if given and (fault := clients.too_wide(client.scopes, client.platforms)) is not None:
        raise ClientChangeRejected(
            422, "invalid-request", f"{fault}; `platforms` would have to be [{ANY!r}].", f"/{given[0]}"
        )


def check_grant(client: ClientRecord, before: ClientRecord | None, by: Granting) -> None:
    """Raises ClientChangeRejected when `by` grants rights that it does not have; `before` is the client before.

    Restricting or disabling a client requires only that `by` can see it. Enabling it, or extending its regions,
    platforms or limit, counts as granting all of its scopes.
    """
    if not is_visible(client, by.regions):
        own = ", ".join(sorted(by.regions)) or "no region"
        detail = f"Client {by.name!r} may act in {own}, and can give no other region."
        raise ClientChangeRejected(403, "beyond-own-rights", detail, "/regions")
    had = frozenset[str]() if before is None or _does_more(client, before) else before.scopes
    given = client.scopes - had
    if beyond := sorted(given - by.scopes):
        detail = f"Client {by.name!r} lacks {', '.join(beyond)} itself, and cannot give it."
        raise ClientChangeRejected(403, "beyond-own-rights", detail, "/scopes")


def _does_more(client: ClientRecord, before: ClientRecord) -> bool:
    """Whether a client's keys open something at all, somewhere else, for others or more often than before."""
    if client.state == ACTIVE != before.state:
        return True
    if _is_wider(client.regions, before.regions) or _is_wider(client.platforms, before.platforms):
        return True
    return any(now > then for now, then in zip(_at_most(client.limit), _at_most(before.limit), strict=True))


def _is_wider(now: frozenset[str], then: frozenset[str]) -> bool:
    return ANY not in then and not now <= then


def _at_most(limit: RateLimit | None) -> tuple[float, float, float]:
    if limit is None:
        return math.inf, math.inf, math.inf
    return limit.requests_per_second, limit.burst, limit.items_per_second or math.inf


def told(client: ClientRecord, change: str, by: str) -> ClientChanged:
    """The client as every service is told of it; of many keys, the newest."""
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
            for key in _most_wanted(client)
        ],
    )


def _most_wanted(client: ClientRecord) -> list[ApiKeyRecord]:
    """As many keys as are told: the living, then the newest of the dead."""
    now = client.changed_at
    wanted = sorted(client.keys, key=lambda key: (key.state(now) == "live", key.created_at), reverse=True)
    return sorted(wanted[:KEPT_KEYS], key=lambda key: key.created_at)


def _renewed(client: ClientRecord, now: datetime, **fields: object) -> ClientRecord:
    return msgspec.structs.replace(client, revision=_revision(client.revision, now), changed_at=now, **fields)


def _revision(before: int, now: datetime) -> int:
    return max(before + 1, int(now.timestamp() * 1000))


def _text(moment: datetime | None) -> str:
    return "" if moment is None else to_text(moment)
