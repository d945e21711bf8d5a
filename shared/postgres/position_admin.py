"""An operator's changes of stored positions, beside the running service, which notices them within seconds.

A change takes the table's lock first, so no move of the service is in progress meanwhile. A move that started from the
earlier position then finds another one, and its transaction is rolled back.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import asyncpg
from aiokafka import TopicPartition

from shared.kafka.gaps import DELETED, Gap
from shared.kafka.stored_positions import StoredPosition
from shared.postgres.database import Connection, Database
from shared.postgres.positions import NO_ROW, READ_ALL, stored_position
from shared.runtime.errors import Transient
from shared.runtime.user_errors import UserError

_DELETE: Final = "DELETE FROM positions WHERE consumer_group = $1 AND topic = $2 AND partition = $3"

_INSERT: Final = f"""
INSERT INTO positions (consumer_group, topic, partition, expected, position) VALUES ($1, $2, $3, {NO_ROW}, $4)"""  # noqa: S608 - a constant

_SET_SOURCE: Final = """
UPDATE sources SET topic_id = $4, gap_reason = $5, gap_first = $6, gap_end = $7, behind_until = $8
WHERE consumer_group = $1 AND topic = $2 AND partition = $3"""


class GroupPosition(NamedTuple):
    """The stored position of a group in a partition."""

    group: str
    partition: TopicPartition
    stored: StoredPosition


@asynccontextmanager
async def database(url: str) -> AsyncIterator[Connection]:
    """A connection to a service's database; raises UserError."""
    try:
        opened = await Database.connect(url, connections=1)
    except (Transient, ValueError, asyncpg.PostgresError) as error:
        raise UserError(f"The database does not accept a connection: {error}.", "Check --database.") from error
    try:
        async with opened.held() as connection:
            yield connection
    except Transient as error:
        what_to_do = "Name the database of the service of this group with --database, and start the service once."
        raise UserError(f"The positions cannot be read: {error}.", what_to_do) from error
    finally:
        await opened.close()


async def positions_of(connection: Connection) -> list[GroupPosition]:
    """All stored positions of a database."""
    return [
        GroupPosition(row["consumer_group"], TopicPartition(row["topic"], row["partition"]), stored_position(row))
        for row in await connection.fetch(READ_ALL)
    ]


async def accept_loss(connection: Connection, group: str, tp: TopicPartition, gap: Gap, topic_id: str) -> None:
    """Let the group continue after the missing records of `gap`, in the topic with this id.

    `gap` is the stored gap, or the first part of the stored gap of deleted records. Raises UserError for any other one.
    """
    async with connection.transaction():
        found = await _locked(connection, group)
        check_loss(found.get(tp), group, tp, gap)
        await _set(connection, group, {tp: StoredPosition(gap.start_after_loss, topic_id)})


async def start_behind_deleted(
    connection: Connection, group: str, positions: Mapping[TopicPartition, StoredPosition]
) -> None:
    """Store the first positions of a group that has never handled a record of these partitions.

    Raises UserError if it has.
    """
    async with connection.transaction():
        check_is_new(group, {tp: at for tp, at in (await _locked(connection, group)).items() if tp in positions})
        await _set(connection, group, positions)


async def reset(connection: Connection, group: str, starts: Mapping[TopicPartition, int]) -> None:
    """Let the group handle all records of these partitions again, from the start of the log.

    A position below the start stays: its gap is reported, not hidden.
    """
    async with connection.transaction():
        found = await _locked(connection, group)
        first = {tp: min(starts[tp], stored.position) for tp, stored in found.items() if tp in starts}
        until = {tp: max(found[tp].position, abs(found[tp].behind_until or 0)) for tp in first}
        await _set(
            connection,
            group,
            {tp: found[tp]._replace(position=at, behind_until=-until[tp] or None) for tp, at in first.items()},
        )


def check_is_new(group: str, stored: Mapping[TopicPartition, StoredPosition]) -> None:
    """Check that the group has handled no record of these partitions; raises UserError."""
    for tp, at in stored.items():
        is_new = at.position == 0 and (at.gap is None or at.gap.reason == DELETED)
        if not is_new:
            raise UserError(
                f"{group} has a position in {tp.topic}[{tp.partition}]: {at.position}.",
                "A group that has handled records loses the missing ones: accept each range that `piepowder positions"
                " show` lists, with `piepowder positions accept-loss`.",
            )


def check_loss(stored: StoredPosition | None, group: str, tp: TopicPartition, gap: Gap) -> None:
    """Check that `gap` is what is missing; raises UserError."""
    place = f"{tp.topic}[{tp.partition}]"
    if stored is None:
        raise UserError(f"{group} has no position in {place}.", "Compare the names with `piepowder positions show`.")
    if stored.gap is None:
        raise UserError(
            f"{group} has reported no missing record of {place} at present.",
            "Look again in ten seconds with `piepowder positions show`: a service needs some seconds to notice one.",
        )
    is_part = (
        stored.gap.reason == gap.reason == DELETED
        and stored.gap.first == gap.first
        and gap.first < (gap.end or 0) <= (stored.gap.end or 0)
    )
    if stored.gap != gap and not is_part:
        end = "unknown" if stored.gap.end is None else str(stored.gap.end - 1)
        raise UserError(
            f"Other records are missing: {stored.gap.describe(tp)}.",
            f"If this loss is acceptable, name it: {stored.gap.first} {end}.",
        )


async def _locked(connection: Connection, group: str) -> dict[TopicPartition, StoredPosition]:
    await connection.execute("LOCK TABLE positions, sources IN SHARE ROW EXCLUSIVE MODE")
    return {each.partition: each.stored for each in await positions_of(connection) if each.group == group}


async def _set(connection: Connection, group: str, positions: Mapping[TopicPartition, StoredPosition]) -> None:
    sources: Sequence[tuple[object, ...]] = [
        (group, *tp, stored.topic_id, *(stored.gap or (None, None, None)), stored.behind_until)
        for tp, stored in positions.items()
    ]
    await connection.executemany(_DELETE, [(group, *tp) for tp in positions])
    await connection.executemany(_INSERT, [(group, *tp, stored.position) for tp, stored in positions.items()])
    await connection.executemany(_SET_SOURCE, sources)
