"""Promises 4 and 5 on real Kafka and PostgreSQL: every event is in the audit's log exactly once, without a gap in the
sequence, after duplicates, replays and races; no entry of the log ever changes."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from prometheus_client import REGISTRY

from piepowder import positions
from services.audit import api, app, handlers
from services.audit.domain import AppendResult, LoggedDeadLetter, LoggedEvent, parse_event
from services.audit.handlers import AppendRecords
from services.audit.settings import Settings
from services.audit.store import Store
from services.audit.views import DiscardView
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry
from shared.contracts import events, ids, topics
from shared.contracts.envelope import Attributes, Encoded, RecordId, encode, subject_of
from shared.http.app import create_app
from shared.http.queries import encode_cursor
from shared.kafka import topic_admin
from shared.kafka.producer import KafkaProducer, Record, record
from shared.kafka.records import RawRecord, Received
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.clock import to_text
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.service import Service
from tests.support.consumer_group import until

START = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
KEY = ids.new_api_key("test")
ITEM = events.Item(markets=["DE"], title="Lampe")


def hash_of(item: events.Item) -> str:
    return ids.content_hash(ids.canonical(item))


class ItemHistory(NamedTuple):
    """An item's events, each with its topic."""

    subject: str
    events: list[tuple[str, Encoded]]


def history(region: str, subject_id: str, version: int = 1) -> ItemHistory:
    """Submitted, opened, claimed, decided; the router's clock is ten minutes slow."""
    item = ids.item_id("shop", "product", subject_id, str(version))
    case = ids.case_id(item, region, "item")
    subject = subject_of("shop", "product", subject_id)
    first = ids.event_id(item, events.ITEM_SUBMITTED, region)
    opened = ids.event_id(first, events.CASE_OPENED)
    claimed = ids.event_id(opened, events.CASE_CLAIMED, 1)
    decided = ids.event_id(claimed, events.DECISION_MADE)
    now = to_text(START)
    about: dict[str, Any] = {"item_id": item, "platform": "shop", "kind": "product", "subject_id": subject_id}

    def event(event_id: str, kind: str, cause: str | None, minutes: int, data: events.Struct) -> Encoded:
        time = to_text(START + timedelta(minutes=minutes))
        return encode(Attributes(event_id, kind, "piepowder/test", time, subject, region, first, cause), data)

    submitted_data = events.ItemSubmitted(
        **about,
        version=version,
        content_hash=hash_of(ITEM),
        client="test",
        received_at=now,
        regions=[region],
        item=ITEM,
    )
    opened_data = events.CaseOpened(
        **about,
        case_id=case,
        queue="general",
        priority=5,
        received_at=now,
        due_at=now,
        verdict="review",
        trace=events.Trace(policy_set="p", operating_model="o"),
        item=ITEM,
    )
    claimed_data = events.CaseClaimed(
        case_id=case, item_id=item, queue="general", reviewer="r", team="t", lease_token=1, lease_until=now
    )
    decided_data = events.DecisionMade(
        **about,
        decision_id=ids.decision_id(case, 1),
        case_id=case,
        queue="general",
        n=1,
        action="approve",
        policy_set="p",
        automated=False,
        received_at=now,
        due_at=now,
    )
    decisions = topics.decisions(region)
    return ItemHistory(
        subject,
        [
            (topics.submissions(region), event(first, events.ITEM_SUBMITTED, None, 0, submitted_data)),
            (topics.cases(region), event(opened, events.CASE_OPENED, first, -10, opened_data)),
            (decisions, event(claimed, events.CASE_CLAIMED, opened, 5, claimed_data)),
            (decisions, event(decided, events.DECISION_MADE, claimed, 6, decided_data)),
        ],
    )


def logged_events(histories: list[ItemHistory], region: str) -> list[LoggedEvent]:
    return [
        parse_event(RecordId(topic, 0, n), event.headers, event.key, event.value, region=region)
        for n, (topic, event) in enumerate(event for one in histories for event in one.events)
    ]


