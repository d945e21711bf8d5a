"""The settings of the decision service."""

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionId


class Settings(CommonSettings):
    """Settings of the decision service, in addition to the common ones; its replicas serve one region."""

    region: RegionId = Field("eu", description="The region of the cases")
    leases_per_reviewer: int = Field(
        50, ge=1, description="Maximum open leases of one reviewer, above which claims get 429"
    )
    leases_per_client: int = Field(
        1_000, ge=1, description="Maximum open leases of one client with all of its keys, above which claims get 429"
    )
    database_url: str = Field(
        "postgresql://piepowder:piepowder@127.0.0.1:5432/piepowder_decision_eu",
        description="The service's own database, which must exist: postgresql://user:password@host:port/name",
    )
