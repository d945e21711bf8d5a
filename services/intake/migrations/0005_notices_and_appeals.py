"""The status of notices and appeals by region, and the case of each decision."""

import sqlalchemy as sa
from alembic import op

revision = "intake_0005"
down_revision = "intake_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice_status",
        sa.Column("id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("decision_id", sa.UUID(as_uuid=False)),
        sa.Column("facts", sa.LargeBinary, nullable=False),
    )
    op.execute("ALTER TABLE notice_status SET (fillfactor = 80)")  # room for updates in place
    op.create_index(
        "notice_status_decision", "notice_status", ["decision_id"], postgresql_where=sa.text("decision_id IS NOT NULL")
    )
    op.create_table(
        "decision_about",
        sa.Column("decision_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("decision_about")
    op.drop_table("notice_status")