@pytest.fixture
async def producer(kafka: str) -> AsyncIterator[KafkaProducer]:
    producer = KafkaProducer(kafka, client_id="test")
    yield producer
    await producer.stop()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await migrations.upgrade(database_url, "audit")
    database = await Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database, region: str) -> Store:
    return Store(database, region)


@asynccontextmanager
async def auditing(kafka: str, store: Store, region: str, *instances: str) -> AsyncIterator[list[Service]]:
    """Running replicas of the audit, each with its own partitions."""
    condition = f"consumer piepowder-audit-{region}"
    stop = asyncio.Event()
    replicas = [
        Service(
            "audit",
            "",
            Settings(kafka=kafka, region=region, instance=instance, batch_records=150),
            [region],
            per_region=True,
        )
        for instance in instances or ("0",)
    ]
    async with asyncio.TaskGroup() as group:
        for replica in replicas:
            group.create_task(app.consumer_of(replica, store).run(stop))
        try:
            async with asyncio.timeout(60):
                while not all(replica.readiness.conditions.get(condition) == "ok" for replica in replicas):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.05)
            yield replicas
        finally:
            stop.set()
    for replica in replicas:
        await replica.stop()


async def until_caught_up(kafka: str, region: str) -> None:
    """Wait until the audit's group has committed the end of every topic."""
    specs = topic_admin.expand(topic_admin.load(), [region])
    partitions = [TopicPartition(spec.name, p) for spec in specs for p in range(spec.partitions)]
    async with AIOKafkaConsumer(bootstrap_servers=kafka, group_id=f"piepowder-audit-{region}") as consumer:
        async with asyncio.timeout(60):
            behind = True
            while behind:
                ends = await consumer.end_offsets(partitions)
                behind = any([(await consumer.committed(partition) or 0) != end for partition, end in ends.items()])
                await asyncio.sleep(0.05)


async def reset(kafka: str, region: str, database_url: str) -> None:
    """Reset the audit to the first record of every partition."""
    await positions.reset(kafka, database=database_url, group=f"piepowder-audit-{region}")


class Proxy:
    """A TCP proxy that can cut the connections between a client and a server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._on_connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, server_writer]
        await asyncio.gather(self._forward(reader, server_writer), self._forward(server_reader, writer))

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()


async def rows(database: Database) -> list[asyncpg.Record]:
    async with database.held() as connection:
        return await connection.fetch("SELECT * FROM log ORDER BY seq")


async def rows_of(database: Database, region: str) -> list[asyncpg.Record]:
    """The entries of the region's topics, without those of the control topic, which other systems write, too."""
    return [row for row in await rows(database) if row["region"] == region]


async def test_a_log_that_was_restored_under_a_running_audit_gets_every_later_event_again_and_reports_it(
    kafka: str, region: str, database_url: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restored log continues at the position that it holds, not at the group's offsets, which are ahead of it."""
    reported: list[str] = []
    monkeypatch.setattr(Readiness, "set", _recorded(Readiness.set, f"positions piepowder-audit-{region}", reported))
    histories = [history(region, f"r/{n}") for n in range(60)]
    records = [record(topic, event) for one in histories for topic, event in one.events]
    base, _, name = database_url.rpartition("/")
    await migrations.upgrade(database_url, "audit")
    database = await Database.connect(database_url)
    async with auditing(kafka, Store(database, region), region):
        await producer.send(records[:80])
        await until_caught_up(kafka, region)
    await database.close()
    admin = await asyncpg.connect(f"{base}/postgres")
    try:
        await admin.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
        database = await Database.connect(database_url)
        async with auditing(kafka, Store(database, region), region):
            await producer.send(records[80:160])
            await until_caught_up(kafka, region)
            before = await rows(database)
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await admin.execute(f"ALTER DATABASE {name}_backup RENAME TO {name}")
            await producer.send(records[160:])
            async with asyncio.timeout(60):
                while reported[-1] != "ok" or len(await _rows_if_any(database)) < len(before) + 80:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.1)
        kept = await rows(database)
        assert any("records are handled again" in text for text in reported)
        assert [row["seq"] for row in kept] == list(range(1, len(kept) + 1))
        mine = [bytes(row["data"]) for row in kept if row["region"] == region]
        assert sorted(mine) == sorted(r.value for r in records if r.value is not None)
    finally:
        await database.close()
        await admin.close()


