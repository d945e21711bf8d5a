"""The breaker stops a consumer that rejects nearly everything, and lets ordinary poison pass."""

import pytest

from shared.kafka.breaker import CircuitBreaker
from shared.runtime.errors import Fatal


def test_a_little_poison_among_much_is_let_pass() -> None:
    breaker = CircuitBreaker(window=100, share=0.9)
    for _ in range(1000):
        breaker.count(10, 1)


def test_a_burst_of_poison_shorter_than_the_window_is_let_pass() -> None:
    breaker = CircuitBreaker(window=100, share=0.9)
    breaker.count(50, 0)
    breaker.count(60, 60)
    breaker.count(50, 0)


def test_poison_throughout_stops_the_consumer() -> None:
    breaker = CircuitBreaker(window=100, share=0.9)
    breaker.count(1000, 0)
    for _ in range(8):
        breaker.count(10, 10)
    with pytest.raises(Fatal, match="dead-letter topic"):
        breaker.count(90, 90)
