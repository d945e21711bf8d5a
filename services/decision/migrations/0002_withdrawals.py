"""The state `withdrawn`, and the withdrawals whose case has not arrived yet."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BEFORE = ("waiting", "claimed", "decided", "superseded")


def upgrade() -> None:
    """Allow the new state."""
    _allow(*_BEFORE, "withdrawn")
    op.create_table("withdrawals", sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True))


def downgrade() -> None:
    """Remove the state; fails while a case has it."""
    op.drop_table("withdrawals")
    _allow(*_BEFORE)


def _allow(*states: str) -> None:
    op.drop_constraint("cases_state", "cases")
    op.create_check_constraint("cases_state", "cases", sa.column("state").in_(states))
