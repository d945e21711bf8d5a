"""Vacuum of the outbox without pauses, and fewer statistics runs on tables that only grow: when they have doubled.

The hot statements find their rows by key, and the planner scales its statistics by a table's present size.
"""

from alembic import op

from shared.postgres import outbox

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_GROWING = ("cases", "decisions", "subjects", "inbox")


def upgrade() -> None:
    """Set the storage parameters."""
    op.execute(outbox.STORAGE)
    for table in _GROWING:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_analyze_scale_factor = 1)")


def downgrade() -> None:
    """Reset the storage parameters to the server's settings."""
    for table in _GROWING:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_analyze_scale_factor)")
    op.execute("ALTER TABLE outbox RESET (autovacuum_vacuum_cost_delay)")
