"""The latest Request-Times of each client for a subject, as JSON; NULL where the newest version says all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subjects", sa.Column("request_times", sa.Text))


def downgrade() -> None:
    op.drop_column("subjects", "request_times")
