"""Positions of consumer groups: shows them, sets the first ones, sets them back, and accepts the loss of records.

A service with a database has its positions there, and notices a change within seconds. The router has none: its
positions are the offsets that its group has committed, which Kafka changes only while the group has no member.
"""

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from piepowder import console_output
from piepowder.hints import command as runnable_command
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, encode, subject_of
from shared.contracts.events import LOSS_ACCEPTED, LossAccepted
from shared.kafka.client_protocol import committed_offsets, topic_ids
from shared.kafka.closing import close
from shared.kafka.gaps import DELETED, RECREATED, Gap, missing_records
from shared.kafka.offsets import CommittedOffset
from shared.kafka.producer import KafkaProducer, record
from shared.kafka.stored_positions import StoredPosition
from shared.postgres import position_admin
from shared.postgres.position_admin import GroupPosition
from shared.runtime.clock import SystemClock, to_text
from shared.runtime.passwords import without_password
from shared.runtime.user_errors import UserError, cause

SOURCE: Final = "piepowder/command"
_CLIENT: Final = "piepowder-positions"
_ROUTER: Final = "piepowder-router-"
_clock = SystemClock()


def is_in_kafka(group: str) -> bool:
    """True if the group's positions are its committed offsets."""
    return group.startswith(_ROUTER)


async def find(bootstrap: str, *, database: str | None, group: str | None) -> list[GroupPosition]:
    """The positions in a database, or of a group without one; raises UserError."""
    if group is not None and is_in_kafka(group):
        async with _Cluster.connected(bootstrap, group) as cluster:
            return await cluster.positions_of_router()
    async with position_admin.database(_required(database, group)) as connection:
        return [each for each in await position_admin.positions_of(connection) if group in (None, each.group)]


async def show(bootstrap: str, found: Sequence[GroupPosition], *, database: str | None = None) -> bool:
    """Show positions beside the ends of their partitions; True if no record is missing.

    The commands that it advises name `database`, without its password.
    """
    async with _Cluster.connected(bootstrap) as cluster:
        ends = await cluster.ends([each.partition for each in found])
    table = console_output.table("group", "topic", "partition", "position", "end", "behind", right=4)
    for group, tp, stored in found:
        end = ends.get(tp)
        behind = "" if end is None else str(max(0, end - stored.position))
        table.add_row(group, tp.topic, str(tp.partition), str(stored.position), str(end or ""), behind)
    console_output.console.print(table)
    gaps = [each for each in found if each.stored.gap is not None]
    named = "" if database is None else f" --database {shlex.quote(without_password(database))}"
    for group, tp, stored in gaps:
        assert stored.gap is not None  # noqa: S101 - filtered above
        console_output.show(f"{group}: {stored.gap.describe(tp)}", "red")
        last = "unknown" if stored.gap.end is None else stored.gap.end - 1
        lost = f"{group} {tp.topic} {tp.partition} {stored.gap.first} {last}"
        console_output.show(f"  to accept this loss: {runnable_command(f'positions accept-loss {lost}{named}')}")
    for group in sorted({each.group for each in gaps}):
        if all(_is_of_new_group(each.stored) for each in gaps if each.group == group):
            start = runnable_command(f"positions init {group}{named}")
            console_output.show(f"  if {group} is new, to start it: {start}")
    if gaps and database is not None and without_password(database) != database:
        console_output.show("The password is not shown: set PGPASSWORD, or add it to the URL of the database.")
    return not gaps


def _is_of_new_group(stored: StoredPosition) -> bool:
    return stored.position == 0 and stored.gap is not None and stored.gap.reason == DELETED


async def accept_loss(
    bootstrap: str,
    *,
    database: str | None,
    group: str,
    tp: TopicPartition,
    first: int,
    last: int | None,
    by: str,
    note: str,
) -> int:
    """Let a group continue after missing records, after an event says so; returns its new position.

    Raises UserError if other records are missing, and Transient when Kafka does not respond.
    """
    async with _Cluster.connected(bootstrap, group if is_in_kafka(group) else None) as cluster:
        topic_id = (await cluster.topic_ids([tp.topic])).get(tp.topic)
        if topic_id is None:
            raise UserError(f"The topic {tp.topic} does not exist.", "Create it with `piepowder topics`.")
        found = await find(bootstrap, database=database, group=group)
        known = next((each.stored for each in found if each.partition == tp), None)
        reason = known.gap.reason if known is not None and known.gap is not None else DELETED
        gap = Gap(reason, first, None if last is None else last + 1)
        position_admin.check_loss(known, group, tp, gap)
        if is_in_kafka(group):
            await cluster.require_no_member([tp])
        await _publish(bootstrap, _loss(group, tp, gap, topic_id, by=by, note=note))
        if is_in_kafka(group):
            await cluster.commit({tp: OffsetAndMetadata(gap.start_after_loss, topic_id)})
        else:
            async with position_admin.database(_required(database, group)) as connection:
                await position_admin.accept_loss(connection, group, tp, gap, topic_id)
    return gap.start_after_loss


