"""Circuit breaker of a consumer: reports a topic when nearly all of its last records were rejected."""

from collections import deque
from collections.abc import Mapping


class CircuitBreaker:
    """Counts rejected records by topic. When their share is too large, the reader or the topic is wrong, not the
    records; then the consumer stops this topic and continues with the others."""

    def __init__(self, *, window: int = 2000, share: float = 0.9) -> None:
        self._window = window
        self._share = share
        self._topics: dict[str, _Window] = {}

    def count(self, records: Mapping[str, int], rejected: Mapping[str, int]) -> dict[str, str]:
        """Count a batch by topic; returns the topics to stop, with the reason.

        A topic is to be stopped when at least `share` of its last `window` records were rejected; its count then starts
        again at zero. Batches are counted whole, so a window may be larger by one batch.
        """
        found = {}
        for topic, number in records.items():
            if number <= 0:
                continue
            window = self._topics.setdefault(topic, _Window())
            window.add(number, rejected.get(topic, 0), self._window)
            if window.records >= self._window and window.rejected >= self._share * window.records:
                found[topic] = f"{window.rejected} of the last {window.records} records of {topic} were rejected."
                del self._topics[topic]
        return found


class _Window:
    """The last batches of a topic, and their sums."""

    def __init__(self) -> None:
        self.records = 0
        self.rejected = 0
        self._batches: deque[tuple[int, int]] = deque()

    def add(self, records: int, rejected: int, size: int) -> None:
        """Add a batch, and drop old ones while at least `size` records remain."""
        self._batches.append((records, rejected))
        self.records += records
        self.rejected += rejected
        while self.records - self._batches[0][0] >= size:
            old_records, old_rejected = self._batches.popleft()
            self.records -= old_records
            self.rejected -= old_rejected
