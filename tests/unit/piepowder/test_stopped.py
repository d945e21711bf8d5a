"""The range of records that `piepowder stopped dead-letter` writes for a partition."""

import pytest
from aiokafka import TopicPartition

from piepowder.stopped import RangeRequest, RangeResult, StopFilter, StoppedPartition, range_of, show_results
from shared.kafka.stop_store import DeadLetterRange, Stop, StopEntry
from shared.runtime.user_errors import UserError

TP = TopicPartition("piepowder.submissions.eu", 2)
STOP = Stop("too many", "2026-05-01T00:00:00Z")


def _stopped(entry: StopEntry = STOP, committed: int = 100, end: int = 500) -> StoppedPartition:
    return StoppedPartition("eu", "piepowder-router-eu", TP, entry, committed, end)


def _asked(first: int | None = None, last: int | None = None, *, only_failing: bool = False) -> RangeRequest:
    return RangeRequest(first, last, only_failing, "storm")


def _offsets(stopped: StoppedPartition, request: RangeRequest) -> tuple[int, int] | None:
    found = range_of(stopped, request)
    return None if found is None else (found.first, found.last)


def test_a_range_without_offsets_has_all_records_that_are_not_handled() -> None:
    assert _offsets(_stopped(), _asked()) == (100, 499)


def test_records_before_the_groups_offset_are_left_out() -> None:
    assert _offsets(_stopped(), _asked(20, 300)) == (100, 300)
    assert _offsets(_stopped(), _asked(200, 300)) == (200, 300)
    assert _offsets(_stopped(), _asked(20, 99)) is None


def test_the_committed_offset_of_a_group_with_a_database_does_not_limit_its_range() -> None:
    audit = StoppedPartition("eu", "piepowder-audit-eu", TP, STOP, 500, 500, 40)
    assert _offsets(audit, _asked()) == (40, 499)
    assert _offsets(audit, _asked(20, 300)) == (40, 300)
    assert _offsets(audit, _asked(200, 300)) == (200, 300)


def test_an_offset_behind_the_log_is_refused_with_the_last_one() -> None:
    with pytest.raises(UserError, match="--last 499"):
        range_of(_stopped(), _asked(100, 500))


def test_a_repeated_command_finds_its_range_and_another_range_is_refused_until_the_group_has_passed_it() -> None:
    running = DeadLetterRange(100, 300, "storm", "2026-05-01T00:00:00Z")
    assert range_of(_stopped(running), _asked(100, 300)) is running
    for other in (_asked(100, 200), _asked(100, 300, only_failing=True)):
        with pytest.raises(UserError, match="100 to 300"):
            range_of(_stopped(running), other)
    assert range_of(_stopped(running, committed=301), _asked(100, 300)) is None


def test_the_result_says_that_earlier_dead_letters_of_the_range_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = DeadLetterRange(100, 300, "storm", "2026-05-01T00:00:00Z")
    show_results([RangeResult("piepowder-audit-eu", TP, wanted, 150, passed=True)], 60)
    shown = capsys.readouterr().out
    assert "[2] 100 to 300, piepowder-audit-eu: 150 open dead letters." in shown
    assert "also those from before this command" in shown


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (StopFilter(), True),
        (StopFilter(TP.topic, "router", 2), True),
        (StopFilter(group="piepowder-router-eu"), True),
        (StopFilter(group="audit"), False),
        (StopFilter(partition=1), False),
        (StopFilter("piepowder.cases.eu"), False),
    ],
)
def test_a_filter_selects_by_topic_group_and_partition(wanted: StopFilter, matches: bool) -> None:
    assert wanted.matches("eu", "piepowder-router-eu", TP) is matches
