"""Missing records of a partition: those between a group's position and the log.

Records are missing when Kafka deleted them before they were read, when the log ends below the position, and when the
topic was deleted and created again. A lower end must be confirmed: a new leader may report one for a moment.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.runtime.clock import Clock

DELETED: Final = "deleted"
TRUNCATED: Final = "truncated"
RECREATED: Final = "recreated"

_RANGE_SECONDS: Final = 5.0  # to read the start and the end of the partitions
_CONFIRM_SECONDS: Final = 2.0
_SHOWN: Final = 3  # partitions in a message


class Gap(NamedTuple):
    """Missing records of a partition: from offset `first` to the one before `end`, which is None if it is unknown."""

    reason: str
    first: int
    end: int | None

    @property
    def start_after_loss(self) -> int:
        """The position of a consumer that accepts the loss."""
        return {DELETED: self.end or 0, TRUNCATED: self.first, RECREATED: 0}[self.reason]

    def describe(self, tp: TopicPartition) -> str:
        """A sentence about the missing records."""
        place = f"{tp.topic}[{tp.partition}]"
        if self.reason == RECREATED:
            return (
                f"{place}: the topic was deleted and created again, and the old records from {self.first} on are"
                " missing if they were not read"
            )
        records = f"the records {self.first} to {(self.end or 0) - 1}"
        if self.reason == TRUNCATED:
            return f"{place}: {records} were read and are no longer in the topic, which ends before them"
        return f"{place}: {records} are missing; they were deleted before they were read"


class SuspectedGaps:
    """Gaps of logs that end below the position, until they are confirmed by a second look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[TopicPartition, float] = {}

    def forget(self) -> None:
        """Forget all partitions."""
        self._since = {}

    def is_unconfirmed(self, tp: TopicPartition, gap: Gap | None, known: Gap | None) -> bool:
        """True for a gap that must be looked at again; `known` is the gap that is stored."""
        if gap is None or gap.reason != TRUNCATED or known == gap:
            self._since.pop(tp, None)
            return False
        now = self._clock.monotonic()
        return now - self._since.setdefault(tp, now) < _CONFIRM_SECONDS


def missing_records(position: int, start: int, end: int) -> Gap | None:
    """The gap of a group at `position` of a log that starts at `start` and ends at `end`."""
    if position < start:
        return Gap(DELETED, position, start)
    if position > end:
        return Gap(TRUNCATED, end, position)
    return None


def describe_gaps(gaps: Mapping[TopicPartition, Gap]) -> str:
    """A text about the missing records of some partitions, for the readiness."""
    texts = [gaps[tp].describe(tp) for tp in sorted(gaps)]
    more = f" (and {len(texts) - _SHOWN} more)" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more + ": see docs/runbooks/missing-records.md"


async def log_ranges(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    """The start and the end of each partition.

    Empty if the brokers do not answer in time. The partitions then start without this check; a fetch reports a wrong
    position anyway.
    """
    try:
        async with asyncio.timeout(_RANGE_SECONDS):
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
    except TimeoutError:
        return {}
    return {tp: (starts[tp], ends[tp]) for tp in partitions}
