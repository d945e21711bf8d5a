"""The circuit breaker stops a consumer that rejects nearly all records, and tolerates a few."""

import pytest

from shared.kafka.breaker import CircuitBreaker
from shared.runtime.errors import Fatal


def test_a_few_rejected_records_are_tolerated() -> None:
    breaker = CircuitBreaker(window=100, share=0.9)
    for _ in range(1000):
        breaker.count(10, 1)


def test_a_burst_of_rejected_records_below_the_window_is_tolerated() -> None:
    breaker = CircuitBreaker(window=100, share=0.9)
    breaker.count(50, 0)
    breaker.count(60, 60)
    breaker.count(50, 0)


def test_a_full_window_of_rejected_records_stops_the_consumer() -> None:
    breaker = CircuitBreaker(window=100, share=0.9)
    breaker.count(1000, 0)
    for _ in range(8):
        breaker.count(10, 10)
    with pytest.raises(Fatal, match="dead-letter topic"):
        breaker.count(90, 90)
