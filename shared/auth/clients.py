"""What a client is, to every service: pure rules about its name, its keys, its scopes, regions, platforms and limit.

Intake checks a client by them before it tells of it, and every service checks what it is told by the same ones.
"""

import math
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from shared.contracts.events import ClientChanged, RateLimit
from shared.runtime.clock import from_text

ANY: Final = "*"
MEANINGS: Final = {
    "items:write": "post items and take them back",
    "items:read": "ask what became of items",
    "notices:write": "report subjects",
    "notices:read": "ask what became of notices",
    "appeals:write": "complain about decisions",
    "appeals:read": "ask what became of appeals",
    "control:read": "see the operating model and the policies in force",
    "control:publish": "put others into force",
    "reviews:read": "see queues and cases",
    "reviews:write": "claim cases and decide them",
    "audit:read": "read the audit log",
    "requests:read": "see business requests",
    "requests:write": "write business requests and comments, submit them and take them back",
    "requests:decide": "approve, reject and review business requests",
    "requests:deploy": "say that a business request's change is in force, or is not any more",
    "clients:read": "see clients and their keys' times",
    "clients:write": "make, change and end clients and keys",
}
SCOPES: Final = frozenset(MEANINGS)
"""What a key may be for."""

OF_PLATFORMS: Final = frozenset(scope for scope in SCOPES if scope.startswith(("items:", "notices:", "appeals:")))
"""What a key may be for that is limited to some platforms: all else is about every platform's cases."""

LIVE_KEYS: Final = 2  # a key and its successor, while they change places
KEPT_KEYS: Final = 20  # of a client, the dead ones with the living
ACTIVE: Final = "active"
DISABLED: Final = "disabled"
PERSON: Final = "person-"  # what the names of people begin with, who come with an access token
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
NAME_SAYS: Final = "1 to 63 of a-z, 0-9 and '-', the first a letter"
KEY_ID_DIGITS: Final = 12

REGION: Final = r"[a-z][a-z0-9-]{0,30}"
PLATFORM: Final = r"[a-z0-9][a-z0-9-]{0,62}"
_SCOPE: Final = re.compile(r"[a-z][a-z_-]{0,30}:[a-z][a-z_-]{0,30}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FASTEST: Final = 1_000_000


def key_id(sha256: str) -> str:
    """What a key is called where it must not be shown: the first digits of its hash."""
    return sha256[:KEY_ID_DIGITS]


def subject(name: str) -> str:
    """The record key of a client on the control topic."""
    return f"client:{name}"


def name_fault(name: str) -> str | None:
    """What is wrong with a client's name."""
    if NAME.fullmatch(name) is None:
        return f"{name!r:.100} is not a client's name: {NAME_SAYS}"
    return f"names that begin with {PERSON!r} are people's" if name.startswith(PERSON) else None


def region_fault(region: str) -> str | None:
    """What is wrong with a region that a client is to act in."""
    if region == ANY or re.fullmatch(REGION, region):
        return None
    return f"{region!r:.100} is not a region: 1 to 31 of a-z, 0-9 and '-', or {ANY!r} for all"


def platform_fault(platform: str) -> str | None:
    """What is wrong with a platform that a client is to act for."""
    if platform == ANY or re.fullmatch(PLATFORM, platform):
        return None
    return f"{platform!r:.100} is not a platform: 1 to 63 of a-z, 0-9 and '-', or {ANY!r} for all"


def opened(scopes: Collection[str], platforms: Collection[str]) -> frozenset[str]:
    """The scopes that count for a client of these platforms, whatever it was given."""
    return frozenset(scopes) if ANY in platforms else OF_PLATFORMS.intersection(scopes)


def too_wide(scopes: Collection[str], platforms: Collection[str]) -> str | None:
    """What is wrong with the scopes of a client that acts for these platforms; scopes not known here are not judged."""
    if ANY in platforms or not (beyond := sorted(SCOPES.intersection(scopes) - OF_PLATFORMS)):
        return None
    return f"{', '.join(beyond)} are about every platform, and this client acts for {', '.join(sorted(platforms))}"


def limit_faults(limit: RateLimit) -> list[tuple[str, str]]:
    """What is wrong with a limit: field and sentence."""
    faults = []
    if not (math.isfinite(limit.requests_per_second) and 0.001 <= limit.requests_per_second <= _FASTEST):
        faults.append(("requests_per_second", f"expected 0.001 to {_FASTEST}"))
    if not 1 <= limit.burst <= _FASTEST:
        faults.append(("burst", f"expected 1 to {_FASTEST}"))
    if limit.items_per_second != 0 and not 0.001 <= limit.items_per_second <= _FASTEST:
        faults.append(("items_per_second", f"expected 0 (no limit of their own), or 0.001 to {_FASTEST}"))
    return faults


def faults(client: ClientChanged) -> list[str]:
    """What is wrong with a client that was told of. Scopes and states that are not known here are a newer version's."""
    found = [name_fault(client.name)]
    if client.revision < 1:
        found.append(f"revision {client.revision} is not positive")
    found += [f"{scope!r:.100} is not a scope" for scope in client.scopes if _SCOPE.fullmatch(scope) is None]
    found += [region_fault(region) for region in client.regions]
    found += [platform_fault(platform) for platform in client.platforms]
    if client.limit is not None:
        found += [f"limit.{field}: {sentence}" for field, sentence in limit_faults(client.limit)]
    found += _key_faults(client)
    return [fault for fault in found if fault is not None]


def _key_faults(client: ClientChanged) -> Sequence[str]:
    if len(client.keys) > KEPT_KEYS:
        return [f"{len(client.keys)} keys, more than {KEPT_KEYS}"]
    hashes = [key.sha256 for key in client.keys]
    found = [f"{sha256!r:.100} is not a SHA-256" for sha256 in hashes if not is_sha256(sha256)]
    if len(set(hashes)) < len(hashes):
        found.append("a key is there twice")
    times = [text for key in client.keys for text in (key.created_at, key.expires_at, key.revoked_at) if text]
    return found + [f"{text!r:.100} is not a time" for text in times if moment(text) is None]


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256, 64 hex digits in lower case."""
    return _SHA256.fullmatch(text) is not None


def moment(text: str) -> datetime | None:
    """The moment that a text names, None when it names none."""
    try:
        return from_text(text)
    except ValueError:
        return None