def _recorded(set_: Any, of: str, reported: list[str]) -> Any:
    def set_and_record(readiness: Readiness, condition: str, missing: str | None) -> None:
        if condition == of:
            reported.append(missing or "ok")
        set_(readiness, condition, missing)

    return set_and_record


async def _rows_if_any(database: Database) -> list[asyncpg.Record]:
    try:
        return await rows(database)
    except Transient:
        return []


async def test_every_event_is_in_the_log_once_without_a_gap_after_duplicates_and_a_replay(
    kafka: str, region: str, *, store: Store, database: Database, database_url: str, producer: KafkaProducer
) -> None:
    histories = [history(region, f"a/{n}") for n in range(50)]
    records = [record(topic, event) for one in histories for topic, event in one.events]
    async with auditing(kafka, store, region):
        for _ in range(2):
            await producer.send(records)
        await until_caught_up(kafka, region)
    first = await rows(database)
    repeats = {"region": region}
    before = REGISTRY.get_sample_value("piepowder_audit_repeats_total", repeats) or 0
    await reset(kafka, region, database_url)
    async with auditing(kafka, store, region):
        await until_caught_up(kafka, region)
    kept = await rows(database)
    assert kept[: len(first)] == first
    assert {row["topic"] for row in kept[len(first) :]} <= {topics.CONTROL}, "other systems write this topic, too"
    again = (REGISTRY.get_sample_value("piepowder_audit_repeats_total", repeats) or 0) - before
    assert again >= 2 * len(records), "the audit has read all records again"
    mine = [row for row in kept if row["region"] == region]
    assert [row["seq"] for row in kept] == list(range(1, len(kept) + 1))
    assert sorted(bytes(row["data"]) for row in mine) == sorted(r.value for r in records if r.value is not None)
    totals = await store.totals()
    assert totals.head.size == len(kept)
    assert sum(totals.by_type.values()) == len(kept)
    assert totals.by_type[events.DECISION_MADE] == 50
    for partition in {(row["topic"], row["partition"]) for row in kept}:
        offsets = [row["offset"] for row in kept if (row["topic"], row["partition"]) == partition]
        assert all(a < b for a, b in pairwise(offsets)), "the order of a partition is the log's order"


async def test_two_replicas_share_the_topics_and_write_one_log(
    kafka: str, region: str, store: Store, database: Database, producer: KafkaProducer
) -> None:
    records = [record(topic, event) for n in range(300) for topic, event in history(region, f"b{n}").events]
    async with auditing(kafka, store, region, "0", "1"):
        for part in range(0, len(records), 100):
            await producer.send(records[part : part + 100])
        await until_caught_up(kafka, region)
    kept = await rows(database)
    assert [row["seq"] for row in kept] == list(range(1, len(kept) + 1))
    assert len([row for row in kept if row["region"] == region]) == len(records)


async def test_a_repeat_in_the_same_batch_does_not_move_the_first_event(
    region: str, store: Store, database: Database
) -> None:
    each = logged_events([history(region, f"r{n}") for n in range(3)], region)
    await store.append([*each, each[0], each[5]], [])
    assert [str(row["event_id"]) for row in await rows(database)] == [one.attributes.id for one in each]


def again(event: Encoded, *, time: str = "", **fields: Any) -> Encoded:
    """The event again, with changed fields of its data, as an equal id produces it."""
    data = json.loads(event.value) | fields
    headers = [(name, time.encode() if name == "ce_time" and time else value) for name, value in event.headers]
    return Encoded(event.key, json.dumps(data).encode(), headers)


def conflicts_counted(region: str) -> dict[str, float]:
    name = "piepowder_audit_conflicts_total"
    return {
        reason: REGISTRY.get_sample_value(name, {"region": region, "reason": reason}) or 0.0
        for reason in ("content", "value")
    }


