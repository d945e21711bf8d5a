"""Settings of the audit."""

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionId


class Settings(CommonSettings):
    """Settings of the audit, in addition to the common ones; each process serves one region."""

    region: RegionId = Field("eu", description="The region whose events are logged")
    database_url: str = Field(
        "postgresql://piepowder:piepowder@127.0.0.1:5432/piepowder_audit_eu",
        description="The service's own database, which must exist: postgresql://user:password@host:port/name",
    )
