"""Notices, appeals and withdrawals without effect, filled from the stored facts."""

import sqlalchemy as sa
from alembic import op

revision = "intake_0009"
down_revision = "intake_0008"
branch_labels = None
depends_on = None

_PLAIN = sa.Text(collation="C")  # compared by bytes, which makes indexes cheaper than a language's order
_WITHOUT_ZERO = r"position('\x5c7530303030'::bytea IN facts) = 0"  # PostgreSQL has no text with U+0000

_NOTICES = f"""
INSERT INTO waiting (region, type, id, since, subject)
SELECT region, type, id, (facts #>> '{{way,submission,received_at}}')::timestamptz,
    left(facts #>> '{{way,subject}}', 300)
FROM (SELECT region, type, id, convert_from(facts, 'UTF8')::json AS facts FROM notice_status WHERE {_WITHOUT_ZERO}) AS n
WHERE facts #>> '{{way,submission,received_at}}' IS NOT NULL AND facts #>> '{{way,opened}}' IS NULL
    AND facts #>> '{{way,decision}}' IS NULL AND facts #>> '{{closed}}' IS NULL
    AND facts #>> '{{way,dead_submission}}' IS NULL AND facts #>> '{{way,dead_case}}' IS NULL"""  # noqa: S608 - constants

_WITHDRAWALS = f"""
INSERT INTO waiting (region, type, id, since, subject)
SELECT region, 'withdrawal', item_id, (facts #>> '{{withdrawal,at}}')::timestamptz, left(facts #>> '{{subject}}', 300)
FROM (
    SELECT region, item_id, convert_from(facts, 'UTF8')::json AS facts
    FROM item_by_status JOIN item_status USING (region, item_id)
    WHERE item_by_status.status = 'in_review' AND {_WITHOUT_ZERO}
) AS i WHERE facts #>> '{{withdrawal,at}}' IS NOT NULL"""  # noqa: S608 - constants


def upgrade() -> None:
    """Create the table and its rows."""
    op.execute("LOCK TABLE item_status, notice_status IN SHARE MODE")  # no facts may change meanwhile
    op.create_table(
        "waiting",
        sa.Column("region", _PLAIN, primary_key=True),
        sa.Column("type", _PLAIN, primary_key=True),
        sa.Column("id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("since", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("subject", _PLAIN, nullable=False),
    )
    op.create_index("waiting_since", "waiting", ["region", "since", "id"])
    op.execute(_NOTICES)
    op.execute(_WITHDRAWALS)
    # a table with many deletions is vacuumed by the number of dead rows, not by their share
    op.execute("ALTER TABLE waiting SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)")


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("waiting")
