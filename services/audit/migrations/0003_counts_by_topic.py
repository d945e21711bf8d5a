"""Events are counted by their topic too, not by their type alone; what is there is counted once more."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("counts")
    op.create_table(
        "counts",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO counts SELECT topic, type, count(*) FROM log GROUP BY topic, type")


def downgrade() -> None:
    op.drop_table("counts")
    op.create_table(
        "counts",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO counts SELECT type, count(*) FROM log GROUP BY type")
