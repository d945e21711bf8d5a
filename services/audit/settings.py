"""The audit service's environment."""

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionId


class Settings(CommonSettings):
    """One process (or several replicas) keeps the log of one region."""

    region: RegionId = Field("eu", description="The region whose events are kept")
    database_url: str = Field(
        "postgresql://piepowder:piepowder@127.0.0.1:5432/piepowder_audit_eu",
        description="The service's own database, which exists: postgresql://user:password@host:port/name",
    )
