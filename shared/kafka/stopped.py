"""Stopped partitions: partitions that a member does not read, each with its reasons, while it reads all others.

A partition is stopped when reading on would break a promise and nobody but an operator can decide how to continue. It
is read again when none of its causes is left. `/readyz` names every stopped partition, a metric counts them, and an
alert pages (ADR 37).

The service stays ready, except for missing records: readiness withdraws all of its REST calls and blocks its next
release, and both also concern other topics and regions. A partition with missing records is stopped by
`shared.kafka.positions`, which makes the service not ready.

This module holds no durable state. The Kafka client forgets pauses when partitions are assigned, so `assigned` forgets
the stops too, and the loop derives each cause again before it handles a record of these partitions.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.runtime import metrics
from shared.runtime.readiness import Readiness

log = logging.getLogger(__name__)

_SHOWN: Final = 20  # partitions of a topic with the same reason; the others are counted


class StopCause(StrEnum):
    """The cause of a stopped partition; the label `reason` of the metric."""

    REJECTED = "rejected"
    """Nearly all of the last records of the topic were rejected: an operator decides."""
    PARKED_KEYS = "parked-keys"
    """One more key would have to be parked than the process may hold."""
    MISSING_RECORDS = "missing-records"
    """The group misses records: `shared.kafka.positions` stops the partition."""


class StoppedPartitions:
    """The stopped partitions of one group's member.

    `is_placed`: False for a partition that the positions hold paused, and resume later.
    """

    def __init__(self, group: str, readiness: Readiness, is_placed: Callable[[TopicPartition], bool]) -> None:
        self._group = group
        self._readiness = readiness
        self._is_placed = is_placed
        self._reasons: dict[TopicPartition, dict[StopCause, str]] = {}
        self._counted: set[tuple[str, StopCause]] = set()

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def __contains__(self, tp: object) -> bool:
        return tp in self._reasons

    @property
    def all(self) -> set[TopicPartition]:
        """The partitions that are stopped for any cause."""
        return set(self._reasons)

    def of(self, cause: StopCause) -> set[TopicPartition]:
        """The partitions that are stopped for a cause."""
        return {tp for tp, reasons in self._reasons.items() if cause in reasons}

    def stop(
        self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], cause: StopCause, why: str
    ) -> None:
        """Stop assigned partitions for a cause. `why` tells an operator what happened and what to do."""
        for tp in sorted(partitions):
            if self._reasons.get(tp, {}).get(cause) != why:
                log.error("a partition is stopped", extra={**self._place(tp), "cause": cause, "reason": why})
            self._reasons.setdefault(tp, {})[cause] = why
        self.pause(consumer)
        self._report()

    def resume(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], cause: StopCause) -> None:
        """Remove a cause; a partition without another cause is read again, from its first unhandled record."""
        for tp in sorted(partitions):
            reasons = self._reasons.get(tp, {})
            if reasons.pop(cause, None) is None:
                continue
            log.warning("a stopped partition continues", extra={**self._place(tp), "cause": cause})
            if not reasons:
                del self._reasons[tp]
                if tp in consumer.assignment() and self._is_placed(tp):
                    consumer.resume(tp)
        self._report()

    def pause(self, consumer: AIOKafkaConsumer) -> None:
        """Pause the stopped partitions that are assigned to this member in its client."""
        consumer.pause(*(self._reasons.keys() & consumer.assignment()))

    def assigned(self) -> None:
        """Forget all stops, because the assignment was replaced, or all partitions are placed again."""
        self._reasons = {}
        self._report()

    def _place(self, tp: TopicPartition) -> dict[str, object]:
        return {"group": self._group, "topic": tp.topic, "partition": tp.partition}

    def _report(self) -> None:
        counts = Counter((tp.topic, cause) for tp, reasons in self._reasons.items() for cause in reasons)
        for topic, cause in self._counted | counts.keys():
            metrics.STOPPED_PARTITIONS.labels(self._group, topic, cause).set(counts[topic, cause])
        self._counted |= counts.keys()
        self._readiness.set_stopped(self._group, _describe(self._reasons))


def _describe(reasons: Mapping[TopicPartition, Mapping[StopCause, str]]) -> dict[str, str]:
    """The text of each topic: its stopped partitions by reason."""
    partitions: dict[str, dict[str, list[int]]] = {}
    for tp, causes in sorted(reasons.items()):
        partitions.setdefault(tp.topic, {}).setdefault(" ".join(causes.values()), []).append(tp.partition)
    return {
        topic: " ".join(f"Partition {_numbers(numbers)}: {why}" for why, numbers in found.items())
        for topic, found in partitions.items()
    }


def _numbers(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more
