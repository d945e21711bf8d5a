"""The cause of an expected failure is given in words, not with names of classes."""

import httpx
import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    NoBrokersAvailable,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from shared.runtime.user_errors import UserError, cause


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "no answer in time"),
        (KafkaTimeoutError(), "no answer in time"),
        (httpx.ReadTimeout("late"), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "the connection was refused"),
        (PermissionError(13, "Permission denied"), "permission denied"),
        (KafkaConnectionError("Unable to bootstrap from localhost:9"), "Unable to bootstrap from localhost:9"),
        (TopicAuthorizationFailedError("secret"), "secret"),
        (httpx.ConnectError("All connection attempts failed"), "All connection attempts failed"),
        (ValueError("a: b.\nsecond line"), "a: b"),
        (RuntimeError(), "it gave no reason"),
    ],
    ids=repr,
)
def test_a_cause_is_in_words(error: Exception, expected: str) -> None:
    assert cause(error) == expected


@pytest.mark.parametrize("error", [NoBrokersAvailable(), NodeNotReadyError("node 1"), UnknownTopicOrPartitionError()])
def test_no_cause_has_the_name_of_its_class(error: Exception) -> None:
    assert cause(error)
    assert type(error).__name__ not in cause(error)


def test_a_user_error_is_two_sentences() -> None:
    assert str(UserError("Kafka does not respond", "Start it")) == "Kafka does not respond. Start it."
    assert str(UserError("It is full: no space..", "", ["line 1"])) == "It is full: no space.\n  | line 1"
