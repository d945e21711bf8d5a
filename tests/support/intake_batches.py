"""Batch calls on producers in memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from services.intake.items.batch import Batch
from services.intake.items.handlers import ItemIntake
from services.intake.items.used_versions import UsedVersions
from services.intake.publishing.group_commit import GroupCommitPublisher
from shared.auth.principal import Principal
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison, Transient
from shared.validation import codes
from tests.support.intake_items import model, published

CLOCK = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))


CLIENT = Principal(name="shop", scopes=frozenset())


class Cluster:
    """A producer that stores sizes and keys; fails after `fails_after` sends, and rejects values with `rejects`."""

    def __init__(self, *, fails_after: int = 10**9, rejects: bytes = b"\0") -> None:
        self.sends: list[int] = []
        self.keys: list[bytes] = []
        self._fails_after = fails_after
        self._rejects = rejects

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if len(self.sends) >= self._fails_after:
            raise Transient("Kafka does not respond.")
        if any(self._rejects in (record.value or b"") for record in records):
            raise Poison("larger than Kafka accepts")
        self.sends.append(len(records))
        self.keys.extend(record.key or b"" for record in records)


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
    return Batch(intake, UsedVersions(), CLIENT, CLOCK, idle_seconds=idle_seconds)


_MARKETS = {"eu": ["DE"], "us": ["US"]}


async def post_batch(
    cluster: Cluster | dict[str, Cluster], stream: AsyncIterator[bytes], *, idle_seconds: float = 30
) -> list[dict[str, Any]]:
    verdicts = b"".join([part async for part in batch(cluster, idle_seconds=idle_seconds).verdicts(stream)])
    assert verdicts.endswith(b"\n")
    return [json.loads(verdict) for verdict in verdicts.splitlines()]
