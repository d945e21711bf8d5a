"""Consumer lag: the age of the oldest unhandled record, and the time up to which all records are handled.

The age is computed when the gauge is read, so it also grows while the loop is stuck. A partition may hold new records
since its last poll; after a few seconds the time since that poll counts as age too.
"""

from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.kafka.records import RecordsByPartition
from shared.runtime import metrics
from shared.runtime.clock import Clock

_MAX_POLL_GAP_SECONDS: Final = 5.0  # an idle consumer polls several times a second


class ConsumerLag:
    """Lag of one group's member. All times are milliseconds since the epoch."""

    def __init__(self, group: str, clock: Clock) -> None:
        self._group = group
        self._clock = clock
        self._polled_at: dict[TopicPartition, int] = {}
        self._handled_until: dict[TopicPartition, int] = {}
        self._oldest: dict[TopicPartition, int | None] = {}
        self._topics: set[str] = set()
        self._rewound_at: dict[TopicPartition, int] = {}

    def assigned(self, partitions: set[TopicPartition]) -> None:
        """Replace the assignment."""
        now = self._now_ms()
        self._polled_at = {tp: self._polled_at.get(tp, now) for tp in partitions}
        self._oldest.update(dict.fromkeys(self._oldest.keys() - partitions))
        for tp in partitions:
            self._observe(tp)

    def handled_until(self) -> dict[TopicPartition, int]:
        """The time up to which each assigned partition is handled; empty while it is unknown for one of them."""
        assigned = self._polled_at.keys()
        return {tp: self._handled_until[tp] for tp in assigned} if assigned <= self._handled_until.keys() else {}

    def polled(self, polled_at: dict[TopicPartition, int | None]) -> None:
        """Set the time of each partition's last poll; None before the first one."""
        self._polled_at.update((tp, ms) for tp, ms in polled_at.items() if ms is not None)

    def batch_started(self, batch: RecordsByPartition) -> None:
        """Note that the handler starts to work on these records."""
        for tp, records in batch.items():
            self._observe(tp)
            self._oldest[tp] = records[0].timestamp

    def batch_committed(self, consumer: AIOKafkaConsumer, batch: RecordsByPartition) -> None:
        """Note that the effects of these records are durable, and their offsets are committed."""
        for tp, records in batch.items():
            assigned = tp in consumer.assignment()
            highwater = consumer.highwater(tp) if assigned else None
            behind = highwater is not None and highwater > records[-1].offset + 1
            self._oldest[tp] = records[-1].timestamp if behind else None
            if assigned:
                polled_at = None if behind else consumer.last_poll_timestamp(tp)
                self._handled_until[tp] = records[-1].timestamp if polled_at is None else polled_at

    def caught_up(self, consumer: AIOKafkaConsumer, polled_at: dict[TopicPartition, int]) -> None:
        """Note that these partitions were polled at these times, and had no further records."""
        assigned = consumer.assignment()
        for tp in self._handled_until.keys() - assigned:
            del self._handled_until[tp]
        for tp, ms in polled_at.items():
            if tp in assigned and ms > self._rewound_at.get(tp, -1):
                self._handled_until[tp] = ms

    def rewound(self, withheld: RecordsByPartition) -> None:
        """Note that these records were polled, and will be polled again: earlier polls of their partitions do not show
        that all records are handled."""
        now = self._now_ms()
        for tp, records in withheld.items():
            self._observe(tp)
            self._rewound_at[tp] = now
            if records:
                self._oldest[tp] = records[0].timestamp

    def idle(self, consumer: AIOKafkaConsumer) -> None:
        """Note that a poll of all partitions returned no record."""
        assigned = consumer.assignment()
        for tp in self._oldest.keys() - assigned:
            self._oldest[tp] = None
        for tp in assigned:
            self._observe(tp)

    def close(self) -> None:
        """Remove the gauges."""
        for topic in self._topics:
            metrics.CONSUMER_LAG.remove(self._group, topic)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _observe(self, tp: TopicPartition) -> None:
        self._oldest.setdefault(tp, None)
        if tp.topic not in self._topics:
            self._topics.add(tp.topic)
            metrics.CONSUMER_LAG.labels(self._group, tp.topic).set_function(lambda: self._seconds(tp.topic))

    def _seconds(self, topic: str) -> float:
        now = self._clock.now().timestamp()
        ages = [now - ms / 1000 for tp, ms in self._oldest.items() if tp.topic == topic and ms is not None]
        poll_gaps = [now - ms / 1000 for tp, ms in self._polled_at.items() if tp.topic == topic]
        return max([0.0, *ages, *(gap for gap in poll_gaps if gap > _MAX_POLL_GAP_SECONDS)])
