"""Events on `piepowder.access.<region>`: refused calls and used keys."""

from typing import Final

from shared.contracts.events.base import Struct

ACCESS_REFUSED: Final = "piepowder.access.refused.v1"
ACCESS_USED: Final = "piepowder.access.used.v1"


class AccessRefused(Struct, frozen=True, kw_only=True):
    """Calls of a process that were refused for the same `reason`, from the first (`since`) to the last (`until`).

    `client` is empty when it is not known who called. `key` is the first of them's: the first digits of its hash.
    """

    service: str
    method: str
    route: str
    status: int
    reason: str
    client: str = ""
    key: str = ""
    count: int
    since: str
    until: str


class KeyUse(Struct, frozen=True, kw_only=True):
    """How often a key opened something; `key` is the first digits of its hash."""

    client: str
    key: str
    calls: int
    last_used_at: str


class AccessUsed(Struct, frozen=True, kw_only=True):
    """The keys that a process was called with in a minute or so."""

    service: str
    since: str
    until: str
    keys: list[KeyUse]
