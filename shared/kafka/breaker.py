"""Circuit breaker of a consumer: stops the service when nearly all of the last records were rejected."""

from collections import deque

from shared.runtime.errors import Fatal


class CircuitBreaker:
    """Counts rejected records. When their share is too large, the service or the topic is wrong, not the records."""

    def __init__(self, *, window: int = 2000, share: float = 0.9) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._window = window
        self._share = share
        self._records = 0
        self._rejected = 0

    def count(self, records: int, rejected: int) -> None:
        """Count a batch; raises Fatal when at least `share` of the last `window` records were rejected."""
        if not records:
            return
        self._batches.append((records, rejected))
        self._records += records
        self._rejected += rejected
        while self._batches and self._records - self._batches[0][0] >= self._window:
            old_records, old_rejected = self._batches.popleft()
            self._records -= old_records
            self._rejected -= old_rejected
        if self._records >= self._window and self._rejected >= self._share * self._records:
            raise Fatal(
                f"{self._rejected} of the last {self._records} records were rejected: read the reasons in the"
                " dead-letter topic, fix the cause, and start the service again"
            )
