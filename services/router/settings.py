"""Settings of the router."""

from pathlib import Path

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionIds


class Settings(CommonSettings):
    """Settings of the router, in addition to the common ones."""

    regions: RegionIds = Field(
        ["eu", "us"], description="The regions whose submissions this process routes, comma-separated"
    )
    decision_by_region: dict[str, str] = Field(
        default={},
        description="URLs of the decision services, as JSON: needed when a region leaves the operating model",
    )
    decision_key_file: Path | None = Field(
        None, description="File with the key for the decision services (scope reviews:read)"
    )
