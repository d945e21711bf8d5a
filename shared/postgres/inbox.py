"""The inbox: the ids of the events that a service has handled, so that a repeated event has no effect.

Call `first_time` in the transaction that stores the effects of the events. A second consumer of the same event waits on
the unique key until the first consumer commits, and then `first_time` returns no id for it.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from shared.postgres.database import Connection


def inbox_table(metadata: sa.MetaData) -> sa.Table:
    """The inbox of a service's schema."""
    return sa.Table("inbox", metadata, sa.Column("event_id", sa.UUID(as_uuid=False), primary_key=True))


async def first_time(connection: Connection, event_ids: Sequence[str]) -> set[str]:
    """Insert the ids, and return the new ones. The sorted order prevents deadlocks between two batches."""
    rows = await connection.fetch(
        "INSERT INTO inbox (event_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING event_id::text",
        sorted(set(event_ids)),
    )
    return {row[0] for row in rows}
