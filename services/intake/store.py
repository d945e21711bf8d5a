"""Intake's tables: what is known of each item in each region, how many are where, and how far the projection has read.

One transaction a batch: read what is known, merge, write back. Writers of a region take turns (an advisory lock), as
two replicas may hold an item's submission and its decision at the same time, and the counts of a region are one row a
status. The merge is idempotent, so no inbox is needed: a repeat finds nothing to change. A lookup is one read of the
primary key, and the totals are kept, not counted, so neither grows with what is stored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa

from services.intake.domain import status
from services.intake.domain.status import Facts
from shared.postgres.database import Database

_LOCK_CLASS: Final = 720_912

metadata = sa.MetaData()
item_status = sa.Table(
    "item_status",
    metadata,
    sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("facts", sa.LargeBinary, nullable=False),  # JSON; not jsonb, which refuses texts with U+0000
)
item_totals = sa.Table(
    "item_totals",
    metadata,
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, primary_key=True),
    sa.Column("items", sa.BigInteger, nullable=False),
)
projection_progress = sa.Table(
    "projection_progress",
    metadata,
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("handled_until", sa.TIMESTAMP(timezone=True), nullable=False),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Facts).decode


class Progress(NamedTuple):
    """Everything of a partition that was written before `handled_until` is in the projection."""

    topic: str
    partition: int
    handled_until: datetime


class ItemStatuses:
    """What is known of items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def learn(self, region: str, learned: Mapping[str, Facts]) -> None:
        """Merge facts by item id into what is known, and keep the totals in step; raises Transient."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK_CLASS, region)
            rows = await connection.fetch(
                "SELECT item_id::text, status, facts FROM item_status WHERE region = $1 AND item_id = ANY($2::uuid[])",
                region,
                list(learned),
            )
            known = {row[0]: (row[1], row[2]) for row in rows}
            moved: Counter[str] = Counter()
            changed: list[tuple[str, str, bytes]] = []
            for item_id, facts in learned.items():
                before, stored = known.get(item_id, (None, None))
                merged = facts if stored is None else status.merge(_decode(stored), facts)
                encoded = _encode(merged)
                if encoded == stored:
                    continue
                now = status.status(merged).value
                changed.append((item_id, now, encoded))
                if now != before:
                    moved[now] += 1
                    if before is not None:
                        moved[before] -= 1
            if not changed:
                return
            await connection.execute(
                "INSERT INTO item_status (item_id, region, status, facts)"
                " SELECT item_id, $1, status, facts"
                " FROM unnest($2::uuid[], $3::text[], $4::bytea[]) AS new (item_id, status, facts)"
                " ON CONFLICT (item_id, region) DO UPDATE SET status = EXCLUDED.status, facts = EXCLUDED.facts",
                region,
                *(list(column) for column in zip(*changed, strict=True)),
            )
            await connection.execute(
                "INSERT INTO item_totals (region, status, items)"
                " SELECT $1, status, items FROM unnest($2::text[], $3::bigint[]) AS moved (status, items)"
                " ON CONFLICT (region, status) DO UPDATE SET items = item_totals.items + EXCLUDED.items",
                region,
                list(moved),
                list(moved.values()),
            )

    async def note_progress(self, region: str, progress: Sequence[Progress]) -> None:
        """Say how far the projection has read; never goes back. Raises Transient."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO projection_progress (region, topic, partition, handled_until)"
                " SELECT $1, topic, partition, handled_until"
                " FROM unnest($2::text[], $3::int[], $4::timestamptz[]) AS new (topic, partition, handled_until)"
                " ORDER BY topic, partition ON CONFLICT (region, topic, partition)"
                " DO UPDATE SET handled_until = greatest(projection_progress.handled_until, EXCLUDED.handled_until)",
                region,
                *(list(column) for column in zip(*progress, strict=True)),
            )

    async def of_item(self, item_id: str) -> dict[str, Facts]:
        """What is known of an item, by region; raises Transient."""
        asked = sa.select(item_status.c.region, item_status.c.facts).where(item_status.c.item_id == item_id)
        async with self._database.query() as connection:
            return {row.region: _decode(row.facts) for row in await connection.execute(asked)}

    async def totals(self) -> dict[str, dict[str, int]]:
        """How many items are where: region, status, count; raises Transient."""
        totals: dict[str, dict[str, int]] = {}
        async with self._database.query() as connection:
            for row in await connection.execute(sa.select(item_totals).order_by(*item_totals.primary_key)):
                if row.items:
                    totals.setdefault(row.region, {})[row.status] = row.items
        return totals

    async def handled_until(self, regions: Sequence[str]) -> datetime | None:
        """Everything of these regions written before this moment is in the projection; None when not known yet."""
        column = projection_progress.c
        asked = sa.select(sa.func.min(column.handled_until)).where(column.region.in_(regions))
        async with self._database.query() as connection:
            found: datetime | None = await connection.scalar(asked)
        return found