async def test_another_value_of_an_event_id_is_logged_once_and_reported_and_a_repeat_is_neither(
    kafka: str, region: str, *, store: Store, database: Database, database_url: str, producer: KafkaProducer
) -> None:
    (submissions, submitted), (cases, opened), (decisions, claimed), (_, decided) = history(region, "twice").events
    later = to_text(START + timedelta(days=1))
    other_item = {"markets": ["DE"], "title": "Messer"}
    other_hash = hash_of(msgspec.convert(other_item, events.Item))
    repeats = [
        (submissions, again(submitted, time=later, received_at=later, client="other", reference="x", regions=["us"])),
        (cases, again(opened, time=later, received_at=later, due_at=later)),
        (decisions, again(claimed, time=later)),
        (decisions, again(decided, reasons=[], reviewer="")),  # explicit defaults
        (decisions, Encoded(decided.key, decided.value, [*decided.headers, ("dl_replay", b"1")])),
    ]
    by_content = [
        (submissions, again(submitted, content_hash=other_hash, item=other_item, received_at=later)),
        (cases, again(opened, item=other_item, verdict="reject")),
    ]
    by_value = [
        (submissions, again(submitted, item=other_item)),  # with the hash of the first item
        (submissions, again(submitted, content_hash="")),
        (submissions, again(submitted, version=2)),
        (submissions, again(submitted, item_id=ids.item_id("shop", "product", "another", "1"))),
        (cases, again(opened, verdict="approve")),
        (decisions, again(decided, action="reject")),
        (decisions, again(decided, action="reject", reasons=["FAKE"])),
    ]
    firsts = history(region, "twice").events
    before = conflicts_counted(region)
    async with auditing(kafka, store, region):
        await producer.send([record(topic, event) for topic, event in firsts])
        await until_caught_up(kafka, region)
        await producer.send([record(topic, event) for topic, event in repeats])
        await until_caught_up(kafka, region)
        assert [row["conflicts_with"] for row in await rows_of(database, region)] == [None] * 4
        assert conflicts_counted(region) == before
        for _ in range(2):
            await producer.send([record(topic, event) for topic, event in [*by_content, *by_value]])
        await until_caught_up(kafka, region)
    kept = await rows_of(database, region)
    await reset(kafka, region, database_url)
    async with auditing(kafka, store, region):
        await until_caught_up(kafka, region)
    assert await rows_of(database, region) == kept
    assert conflicts_counted(region) == {"content": before["content"] + 2, "value": before["value"] + 7}
    conflicts = [row for row in kept if row["conflicts_with"] is not None]
    assert sorted(bytes(row["data"]) for row in conflicts) == sorted(e.value for _, e in [*by_content, *by_value])
    everything = await rows(database)
    assert [row["seq"] for row in everything] == list(range(1, len(everything) + 1))
    totals = await store.totals()
    kinds = (events.ITEM_SUBMITTED, events.CASE_OPENED, events.CASE_CLAIMED, events.DECISION_MADE)
    assert (totals.head.size, sum(totals.by_type.values())) == (len(everything), len(everything))
    assert [(totals.by_type[kind], totals.conflicts.get(kind, 0)) for kind in kinds] == [(6, 5), (3, 2), (1, 0), (3, 2)]

    async with await client(store, region) as http:
        timeline = (await http.get("/v1/subjects/shop/product/twice/timeline")).json()["events"]
        pages = [(await http.get("/v1/conflicts", params={"limit": 3})).json()]
        while pages[-1]["next"] is not None and len(pages) < 100:
            pages.append((await http.get("/v1/conflicts", params={"limit": 3, "cursor": pages[-1]["next"]})).json())
        one = (await http.get(f"/v1/events/{timeline[0]['id']}")).json()
        wrong = await http.get("/v1/conflicts", params={"cursor": "x"})
    by_id = Counter((entry["id"], entry["type"]) for entry in timeline)
    assert sorted(by_id.values()) == [1, 3, 3, 6]
    assert {entry["conflict"] for entry in timeline if by_id[entry["id"], entry["type"]] > 1} == {True}
    assert {entry["conflict"] for entry in timeline if by_id[entry["id"], entry["type"]] == 1} == {False}
    assert (one["conflict"], one["data"]["item"]["title"]) == (True, "Lampe")
    assert len(pages) >= 2
    assert all(len(page["conflicts"]) == 3 for page in pages[:-1])
    shown = [entry for page in pages for entry in page["conflicts"] if entry["region"] == region]
    assert [entry["seq"] for entry in shown] == [row["seq"] for row in reversed(conflicts)]
    assert {entry["id"] for entry in shown} == {str(row["conflicts_with"]) for row in conflicts}
    assert wrong.status_code == 422


