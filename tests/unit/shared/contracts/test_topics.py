"""Topic names."""

from shared.contracts import topics
from shared.kafka import topic_admin


def test_the_names_are_those_of_the_declarative_file() -> None:
    declared = {spec.name for spec in topic_admin.expand(topic_admin.load(), ["eu"])}
    assert declared == {*topics.of_region("eu"), topics.CONTROL}
