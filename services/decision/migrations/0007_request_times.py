"""The client and its Request-Time of each subject's newest version, which order posts without version numbers."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subjects", sa.Column("client", sa.Text, nullable=False, server_default=""))
    op.add_column("subjects", sa.Column("requested_at", sa.TIMESTAMP(timezone=True)))


def downgrade() -> None:
    op.drop_column("subjects", "requested_at")
    op.drop_column("subjects", "client")