@pytest.mark.parametrize("batches", [[[0, 1, 2, 1, 0]], [[0], [1], [2, 0, 1]], [[0, 1], [1, 2]], [[0, 0], [2, 1, 2]]])
async def test_conflicts_keep_their_order_within_and_across_batches(
    region: str, store: Store, database: Database, batches: list[list[int]]
) -> None:
    topic, decided = history(region, "batched").events[3]
    values = [decided, again(decided, action="reject"), again(decided, action="reject", reasons=["FAKE"])]
    for batch in batches:
        logged = [
            parse_event(RecordId(topic, 0, n), e.headers, e.key, e.value, region=region)
            for n, e in ((n, values[n]) for n in batch)
        ]
        await store.append(logged, [])
    sent = list(dict.fromkeys(n for batch in batches for n in batch))
    assert [row["offset"] for row in await rows(database)] == sent


async def test_concurrent_writers_with_overlapping_batches_append_each_event_once_without_a_gap(
    region: str, store: Store, database: Database
) -> None:
    everything = logged_events([history(region, f"c{n}") for n in range(100)], region)
    batches = [everything[start : start + 80] for start in range(0, 400, 40)] * 2
    done: list[AppendResult] = await asyncio.gather(*(store.append(batch, []) for batch in batches))
    kept = await rows(database)
    assert [row["seq"] for row in kept] == list(range(1, 401))
    assert {row["event_id"] for row in kept} == {asyncpg.pgproto.pgproto.UUID(e.attributes.id) for e in everything}
    assert sum(one.repeats for one in done) == sum(map(len, batches)) - 400


async def test_a_poison_record_is_dead_lettered_and_shown_while_other_records_are_logged(
    kafka: str, region: str, store: Store, database: Database, producer: KafkaProducer
) -> None:
    good = history(region, "d")
    topic, submitted = good.events[0]
    unknown = [
        (name, b"piepowder.item.praised.v7" if name == "ce_type" else value) for name, value in submitted.headers
    ]
    unknown = [(name, ids.derive("praised").encode() if name == "ce_id" else value) for name, value in unknown]
    without_id = [(name, value) for name, value in submitted.headers if name != "ce_id"]
    empty_id: Any = [(name, None if name == "ce_id" else value) for name, value in submitted.headers]
    elsewhere = [(name, b"mars" if name == "ce_region" else value) for name, value in submitted.headers]
    bad = [
        Record(topic, b"x", b"y", []),
        Record(topic, None, None, []),
        Record(topic, submitted.key, submitted.value, without_id),
        Record(topic, submitted.key, submitted.value, empty_id),
        Record(topic, submitted.key, submitted.value[:-5], submitted.headers),
        Record(topic, submitted.key, b"[" * 100_000, submitted.headers),
        Record(topic, submitted.key, None, submitted.headers),
        Record(topic, submitted.key, submitted.value, elsewhere),
        Record(topic, b"another key", submitted.value, submitted.headers),
    ]
    garbage = Record(topics.deadletters(region), b"\xff\x00", b"\x00", [("dl_offset", b"-1"), ("dl_reason", b"a\x00b")])
    novelty = Record(
        topic, submitted.key, b'{"praise": "\\u0000"} ', [*unknown, ("ce_vendor", b"acme"), ("other", b"\xff")]
    )
    good_records = [record(topic, event) for topic, event in good.events]
    async with auditing(kafka, store, region):
        await producer.send([*bad[:5], *good_records, *bad[5:], novelty, garbage])
        await until_caught_up(kafka, region)
        async with asyncio.timeout(60):  # until the audit has read its own dead letters
            while len(await store.dead_letters(before=2**62, limit=100)) <= len(bad):  # noqa: ASYNC110 - in a database
                await asyncio.sleep(0.05)
    assert len([row for row in await rows(database) if row["region"] == region]) == len(good.events) + 1
    shown = await store.event(ids.derive("praised"))
    assert shown is not None
    assert bytes(shown.data) == b'{"praise": "\\u0000"} '
    assert shown.extensions == {"ce_vendor": "acme", "other": "\ufffd"}
    letters = await store.dead_letters(before=2**62, limit=100)
    assert len(letters) == len(bad) + 1
    own = [letter for letter in letters if letter.topic == topic]
    assert len(own) == len(bad)
    assert {letter.group for letter in own} == {f"piepowder-audit-{region}"}
    [strange] = [letter for letter in letters if letter.topic != topic]
    assert (strange.topic, strange.key, strange.reason) == (topics.deadletters(region), "\ufffd\ufffd", "a\ufffdb")
    page, _ = await handlers.timeline(store, good.subject, None, 100)
    assert [e.type for e in page if e.type != "deadletter"][:1] == [events.ITEM_SUBMITTED]
    reasons = [json.loads(bytes(e.data))["reason"] for e in page if e.type == "deadletter"]
    assert any("nested too deeply" in reason for reason in reasons)
    assert any("'mars'" in reason for reason in reasons)


