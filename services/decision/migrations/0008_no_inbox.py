"""No inbox: the key of a case and the id of the event that opened it recognise every repeated event."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the table."""
    op.drop_table("inbox")


def downgrade() -> None:
    """Create the table, empty: the version before also ignores a second opening of a case and a repeated withdrawal."""
    op.create_table("inbox", sa.Column("event_id", sa.UUID(as_uuid=False), primary_key=True))
    op.execute("ALTER TABLE inbox SET (autovacuum_analyze_scale_factor = 1)")
