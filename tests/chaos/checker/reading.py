"""Reads a history: the journal, every topic from its first offset, and the tables with its own SQL."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Any, Final, Generic, TypeVar

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.chaos.checker.history import (
    GENERATION,
    Call,
    CaseRow,
    Cell,
    ClientRow,
    DecisionRow,
    IntakeTables,
    KeyRow,
    LetterRow,
    LogRow,
    Note,
    Planted,
    Record,
    RequestRow,
    StatusRow,
    StepRow,
)

STAGES = ("submissions", "cases", "decisions", "requests", "access", "deadletters")
CONTROL = "piepowder.control"
_KAFKA_SECONDS = 90.0
_SQL_SECONDS = 60.0
_KEPT: Final = 20_000

T = TypeVar("T")


def topic_names(regions: Iterable[str]) -> list[str]:
    """Every topic of these regions, and the global one."""
    return [CONTROL, *(f"piepowder.{stage}.{region}" for region in regions for stage in STAGES)]


def read_journal(path: Path) -> tuple[list[Call], list[Planted], list[Note]]:
    """The calls in the order in which they were sent, each with its response if there was one; the planted records;
    and the actions of operators."""
    calls: dict[int, Call] = {}
    planted: list[Planted] = []
    notes: list[Note] = []
    generations: Counter[str] = Counter()
    with path.open("rb") as lines:
        for line in lines:
            entry: dict[str, Any] = msgspec.json.decode(line)
            if entry["what"] == "sent":
                calls[entry["n"]] = Call(entry["n"], intern(entry["call"]), entry["at"], entry["facts"])
            elif entry["what"] == "planted":
                offset = entry["offset"] + GENERATION * generations[entry["topic"]]
                place = entry["topic"], entry["partition"], offset
                planted.append(Planted(entry["kind"], *place, tuple(entry["groups"])))
            elif entry["what"] == "noted":
                notes.append(Note(entry["kind"], entry["at"], entry["facts"]))
                if entry["kind"] == "recreated":
                    generations[entry["facts"]["topic"]] += 1
            else:
                calls[entry["n"]] = replace(
                    calls[entry["n"]],
                    answered_at=entry["at"],
                    status=entry.get("status"),
                    answer=entry.get("answer"),
                    retry_after=entry.get("retry_after"),
                    error=entry.get("error", ""),
                )
    return [call for _, call in sorted(calls.items())], planted, notes


class Topics:
    """All records of some topics; each `read` continues where the last one ended."""

    def __init__(self, bootstrap: str, names: list[str]) -> None:
        self._bootstrap = bootstrap
        self._names = names
        self._consumer: AIOKafkaConsumer | None = None
        self._next: dict[TopicPartition, int] = {}
        self._generations: Counter[str] = Counter()
        self._headers = _Shared[tuple[str, bytes | None]]()
        self._keys = _Shared[bytes | None]()
        self._values: dict[bytes | None, bytes | None] = {}  # a replay publishes everything again
        self.records: list[Record] = []

    async def read(self) -> list[Record]:
        """All records up to the current ends; raises TimeoutError if Kafka does not respond in time."""
        async with asyncio.timeout(_KAFKA_SECONDS):
            consumer = self._consumer or await self._connect()
            ends = await consumer.end_offsets(list(self._next))
            while not all([await consumer.position(tp) >= end for tp, end in ends.items()]):
                for tp, lane in (await consumer.getmany(timeout_ms=300)).items():
                    moved = GENERATION * self._generations[tp.topic]
                    self._next[tp] = lane[-1].offset + 1
                    self.records += [
                        Record(
                            intern(r.topic),
                            r.partition,
                            r.offset + moved,
                            r.timestamp,
                            self._keys(r.key),
                            tuple([self._headers((intern(name), value)) for name, value in r.headers]),
                            self._values.setdefault(r.value, r.value),
                        )
                        for r in lane
                    ]
        return self.records

    async def recreated(self, topic: str) -> None:
        """Continue with the first record of a topic that was deleted after the last `read`, and created again."""
        await self.close()
        self._generations[topic] += 1
        self._next = {tp: 0 if tp.topic == topic else offset for tp, offset in self._next.items()}

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def _connect(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id="chaos-checker",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=2**20,
        )
        await consumer.start()
        self._consumer = consumer
        if not self._next:
            self._next = dict.fromkeys(await partitions(self._bootstrap, self._names), 0)
        consumer.assign(list(self._next))
        for tp, offset in self._next.items():
            consumer.seek(tp, offset)
        return consumer


async def partitions(bootstrap: str, names: Sequence[str]) -> list[TopicPartition]:
    """The partitions of these topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    try:
        await admin.start()
        described = await admin.describe_topics(list(names))
    finally:
        await admin.close()
    return [TopicPartition(topic["topic"], n) for topic in described for n in range(len(topic["partitions"]))]


class _Shared(Generic[T]):
    """Returns one object for equal values among the recent ones: a million records repeat few values."""

    def __init__(self) -> None:
        self._kept: dict[T, T] = {}

    def __call__(self, one: T) -> T:
        if len(self._kept) > _KEPT:
            self._kept.clear()
        return self._kept.setdefault(one, one)


