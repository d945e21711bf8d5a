"""Bad records of every kind for every topic; the journal has each one that is planted.

This module alone defines which groups must dead-letter each kind. Audit stores every event, so it dead-letters only the
records that are not events.
"""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from deploy.services import SERVICES
from tests.chaos.checker.cloudevents import derived
from tests.chaos.environment import Environment
from tests.chaos.journal import Journal

Headers = list[tuple[str, bytes]]

_TYPES: Final = {
    "submissions": "item.submitted",
    "cases": "case.opened",
    "decisions": "decision.made",
    "requests": "request.commented",
    "access": "access.used",
}
_AUDIT: Final = "audit"
_GROUPS: Final = {("intake", "access"): "intake-clients"}
"""The group of a service that reads a topic in another group than `piepowder-<service>-<region>`."""

SECOND_OPENING: Final = "a second opening of a stored case"
_OPENED: Final = b"piepowder.case.opened.v1"
_HUGE: Final = 3 * 2**20
_LOOK_MS: Final = 500


class BadRecord(NamedTuple):
    """A bad record to plant; the groups of the services in `readers` must dead-letter it."""

    kind: str
    topic: str
    key: bytes
    value: bytes
    headers: Headers
    readers: tuple[str, ...]
    partition: int | None = None


def make(rng: random.Random, region: str, other: str) -> Iterator[BadRecord]:
    """One record of each kind for each topic of a region."""
    for stage, name in _TYPES.items():
        topic = f"piepowder.{stage}.{region}"
        some = readers(stage)
        everybody = (*some, _AUDIT)

        def bad_record(
            kind: str,
            value: bytes,
            readers: tuple[str, ...],
            of: str = f"piepowder.{name}.v1",
            where: str = region,
            *,
            topic: str = topic,
        ) -> BadRecord:
            subject = f"shop:product:spoiled-{rng.randrange(10**9)}"
            return BadRecord(kind, topic, subject.encode(), value, _headers(rng, of, subject, where), readers)

        yield BadRecord("no headers", topic, b"spoiled", b"{}", [], everybody)
        yield bad_record("truncated JSON", b'{"item_id": "', everybody)
        yield bad_record("the fields of another type", b'{"item_id": 5}', some)
        yield bad_record("an unknown event version", b"{}", some, of=f"piepowder.{name}.v9")
        yield bad_record("another region's record", b"{}", everybody, where=other)
        yield bad_record("another key", b"{}", everybody)._replace(key=b"someone:else")
        yield bad_record("a huge record", b'{"item_id": "' + b"x" * _HUGE + b'"}', some)
    yield BadRecord("no event at all", "piepowder.control", b"spoiled", b"?", [], (_AUDIT,))
    yield BadRecord("garbage", f"piepowder.deadletters.{region}", b"spoiled", b"\xff\x00", [("dl_topic", b"\xff")], ())


async def plant(environment: Environment, journal: Journal, rng: random.Random, regions: tuple[str, str]) -> int:
    """Plant one record of each kind in every topic; return their number."""
    producer = AIOKafkaProducer(bootstrap_servers=environment.kafka.bootstrap, acks="all", max_request_size=2 * _HUGE)
    await producer.start()
    count = 0
    try:
        for region, other in (regions, regions[::-1]):
            plants = list(make(rng, region, other))
            about_a_case = await _about_a_stored_case(environment, rng, region)
            for one in [*plants, *about_a_case]:
                place = await producer.send_and_wait(
                    one.topic, one.value, one.key, partition=one.partition, headers=one.headers
                )
                count += 1
                if one.kind == SECOND_OPENING:
                    continue  # the checker treats it as any other event
                cells = regions if one.topic == "piepowder.control" else (region,)
                groups = [f"piepowder-{reader}-{cell}" for reader in one.readers for cell in cells]
                journal.planted(one.kind, place.topic, place.partition, place.offset, groups)
    finally:
        await producer.stop()
    return count


async def _about_a_stored_case(environment: Environment, rng: random.Random, region: str) -> list[BadRecord]:
    """An unknown version of the event of a stored case, so that decision must park a subject with later records; and
    before it, the event itself with another id.

    Such a second opening is what the router sends after a repetition under other rules. It is a valid event, which
    decision ignores; no group may dead-letter it.
    """
    topic = f"piepowder.cases.{region}"
    places = await environment.places([topic])
    consumer = AIOKafkaConsumer(bootstrap_servers=environment.kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        found = await consumer.getmany(timeout_ms=_LOOK_MS, max_records=50)
    finally:
        await consumer.stop()
    for record in (record for lane in found.values() for record in lane):
        headers = dict(record.headers)
        if headers.get("ce_source") not in (None, b"chaos") and headers.get("ce_type") == _OPENED:
            fresh = derived("spoiled", str(rng.random())).encode()
            again = [*(headers | {"ce_id": fresh}).items()]
            unknown = _headers(rng, "piepowder.case.opened.v9", record.key.decode(), region)
            return [
                BadRecord(SECOND_OPENING, topic, record.key, record.value, again, (), record.partition),
                BadRecord(
                    "an unknown event version", topic, record.key, b"{}", unknown, readers("cases"), record.partition
                ),
            ]
    return []


def readers(stage: str) -> tuple[str, ...]:
    """The groups, without `piepowder-` and region, that read the topic and store no event that they do not know."""
    return tuple(
        _GROUPS.get((service.name, stage), service.name)
        for service in SERVICES
        if stage in service.reads and service.name != _AUDIT
    )


def _headers(rng: random.Random, of: str, subject: str, region: str) -> Headers:
    event_id = derived("spoiled", str(rng.random()))
    return [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", of.encode()),
        ("ce_source", b"chaos"),
        ("ce_time", b"2026-01-01T00:00:00.000Z"),
        ("ce_subject", subject.encode()),
        ("ce_region", region.encode()),
        ("ce_correlationid", event_id.encode()),
    ]
