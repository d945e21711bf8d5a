"""Clients and the hashes of their keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "intake_0003"
down_revision = "intake_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clients",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("regions", ARRAY(sa.Text), nullable=False),
        sa.Column("requests_per_second", sa.Double),
        sa.Column("burst", sa.Integer),
        sa.Column("items_per_second", sa.Double),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("changed_at", sa.TIMESTAMP(timezone=True), nullable=False),
    )
    op.create_table(
        "client_keys",
        sa.Column("client", sa.Text(collation="C"), sa.ForeignKey("clients.name"), primary_key=True),
        sa.Column("key_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("made_with", sa.UUID(as_uuid=False)),
        sa.Column("made_body", sa.Text),
    )


def downgrade() -> None:
    op.drop_table("client_keys")
    op.drop_table("clients")
