"""A stopped partition is paused in the client, named in `/readyz` and counted; the service stays ready."""

from typing import Any

from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from shared.kafka.stopped import StopCause, StoppedPartitions
from shared.runtime.readiness import Readiness

GROUP = "piepowder-router-eu"
TOPIC = "piepowder.submissions.eu"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


class _Client:
    """A Kafka client with two assigned partitions, and the paused ones."""

    def __init__(self) -> None:
        self.paused: set[TopicPartition] = set()
        self.assigned = {FIRST, SECOND}

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def pause(self, *partitions: TopicPartition) -> None:
        assert self.assigned.issuperset(partitions)
        self.paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused.difference_update(partitions)


def _stopped(*, without_position: TopicPartition | None = None) -> tuple[StoppedPartitions, Any, Readiness]:
    readiness = Readiness("test")
    return StoppedPartitions(GROUP, readiness, lambda tp: tp != without_position), _Client(), readiness


def _count(cause: StopCause) -> float | None:
    labels = {"group": GROUP, "topic": TOPIC, "reason": cause}
    return REGISTRY.get_sample_value("piepowder_stopped_partitions", labels)


def test_a_stopped_partition_is_paused_counted_and_named_and_the_service_stays_ready() -> None:
    stopped, client, readiness = _stopped()
    stopped.stop(client, [SECOND], StopCause.REJECTED, "Too many.")
    assert client.paused == {SECOND}
    assert _count(StopCause.REJECTED) == 1
    assert readiness.ready
    assert readiness.stopped == {GROUP: {TOPIC: "Partition 1: Too many."}}
    assert (SECOND in stopped, FIRST in stopped, stopped.of(StopCause.REJECTED)) == (True, False, {SECOND})


def test_a_partition_continues_when_its_last_cause_is_removed() -> None:
    stopped, client, readiness = _stopped()
    stopped.stop(client, [FIRST, SECOND], StopCause.REJECTED, "Too many.")
    stopped.stop(client, [FIRST], StopCause.PARKED_KEYS, "Full.")
    assert readiness.stopped == {GROUP: {TOPIC: "Partition 0: Too many. Full. Partition 1: Too many."}}
    stopped.resume(client, [FIRST, SECOND], StopCause.REJECTED)
    assert client.paused == {FIRST}
    assert (_count(StopCause.REJECTED), _count(StopCause.PARKED_KEYS)) == (0, 1)
    stopped.resume(client, [FIRST], StopCause.PARKED_KEYS)
    assert (client.paused, readiness.stopped, bool(stopped)) == (set(), {}, False)


def test_a_partition_without_a_position_stays_paused_when_its_last_cause_is_removed() -> None:
    stopped, client, _ = _stopped(without_position=FIRST)
    stopped.stop(client, [FIRST, SECOND], StopCause.REJECTED, "Too many.")
    stopped.resume(client, [FIRST, SECOND], StopCause.REJECTED)
    assert (client.paused, bool(stopped)) == ({FIRST}, False)


def test_stops_of_partitions_that_moved_to_another_member_are_no_longer_reported() -> None:
    stopped, client, readiness = _stopped()
    stopped.stop(client, [FIRST], StopCause.REJECTED, "Too many.")
    client.assigned = {SECOND}
    stopped.assigned()
    stopped.pause(client)
    assert (_count(StopCause.REJECTED), readiness.stopped) == (0, {})
