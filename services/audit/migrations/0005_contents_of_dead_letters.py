"""A hash of each dead-lettered record: a topic that was created again has other records at the same positions.

Dead letters of an older release have none, and are equal to any at their position.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PLACE = ["topic", "partition", "offset", "consumer_group"]
_FORMER = "deadletters_topic_partition_offset_consumer_group_key"


def upgrade() -> None:
    op.add_column("deadletters", sa.Column("content", sa.LargeBinary))
    op.create_unique_constraint("deadletters_identity", "deadletters", [*_PLACE, "content"])
    op.drop_constraint(_FORMER, "deadletters")


def downgrade() -> None:
    op.create_unique_constraint(_FORMER, "deadletters", _PLACE)
    op.drop_constraint("deadletters_identity", "deadletters")
    op.drop_column("deadletters", "content")
