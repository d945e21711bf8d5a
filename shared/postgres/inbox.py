"""The inbox: which events a service has already taken in, so that a replay changes nothing.

`first_time` is called inside the transaction that makes the effects. A second consumer of the same event waits on the
unique key until the first commits, and is then told that it is too late.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from shared.postgres.database import Connection


def inbox_table(metadata: sa.MetaData) -> sa.Table:
    """The inbox of a service's schema."""
    return sa.Table("inbox", metadata, sa.Column("event_id", sa.UUID(as_uuid=False), primary_key=True))


async def first_time(connection: Connection, event_ids: Sequence[str]) -> set[str]:
    """Enter these events; returns those that were not there. In sorted order, so that two batches cannot deadlock."""
    rows = await connection.fetch(
        "INSERT INTO inbox (event_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING event_id::text",
        sorted(set(event_ids)),
    )
    return {row[0] for row in rows}