async def test_a_discarded_dead_letter_is_shown_with_its_operator_and_reason_also_after_a_restore_and_a_reset(
    region: str, store: Store, database: Database
) -> None:
    records = AppendRecords(store, region)
    topic, group = topics.deadletters(region), f"piepowder-router-{region}"

    def letter(at: int, offset: int, *more: tuple[str, bytes], value: bytes = b"junk") -> RawRecord:
        place = {"group": group, "topic": "t", "partition": "2", "offset": str(offset), "reason": "no event"}
        headers = [(f"dl_{name}", text.encode()) for name, text in place.items()]
        return ConsumerRecord(topic, 0, at, 0, 0, b"k", value, None, 0, 0, (*headers, *more))

    async def append(*found: RawRecord) -> None:
        await records.handle([Received(each, records.decode(each)) for each in found])

    closing = [("dl_discarded", "Müll".encode()), ("dl_by", b"ops"), ("dl_time", b"2026-05-02T08:00:00.000Z")]
    of_a_new_topic = letter(2, 7, value=b"another record")
    everything = [letter(0, 7), letter(1, 8), of_a_new_topic, letter(3, 7, *closing)]
    await append(*everything)
    metric = {"region": region}
    assert REGISTRY.get_sample_value("piepowder_audit_discarded_deadletters_total", metric) == 1
    before = await store.dead_letters(before=2**62, limit=100)
    assert [(each.offset, each.discarded) for each in before] == [
        (7, None),
        (8, None),
        (7, DiscardView("ops", "Müll", "2026-05-02T08:00:00.000Z")),
    ]
    await append(*everything)
    assert await store.dead_letters(before=2**62, limit=100) == before
    assert REGISTRY.get_sample_value("piepowder_audit_discarded_deadletters_total", metric) == 1
    async with database.held() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM discards")


async def test_entries_of_the_log_cannot_be_changed_or_removed(region: str, store: Store, database: Database) -> None:
    source = RecordId("t", 0, 0)
    await store.append(
        logged_events([history(region, "e")], region), [LoggedDeadLetter(source, "g", "r", None, "", None, None)]
    )
    before = await rows(database)
    for table in ("log", "deadletters"):
        for change in (f"UPDATE {table} SET time = ''", f"DELETE FROM {table}", f"TRUNCATE {table}"):  # noqa: S608 - names of our own
            async with database.held() as connection:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
                    await connection.execute(change)
    assert await rows(database) == before


