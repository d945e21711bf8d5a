"""The authenticated caller of a request, and its permissions. Pure: domains and handlers may use it."""

from typing import Final

import msgspec

from shared.auth.clients import ANY
from shared.validation.faults import RejectionType

MISSING_SCOPE: Final = RejectionType(
    "missing-scope", 403, "Missing scope", "Client 'shop' does not have the scope 'audit:read'; it has items:write."
)
REGION_NOT_ALLOWED: Final = RejectionType(
    "region-not-allowed",
    403,
    "The key may not act in this region",
    "/markets/1: market 'US' belongs to region 'us'; client 'shop' may act in eu",
)


class Principal(msgspec.Struct, frozen=True):
    """A client with an API key, or a person with an access token.

    `scopes` are permissions such as `items:write`; `regions` and `platforms` limit them (`*` for all).
    """

    name: str
    scopes: frozenset[str]
    regions: frozenset[str] = frozenset({ANY})
    platforms: frozenset[str] = frozenset({ANY})

    def may_act_in(self, region: str) -> bool:
        return ANY in self.regions or region in self.regions

    def may_act_for(self, platform: str) -> bool:
        return ANY in self.platforms or platform in self.platforms

    def require_region(self, region: str, pointer: str | None = None) -> None:
        """Raise InputRejected (403) if the caller may not act in the region."""
        if not self.may_act_in(region):
            raise REGION_NOT_ALLOWED.with_message(f"{self.described_regions()}, not in {region!r}", pointer)

    def described_regions(self) -> str:
        """The end of a message: the client and its regions."""
        return f"client {self.name!r} may act in {', '.join(sorted(self.regions)) or 'no region'}"


UNKNOWN: Final = Principal("", frozenset(), frozenset())
"""The caller of a request without a valid credential."""
