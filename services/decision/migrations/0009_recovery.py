"""The state of the recovery after a restore, and events of cases that the database does not have.

`read_for` and `opened_for` are identities of databases: in a restored copy of this row they are those of the original.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        CREATE TABLE recovery (
            only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
            incarnation bigint NOT NULL DEFAULT 0,
            is_incomplete boolean NOT NULL DEFAULT false,
            read_for text,
            opened_for text,
            ends jsonb NOT NULL DEFAULT '{}'
        )
        """
    )
    op.execute("INSERT INTO recovery DEFAULT VALUES")
    op.execute(
        """
        CREATE TABLE events_without_case (
            event_id uuid PRIMARY KEY,
            case_id uuid NOT NULL,
            n bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
            at timestamptz NOT NULL,
            event_type text NOT NULL,
            data bytea NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX events_of_cases ON events_without_case (case_id, n)")


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE events_without_case")
    op.execute("DROP TABLE recovery")
