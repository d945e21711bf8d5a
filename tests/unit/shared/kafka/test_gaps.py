"""Missing records of a partition are named exactly, and a lower end of the log counts only when it is confirmed."""

from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import TopicPartition

from shared.kafka.gaps import DELETED, RECREATED, TRUNCATED, Gap, SuspectedGaps, describe_gaps, missing_records
from shared.runtime.clock import ManualClock

TP = TopicPartition("t", 0)


@pytest.mark.parametrize(
    ("position", "expected"),
    [(3, Gap(DELETED, 3, 5)), (5, None), (7, None), (9, None), (10, Gap(TRUNCATED, 9, 10))],
)
def test_the_missing_records_are_those_between_the_position_and_the_log(position: int, expected: Gap | None) -> None:
    assert missing_records(position, 5, 9) == expected


def test_a_group_that_accepts_a_loss_continues_behind_the_missing_records() -> None:
    assert Gap(DELETED, 3, 5).start_after_loss == 5
    assert Gap(TRUNCATED, 9, 12).start_after_loss == 9, "the records that follow were written later"
    assert Gap(RECREATED, 7, None).start_after_loss == 0


def test_a_lower_end_is_confirmed_by_a_second_look_after_a_moment() -> None:
    clock, gap = ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), Gap(TRUNCATED, 9, 12)
    suspected = SuspectedGaps(clock)
    assert not suspected.is_unconfirmed(TP, Gap(DELETED, 3, 5), None)
    assert not suspected.is_unconfirmed(TP, gap, gap), "it was confirmed before"
    assert suspected.is_unconfirmed(TP, gap, None)
    assert not suspected.is_unconfirmed(TP, None, None), "the new leader has the records"
    clock.advance(timedelta(seconds=3))
    assert suspected.is_unconfirmed(TP, gap, None)
    clock.advance(timedelta(seconds=3))
    assert not suspected.is_unconfirmed(TP, gap, None)


def test_another_lower_end_than_the_known_one_is_confirmed_too() -> None:
    suspected = SuspectedGaps(ManualClock(datetime(2026, 5, 1, tzinfo=UTC)))
    assert suspected.is_unconfirmed(TP, Gap(TRUNCATED, 4, 12), Gap(TRUNCATED, 9, 12))


def test_after_a_new_assignment_a_lower_end_needs_a_second_look_again() -> None:
    clock, gap = ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), Gap(TRUNCATED, 9, 12)
    suspected = SuspectedGaps(clock)
    assert suspected.is_unconfirmed(TP, gap, None)
    clock.advance(timedelta(seconds=3))
    suspected.forget()
    assert suspected.is_unconfirmed(TP, gap, None)


def test_the_readiness_names_the_first_partitions_with_missing_records() -> None:
    text = describe_gaps({TopicPartition("t", n): Gap(DELETED, 0, 5) for n in range(5)})
    assert text.count("the records 0 to 4 are missing") == 3
    assert "(and 2 more): see docs/runbooks/missing-records.md" in text
