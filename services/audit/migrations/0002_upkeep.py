"""Analyze the log when its size has doubled, not after each growth by 10%: queries find its rows by key."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE log SET (autovacuum_analyze_scale_factor = 1)")


def downgrade() -> None:
    op.execute("ALTER TABLE log RESET (autovacuum_analyze_scale_factor)")
