"""Clients' platforms; those that were made before act for every one, as they did. So do those that an intake of before
makes meanwhile, hence the default."""

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
