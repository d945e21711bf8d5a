"""The status of items by region, totals, and the progress of the projection."""

import sqlalchemy as sa
from alembic import op

revision = "intake_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "item_status",
        sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("facts", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "item_totals",
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("items", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "projection_progress",
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("handled_until", sa.TIMESTAMP(timezone=True), nullable=False),
    )
    for table, filled in (("item_status", 80), ("item_totals", 50), ("projection_progress", 50)):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {filled})")  # room for updates in place


def downgrade() -> None:
    op.drop_table("projection_progress")
    op.drop_table("item_totals")
    op.drop_table("item_status")
