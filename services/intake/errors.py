"""Rejections and exceptions that several areas share."""

from collections.abc import Collection
from typing import Final

from shared.auth.principal import Principal
from shared.runtime.errors import PiepowderError
from shared.validation.faults import RejectionType

INVALID_REQUEST: Final = RejectionType("invalid-request", 422, "Invalid request", "/query/region: unknown")
REGION_NOT_ALLOWED: Final = RejectionType(
    "region-not-allowed",
    403,
    "The key may not act in this region",
    "/markets/1: market 'US' belongs to region 'us'; client 'shop' may act in eu",
)
PLATFORM_NOT_ALLOWED: Final = RejectionType(
    "platform-not-allowed",
    403,
    "The key may not act for this platform",
    "/platform: client 'shop' may act for shop, not for 'fair'",
)


class UnknownObject(PiepowderError):  # noqa: N818 - a fact about the object
    """The caller has no such item, notice, appeal or decision in its regions and platforms."""


def may_act_in(client: Principal) -> str:
    """The end of a message: the client and its regions."""
    return f"client {client.name!r} may act in {', '.join(sorted(client.regions)) or 'no region'}"


def require_platform(client: Principal, platform: str, pointer: str) -> None:
    """Require that the client may act for the platform; raises InputRejected."""
    if not client.may_act_for(platform):
        allowed = ", ".join(sorted(client.platforms)) or "no platform"
        raise PLATFORM_NOT_ALLOWED(f"client {client.name!r} may act for {allowed}, not for {platform!r:.63}", pointer)


def require_region(client: Principal, region: str, served: Collection[str]) -> None:
    """Require that the query parameter `region` is a served region of the client; raises InputRejected."""
    if region not in served:
        raise INVALID_REQUEST(f"{region!r:.60} is not one of {', '.join(served)}", "/query/region")
    if not client.may_act_in(region):
        raise REGION_NOT_ALLOWED(f"{may_act_in(client)}, not in {region!r}", "/query/region")
