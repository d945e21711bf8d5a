"""Business requests and their history."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "intake_0004"
down_revision = "intake_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("request_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("drafted_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("sponsor", sa.Text, nullable=False),
        sa.Column("regions", ARRAY(sa.Text), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("drafted", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("change", sa.LargeBinary),
    )
    op.create_index("requests_newest", "requests", ["drafted_at", "request_id"])
    op.create_table(
        "request_steps",
        sa.Column("request_id", sa.UUID(as_uuid=False), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("comment_id", sa.UUID(as_uuid=False), unique=True),
    )
    op.execute(
        "CREATE FUNCTION refuse_change_of_steps() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'table % is only appended to', TG_TABLE_NAME; END $$"
    )
    op.execute(
        "CREATE TRIGGER request_steps_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON request_steps"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_steps()"
    )


def downgrade() -> None:
    op.drop_table("request_steps")
    op.drop_table("requests")
    op.execute("DROP FUNCTION refuse_change_of_steps()")