async def init(bootstrap: str, *, database: str | None, group: str, by: str, note: str) -> dict[TopicPartition, int]:
    """Let a new group start at the first record that its topics still have, after events say so.

    Returns the positions of the partitions that have lost records; the others start at 0 anyway. Raises UserError if
    the group has handled a record of one of these partitions, and Transient when Kafka does not respond.
    """
    found = {each.partition: each.stored for each in await find(bootstrap, database=database, group=group)}
    if not found:
        raise UserError(f"{group} is not known.", "Check its name, and start its service once.")
    async with _Cluster.connected(bootstrap, group) as cluster:
        ids_now, starts = await cluster.topic_ids(sorted({tp.topic for tp in found})), await cluster.starts(list(found))
        new = {tp: StoredPosition(start, ids_now[tp.topic]) for tp, start in sorted(starts.items()) if start > 0}
        position_admin.check_is_new(group, {tp: found[tp] for tp in new})
        for tp, committed in (await cluster.committed(list(new))).items():
            if (highest := CommittedOffset.of(committed).highest) > 0:
                raise UserError(
                    f"{group} is not new: it has committed offset {highest} of {tp.topic}[{tp.partition}].",
                    "Its database is empty or was restored: see docs/runbooks/missing-records.md.",
                )
        if new and is_in_kafka(group):
            await cluster.require_no_member(list(new))
        for tp, at in new.items():
            gap = Gap(DELETED, 0, at.position)
            await _publish(bootstrap, _loss(group, tp, gap, at.topic_id, by=by, note=note))
        if is_in_kafka(group):
            await cluster.commit({tp: OffsetAndMetadata(at.position, at.topic_id) for tp, at in new.items()})
        else:
            async with position_admin.database(_required(database, group)) as connection:
                await position_admin.start_behind_deleted(connection, group, new)
    return {tp: at.position for tp, at in new.items()}


def _loss(group: str, tp: TopicPartition, gap: Gap, topic_id: str, *, by: str, note: str) -> LossAccepted:
    return LossAccepted(
        group=group,
        topic=tp.topic,
        topic_id=topic_id,
        partition=tp.partition,
        reason=gap.reason,
        first=gap.first,
        last=None if gap.end is None else gap.end - 1,
        continues_at=gap.start_after_loss,
        by=by,
        note=note,
    )


async def reset(bootstrap: str, *, database: str | None, group: str, topic: str | None = None) -> int:
    """Let a group handle all records again, of one topic or of all; returns the number of partitions."""
    found = await find(bootstrap, database=database, group=group)
    places = [each.partition for each in found if topic in (None, each.partition.topic)]
    if not places:
        raise UserError(f"{group} has no positions there.", "Compare the names with `piepowder positions show`.")
    async with _Cluster.connected(bootstrap, group if is_in_kafka(group) else None) as cluster:
        starts = await cluster.starts(places)
        if is_in_kafka(group):
            known = {each.partition: each.stored for each in found}
            await cluster.commit(
                {tp: OffsetAndMetadata(min(starts[tp], known[tp].position), known[tp].topic_id) for tp in places}
            )
        else:
            async with position_admin.database(_required(database, group)) as connection:
                await position_admin.reset(connection, group, starts)
    return len(places)


