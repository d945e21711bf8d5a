"""The client of a claim, and indexes for the number of open leases of a reviewer and of a client."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the indexes, which contain only claimed cases."""
    op.add_column("cases", sa.Column("claim_client", sa.Text, nullable=False, server_default=""))
    claimed = sa.text("state = 'claimed'")
    op.create_index("cases_of_reviewers", "cases", ["reviewer", "lease_until"], postgresql_where=claimed)
    op.create_index("cases_of_clients", "cases", ["claim_client", "lease_until"], postgresql_where=claimed)


def downgrade() -> None:
    """Remove the indexes and the column."""
    op.drop_index("cases_of_clients", "cases")
    op.drop_index("cases_of_reviewers", "cases")
    op.drop_column("cases", "claim_client")
