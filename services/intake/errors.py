"""Rejections that several areas share."""

from collections.abc import Collection
from typing import Final

from shared.auth.principal import Principal
from shared.validation.faults import INVALID_REQUEST, RejectionType

NOT_FOUND: Final = RejectionType(
    "not-found",
    404,
    "Not found",
    "No item '0d9f' is known to this key, in its regions and for its platforms. Submissions of the last 0.4 s may be"
    " missing.",
)
PLATFORM_NOT_ALLOWED: Final = RejectionType(
    "platform-not-allowed",
    403,
    "The key may not act for this platform",
    "/platform: client 'shop' may act for shop, not for 'fair'",
)


def require_platform(client: Principal, platform: str, pointer: str) -> None:
    """Require that the client may act for the platform; raises InputRejected."""
    if not client.may_act_for(platform):
        allowed = ", ".join(sorted(client.platforms)) or "no platform"
        raise PLATFORM_NOT_ALLOWED(f"client {client.name!r} may act for {allowed}, not for {platform!r:.63}", pointer)


def require_served_region(client: Principal, region: str, served: Collection[str]) -> None:
    """Require that the query parameter `region` is a served region of the client; raises InputRejected."""
    if region not in served:
        raise INVALID_REQUEST(f"{region!r:.60} is not one of {', '.join(served)}", "/query/region")
    client.require_region(region, "/query/region")
