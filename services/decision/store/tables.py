"""The tables of the decision service."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from shared.postgres import outbox, positions

METADATA: Final = sa.MetaData()

CASES: Final = sa.Table(
    "cases",
    METADATA,
    sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("subject", sa.Text(collation="C"), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("correlation_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("superseded_by", sa.UUID(as_uuid=False)),
    sa.Column("lease_token", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    sa.Column("reviewer", sa.Text, nullable=False, server_default=""),
    sa.Column("team", sa.Text, nullable=False, server_default=""),
    sa.Column("claim_key", sa.UUID(as_uuid=False)),
    sa.Column("claim_body", sa.Text),
    sa.Column("opened", sa.LargeBinary, nullable=False),
    sa.Column("appealed_case", sa.UUID(as_uuid=False)),
    sa.Column("not_by", sa.Text),
    sa.Column("claim_client", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint(
        "state IN ('waiting', 'claimed', 'decided', 'superseded', 'withdrawn', 'closed')", name="cases_state"
    ),
    sa.Index("cases_waiting", "queue", "priority", "due_at", "case_id", postgresql_where=sa.text("state = 'waiting'")),
    sa.Index("cases_claimed", "queue", "priority", "due_at", "case_id", postgresql_where=sa.text("state = 'claimed'")),
    sa.Index("cases_leases", "lease_until", postgresql_where=sa.text("state = 'claimed'")),
    sa.Index("cases_claim_keys", "claim_key", unique=True, postgresql_where=sa.text("claim_key IS NOT NULL")),
    sa.Index("cases_of_reviewers", "reviewer", "lease_until", postgresql_where=sa.text("state = 'claimed'")),
    sa.Index("cases_of_clients", "claim_client", "lease_until", postgresql_where=sa.text("state = 'claimed'")),
    sa.Index("cases_of_subjects", "subject", "due_at", "case_id", postgresql_where=sa.text("state = 'decided'")),
    sa.Index("cases_appeals", "appealed_case", postgresql_where=sa.text("appealed_case IS NOT NULL")),
)
DECISIONS: Final = sa.Table(
    "decisions",
    METADATA,
    sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("decision_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("policy_set", sa.Text, nullable=False),
    sa.Column("automated", sa.Boolean, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("lease_token", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
)
SUBJECTS: Final = sa.Table(
    "subjects",
    METADATA,
    sa.Column("subject", sa.Text(collation="C"), primary_key=True),
    sa.Column("case_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("item_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("version", sa.BigInteger),
    sa.Column("client", sa.Text, nullable=False, server_default=""),
    sa.Column("requested_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("request_times", sa.Text),
)
WITHDRAWALS: Final = sa.Table("withdrawals", METADATA, sa.Column("case_id", sa.UUID(as_uuid=False), primary_key=True))
QUEUES: Final = sa.Table("queues", METADATA, sa.Column("queue", sa.Text, primary_key=True))
TALLIES: Final = sa.Table(
    "tallies",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("n", sa.BigInteger, nullable=False),
)
sa.Table(
    "recovery",
    METADATA,
    sa.Column("only_row", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("incarnation", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("is_incomplete", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("read_for", sa.Text),
    sa.Column("opened_for", sa.Text),
    sa.Column("ends", JSONB, nullable=False, server_default="{}"),
    sa.CheckConstraint("only_row", name="recovery_only_row_check"),
)
sa.Table(
    "events_without_case",
    METADATA,
    sa.Column("event_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("case_id", sa.UUID(as_uuid=False), nullable=False),
    sa.Column("n", sa.BigInteger, sa.Identity(always=True), nullable=False),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("events_of_cases", "case_id", "n"),
)
positions.position_tables(METADATA)
outbox.outbox_table(METADATA)

# The hot statements find their rows by key. A plan that was made while a table was small must not scan it later.
SESSION: Final = {"enable_seqscan": "off"}
