"""Events on `piepowder.access.<region>`: refused requests and used API keys."""

from typing import Final

from shared.contracts.events.base import Struct

ACCESS_REFUSED: Final = "piepowder.access.refused.v1"
ACCESS_USED: Final = "piepowder.access.used.v1"


class AccessRefused(Struct, frozen=True, kw_only=True):
    """Requests that a process refused for the same `reason`, from the first (`since`) to the last (`until`).

    `client` is empty when the client is unknown. `key` has the first digits of the hash of the first request's key.
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
    """Number of requests with a valid API key, refused ones included; `key` has the first digits of its hash."""

    client: str
    key: str
    calls: int
    last_used_at: str


class AccessUsed(Struct, frozen=True, kw_only=True):
    """Valid API keys that a process received in about a minute."""

    service: str
    since: str
    until: str
    keys: list[KeyUse]
