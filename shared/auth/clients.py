"""Rules for a client's name, keys, scopes, regions, platforms and limit. Pure.

A client is checked by these rules before it is published; every service checks each published client again.
"""

import math
import re
from collections.abc import Collection
from typing import Final

from shared.contracts.events import ClientChanged, RateLimit
from shared.runtime.clock import from_text_or_none

ANY: Final = "*"
MEANINGS: Final = {
    "items:write": "post and withdraw items",
    "items:read": "read the status of items",
    "notices:write": "report subjects",
    "notices:read": "read the status of notices",
    "appeals:write": "appeal decisions",
    "appeals:read": "read the status of appeals",
    "control:read": "read the operating model and the policy set in force",
    "control:publish": "publish an operating model or a policy set",
    "reviews:read": "read queues and cases",
    "reviews:write": "claim and decide cases",
    "audit:read": "read the audit log",
    "requests:read": "read business requests",
    "requests:write": "write, submit, comment and withdraw business requests",
    "requests:decide": "approve, reject and review business requests",
    "requests:deploy": "report the deployment or rollback of a business request",
    "clients:read": "read clients and the times of their keys",
    "clients:write": "create, change and disable clients, create and revoke keys",
}
SCOPES: Final = frozenset(MEANINGS)
"""All scopes."""

OF_PLATFORMS: Final = frozenset(scope for scope in SCOPES if scope.startswith(("items:", "notices:", "appeals:")))
"""The scopes that a client with limited platforms may have; all other scopes concern every platform."""

LIVE_KEYS: Final = 2  # a key and its successor, during a rotation
KEPT_KEYS: Final = 20  # of a client, including expired and revoked keys
ACTIVE: Final = "active"
DISABLED: Final = "disabled"
PERSON: Final = "person-"  # prefix of the names of people with an access token
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
NAME_FORMAT: Final = "1 to 63 of a-z, 0-9 and '-', the first a letter"
KEY_ID_DIGITS: Final = 12

REGION: Final = r"[a-z][a-z0-9-]{0,30}"
PLATFORM: Final = r"[a-z0-9][a-z0-9-]{0,62}"
_SCOPE: Final = re.compile(r"[a-z][a-z_-]{0,30}:[a-z][a-z_-]{0,30}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FASTEST: Final = 1_000_000


def key_id(sha256: str) -> str:
    """The public id of a key: the first digits of its hash."""
    return sha256[:KEY_ID_DIGITS]


def subject(name: str) -> str:
    """The record key of a client on the control topic."""
    return f"client:{name}"


def name_fault(name: str) -> str | None:
    """The fault of a client's name, or None."""
    if NAME.fullmatch(name) is None:
        return f"{name!r:.100} is not a client's name: {NAME_FORMAT}"
    return f"names with the prefix {PERSON!r} are reserved for people" if name.startswith(PERSON) else None


def region_fault(region: str) -> str | None:
    """The fault of a region's name, or None."""
    return _pattern_fault(region, REGION, "region: 1 to 31")


def platform_fault(platform: str) -> str | None:
    """The fault of a platform's name, or None."""
    return _pattern_fault(platform, PLATFORM, "platform: 1 to 63")


def _pattern_fault(name: str, pattern: str, expected: str) -> str | None:
    if name == ANY or re.fullmatch(pattern, name):
        return None
    return f"{name!r:.100} is not a {expected} of a-z, 0-9 and '-', or {ANY!r} for all"


def opened(scopes: Collection[str], platforms: Collection[str]) -> frozenset[str]:
    """The effective scopes of a client that is limited to these platforms."""
    return frozenset(scopes) if ANY in platforms else OF_PLATFORMS.intersection(scopes)


def too_wide(scopes: Collection[str], platforms: Collection[str]) -> str | None:
    """The fault of scopes that concern more than the client's platforms, or None. Ignores unknown scopes."""
    if ANY in platforms or not (beyond := sorted(SCOPES.intersection(scopes) - OF_PLATFORMS)):
        return None
    return f"{', '.join(beyond)} concern every platform; this client acts for {', '.join(sorted(platforms))}"


def limit_faults(limit: RateLimit | None) -> list[str]:
    """The faults of a client's limit."""
    if limit is None:
        return []
    faults = []
    if not (math.isfinite(limit.requests_per_second) and 0.001 <= limit.requests_per_second <= _FASTEST):
        faults.append(f"limit.requests_per_second: expected 0.001 to {_FASTEST}")
    if not 1 <= limit.burst <= _FASTEST:
        faults.append(f"limit.burst: expected 1 to {_FASTEST}")
    if limit.items_per_second != 0 and not 0.001 <= limit.items_per_second <= _FASTEST:
        faults.append(f"limit.items_per_second: expected 0 (no separate limit), or 0.001 to {_FASTEST}")
    return faults


def faults(client: ClientChanged) -> list[str]:
    """The faults of a published client. Accepts unknown scopes and states, which a newer version may have."""
    found = [name_fault(client.name)]
    if client.revision < 1:
        found.append(f"revision {client.revision} is not positive")
    found += [f"{scope!r:.100} is not a scope" for scope in client.scopes if _SCOPE.fullmatch(scope) is None]
    found += [region_fault(region) for region in client.regions]
    found += [platform_fault(platform) for platform in client.platforms]
    found += limit_faults(client.limit) + _key_faults(client)
    return [fault for fault in found if fault is not None]


def _key_faults(client: ClientChanged) -> list[str]:
    if len(client.keys) > KEPT_KEYS:
        return [f"{len(client.keys)} keys, more than {KEPT_KEYS}"]
    hashes = [key.sha256 for key in client.keys]
    found = [f"{sha256!r:.100} is not a SHA-256" for sha256 in hashes if not is_sha256(sha256)]
    if len(set(hashes)) < len(hashes):
        found.append("a key occurs twice")
    times = [text for key in client.keys for text in (key.created_at, key.expires_at, key.revoked_at) if text]
    return found + [f"{text!r:.100} is not a time" for text in times if from_text_or_none(text) is None]


def is_sha256(text: str) -> bool:
    """True if a text is 64 hex digits in lower case."""
    return _SHA256.fullmatch(text) is not None