async def read_decision(url: str, cell: Cell) -> None:
    """The cases, decisions, tallies and unpublished events, in one snapshot."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            cases = await _all(
                connection,
                "SELECT case_id::text, subject, state, event_id::text, superseded_by::text, lease_token, reviewer"
                " FROM cases ORDER BY case_id",
            )
            cell.cases = [CaseRow(*row) for row in cases]
            decisions = await _all(
                connection,
                "SELECT case_id::text, n, decision_id::text, action, reasons::text, policy_set, automated, reviewer,"
                " team, lease_token, note FROM decisions ORDER BY case_id, n",
            )
            cell.decisions = [
                DecisionRow(*row)._replace(reasons=tuple(msgspec.json.decode(row[4]))) for row in decisions
            ]
            tallies = await _all(connection, "SELECT name, sum(n)::bigint FROM tallies GROUP BY name")
            cell.tallies = {row[0]: row[1] for row in tallies if row[1]}
            cell.unpublished = await connection.fetchval("SELECT count(*) FROM outbox", timeout=_SQL_SECONDS)
    finally:
        await connection.close(timeout=5)


async def read_audit(url: str, cell: Cell) -> None:
    """The log, its head and counts, and the dead letters, in one snapshot."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            log = (
                'SELECT seq, event_id::text, type, subject, region, topic, "partition", "offset",'
                " encode(sha256(data), 'hex') FROM log ORDER BY seq"
            )
            shared = _Shared[str]()
            async for row in connection.cursor(log, prefetch=2000, timeout=_SQL_SECONDS):
                seq, event_id, type_, subject, region, topic, partition, offset, sha256 = row
                type_, subject, region, topic = map(shared, (type_, subject, region, topic))
                cell.log.append(LogRow(seq, event_id, type_, subject, region, topic, partition, offset, sha256))
            cell.log_size = await connection.fetchval("SELECT size FROM head", timeout=_SQL_SECONDS)
            cell.log_counts = {row[0]: row[1] for row in await _all(connection, "SELECT type, events FROM counts")}
            letters = await _all(
                connection, 'SELECT topic, "partition", "offset", consumer_group, reason FROM deadletters ORDER BY n'
            )
            cell.letters = [LetterRow(*row) for row in letters]
    finally:
        await connection.close(timeout=5)


async def read_intake(url: str) -> tuple[list[StatusRow], dict[tuple[str, str], int], IntakeTables]:
    """Each item's status by region, the stored totals, and the other tables, in one snapshot."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await _all(connection, "SELECT item_id::text, region, status FROM item_status")
            totals = await _all(connection, "SELECT region, status, items FROM item_totals")
            return (
                [StatusRow(*row) for row in rows],
                {(row[0], row[1]): row[2] for row in totals if row[2]},
                await _intake_tables(connection),
            )
    finally:
        await connection.close(timeout=5)


async def _intake_tables(connection: "asyncpg.Connection[Any]") -> IntakeTables:
    requests = await _all(connection, "SELECT request_id::text, state, sponsor, request FROM requests ORDER BY 1")
    steps = await _all(
        connection,
        "SELECT request_id::text, version, kind, by, text, comment_id::text FROM request_steps ORDER BY 1, 2",
    )
    clients = await _all(connection, "SELECT name, state, revision, regions, platforms FROM clients ORDER BY 1")
    keys = await _all(
        connection, "SELECT client, key_id, revoked_at IS NOT NULL, made_with::text FROM client_keys ORDER BY 1, 2"
    )
    return IntakeTables(
        [_request(*row) for row in requests],
        [StepRow(*row) for row in steps],
        [ClientRow(*row[:3], *(tuple(sorted(of)) for of in row[3:])) for row in clients],
        [KeyRow(*row) for row in keys],
        await connection.fetchval("SELECT count(*) FROM outbox", timeout=_SQL_SECONDS),
    )


def _request(request_id: str, state: str, sponsor: str, whole: bytes) -> RequestRow:
    published = msgspec.json.decode(whole)
    approvals = tuple(approval["by"] for approval in published.get("approvals", ()))
    return RequestRow(request_id, state, published["version"], sponsor, approvals)


async def read_tables(
    databases: Mapping[str, str], regions: Iterable[str]
) -> tuple[dict[str, Cell], list[StatusRow], dict[tuple[str, str], int], IntakeTables]:
    """All tables; `databases` gives the URL of `intake`, `decision-<region>` and `audit-<region>`."""
    cells: dict[str, Cell] = {}
    for region in regions:
        cell = cells[region] = Cell()
        await read_decision(databases[f"decision-{region}"], cell)
        await read_audit(databases[f"audit-{region}"], cell)
    return cells, *await read_intake(databases["intake"])


async def _all(connection: "asyncpg.Connection[Any]", query: str) -> list[Any]:
    return list(await connection.fetch(query, timeout=_SQL_SECONDS))
