"""The durable state of stopped partitions: entries of several groups in one topic, and entries that cannot be read."""

from aiokafka import TopicPartition

from shared.kafka.producer import Record
from shared.kafka.records import RawRecord
from shared.kafka.stop_store import DeadLetterRange, Stop, StopEntry, stop_entries, stop_record

TOPIC = "piepowder.parked.eu"
GROUP, OTHER = "piepowder-router-eu", "piepowder-audit-eu"
FIRST = TopicPartition("piepowder.submissions.eu", 0)
STOP = Stop("too many", "2026-05-01T00:00:00Z")
RANGE = DeadLetterRange(3, 9, "storm", "2026-05-01T00:00:00Z", only_failing=True)


def _stored(*records: Record) -> list[RawRecord]:
    return [RawRecord(TOPIC, 0, n, 0, 0, r.key, r.value, None, 0, 0, ()) for n, r in enumerate(records)]


def _record(entry: StopEntry | None, group: str = GROUP, tp: TopicPartition = FIRST) -> Record:
    return stop_record(TOPIC, group, tp, entry)


def test_the_last_entry_of_a_groups_partition_is_in_force() -> None:
    records = _stored(_record(STOP), _record(STOP, OTHER), _record(RANGE), _record(None, OTHER))
    assert stop_entries(records) == {GROUP: {FIRST: RANGE}, OTHER: {}}


def test_parked_keys_and_other_records_of_the_topic_are_no_entries() -> None:
    parked = Record(TOPIC, b"piepowder-router-eu/piepowder.submissions.eu/0/k", b"{}", [])
    strange = Record(TOPIC, b"stopped/x/y", b"{}", [])
    assert stop_entries(_stored(parked, strange, Record(TOPIC, None, b"", []))) == {}


def test_an_entry_that_cannot_be_read_is_a_stop_because_nobody_knows_what_it_was() -> None:
    [entry] = stop_entries(_stored(_record(STOP)._replace(value=b"?")))[GROUP].values()
    assert isinstance(entry, Stop)
    assert "invalid" in entry.reason


def test_a_range_includes_its_first_and_last_offset() -> None:
    assert [offset for offset in range(12) if RANGE.has(offset)] == [3, 4, 5, 6, 7, 8, 9]