async def client(store: Store | None, region: str, *regions: str) -> httpx.AsyncClient:
    readiness = Readiness("audit")
    readiness.set("database", "PostgreSQL does not answer" if store is None else None)
    served = create_app("audit", "", readiness)
    served.include_router(api.router)
    if store is not None:
        api.available_store.provide(served, store)
    known = ClientEntry("auditor", ids.hash_api_key(KEY), frozenset({"audit:read"}), frozenset(regions or (region,)))
    served.state.authenticator = Authenticator([known], regions=[region])
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(served), base_url="http://audit", headers={"Authorization": f"Bearer {KEY}"}
    )


async def test_a_timeline_is_in_causal_order_and_its_pages_are_consistent_while_the_log_grows(
    region: str, store: Store
) -> None:
    histories = [history(region, "größe/50% +x", version) for version in (1, 2)]
    backwards = list(reversed(logged_events(histories[:1], region)))
    await store.append(backwards[:2], [])
    letter = LoggedDeadLetter(
        RecordId("t", 0, 7), "g", "why", None, to_text(START), backwards[-1].attributes.id, histories[0].subject
    )
    await store.append(backwards[2:], [letter])
    path = "/v1/subjects/shop/product/gr%C3%B6%C3%9Fe%2F50%25%20%2Bx/timeline"
    pages: list[dict[str, Any]] = []
    cursor: str | None = ""
    async with await client(store, region) as http:
        while cursor is not None:
            response = await http.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
            assert response.status_code == 200
            pages.append(response.json())
            cursor = pages[-1]["next"]
            await store.append(logged_events(histories[1:], region), [])
        whole = (await http.get(path)).json()
    shown_entries = [e for page in pages for e in page["events"]]
    assert [e["type"] for e in shown_entries] == [
        events.ITEM_SUBMITTED,
        events.CASE_OPENED,
        "deadletter",
        events.CASE_CLAIMED,
        events.DECISION_MADE,
    ]
    assert shown_entries[2]["causation_id"] == shown_entries[0]["id"]
    assert shown_entries[2]["data"]["reason"] == "why"
    assert shown_entries[0]["data"]["item"]["title"] == "Lampe"
    assert whole["subject"] == histories[0].subject
    assert len(whole["events"]) == 9
    then = [e["id"] for e in shown_entries if e["id"]]
    assert [e["id"] for e in whole["events"] if e["id"] in then] == then


async def test_an_encoded_slash_is_a_part_of_the_subjects_id_and_never_a_separator(region: str, store: Store) -> None:
    await store.append(logged_events([history(region, "ord-1"), history(region, "ord-2/timeline")], region), [])

    async def subject(path: str) -> str | None:
        response = await http.get(f"/v1/subjects/shop/product/{path}")
        assert response.status_code in (200, 404)
        return response.json()["subject"] if response.status_code == 200 else None

    async with await client(store, region) as http:
        assert await subject("ord-1/timeline") == "shop:product:ord-1"
        assert await subject("ord-1/%74imeline") == "shop:product:ord-1"
        assert await subject("ord-1%2Ftimeline") is None
        assert await subject("ord-1%2ftimeline") is None
        for path in ("ord-2%2Ftimeline/timeline", "ord-2/timeline/timeline"):
            assert await subject(path) == "shop:product:ord-2/timeline"


