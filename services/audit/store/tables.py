"""The tables of the audit."""

from typing import Final

import sqlalchemy as sa

from shared.postgres import positions

METADATA: Final = sa.MetaData()

HASH_SEED: Final[sa.ColumnElement[int]] = sa.literal_column("0")

LOG: Final = sa.Table(
    "log",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False, unique=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("causation_id", sa.UUID(as_uuid=False)),
    sa.Column("traceparent", sa.Text),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("extensions", sa.LargeBinary),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("conflicts_with", sa.UUID(as_uuid=False)),
)
sa.Index("log_conflicts", LOG.c.conflicts_with, postgresql_where=LOG.c.conflicts_with.is_not(None))
sa.Index("log_by_subject", sa.func.hashtextextended(LOG.c.subject, HASH_SEED), LOG.c.seq)

HEAD: Final = sa.Table(
    "head",
    METADATA,
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("deadletters", sa.BigInteger, nullable=False),
)

COUNTS: Final = sa.Table(
    "counts",
    METADATA,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False),
)

DEADLETTERS: Final = sa.Table(
    "deadletters",
    METADATA,
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("consumer_group", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("event_id", sa.UUID(as_uuid=False)),
    sa.Column("subject", sa.Text),
    sa.Column("content", sa.LargeBinary),
    sa.UniqueConstraint("topic", "partition", "offset", "consumer_group", "content", name="deadletters_identity"),
)
DISCARDS: Final = sa.Table(
    "discards",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("consumer_group", sa.Text, primary_key=True),
    sa.Column("content", sa.LargeBinary, primary_key=True),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
)
positions.position_tables(METADATA)
sa.Index("deadletters_by_subject", sa.func.hashtextextended(DEADLETTERS.c.subject, HASH_SEED), DEADLETTERS.c.seq)
