"""What the database does on the side: the outbox is vacuumed without pauses, and tables that only grow are looked
through for statistics when they have doubled, not at every tenth.

The hot statements find their rows by key, and the planner scales what it knows by a table's present size.
"""

from alembic import op

from shared.postgres import outbox

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_GROWING = ("cases", "decisions", "subjects", "inbox")


def upgrade() -> None:
    """Set it."""
    op.execute(outbox.STORAGE)
    for table in _GROWING:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_analyze_scale_factor = 1)")


def downgrade() -> None:
    """Leave it to the server's settings again."""
    for table in _GROWING:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_analyze_scale_factor)")
    op.execute("ALTER TABLE outbox RESET (autovacuum_vacuum_cost_delay)")
