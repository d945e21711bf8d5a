"""Cases, decisions, subjects, queues, tallies, inbox and outbox.

`cases.opened` is the event as received, stored out of line and not compressed: compression costs more than the insert.
"""

import sqlalchemy as sa
from alembic import op

from shared.postgres import outbox

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the schema."""
    op.create_table(
        "cases",
        sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("subject", sa.Text(collation="C"), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("correlation_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("superseded_by", sa.UUID(as_uuid=False)),
        sa.Column("lease_token", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
        sa.Column("reviewer", sa.Text, nullable=False, server_default=""),
        sa.Column("team", sa.Text, nullable=False, server_default=""),
        sa.Column("claim_key", sa.UUID(as_uuid=False)),
        sa.Column("claim_body", sa.Text),
        sa.Column("opened", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'claimed', 'decided', 'superseded')", name="cases_state"),
    )
    op.execute("ALTER TABLE cases ALTER COLUMN opened SET STORAGE EXTERNAL")
    urgency = ["queue", "priority", "due_at", "case_id"]
    op.create_index("cases_waiting", "cases", urgency, postgresql_where=sa.text("state = 'waiting'"))
    op.create_index("cases_claimed", "cases", urgency, postgresql_where=sa.text("state = 'claimed'"))
    op.create_index("cases_leases", "cases", ["lease_until"], postgresql_where=sa.text("state = 'claimed'"))
    op.create_index(
        "cases_claim_keys", "cases", ["claim_key"], unique=True, postgresql_where=sa.text("claim_key IS NOT NULL")
    )
    op.create_table(
        "decisions",
        sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("decision_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("policy_set", sa.Text, nullable=False),
        sa.Column("automated", sa.Boolean, nullable=False),
        sa.Column("reviewer", sa.Text, nullable=False),
        sa.Column("team", sa.Text, nullable=False),
        sa.Column("lease_token", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
    )
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'table % is only appended to', TG_TABLE_NAME; END $$"
    )
    op.execute(
        "CREATE TRIGGER decisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decisions"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.create_table(
        "subjects",
        sa.Column("subject", sa.Text(collation="C"), primary_key=True),
        sa.Column("case_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("item_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("version", sa.BigInteger),
    )
    op.execute("ALTER TABLE subjects SET (fillfactor = 80)")
    op.create_table("queues", sa.Column("queue", sa.Text, primary_key=True))
    op.create_table(
        "tallies",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
    )
    op.create_table("inbox", sa.Column("event_id", sa.UUID(as_uuid=False), primary_key=True))
    op.create_table(
        "outbox",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
    )
    op.execute(outbox.STORAGE)


def downgrade() -> None:
    """Drop the schema with all data."""
    for table in ("outbox", "inbox", "tallies", "queues", "subjects", "decisions", "cases"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
