"""Positions of a consumer: where it starts in each partition.

A consumer with a store (its service's database) keeps its positions in the store, and changes them in the transaction
of the effects by compare-and-set (`shared.kafka.stored_positions`). So a database that is restored from a backup
continues where its own content ends, and a member that lost its partitions cannot store an effect twice. A consumer
without a store starts at the offsets that its group has committed.

No consumer ever chooses another start itself. When the log starts above the position, ends below it, or belongs to
another topic of the same name, records are missing (`shared.kafka.gaps`): the partition stops, all others continue, and
the readiness says which records are missing, until an operator accepts the loss. See
docs/adr/0032-positions-in-the-database.md.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from shared.kafka.client_protocol import refresh_metadata
from shared.kafka.gaps import RECREATED, TRUNCATED, Gap, SuspectedGaps, describe_gaps, log_ranges, missing_records
from shared.kafka.offsets import CommittedOffset
from shared.kafka.records import RawRecord
from shared.kafka.stopped import StopCause
from shared.kafka.stored_positions import BatchProgress, PositionStore, StoredPosition
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.readiness import Readiness

log = logging.getLogger(__name__)

_CHECK_SECONDS: Final = 5.0
_ABSENT_SECONDS: Final = 1.0  # to look again for a topic that this process cannot read
_PRUNE_EACH: Final = 100  # transactions

TopicIds: TypeAlias = Callable[[AIOKafkaConsumer, Collection[str]], Awaitable[Mapping[str, str]]]
CommittedOffsets: TypeAlias = Callable[
    [AIOKafkaConsumer, Collection[TopicPartition]], Awaitable[Mapping[TopicPartition, OffsetAndMetadata]]
]


class Positions:
    """The positions of a group's member in `topics`. Partitions are paused from their assignment until they are placed.

    `stopped`: partitions that stay paused for other reasons when they are placed (`shared.kafka.stopped`).
    """

    def __init__(
        self,
        *,
        group: str,
        topics: Collection[str],
        store: PositionStore | None,
        readiness: Readiness,
        clock: Clock,
        topic_ids: TopicIds,
        committed: CommittedOffsets,
        stopped: Container[TopicPartition] = (),
    ) -> None:
        self._group = group
        self._store = store
        self._readiness = readiness
        self._clock = clock
        self._topic_ids = topic_ids
        self._committed = committed
        self._stopped_otherwise = stopped
        self._condition = f"positions {group}"
        self._subscribed = frozenset(topics)
        self._absent: dict[str, str] = {}  # topics that no member can read, with the reason
        self._is_member = False
        self._assignments = 0
        self._at: dict[TopicPartition, int] = {}
        self._ids: dict[TopicPartition, str] = {}
        self._unplaced: set[TopicPartition] = set()
        self._stopped: dict[TopicPartition, Gap] = {}
        self._behind: dict[TopicPartition, int] = {}
        self._highest: dict[TopicPartition, int] = {}  # see CommittedOffset
        self._suspected = SuspectedGaps(clock)
        self._last: dict[TopicPartition, StoredPosition] = {}  # without a store
        self._checked_at = 0.0
        self._latest_ids: asyncio.Task[Mapping[str, str]] | None = None
        self._transactions = 0
        self._topics: set[str] = set()  # of which the metrics report stopped partitions

    def assigned(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        """Replace the assignment. Does not await: the client delivers records as soon as this call returns control."""
        consumer.pause(*partitions)
        for tp in partitions:
            consumer.seek(tp, 0)  # any offset: it keeps the client from looking for one itself
        self._replace(partitions)
        self._is_member, self._checked_at = True, self._clock.monotonic()

    def forget(self) -> None:
        """Forget the assignment: this process no longer has partitions."""
        self._replace(())
        self._is_member, self._absent = False, {}
        self._report()

    def _replace(self, partitions: Collection[TopicPartition]) -> None:
        self._assignments += 1
        self._at, self._ids, self._stopped, self._behind, self._highest = {}, {}, {}, {}, {}
        self._suspected.forget()
        self._unplaced = set(partitions)
        if self._latest_ids is not None:
            self._latest_ids.cancel()
            self._latest_ids = None

    def is_placed(self, tp: TopicPartition) -> bool:
        """True if the partition starts at a known position, and no records are missing."""
        return tp in self._at

    @property
    def are_placed(self) -> bool:
        """True if every assigned partition is placed or stopped."""
        return not self._unplaced

    @property
    def are_current(self) -> bool:
        """True if no partition is stopped, without a topic, or behind a position that its group had reached."""
        return not (self._unplaced or self._stopped or self._behind or self._absent)

    def check_is_due(self) -> bool:
        """True a few seconds after the last check, and again when Kafka has returned the ids of the topics."""
        if self._latest_ids is not None:
            return self._latest_ids.done()
        seconds = _ABSENT_SECONDS if self._absent else _CHECK_SECONDS
        return self._is_member and self._clock.monotonic() - self._checked_at >= seconds

    async def check(self, consumer: AIOKafkaConsumer) -> bool:
        """Compare topics and store with the positions in memory; True if all partitions must be placed again.

        They differ after an operator's command, after the restore of the database, and after a topic was created again.
        A topic that was deleted has no partitions in an assignment, so the ids of all topics are compared.
        The first call requests the ids of the topics, and returns at once: a broker that hangs must not stop the loop.
        Raises KafkaError and Transient.
        """
        self._checked_at = self._clock.monotonic()
        assignments, expected, latest = self._assignments, dict(self._at), self._latest_ids
        if latest is None:
            topics = self._subscribed | {tp.topic for tp in expected.keys() | self._stopped.keys()}
            self._latest_ids = asyncio.ensure_future(self._topic_ids(consumer, topics))
            self._latest_ids.add_done_callback(lambda read: read.cancelled() or read.exception())
            return False
        self._latest_ids = None
        ids = latest.result()
        self._note_absent(consumer, ids)
        changed = {tp for tp in expected if ids.get(tp.topic) != self._ids.get(tp)}
        if self._store is not None:
            stored = await self._store.read(self._group, expected)
            changed |= {tp for tp, position in expected.items() if tp not in stored or stored[tp].position != position}
        if assignments != self._assignments:
            return False
        if changed:  # all of them, because the records that were read are dropped
            self._displace(consumer, expected)
        self._unplaced |= self._stopped.keys()
        return bool(changed)

    def _note_absent(self, consumer: AIOKafkaConsumer, ids: Mapping[str, str]) -> None:
        """Report topics that do not exist, or that the client does not know yet: the group has no partitions of them,
        so nothing else shows that nobody reads them."""
        absent = {topic: "does not exist" for topic in self._subscribed if topic not in ids}
        new = [topic for topic in self._subscribed & ids.keys() if not consumer.partitions_for_topic(topic)]
        if new:
            absent |= dict.fromkeys(new, "exists, and no partition of it is assigned yet")
            refresh_metadata(consumer)
        if absent != self._absent:
            self._absent = absent
            self._report()

    def displace(self, consumer: AIOKafkaConsumer) -> None:
        """Place all partitions again, because the stored positions are not the expected ones."""
        metrics.POSITIONS_CHANGED.labels(self._group).inc()
        self._displace(consumer, set(self._at))

    def out_of_range(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        """Place these partitions again, because Kafka has no record at their position."""
        self._displace(consumer, {tp for tp in partitions if tp in self._at})

    async def place(self, consumer: AIOKafkaConsumer) -> None:
        """Start each partition that is not placed at its position, or stop it where records are missing.

        Raises KafkaError and Transient; then, and where Kafka's answer must be confirmed, the partitions stay paused
        until the next call.
        """
        assignments, partitions = self._assignments, sorted(self._unplaced & consumer.assignment())
        ids = await self._topic_ids(consumer, {tp.topic for tp in partitions})
        offsets = await self._committed(consumer, partitions)
        committed = {tp: CommittedOffset.of(offset) for tp, offset in offsets.items()}
        if self._store is None:
            stored = self._committed_or_last(committed, partitions)
        else:
            stored = await self._store.read(self._group, partitions)
        ranges = await log_ranges(consumer, [tp for tp in partitions if tp.topic in ids])
        if assignments != self._assignments:
            return
        found = {
            tp: self._found(tp, stored.get(tp), committed.get(tp), ids[tp.topic], ranges.get(tp))
            for tp in partitions
            if tp.topic in ids
        }
        known = {tp: position.gap for tp, position in stored.items()}
        waiting = {tp for tp in found if self._suspected.is_unconfirmed(tp, found[tp].gap, known.get(tp))}
        settled = {tp: position for tp, position in found.items() if tp not in waiting}
        if self._store is not None:
            changed = {tp: position for tp, position in settled.items() if stored.get(tp) != position}
            if changed:
                await self._store.save(self._group, changed)
            if assignments != self._assignments:
                return
        for tp, position in settled.items():
            self._start(consumer, tp, position)
            self._highest[tp] = _highest(position, committed.get(tp), ranges.get(tp))
        self._unplaced -= settled.keys()
        self._checked_at = self._clock.monotonic()
        self._absent = {topic: why for topic, why in self._absent.items() if topic not in ids}
        self._absent |= {tp.topic: "does not exist" for tp in partitions if tp.topic not in ids}
        self._report()
        shown = self.to_commit({tp: p.position for tp, p in settled.items() if p.gap is None})
        changed_offsets = {tp: at for tp, at in shown.items() if at != offsets.get(tp) and (at.offset or tp in offsets)}
        await self._show(consumer, changed_offsets)

    def _committed_or_last(
        self, committed: Mapping[TopicPartition, CommittedOffset], partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, StoredPosition]:
        """The committed offsets. Kafka deletes them with their topic; then the last positions of this process."""
        found = {tp: self._last[tp] for tp in partitions if tp in self._last}
        if unknown := sorted({tp.topic for tp in partitions} - {tp.topic for tp in found.keys() | committed.keys()}):
            log.warning(
                "the group has no offsets of %s and starts at 0: it is new, its offsets have expired, or the topic was"
                " created again (docs/runbooks/missing-records.md)",
                ", ".join(unknown),
                extra={"group": self._group},
            )
        return found | {tp: StoredPosition(at.offset, at.topic_id) for tp, at in committed.items()}

    def report_failure(self, error: Exception) -> None:
        """Report that the positions of the partitions cannot be read; the next successful `place` withdraws it."""
        self._readiness.set(self._condition, f"the positions cannot be read: {error}")

    def batch(
        self, records: Mapping[TopicPartition, Sequence[RawRecord]], following: Mapping[TopicPartition, int]
    ) -> BatchProgress | None:
        """The progress of a batch of the placed partitions; None if one of them is not placed, so that the batch must
        be dropped."""
        if not following.keys() <= self._at.keys():
            return None
        return BatchProgress(self._group, records, following, {tp: self._at[tp] for tp in following})

    def next_prunes(self) -> bool:
        """Count a transaction; True if it is to delete outdated rows."""
        self._transactions += 1
        return self._transactions % _PRUNE_EACH == 0

    def moved(self, positions: Mapping[TopicPartition, int]) -> None:
        """Note the positions after a batch."""
        moved = {tp: position for tp, position in positions.items() if tp in self._at}
        self._at |= moved
        if self._store is None:
            self._last |= {tp: StoredPosition(position, self._ids[tp]) for tp, position in moved.items()}
        if self._behind:
            self._behind = {tp: until for tp, until in self._behind.items() if self._at.get(tp, until) < until}
            self._report()

    def to_commit(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        """The offsets to commit, with the ids of their topics and the highest offsets."""
        return {
            tp: CommittedOffset(offset, self._ids.get(tp, ""), self._highest.get(tp, 0)).to_commit
            for tp, offset in offsets.items()
        }

    def _found(
        self,
        tp: TopicPartition,
        stored: StoredPosition | None,
        committed: CommittedOffset | None,
        topic_id: str,
        known_range: tuple[int, int] | None,
    ) -> StoredPosition:
        """The position of a partition, with its gap if records are missing.

        1. A position is stored: it is valid.
        2. None is stored, and the group's committed offset has no topic id: a version that had no stored positions has
           committed it. The position is this offset; it is taken over once.
        3. None is stored, and the committed offset has a topic id: a version that stores its positions has committed
           it, so the database is older than the offset. The position is 0, as without a committed offset.
        """
        if stored is None:
            is_of_old_version = committed is not None and not committed.topic_id
            stored = StoredPosition(committed.offset if committed is not None and is_of_old_version else 0, topic_id)
        gap, behind_until = stored.gap if self._store is not None else self._stopped.get(tp), stored.behind_until
        if stored.topic_id and stored.topic_id != topic_id:
            gap = Gap(RECREATED, stored.position, None)
        elif gap is None or gap.reason != TRUNCATED:  # a truncated log may grow again, which hides its gap
            gap = None if known_range is None else missing_records(stored.position, *known_range)
        known_id = topic_id if gap is None else stored.topic_id or topic_id
        found = StoredPosition(stored.position, known_id, gap, behind_until)
        if self._store is None or committed is None or committed.topic_id not in ("", topic_id):
            return found
        return found._replace(behind_until=_behind_until(found, committed, known_range))

    def _start(self, consumer: AIOKafkaConsumer, tp: TopicPartition, stored: StoredPosition) -> None:
        if stored.gap is not None:
            if self._stopped.get(tp) != stored.gap:
                log.error("a partition is stopped: %s", stored.gap.describe(tp), extra={"group": self._group})
            self._stopped[tp] = stored.gap
            return
        self._stopped.pop(tp, None)
        self._at[tp], self._ids[tp] = stored.position, stored.topic_id
        if self._store is None:
            self._last[tp] = stored
        if stored.behind_until is not None and stored.behind_until > stored.position:
            self._behind[tp] = stored.behind_until
        else:
            self._behind.pop(tp, None)
        consumer.seek(tp, stored.position)
        if tp not in self._stopped_otherwise:
            consumer.resume(tp)

    def _displace(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        moved = [tp for tp in partitions if tp in consumer.assignment()]
        consumer.pause(*moved)
        for tp in moved:
            self._at.pop(tp, None)
        self._unplaced |= set(moved)

    async def _show(self, consumer: AIOKafkaConsumer, positions: dict[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit stored positions as information for tools that show lag."""
        if self._store is None or not positions:
            return
        try:
            await consumer.commit(positions)
        except KafkaError as error:
            log.info("the group's offsets are committed later: %r", error, extra={"group": self._group})

    def _report(self) -> None:
        problems = [describe_gaps(self._stopped)] if self._stopped else []
        problems += [f"{topic}: the topic {why}" for topic, why in sorted(self._absent.items())]
        if self._behind:
            left = sum(until - self._at.get(tp, until) for tp, until in self._behind.items())
            problems.append(f"the database is older than the group's offsets, and {left} records are handled again")
        self._readiness.set(self._condition, "; ".join(problems) or None)
        self._topics |= {tp.topic for tp in self._unplaced | self._stopped.keys() | self._at.keys()}
        for topic in self._topics:
            stopped = sum(tp.topic == topic for tp in self._stopped)
            metrics.STOPPED_PARTITIONS.labels(self._group, topic, StopCause.MISSING_RECORDS).set(stopped)
        metrics.RECORDS_BEHIND.labels(self._group).set(
            sum(max(0, until - self._at.get(tp, until)) for tp, until in self._behind.items())
        )


def _highest(stored: StoredPosition, committed: CommittedOffset | None, known_range: tuple[int, int] | None) -> int:
    """The highest offset before which the group has handled all records of the topic, as far as it is known.

    It is at most the end of the log: records after it are lost, and are not handled again.
    """
    highest = max(stored.position, abs(stored.behind_until or 0))
    if committed is not None and committed.topic_id == stored.topic_id:
        highest = max(highest, committed.highest)
    return highest if known_range is None else min(highest, known_range[1])


def _behind_until(
    stored: StoredPosition, committed: CommittedOffset, known_range: tuple[int, int] | None
) -> int | None:
    """The offset until which the store is behind, by the offset that the group has committed; None if it is not.

    It stays negative, without a report, as far as the operator's reset reaches: the database may be restored later from
    a backup that contains this reset.
    """
    highest = _highest(stored, committed, known_range)
    if stored.position >= max(highest, committed.offset if not committed.topic_id else 0):
        return None
    if not committed.topic_id or stored.rereads(highest):
        return stored.behind_until
    return highest
