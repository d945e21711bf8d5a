"""The router's environment."""

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionIds


class Settings(CommonSettings):
    """Which regions this process routes for, besides what every service needs."""

    regions: RegionIds = Field(["eu", "us"], description="The regions whose submissions this process routes, eu,us")
