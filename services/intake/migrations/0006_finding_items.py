"""Lists of items by subject, time, client's reference and status.

The tables are filled from the stored facts, which takes about a minute for a million items. Meanwhile items are
accepted and their status can be read, but the projection waits. PostgreSQL stores no U+0000: an item with this
character, which intake itself does not accept, is in no list.
"""

import sqlalchemy as sa
from alembic import op

revision = "intake_0006"
down_revision = "intake_0005"
branch_labels = None
depends_on = None

_PLAIN = sa.Text(collation="C")  # compared by bytes, which makes indexes cheaper than a language's order
_FILL = r"""
INSERT INTO item_found (region, received_at, item_id, subject, client, reference)
SELECT region, (submission ->> 'received_at')::timestamptz, item_id, left(facts ->> 'subject', 300),
    left(submission ->> 'client', 200), left(coalesce(submission ->> 'reference', ''), 200)
FROM (
    SELECT region, item_id, facts, facts -> 'submission' AS submission
    FROM (SELECT region, item_id, convert_from(facts, 'UTF8')::json AS facts FROM item_status
          WHERE position('\x5c7530303030'::bytea IN facts) = 0) AS decoded
) AS known
WHERE submission IS NOT NULL"""


def upgrade() -> None:
    op.execute("LOCK TABLE item_status IN SHARE MODE")  # no facts may change between the two statements below
    op.create_table(
        "item_found",
        sa.Column("region", _PLAIN, nullable=False),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("item_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("subject", _PLAIN, nullable=False),
        sa.Column("client", _PLAIN, nullable=False),
        sa.Column("reference", _PLAIN, nullable=False),
    )
    op.execute(_FILL)
    op.create_primary_key("item_found_pkey", "item_found", ["region", "received_at", "item_id"])
    op.create_index("item_found_subject", "item_found", ["region", "subject", "received_at", "item_id"])
    op.create_index(
        "item_found_reference",
        "item_found",
        ["region", "client", "reference", "received_at", "item_id"],
        postgresql_where=sa.text("reference <> ''"),
    )
    op.create_table(
        "item_by_status",
        sa.Column("region", _PLAIN, primary_key=True),
        sa.Column("status", _PLAIN, primary_key=True),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), primary_key=True),
        sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("subject", _PLAIN, nullable=False),
    )
    op.execute(
        "INSERT INTO item_by_status (region, status, received_at, item_id, subject)"
        " SELECT f.region, s.status, f.received_at, f.item_id, f.subject"
        " FROM item_found AS f JOIN item_status AS s USING (region, item_id) WHERE s.status <> 'approved'"
    )
    # a table with many deletions is vacuumed by the number of dead rows, not by their share
    op.execute(
        "ALTER TABLE item_by_status SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)"
    )


def downgrade() -> None:
    op.drop_table("item_by_status")
    op.drop_table("item_found")
