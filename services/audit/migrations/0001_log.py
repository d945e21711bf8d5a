"""The log, its head and counts, and the dead letters; rows of the log and of dead letters never change."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.UUID, nullable=False, unique=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("time", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.UUID, nullable=False),
        sa.Column("causation_id", sa.UUID),
        sa.Column("traceparent", sa.Text),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("extensions", sa.LargeBinary),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.execute("CREATE INDEX log_by_subject ON log (hashtextextended(subject, 0), seq)")
    op.create_table(
        "head",
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("deadletters", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO head (size, deadletters) VALUES (0, 0)")
    op.create_table(
        "counts",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "deadletters",
        sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("consumer_group", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("time", sa.Text, nullable=False),
        sa.Column("event_id", sa.UUID),
        sa.Column("subject", sa.Text),
        sa.UniqueConstraint("topic", "partition", "offset", "consumer_group"),
    )
    op.execute("CREATE INDEX deadletters_by_subject ON deadletters (hashtextextended(subject, 0), seq)")
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    for table in ("log", "deadletters"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in ("deadletters", "counts", "head", "log"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
