"""Reads a history: the journal, every topic from its first offset, and the tables with its own SQL."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Any, Final, Generic, TypeVar

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.chaos.checker.history import (
    Call,
    CaseRow,
    Cell,
    ClientRow,
    DecisionRow,
    IntakeTables,
    KeyRow,
    LetterRow,
    LogRow,
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


def read_journal(path: Path) -> tuple[list[Call], list[Planted]]:
    """The calls in the order in which they were sent, each with its response if there was one, and the planted
    records."""
    calls: dict[int, Call] = {}
    planted: list[Planted] = []
    with path.open("rb") as lines:
        for line in lines:
            entry: dict[str, Any] = msgspec.json.decode(line)
            if entry["what"] == "sent":
                calls[entry["n"]] = Call(entry["n"], intern(entry["call"]), entry["at"], entry["facts"])
            elif entry["what"] == "planted":
                place = entry["topic"], entry["partition"], entry["offset"]
                planted.append(Planted(entry["kind"], *place, tuple(entry["groups"])))
            else:
                calls[entry["n"]] = replace(
                    calls[entry["n"]],
                    answered_at=entry["at"],
                    status=entry.get("status"),
                    answer=entry.get("answer"),
                    retry_after=entry.get("retry_after"),
                    error=entry.get("error", ""),
                )
    return [call for _, call in sorted(calls.items())], planted


class Topics:
    """All records of some topics; each `read` continues where the last one ended."""

    def __init__(self, bootstrap: str, names: list[str]) -> None:
        self._names = names
        self._consumer = AIOKafkaConsumer(
            *names,
            bootstrap_servers=bootstrap,
            client_id="chaos-checker",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=2**20,
        )
        self._assigned: list[TopicPartition] = []
        self._headers = _Shared[tuple[str, bytes | None]]()
        self._keys = _Shared[bytes | None]()
        self._values: dict[bytes | None, bytes | None] = {}  # a replay publishes everything again
        self.records: list[Record] = []

    async def read(self) -> list[Record]:
        """All records up to the current ends; raises TimeoutError if Kafka does not respond in time."""
        async with asyncio.timeout(_KAFKA_SECONDS):
            if not self._assigned:
                await self._consumer.start()
                while {tp.topic for tp in self._consumer.assignment()} != set(self._names):  # noqa: ASYNC110 - no event to wait for
                    await asyncio.sleep(0.1)
                self._assigned = sorted(self._consumer.assignment())
            ends = await self._consumer.end_offsets(self._assigned)
            while not all([await self._consumer.position(tp) >= end for tp, end in ends.items()]):
                for lane in (await self._consumer.getmany(timeout_ms=300)).values():
                    self.records += [
                        Record(
                            intern(r.topic),
                            r.partition,
                            r.offset,
                            r.timestamp,
                            self._keys(r.key),
                            tuple([self._headers((intern(name), value)) for name, value in r.headers]),
                            self._values.setdefault(r.value, r.value),
                        )
                        for r in lane
                    ]
        return self.records

    async def close(self) -> None:
        await self._consumer.stop()


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
