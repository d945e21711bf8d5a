"""Stored positions: the port to the positions in a service's database, and the moves of a batch.

A position is changed in the transaction of the effects by compare-and-set: a member that lost its partitions, or whose
database was restored, gets PositionChangedError and cannot store an effect twice. A position moves only past records
that are handled or dead-lettered.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from aiokafka import TopicPartition

from shared.kafka.gaps import Gap
from shared.kafka.records import RawRecord


class Move(NamedTuple):
    """A partition's position moves from `expected` to `next`."""

    topic: str
    partition: int
    expected: int
    next: int


class Moves(NamedTuple):
    """The moves of a group in one transaction; `prune` asks the store to delete outdated rows, too."""

    group: str
    moves: Sequence[Move]
    prune: bool = False


NO_MOVES: Final = Moves("", ())


class PositionChangedError(Exception):
    """The stored position is not the expected one: roll back the transaction, and read the positions again."""


class StoredPosition(NamedTuple):
    """The row of a partition in a store. `position` is the offset of the next record of the topic with `topic_id`.

    `behind_until`: the store was restored from a backup, and the group had handled the records up to this offset
    before. A negative offset: an operator lets the group handle the records up to this offset again, without a report.
    """

    position: int
    topic_id: str
    gap: Gap | None = None
    behind_until: int | None = None

    def rereads(self, offset: int) -> bool:
        """True if an operator lets the group handle the records before this offset again."""
        return -(self.behind_until or 0) >= offset


class PositionStore(Protocol):
    """Positions in a service's database; every method raises Transient when the database does not respond."""

    async def read(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, StoredPosition]: ...

    async def save(self, group: str, changed: Mapping[TopicPartition, StoredPosition]) -> None:
        """Store everything about these partitions, and the position itself only where none is stored."""
        ...

    async def advance(self, moves: Moves) -> None:
        """Store these moves in a transaction of their own; raises PositionChangedError."""
        ...


class BatchProgress:
    """The part of a batch that is durable. A position moves only past records that are handled or dead-lettered."""

    def __init__(
        self,
        group: str,
        records: Mapping[TopicPartition, Sequence[RawRecord]],
        following: Mapping[TopicPartition, int],
        expected: Mapping[TopicPartition, int],
    ) -> None:
        self._group = group
        self._size = sum(map(len, records.values()))
        self._records = records
        self._open: dict[TopicPartition, dict[int, None]] | None = None  # only for a batch with several transactions
        self._following = following
        self._at = dict(expected)

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """The stored positions, after the moves so far."""
        return self._at

    def after(self, handled: Sequence[RawRecord], *, prune: bool = False) -> Moves:
        """The moves of a transaction with the effects of these records."""
        if len(handled) == self._size:
            return self._to(self._following.items(), prune=prune)
        done: defaultdict[TopicPartition, set[int]] = defaultdict(set)
        for record in handled:
            done[TopicPartition(record.topic, record.partition)].add(record.offset)
        ends, still_open = [], self._open_offsets()
        for tp, offsets in done.items():
            first_open = next((offset for offset in still_open[tp] if offset not in offsets), None)
            ends.append((tp, self._following[tp] if first_open is None else first_open))
        return self._to(ends, prune=prune)

    def of_part(
        self, records: Mapping[TopicPartition, Sequence[RawRecord]], following: Mapping[TopicPartition, int]
    ) -> "BatchProgress":
        """The progress of a part of the batch that is processed again, from the positions that are stored so far."""
        return BatchProgress(self._group, records, following, self._at)

    def rest(self) -> Moves:
        """The moves to the end of the batch, after all of its records are handled or dead-lettered."""
        return self._to(self._following.items())

    def done(self, handled: Sequence[RawRecord], moves: Moves) -> None:
        """Note that these records and moves are durable."""
        if len(handled) < self._size:
            still_open = self._open_offsets()
            for record in handled:
                del still_open[TopicPartition(record.topic, record.partition)][record.offset]
        for move in moves.moves:
            self._at[TopicPartition(move.topic, move.partition)] = move.next

    def _open_offsets(self) -> dict[TopicPartition, dict[int, None]]:
        """The offsets of the records that are not durable yet, in order."""
        if self._open is None:
            self._open = {tp: dict.fromkeys(record.offset for record in of) for tp, of in self._records.items()}
        return self._open

    def _to(self, ends: Iterable[tuple[TopicPartition, int]], *, prune: bool = False) -> Moves:
        at = self._at
        moves = sorted(Move(tp.topic, tp.partition, at[tp], end) for tp, end in ends if end > at[tp])
        return Moves(self._group, moves, prune)
