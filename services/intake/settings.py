"""Intake's environment variables."""

from pathlib import Path

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionIds


class Settings(CommonSettings):
    """Intake's own settings. The limits of the queue apply to each Kafka cluster."""

    regions: RegionIds = Field(["eu", "us"], description="The served regions, comma-separated")
    database_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/piepowder_intake",
        description="Intake's database; submission does not need it",
    )
    environment: str = Field(
        "local", pattern="^[a-z][a-z0-9]{0,15}$", description="The environment in the text of new API keys"
    )
    queue_records: int = Field(20_000, ge=1, description="Queued records for Kafka, above which posts get 429")
    queue_mib: int = Field(32, ge=1, description="Queued MiB for Kafka, above which posts get 429")
    batch_calls: int = Field(16, ge=1, description="Concurrent batch calls, above which further calls get 429")
    idle_seconds: float = Field(30.0, gt=0, description="Time limit for a client to send an item, or to read verdicts")
    acknowledge_seconds: float = Field(
        10.0, gt=0, description="Time limit for Kafka's acknowledgement, after which posts get 503"
    )
    appeal_days: int = Field(
        184, ge=1, le=3660, description="The appeal window after a decision in days; DSA Art. 20: six months"
    )
    projection: bool = Field(True, description="Run the status projection in this process")
    router: str = Field("http://127.0.0.1:8102", description="The router's address, for the check of attached changes")
    router_key_file: Path | None = Field(
        None, description="A file with intake's API key for the router, of scope control:read"
    )
    request_approvals: int = Field(2, ge=1, le=9, description="Number of people who must approve a business request")
