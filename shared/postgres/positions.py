"""Positions of consumer groups in a service's database: a compare-and-set in the transaction of the effects.

A move is a new row, never an update: an update would leave a dead row version for each batch, and the search for the
current one would slow down while a long query, such as a backup, keeps them. The position is the largest one of its
partition. A row can be inserted only after a row that ends at the expected position, and two rows cannot start at the
same position. So of two members that start at the same position, one stores its effects, and the other inserts nothing
and rolls back. Outdated rows are deleted from time to time, never the newest one.
"""

from collections.abc import Collection, Mapping
from typing import Final

import asyncpg
import sqlalchemy as sa
from aiokafka import TopicPartition

from shared.kafka.gaps import Gap
from shared.kafka.offsets import EndOffsets, LogRange
from shared.kafka.stored_positions import Moves, PositionChangedError, StoredPosition
from shared.postgres.database import Connection, Database

SESSION: Final = {"enable_seqscan": "off"}
"""Settings of sessions that move positions: a plan that was made while the table was small must not scan it later."""

SCHEMA: Final = (
    """
    CREATE TABLE positions (
        consumer_group text COLLATE "C" NOT NULL,
        topic text COLLATE "C" NOT NULL,
        partition integer NOT NULL,
        expected bigint NOT NULL,
        position bigint NOT NULL CHECK (position > expected),
        PRIMARY KEY (consumer_group, topic, partition, expected),
        UNIQUE (consumer_group, topic, partition, position)
    )
    """,
    """
    CREATE TABLE sources (
        consumer_group text COLLATE "C" NOT NULL,
        topic text COLLATE "C" NOT NULL,
        partition integer NOT NULL,
        topic_id text NOT NULL,
        gap_reason text,
        gap_first bigint,
        gap_end bigint,
        behind_until bigint,
        PRIMARY KEY (consumer_group, topic, partition)
    )
    """,
)
"""The statements of the migration that adds the positions to a service's schema."""

NO_ROW: Final = -1
"""`expected` of the first row of a partition."""

_ADVANCE: Final = """
INSERT INTO positions (consumer_group, topic, partition, expected, position)
SELECT $1, new.topic, new.partition, new.expected, new.position
FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) AS new (topic, partition, expected, position)
WHERE EXISTS (
    SELECT FROM positions AS p WHERE p.consumer_group = $1 AND p.topic = new.topic AND p.partition = new.partition
    AND p.position = new.expected
) ON CONFLICT DO NOTHING"""

_PRUNE: Final = """
DELETE FROM positions AS p USING unnest($2::text[], $3::int[], $4::bigint[]) AS new (topic, partition, expected)
WHERE p.consumer_group = $1 AND p.topic = new.topic AND p.partition = new.partition AND p.position < new.expected"""

_READ: Final = """
SELECT n.topic, n.partition, p.position, s.topic_id, s.gap_reason, s.gap_first, s.gap_end, s.behind_until
FROM unnest($2::text[], $3::int[]) AS n (topic, partition)
JOIN LATERAL (
    SELECT max(position) AS position FROM positions
    WHERE consumer_group = $1 AND topic = n.topic AND partition = n.partition
) AS p ON p.position IS NOT NULL
LEFT JOIN sources AS s ON s.consumer_group = $1 AND s.topic = n.topic AND s.partition = n.partition"""

READ_ALL: Final = """
SELECT p.consumer_group, p.topic, p.partition, max(p.position) AS position,
       s.topic_id, s.gap_reason, s.gap_first, s.gap_end, s.behind_until
FROM positions AS p LEFT JOIN sources AS s USING (consumer_group, topic, partition)
GROUP BY p.consumer_group, p.topic, p.partition, s.topic_id, s.gap_reason, s.gap_first, s.gap_end, s.behind_until
ORDER BY p.consumer_group, p.topic, p.partition"""

_FIRST: Final = f"""
INSERT INTO positions (consumer_group, topic, partition, expected, position)
SELECT $1, new.topic, new.partition, {NO_ROW}, new.position
FROM unnest($2::text[], $3::int[], $4::bigint[]) AS new (topic, partition, position)
WHERE NOT EXISTS (
    SELECT FROM positions AS p WHERE p.consumer_group = $1 AND p.topic = new.topic AND p.partition = new.partition
) ON CONFLICT DO NOTHING"""  # noqa: S608 - a constant

_SAVE_SOURCES: Final = """
INSERT INTO sources (consumer_group, topic, partition, topic_id, gap_reason, gap_first, gap_end, behind_until)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[])
ON CONFLICT (consumer_group, topic, partition) DO UPDATE
SET topic_id = excluded.topic_id, gap_reason = excluded.gap_reason, gap_first = excluded.gap_first,
    gap_end = excluded.gap_end, behind_until = excluded.behind_until"""


