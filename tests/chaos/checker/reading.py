"""Reads a history: the journal's lines, every topic from its first offset, the tables by SQL of its own."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from sys import intern
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.chaos.checker.history import (
    Call,
    CaseRow,
    Cell,
    DecisionRow,
    LetterRow,
    LogRow,
    Planted,
    Record,
    StatusRow,
)

STAGES = ("submissions", "cases", "decisions", "access", "deadletters")
CONTROL = "piepowder.control"
_KAFKA_SECONDS = 90.0
_SQL_SECONDS = 60.0


def topic_names(regions: Iterable[str]) -> list[str]:
    """Every topic of these regions, and the global one."""
    return [CONTROL, *(f"piepowder.{stage}.{region}" for region in regions for stage in STAGES)]


def read_journal(path: Path) -> tuple[list[Call], list[Planted]]:
    """The calls in the order they were sent, each with its answer if one came, and what was planted."""
    sent: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    planted: list[Planted] = []
    for line in path.read_bytes().splitlines():
        entry: dict[str, Any] = msgspec.json.decode(line)
        if entry["what"] == "sent":
            sent[entry["n"]] = entry
        elif entry["what"] == "planted":
            place = entry["topic"], entry["partition"], entry["offset"]
            planted.append(Planted(entry["kind"], *place, tuple(entry["groups"])))
        else:
            ended[entry["n"]] = entry
    calls = []
    for n, entry in sorted(sent.items()):
        end = ended.get(n, {})
        calls.append(
            Call(
                n,
                entry["call"],
                entry["at"],
                entry["facts"],
                end.get("at"),
                end.get("status"),
                end.get("answer"),
                end.get("retry_after"),
                end.get("error", ""),
            )
        )
    return calls, planted


class Topics:
    """Every record of some topics; each `read` goes on from where the last one ended."""

    def __init__(self, bootstrap: str, names: list[str]) -> None:
        self._names = names
        self._consumer = AIOKafkaConsumer(
            *names,
            bootstrap_servers=bootstrap,
            client_id="chaos-checker",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=8 * 2**20,
        )
        self._assigned: list[TopicPartition] = []
        self.records: list[Record] = []

    async def read(self) -> list[Record]:
        """All records up to the ends of now; raises TimeoutError when Kafka does not answer in time."""
        async with asyncio.timeout(_KAFKA_SECONDS):
            if not self._assigned:
                await self._consumer.start()
                while {tp.topic for tp in self._consumer.assignment()} != set(self._names):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.1)
                self._assigned = sorted(self._consumer.assignment())
            ends = await self._consumer.end_offsets(self._assigned)
            while not all([await self._consumer.position(tp) >= end for tp, end in ends.items()]):
                for lane in (await self._consumer.getmany(timeout_ms=300)).values():
                    self.records += [
                        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, _headers(r.headers), r.value)
                        for r in lane
                    ]
        return self.records

    async def close(self) -> None:
        await self._consumer.stop()


def _headers(found: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((intern(name), value) for name, value in found)  # the same dozen names, a million times


async def read_decision(url: str, cell: Cell) -> None:
    """The cases, decisions, tallies and what is not published yet, at one moment."""
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
    """The log, its head and counts, the dead letters, at one moment."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await _all(
                connection,
                'SELECT seq, event_id::text, type, subject, region, topic, "partition", "offset",'
                " encode(sha256(data), 'hex') FROM log ORDER BY seq",
            )
            cell.log = [LogRow(*row) for row in rows]
            cell.log_size = await connection.fetchval("SELECT size FROM head", timeout=_SQL_SECONDS)
            cell.log_counts = {row[0]: row[1] for row in await _all(connection, "SELECT type, events FROM counts")}
            letters = await _all(
                connection, 'SELECT topic, "partition", "offset", consumer_group, reason FROM deadletters ORDER BY n'
            )
            cell.letters = [LetterRow(*row) for row in letters]
    finally:
        await connection.close(timeout=5)


async def read_intake(url: str) -> tuple[list[StatusRow], dict[tuple[str, str], int]]:
    """Each item's status by region, and the totals that are kept of them."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await _all(connection, "SELECT item_id::text, region, status FROM item_status")
            totals = await _all(connection, "SELECT region, status, items FROM item_totals")
            return [StatusRow(*row) for row in rows], {(row[0], row[1]): row[2] for row in totals if row[2]}
    finally:
        await connection.close(timeout=5)


async def read_tables(
    databases: Mapping[str, str], regions: Iterable[str]
) -> tuple[dict[str, Cell], list[StatusRow], dict[tuple[str, str], int]]:
    """All tables; `databases` gives the URL of `intake`, `decision-<region>` and `audit-<region>`."""
    cells: dict[str, Cell] = {}
    for region in regions:
        cell = cells[region] = Cell()
        await read_decision(databases[f"decision-{region}"], cell)
        await read_audit(databases[f"audit-{region}"], cell)
    return cells, *await read_intake(databases["intake"])


async def _all(connection: "asyncpg.Connection[Any]", query: str) -> list[Any]:
    return list(await connection.fetch(query, timeout=_SQL_SECONDS))
