"""Batch calls on producers in memory."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from services.intake.items.batch import Batch
from services.intake.items.handlers import ItemIntake
from services.intake.items.used_versions import UsedVersions
from services.intake.publishing.group_commit import GroupCommitPublisher
from shared.auth.principal import Principal
from shared.runtime.clock import ManualClock
from shared.validation import codes
from tests.support.intake_cluster import Cluster
from tests.support.intake_items import model, published

CLOCK = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))


CLIENT = Principal(name="shop", scopes=frozenset())


def line(n: int, **change: Any) -> bytes:
    return json.dumps({"platform": "shop", "kind": "product", "id": str(n), "markets": ["DE"]} | change).encode()


async def pieces(body: bytes, size: int = 65_536, then: Exception | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
    if then is not None:
        raise then


def batch(cluster: Cluster | dict[str, Cluster], *, idle_seconds: float = 30) -> Batch:
    clusters = cluster if isinstance(cluster, dict) else {"eu": cluster}
    intake = ItemIntake(
        codes=codes.load(),
        publishers={
            name: GroupCommitPublisher(producer, max_records=20_000, max_bytes=2**25)
            for name, producer in clusters.items()
        },
    )
    intake.apply(published(model(*((name, _MARKETS[name]) for name in clusters))))
    intake.caught_up()
    return Batch(intake, UsedVersions(), CLIENT, CLOCK, idle_seconds=idle_seconds)


_MARKETS = {"eu": ["DE"], "us": ["US"]}


async def post_batch(
    cluster: Cluster | dict[str, Cluster], stream: AsyncIterator[bytes], *, idle_seconds: float = 30
) -> list[dict[str, Any]]:
    verdicts = b"".join([part async for part in batch(cluster, idle_seconds=idle_seconds).verdicts(stream)])
    assert verdicts.endswith(b"\n")
    return [json.loads(verdict) for verdict in verdicts.splitlines()]
