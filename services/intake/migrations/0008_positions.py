"""The positions of the consumer groups; at its first start, the service takes them over from Kafka."""

from alembic import op

from shared.postgres import positions

revision = "intake_0008"
down_revision = "intake_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    for statement in positions.SCHEMA:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("sources")
    op.drop_table("positions")
