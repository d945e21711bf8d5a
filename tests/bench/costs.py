"""The cost of a stage's work: bytes on Kafka's disk, WAL, tables and indexes, and the number of SQL statements.

The servers report all of it, before and after one round, so the service runs unchanged.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg
import httpx
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.stack import LocalStack
from tests.bench.report import Cost
from tests.bench.services import Service

_BATCHES: Final = "piepowder_consume_batch_seconds_count"
_SIZES: Final = """
SELECT relname::text AS bench, pg_table_size(relid), pg_indexes_size(relid) FROM pg_stat_user_tables"""
_WRITTEN: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS bench"
# excludes the statements of the bench, and the BEGIN and COMMIT of each transaction
_STATEMENTS: Final = """
SELECT coalesce(sum(calls), 0)::bigint AS bench FROM pg_stat_statements JOIN pg_database ON dbid = pg_database.oid
WHERE datname = $1 AND query !~* '^(BEGIN|COMMIT|ROLLBACK)|AS bench'"""


class _State(NamedTuple):
    topics: Mapping[str, int]
    wal: int
    tables: Mapping[str, tuple[int, int]]
    statements: int
    batches: int


class Meter:
    """Measures the cost of a round. `database` is the service's own, or None; it writes to `topics`."""

    def __init__(self, stack: LocalStack, service: Service, topics: Sequence[str], database: str | None) -> None:
        self._stack = stack
        self._service = service
        self._topics = topics
        self._database = database
        self.cost: Cost | None = None

    @asynccontextmanager
    async def weighing(self, items: int) -> AsyncIterator[None]:
        """Measure the cost of the block, in which this number of items is processed; `cost` has it afterwards."""
        before = await self._state()
        yield
        after = await self._state()
        self.cost = Cost(
            topics={name: (size - before.topics[name]) / items for name, size in after.topics.items()},
            wal=(after.wal - before.wal) / items,
            tables={
                name: ((table - old[0]) / items, (indexes - old[1]) / items)
                for name, (table, indexes) in after.tables.items()
                for old in [before.tables.get(name, (0, 0))]
                if table + indexes > sum(old)
            },
            batch_items=items / max(1, after.batches - before.batches),
            statements=(after.statements - before.statements) / max(1, after.batches - before.batches),
        )

    async def _state(self) -> _State:
        sizes = {name: self._on_disk(name) for name in self._topics}
        if self._database is None:
            return _State(sizes, 0, {}, 0, await self._batches())
        connection: asyncpg.Connection[Any] = await asyncpg.connect(self._database)
        try:
            name = await connection.fetchval("SELECT current_database() AS bench")
            wal = await connection.fetchval(_WRITTEN)
            tables = {row[0]: (row[1], row[2]) for row in await connection.fetch(_SIZES)}
        finally:
            await connection.close()
        connection = await asyncpg.connect(self._stack.database_url)
        try:
            statements = await connection.fetchval(_STATEMENTS, name)
        finally:
            await connection.close()
        return _State(sizes, wal, tables, statements, await self._batches())

    def _on_disk(self, topic: str) -> int:
        segments = (self._stack.folder / "kafka").glob(f"data-*/{topic}-*/*.log")
        return sum(segment.stat().st_size for segment in segments)

    async def _batches(self) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{self._service.url}/metrics")
        families = text_string_to_metric_families(answer.text)
        samples = [sample for family in families for sample in family.samples if sample.name == _BATCHES]
        return round(sum(sample.value for sample in samples))


async def count_statements(stack: LocalStack) -> None:
    """Let the local PostgreSQL count statements. This restarts it, so do this before a service starts."""
    assert stack.local_postgres is not None, "statements can be counted only on a local PostgreSQL"
    connection = await asyncpg.connect(stack.database_url)
    try:
        await connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    finally:
        await connection.close()
    await asyncio.to_thread(stack.local_postgres.stop)
    stack.database_url = await asyncio.to_thread(stack.local_postgres.start)
    connection = await asyncpg.connect(stack.database_url)
    try:
        await connection.execute("CREATE EXTENSION pg_stat_statements")
    finally:
        await connection.close()
