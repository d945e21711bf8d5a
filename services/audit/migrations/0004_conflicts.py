"""Conflicts: events with the id of an earlier event and other values."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("log", sa.Column("conflicts_with", sa.UUID(as_uuid=False)))
    op.create_index("log_conflicts", "log", ["conflicts_with"], postgresql_where=sa.text("conflicts_with IS NOT NULL"))


def downgrade() -> None:
    op.drop_column("log", "conflicts_with")
