"""Intake's environment variables."""

from pydantic import Field

from shared.settings import CommonSettings, RegionIds


class Settings(CommonSettings):
    """What intake needs besides the common ones. The queue's bounds are for each Kafka cluster."""

    regions: RegionIds = Field(["eu", "us"], description="The regions it takes items for, comma-separated")
    database_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/piepowder_intake",
        description="Intake's own database, where items' status is kept; posting does not need it",
    )
    queue_records: int = Field(
        20_000, ge=1, description="Records that may wait for Kafka before posts are answered 429"
    )
    queue_mib: int = Field(32, ge=1, description="MiB that may wait for Kafka before posts are answered 429")
    batch_calls: int = Field(16, ge=1, description="Batch calls taken at a time; more are answered 429")
    acknowledge_seconds: float = Field(10.0, gt=0, description="How long Kafka may take before posts are answered 503")
    projection: bool = Field(
        True, description="Whether this process follows the topics for items' status; false where another one does"
    )