def position_tables(metadata: sa.MetaData) -> None:
    """Add the tables to a service's schema in the code."""
    sa.Table(
        "positions",
        metadata,
        sa.Column("consumer_group", sa.Text(collation="C"), primary_key=True),
        sa.Column("topic", sa.Text(collation="C"), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("expected", sa.BigInteger, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("consumer_group", "topic", "partition", "position"),
    )
    sa.Table(
        "sources",
        metadata,
        sa.Column("consumer_group", sa.Text(collation="C"), primary_key=True),
        sa.Column("topic", sa.Text(collation="C"), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("topic_id", sa.Text, nullable=False),
        sa.Column("gap_reason", sa.Text),
        sa.Column("gap_first", sa.BigInteger),
        sa.Column("gap_end", sa.BigInteger),
        sa.Column("behind_until", sa.BigInteger),
    )


async def advance(connection: Connection, moves: Moves) -> None:
    """Store these moves: the first statement of the transaction that stores the effects.

    Raises PositionChangedError if one of the positions is not the expected one.
    """
    if not moves.moves:
        return
    topics, partitions, expected, positions = (list(column) for column in zip(*moves.moves, strict=True))
    status = await connection.execute(_ADVANCE, moves.group, topics, partitions, expected, positions)
    if status != f"INSERT 0 {len(topics)}":
        raise PositionChangedError(f"{moves.group} does not have all of the positions {_text(moves)}")
    if moves.prune:
        await connection.execute(_PRUNE, moves.group, topics, partitions, expected)


async def save(connection: Connection, group: str, changed: Mapping[TopicPartition, StoredPosition]) -> None:
    """Store everything about these partitions, and the position itself only where none is stored."""
    places = sorted(changed)
    topics, partitions = [tp.topic for tp in places], [tp.partition for tp in places]
    about = [changed[tp] for tp in places]
    gaps = [each.gap or (None, None, None) for each in about]
    await connection.execute(_FIRST, group, topics, partitions, [each.position for each in about])
    await connection.execute(
        _SAVE_SOURCES,
        group,
        topics,
        partitions,
        [each.topic_id for each in about],
        *(list(column) for column in zip(*gaps, strict=True)),
        [each.behind_until for each in about],
    )


class PositionTable:
    """The positions in a database: the `PositionStore` of the consumer loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, StoredPosition]:
        """The stored positions of these partitions, without those that have none."""
        async with self._database.held() as connection:
            rows = await connection.fetch(_READ, group, [tp.topic for tp in partitions], [tp[1] for tp in partitions])
        return {TopicPartition(row["topic"], row["partition"]): stored_position(row) for row in rows}

    async def of_group(self, group: str) -> dict[TopicPartition, StoredPosition]:
        """All stored positions of a group."""
        async with self._database.held() as connection:
            rows = await connection.fetch(READ_ALL)
        return {
            TopicPartition(row["topic"], row["partition"]): stored_position(row)
            for row in rows
            if row["consumer_group"] == group
        }

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        """True if the group has handled all records before these ends.

        False if records are missing that it has not handled, even of an empty partition: a position in a deleted topic
        of the same name, and a gap whose loss is not accepted.
        """
        stored = await self.read(group, ends)
        return all(_is_at(stored.get(tp), log) for tp, log in ends.items())

    async def save(self, group: str, changed: Mapping[TopicPartition, StoredPosition]) -> None:
        """`save` in a transaction of its own."""
        async with self._database.transaction() as connection:
            await save(connection, group, changed)

    async def advance(self, moves: Moves) -> None:
        """Store these moves in a transaction of their own; raises PositionChangedError."""
        async with self._database.transaction() as connection:
            await advance(connection, moves)


def stored_position(row: asyncpg.Record) -> StoredPosition:
    """The stored position in a row with the columns of both tables."""
    reason = row["gap_reason"]
    gap = None if reason is None else Gap(reason, row["gap_first"], row["gap_end"])
    return StoredPosition(row["position"], row["topic_id"] or "", gap, row["behind_until"])


def _is_at(stored: StoredPosition | None, log: LogRange) -> bool:
    if stored is None:
        return log.end == 0  # a new partition, and a group that has not started
    return stored.gap is None and stored.topic_id == log.topic_id and stored.position >= log.end


def _text(moves: Moves) -> str:
    return ", ".join(f"{move.topic}[{move.partition}]@{move.expected}" for move in moves.moves)
