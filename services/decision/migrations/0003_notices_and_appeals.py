"""Appeals: the case that an appeal is about, the reviewer who may not decide it, and the state `closed`."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = ("waiting", "claimed", "decided", "superseded", "withdrawn")


def upgrade() -> None:
    """Add the columns and the state of appeals."""
    _allow(*_BEFORE, "closed")
    op.add_column("cases", sa.Column("appealed_case", sa.UUID(as_uuid=False)))
    op.add_column("cases", sa.Column("not_by", sa.Text))
    op.create_index("cases_appeals", "cases", ["appealed_case"], postgresql_where=sa.text("appealed_case IS NOT NULL"))


def downgrade() -> None:
    """Remove the columns and the state; fails while a case is closed."""
    op.drop_column("cases", "not_by")
    op.drop_column("cases", "appealed_case")
    _allow(*_BEFORE)


def _allow(*states: str) -> None:
    op.drop_constraint("cases_state", "cases")
    op.create_check_constraint("cases_state", "cases", sa.column("state").in_(states))
