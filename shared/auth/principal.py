"""The authenticated caller of a request. Pure: domains and handlers may use it."""

from typing import Final

import msgspec

from shared.auth.clients import ANY


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


UNKNOWN: Final = Principal("", frozenset(), frozenset())
"""The caller of a request without a valid credential."""
