"""The circuit breaker reports a topic whose records are nearly all rejected, and tolerates a few."""

from shared.kafka.breaker import CircuitBreaker

TOPIC, OTHER = "piepowder.submissions.eu", "piepowder.cases.eu"


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(window=100, share=0.9)


def test_a_few_rejected_records_are_tolerated() -> None:
    breaker = _breaker()
    assert not any(breaker.count({TOPIC: 10}, {TOPIC: 1}) for _ in range(1000))


def test_a_burst_of_rejected_records_below_the_window_is_tolerated() -> None:
    breaker = _breaker()
    assert not breaker.count({TOPIC: 50}, {})
    assert not breaker.count({TOPIC: 60}, {TOPIC: 60})
    assert not breaker.count({TOPIC: 50}, {})


def test_a_full_window_of_rejected_records_is_reported_with_the_numbers() -> None:
    breaker = _breaker()
    assert not breaker.count({TOPIC: 1000}, {})
    for _ in range(8):
        assert not breaker.count({TOPIC: 10}, {TOPIC: 10})
    assert breaker.count({TOPIC: 90}, {TOPIC: 90}) == {
        TOPIC: "100 of the last 100 records of piepowder.submissions.eu were rejected."
    }


def test_the_records_of_another_topic_neither_hide_a_storm_nor_are_part_of_it() -> None:
    breaker = _breaker()
    reported = [breaker.count({TOPIC: 10, OTHER: 90}, {TOPIC: 10}) for _ in range(10)]
    assert [list(topics) for topics in reported] == [[]] * 9 + [[TOPIC]]


def test_after_a_report_the_count_starts_again_at_zero() -> None:
    breaker = _breaker()
    assert breaker.count({TOPIC: 100}, {TOPIC: 100})
    assert not breaker.count({TOPIC: 99}, {TOPIC: 99})
    assert breaker.count({TOPIC: 1}, {TOPIC: 1})


def test_a_batch_of_records_that_only_wait_behind_others_is_not_counted() -> None:
    breaker = _breaker()
    assert not breaker.count({TOPIC: 0}, {})
    assert breaker.count({TOPIC: 100}, {TOPIC: 90})
