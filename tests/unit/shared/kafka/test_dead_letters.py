"""A dead letter that its topic does not accept keeps its place and reason, and does not stop the others."""

from collections.abc import Sequence
from datetime import UTC, datetime

from aiokafka import TopicPartition

from piepowder.dead_letters import DeadLetterId, RegionDeadLetters
from shared.kafka.dead_letters import DeadLetterWriter, NewDeadLetter
from shared.kafka.producer import Record
from shared.kafka.records import RawRecord
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Poison

TOPIC, LETTERS = "piepowder.submissions.eu", "piepowder.deadletters.eu"
LARGEST = 100


class _Topic:
    """A dead-letter topic that accepts values of at most `LARGEST` bytes."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def send(self, records: Sequence[Record]) -> None:
        if any(len(record.value or b"") > LARGEST for record in records):
            raise Poison("a record is larger than Kafka accepts")
        self.records += records


def _letter(offset: int, value: bytes) -> NewDeadLetter:
    record = RawRecord(TOPIC, 0, offset, 0, 0, b"k", value, None, 0, 0, (("x", b"1"), ("dl_reason", b"mine")))
    return NewDeadLetter(record, "not an event", offset, None)


async def test_a_dead_letter_that_is_too_large_for_its_topic_is_written_without_its_value() -> None:
    topic = _Topic()
    writer = DeadLetterWriter(topic, topic=LETTERS, group="g", clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)))
    letters = [_letter(0, b"small"), _letter(1, b"x" * (LARGEST + 1)), _letter(2, b"small")]
    assert await writer.send(letters) == letters
    assert [record.value for record in topic.records] == [b"small", b"", b"small"]
    found = RegionDeadLetters()
    for offset, record in enumerate(topic.records):
        found.add_letter(RawRecord(LETTERS, 0, offset, 0, 0, record.key, record.value, None, 0, 0, record.headers))
    assert [(letter.id.offset, letter.unread) for letter in found.open.values()] == [(0, False), (1, True), (2, False)]
    large = found.open[DeadLetterId("g", TOPIC, 0, 1)]
    assert "too large for the dead-letter topic" in large.reason


async def test_an_unreadable_record_is_written_with_its_place() -> None:
    topic = _Topic()
    writer = DeadLetterWriter(topic, topic=LETTERS, group="g", clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)))
    assert await writer.send_unreadable(TopicPartition(TOPIC, 3), 7, "no UTF-8")
    headers = dict(topic.records[0].headers)
    assert (headers["dl_partition"], headers["dl_offset"], headers["dl_unread"]) == (b"3", b"7", b"1")
