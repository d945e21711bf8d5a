"""Topic names."""

from shared.contracts import topics
from shared.kafka import topic_admin


def test_the_names_are_those_of_the_declarative_file() -> None:
    declared = {spec.name for spec in topic_admin.expand(topic_admin.load(), ["eu"])}
    assert declared == {*topics.of_region("eu"), topics.CONTROL}


def test_the_audit_log_contains_every_topic_except_the_state_of_consumers() -> None:
    assert {*topics.of_region("eu"), topics.CONTROL} - set(topics.audited("eu")) == {topics.parked("eu")}
