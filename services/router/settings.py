"""Settings of the router."""

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionIds


class Settings(CommonSettings):
    """Settings of the router, in addition to the common ones."""

    regions: RegionIds = Field(
        ["eu", "us"], description="The regions whose submissions this process routes, comma-separated"
    )