class _Cluster:
    def __init__(self, bootstrap: str, consumer: AIOKafkaConsumer) -> None:
        self._bootstrap = bootstrap
        self._consumer = consumer

    @classmethod
    @asynccontextmanager
    async def connected(cls, bootstrap: str, group: str | None = None) -> AsyncIterator["_Cluster"]:
        """A connection, for a group that has no member if it is given; raises UserError when Kafka does not respond."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, client_id=_CLIENT, group_id=group, enable_auto_commit=False
        )
        try:
            await consumer.start()
            yield cls(bootstrap, consumer)
        except (KafkaError, OSError) as error:
            raise UserError(f"Kafka at {bootstrap} does not respond: {cause(error)}.", "Check --kafka.") from error
        finally:
            await close(consumer)

    async def topic_ids(self, names: Sequence[str]) -> Mapping[str, str]:
        return await topic_ids(self._consumer, names)

    async def ends(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(await self._existing(partitions))
        return found

    async def starts(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        found: dict[TopicPartition, int] = await self._consumer.beginning_offsets(await self._existing(partitions))
        return found

    async def positions_of_router(self) -> list[GroupPosition]:
        """The committed offsets of the connection's group, with the records that are missing."""
        group = self._consumer._group_id
        topic = topics.submissions(group.removeprefix(_ROUTER))
        known = await topic_ids(self._consumer, [topic])
        if topic not in known:
            raise UserError(f"The topic {topic} does not exist.", "Check the name of the group.")
        places = await self._partitions(topic)
        self._assign(places)
        committed = await committed_offsets(self._consumer, places)
        starts, ends = await self.starts(places), await self.ends(places)
        found = []
        for tp in places:
            offset = committed.get(tp, OffsetAndMetadata(0, known[topic]))
            topic_id = CommittedOffset.of(offset).topic_id or known[topic]
            gap = missing_records(offset.offset, starts[tp], ends[tp])
            if topic_id != known[topic]:
                gap = Gap(RECREATED, offset.offset, None)
            found.append(GroupPosition(group, tp, StoredPosition(offset.offset, topic_id, gap)))
        return found

    async def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """The committed offsets of the connection's group."""
        return await committed_offsets(self._consumer, partitions)

    async def require_no_member(self, partitions: Sequence[TopicPartition]) -> None:
        """Check that the group has no member, by repeating its committed offsets; raises UserError."""
        committed = await committed_offsets(self._consumer, partitions)
        await self.commit({tp: committed.get(tp, OffsetAndMetadata(0, "")) for tp in partitions})

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self._assign(list(offsets))
        try:
            await self._consumer.commit(dict(offsets))
        except KafkaError as error:
            raise UserError(
                f"Kafka refuses to change the offsets of {self._consumer._group_id}: {cause(error)}.",
                "Stop all of its members, wait 15 seconds, and repeat the command.",
            ) from error

    def _assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Assign partitions if others are assigned: a replaced assignment ends the client's coordinator."""
        if self._consumer.assignment() != set(partitions):
            self._consumer.assign(partitions)

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, client_id=_CLIENT)
        try:
            await admin.start()
            [described] = await admin.describe_topics([topic])
        finally:
            await close(admin)
        return [TopicPartition(topic, n) for n in sorted(each["partition"] for each in described["partitions"])]

    async def _existing(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        known = await topic_ids(self._consumer, sorted({tp.topic for tp in partitions}))
        return [tp for tp in partitions if tp.topic in known]


async def _publish(bootstrap: str, loss: LossAccepted) -> None:
    """Publish the event, with an id that a repetition of the command derives again."""
    about = f"{loss.group}/{loss.topic}/{loss.partition}/{loss.topic_id}/{loss.first}-{loss.last}"
    event_id, region = ids.event_id(about, LOSS_ACCEPTED), _region_of(loss.group, loss.topic)
    subject = subject_of("piepowder", "group", loss.group)
    attributes = Attributes(event_id, LOSS_ACCEPTED, SOURCE, to_text(_clock.now()), subject, region, event_id)
    producer = KafkaProducer(bootstrap, client_id=_CLIENT)
    try:
        await producer.start()
        await producer.send([record(topics.access(region), encode(attributes, loss))])
    finally:
        await producer.stop()


def _region_of(group: str, topic: str) -> str:
    """The region of the event: that of the topic, or of the group for the control topic."""
    return group.removeprefix("piepowder-audit-") if topic == topics.CONTROL else topic.split(".", 2)[2]


def _required(database: str | None, group: str | None) -> str:
    if database is None:
        what = "A service" if group is None else f"The service of {group}"
        raise UserError(
            f"{what} keeps its positions in its database, which is not named.",
            "Name it with --database or PIEPOWDER_DATABASE_URL; for the router, name its group instead.",
        )
    return database
