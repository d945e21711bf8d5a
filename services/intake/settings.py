"""Intake's environment variables."""

from pathlib import Path

from pydantic import Field

from shared.runtime.settings import CommonSettings, RegionIds


class Settings(CommonSettings):
    """What intake needs besides the common ones. The queue's bounds are for each Kafka cluster."""

    regions: RegionIds = Field(["eu", "us"], description="The regions it takes items for, comma-separated")
    database_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/piepowder_intake",
        description="Intake's own database, where items' status is kept; posting does not need it",
    )
    environment: str = Field(
        "local", pattern="^[a-z][a-z0-9]{0,15}$", description="What the API keys that are made here say they are for"
    )
    queue_records: int = Field(
        20_000, ge=1, description="Records that may wait for Kafka before posts are answered 429"
    )
    queue_mib: int = Field(32, ge=1, description="MiB that may wait for Kafka before posts are answered 429")
    batch_calls: int = Field(16, ge=1, description="Batch calls taken at a time; more are answered 429")
    idle_seconds: float = Field(
        30.0, gt=0, description="How long a sender may take to complete an item, or to take verdicts, before it is left"
    )
    acknowledge_seconds: float = Field(10.0, gt=0, description="How long Kafka may take before posts are answered 503")
    appeal_days: int = Field(
        184, ge=1, le=3660, description="How long after a decision appeals about it are taken; DSA Art. 20: six months"
    )
    projection: bool = Field(
        True, description="Whether this process follows the topics for items' status; false where another one does"
    )
    router: str = Field("http://127.0.0.1:8102", description="The router's REST, which checks what requests attach")
    router_key_file: Path | None = Field(
        None, description="A file with intake's own API key for the router, of scope control:read"
    )
    request_approvals: int = Field(2, ge=1, le=9, description="How many people must approve a business request")
