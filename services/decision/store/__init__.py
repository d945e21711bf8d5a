"""The decision service's tables and all of its SQL.

A batch of cases costs as many statements as one case: a set of rows is inserted with one statement (INSERT for a few
rows, COPY for more; `shared.postgres.rows`), and the rows that it depends on (the newest version of each subject, its
open case) are read by key. The cost therefore follows the batch and the open work, never the history. Waiting cases are
found through partial indexes over open cases. Every change to a case locks its row, so the ids of the outbox follow the
changes; sets are locked in sorted order, so two writers cannot deadlock.

`cases.opened` is the event's value as received: the item, the trace and the rest are decoded from it when they are
read. For an appeal, `appealed_case` is the case that the appeal is about, and `not_by` the reviewer who made its
decision and may not decide the appeal. `withdrawals` holds only withdrawals whose case has not arrived, so it is nearly
empty, and a batch reads it without an extra statement. Ended cases are counted in `tallies`: every change inserts rows,
which are summed up from time to time, because an updated counter would make every writer wait for the others. Decisions
are only inserted; a trigger enforces this.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.decision.store.decisions import DecisionTransaction
from services.decision.store.gate import Gate
from services.decision.store.ingest import IngestTransaction
from services.decision.store.leases import LeaseTransaction
from services.decision.store.reads import CaseReads
from services.decision.store.tables import METADATA, SESSION
from shared.postgres.database import Database
from shared.postgres.positions import PositionTable

__all__ = ["METADATA", "SESSION", "Store"]

_FOLD_ABOVE: Final = 200
_FOLD: Final = """
WITH folded AS (DELETE FROM tallies RETURNING name, n)
INSERT INTO tallies (name, n) SELECT name, sum(n) FROM folded GROUP BY name"""


class Store(CaseReads):
    """A region's cases, decisions and queues. Each transaction raises Transient when its commit is not certain.

    With a `gate`, the transactions raise the errors of the gate while the database recovers from a restore.
    """

    def __init__(self, database: Database, gate: Gate | None = None) -> None:
        super().__init__(database)
        self._gate = gate

    @property
    def positions(self) -> PositionTable:
        """The positions of the consumer."""
        return PositionTable(self._database)

    @asynccontextmanager
    async def ingest(self) -> AsyncIterator[IngestTransaction]:
        """A transaction of `IngestCases`."""
        async with self._database.transaction() as connection:
            transaction = IngestTransaction(connection)
            if self._gate is not None:
                state = await self._gate.require_read(connection)
                transaction.has_waiting, transaction.incarnation = state.has_waiting, state.incarnation
            yield transaction

    @asynccontextmanager
    async def leases(self) -> AsyncIterator[LeaseTransaction]:
        """A transaction of `LeaseCases`."""
        async with self._database.transaction() as connection:
            transaction = LeaseTransaction(connection)
            if self._gate is not None:
                transaction.first_token = await self._gate.require_open(connection)
            yield transaction

    @asynccontextmanager
    async def decisions(self) -> AsyncIterator[DecisionTransaction]:
        """A transaction of `DecideCases`."""
        async with self._database.transaction() as connection:
            transaction = DecisionTransaction(connection)
            if self._gate is not None:
                transaction.first_token = await self._gate.require_open(connection)
            yield transaction

    async def require_complete(self) -> None:
        """Raises InputRejected (503) while the database recovers from a restore: an unknown case may exist."""
        if self._gate is not None:
            async with self._database.held() as connection:
                await self._gate.require_open(connection)

    async def fold_tallies(self) -> None:
        """Sum up the tallies to one row for each name, when there are many rows."""
        async with self._database.transaction() as connection:
            if await connection.fetchval("SELECT count(*) FROM tallies") > _FOLD_ABOVE:
                await connection.execute(_FOLD)
