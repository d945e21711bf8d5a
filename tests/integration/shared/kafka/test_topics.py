"""Topics come from one file: missing ones are created, differences are reported, and nothing else is changed."""

import asyncio

import msgspec
import pytest

from shared.contracts import topics
from shared.kafka import topic_admin
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.whole_topic import read_whole
from shared.runtime.errors import Transient


async def test_topics_are_created_once_and_found_afterwards(kafka: str, region: str) -> None:
    wanted = topic_admin.expand(topic_admin.load(), [region])
    again = await topic_admin.ensure(kafka, wanted)
    assert again.created == []
    assert set(again.present) == {spec.name for spec in wanted}
    assert again.differences == []


async def test_a_check_creates_nothing_and_reports_missing_topics(kafka: str) -> None:
    wanted = topic_admin.expand(topic_admin.load(), ["nowhere"])
    report = await topic_admin.ensure(kafka, wanted, create=False)
    assert report.created == []
    assert "piepowder.cases.nowhere is missing" in report.differences
    assert "piepowder.cases.nowhere is missing" in (await topic_admin.ensure(kafka, wanted, create=False)).differences


async def test_a_topic_that_differs_from_the_file_is_reported_and_not_changed(kafka: str, region: str) -> None:
    wanted = [
        msgspec.structs.replace(spec, partitions=spec.partitions + 2, config={**spec.config, "retention.ms": "1"})
        for spec in topic_admin.expand(topic_admin.load(), [region])
        if spec.name == topics.cases(region)
    ]
    for _ in range(2):
        report = await topic_admin.ensure(kafka, wanted)
        assert f"{topics.cases(region)} has 6 partitions, but the file has 8" in report.differences
        assert [d for d in report.differences if "retention.ms" in d]


async def values_of(kafka: str, topic: str) -> list[bytes | None]:
    return [record.value for record in await read_whole(kafka, topic, "test") if record.key == b"client"]


async def test_changes_on_the_control_topic_outlive_the_compaction_for_as_long_as_other_topics_keep_records(
    kafka: str, region: str
) -> None:
    """A topic with the settings of `piepowder.control`, and one without the delay, which shows that Kafka compacts."""
    specs = {spec.name: spec for spec in topic_admin.expand(topic_admin.load(), [region])}
    control, cases = specs[topics.CONTROL], specs[topics.cases(region)]
    assert int(control.config["min.compaction.lag.ms"]) >= int(cases.config["retention.ms"])
    eager = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "min.insync.replicas": "1"}
    without = {name: value for name, value in control.config.items() if name != "min.compaction.lag.ms"}
    everything = [b"%d" % n for n in range(6)]
    kept, compacted = f"{region}-control", f"{region}-compacted"
    for name, config in ((kept, control.config), (compacted, without)):
        await topic_admin.ensure(kafka, [topic_admin.TopicSpec(name, 1, 1, config | eager)])
    producer = KafkaProducer(kafka, client_id="test")
    await producer.start()
    try:
        for value in everything:
            await producer.send([Record(name, b"client", value, []) for name in (kept, compacted)])
            await asyncio.sleep(0.2)
        async with asyncio.timeout(90):
            while await values_of(kafka, compacted) == everything:
                await producer.send([Record(name, b"other", b"", []) for name in (kept, compacted)])
                await asyncio.sleep(1)
        assert await values_of(kafka, kept) == everything
    finally:
        await producer.stop()


async def test_a_topic_that_cannot_be_created_is_missing_and_the_others_are_created(kafka: str, region: str) -> None:
    wanted = [topic_admin.TopicSpec(f"{region}-more", 1, 1), topic_admin.TopicSpec(f"{region} with blanks", 1, 1)]
    report = await topic_admin.ensure(kafka, wanted)
    assert report.created == [f"{region}-more"]
    assert report.missing == [f"{region} with blanks"]
    assert any("could not be created" in difference for difference in report.differences)


async def test_a_cluster_that_is_down_is_a_transient_error() -> None:
    with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
        await topic_admin.ensure("127.0.0.1:1", topic_admin.expand(topic_admin.load(), ["eu"]))