async def test_rest_returns_entries_and_rejects_invalid_requests_with_a_problem(region: str, store: Store) -> None:
    everything = logged_events([history(region, "f")], region)
    letters = [LoggedDeadLetter(RecordId("t", 0, n), "g", "r", "k", to_text(START), None, None) for n in range(3)]
    await store.append(everything, letters)
    first = everything[0].attributes
    async with await client(store, region) as http:
        assert (await http.get(f"/v1/events/{first.id}")).json()["type"] == events.ITEM_SUBMITTED
        page = (await http.get("/v1/events?limit=3")).json()
        assert ([e["seq"] for e in page["events"]], page["next"]) == ([1, 2, 3], 3)
        page = (await http.get("/v1/events?after=3")).json()
        assert ([e["seq"] for e in page["events"]], page["next"]) == ([4], None)
        page = (await http.get("/v1/deadletters?limit=2")).json()
        assert ([x["n"] for x in page["deadletters"]], page["next"]) == ([3, 2], encode_cursor(2))
        page = (await http.get("/v1/deadletters?limit=2&cursor=" + str(encode_cursor(2)))).json()
        assert ([x["n"] for x in page["deadletters"]], page["next"]) == ([1], None)
        totals = (await http.get("/v1/totals")).json()
        assert (totals["size"], totals["deadletters"]) == (4, 3)
        for path, status in {
            "/v1/subjects/shop/product/nobody/timeline": 404,
            "/v1/subjects/shop/product/f/timeline?cursor=x": 422,
            f"/v1/subjects/shop/product/f/timeline?cursor={encode_cursor([[1, 1], 1, [1, 10**19]])}": 422,
            f"/v1/subjects/shop/product/f/timeline?cursor={encode_cursor([[1, 1], -1, [1, 1]])}": 422,
            f"/v1/subjects/shop/product/f/timeline?cursor={encode_cursor(2)}": 422,
            "/v1/subjects/shop/product/f/timeline?limit=0": 422,
            "/v1/subjects/shop/product/%00/timeline": 422,
            "/v1/subjects/shop/product/%ff/timeline": 404,
            f"/v1/events/{ids.derive('nothing')}": 404,
            "/v1/events/7": 422,
            "/v1/events?after=-1": 422,
            f"/v1/events?after={2**63}": 422,
            "/v1/deadletters?cursor=-": 422,
            "/v1/deadletters?cursor=2": 422,
            f"/v1/deadletters?cursor={encode_cursor(-1)}": 422,
        }.items():
            response = await http.get(path)
            got = response.status_code, response.headers["content-type"]
            assert got == (status, "application/problem+json"), path
            assert status != 422 or response.json()["errors"][0]["pointer"]
        paths = (await http.get("/openapi.json")).json()["paths"]
        described = {path: operations for path, operations in paths.items() if path.startswith("/v1")}
        assert described.keys() == {
            "/v1/subjects/{platform}/{kind}/{id}/timeline",
            "/v1/events/{event_id}",
            "/v1/events",
            "/v1/deadletters",
            "/v1/conflicts",
            "/v1/totals",
        }
        for path in described.values():
            assert "example" in path["get"]["responses"]["200"]["content"]["application/json"]
            assert {"401", "403", "422", "503"} <= path["get"]["responses"].keys()
    async with await client(store, region, "mars") as http:
        assert (await http.get("/v1/totals")).status_code == 403
        assert (await http.get("/v1/totals", headers={"Authorization": ""})).status_code == 401
    async with await client(None, region) as http:
        response = await http.get("/v1/totals")
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")


async def test_while_postgresql_does_not_answer_rest_returns_503_and_events_wait(
    kafka: str, region: str, database_url: str, producer: KafkaProducer
) -> None:
    where = urlsplit(database_url)
    proxy = Proxy(where.hostname or "", where.port or 5432)
    await proxy.start()
    await migrations.upgrade(database_url, "audit")
    database = await Database.connect(database_url.replace(f":{where.port}/", f":{proxy.port}/"))
    store = Store(database, region)
    records = [record(topic, event) for topic, event in history(region, "g").events]
    conditions = [f"{part} piepowder-audit-{region}" for part in ("consumer", "positions")]
    async with auditing(kafka, store, region) as [audit], await client(store, region) as http:
        await proxy.cut()
        await producer.send(records)
        response = await http.get("/v1/totals")
        assert (response.status_code, "retry-after" in response.headers) == (503, True)
        await until(lambda: any(audit.readiness.conditions[name] != "ok" for name in conditions))
        await proxy.start()
        await until_caught_up(kafka, region)
        assert (await http.get("/v1/totals")).status_code == 200
    assert len([row for row in await rows(database) if row["region"] == region]) == len(records)
    await database.close()
    await proxy.cut()
