"""Platforms of clients. Existing clients act for all platforms, and so do clients that an older release creates during
the upgrade, hence the default."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "intake_0007"
down_revision = "intake_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clients", sa.Column("platforms", ARRAY(sa.Text), nullable=False, server_default="{*}"))


def downgrade() -> None:
    op.drop_column("clients", "platforms")
