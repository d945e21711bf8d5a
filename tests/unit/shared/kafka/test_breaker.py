"""The breaker stops a consumer that rejects nearly everything, and lets ordinary poison pass."""

import pytest

from shared.kafka.consumer import Breaker
from shared.runtime.errors import Fatal


def test_a_little_poison_among_much_is_let_pass() -> None:
    breaker = Breaker(window=100, share=0.9)
    for _ in range(1000):
        breaker.note(10, 1)


def test_a_burst_of_poison_shorter_than_the_window_is_let_pass() -> None:
    breaker = Breaker(window=100, share=0.9)
    breaker.note(50, 0)
    breaker.note(60, 60)
    breaker.note(50, 0)


def test_poison_throughout_stops_the_consumer() -> None:
    breaker = Breaker(window=100, share=0.9)
    breaker.note(1000, 0)
    for _ in range(8):
        breaker.note(10, 10)
    with pytest.raises(Fatal, match="dead-letter topic"):
        breaker.note(90, 90)
