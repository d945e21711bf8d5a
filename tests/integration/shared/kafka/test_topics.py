"""Topics come from one file: missing ones are created, differences are reported, and nothing else is changed."""

import msgspec
import pytest

from shared.contracts import topics
from shared.kafka import topic_admin
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


async def test_a_topic_that_cannot_be_created_is_missing_and_the_others_are_created(kafka: str, region: str) -> None:
    wanted = [topic_admin.TopicSpec(f"{region}-more", 1, 1), topic_admin.TopicSpec(f"{region} with blanks", 1, 1)]
    report = await topic_admin.ensure(kafka, wanted)
    assert report.created == [f"{region}-more"]
    assert report.missing == [f"{region} with blanks"]
    assert any("could not be created" in difference for difference in report.differences)


async def test_a_cluster_that_is_down_is_a_transient_error() -> None:
    with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
        await topic_admin.ensure("127.0.0.1:1", topic_admin.expand(topic_admin.load(), ["eu"]))
