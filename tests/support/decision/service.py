"""The use cases of the decision service on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import create_async_engine

from services.decision.domain.decisions import DecideCommand
from services.decision.domain.leases import ClaimCommand
from services.decision.handlers.control import ReasonsInForce
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.ingest import IngestCases
from services.decision.handlers.leases import Lease, LeaseCases
from services.decision.handlers.messages import decode_message
from services.decision.store import SESSION, Store
from shared.contracts.envelope import Encoded
from shared.kafka.consumer import Received
from shared.postgres import migrations
from shared.postgres.database import Database, sqlalchemy_url
from tests.support.decision.cases import consumed
from tests.support.decision.domain import reasons_in_force

REGION = "eu"


class Service(NamedTuple):
    """The use cases on the test's own database; `outside` is another connection to it."""

    database: Database
    store: Store
    ingest: IngestCases
    leases: LeaseCases
    decisions: DecideCases
    reasons: ReasonsInForce
    outside: "asyncpg.Connection[Any]"

    async def open(self, *cases: Encoded) -> None:
        """Ingest these events as one batch."""
        records = map(consumed, cases)
        await self.ingest.handle([Received(record, decode_message(record, region=REGION)) for record in records])

    async def claim(self, reviewer: str = "r-1", **how: Any) -> Lease | None:
        """Claim a case of the general queue, or of the given `queues`."""
        queues = how.pop("queues", ["general"])
        command = ClaimCommand(**{"reviewer": reviewer, "team": "in_house", "seconds": 300, **how})
        return await self.leases.claim(queues, command)

    async def claimed(self, reviewer: str = "r-1", **how: Any) -> Lease:
        """Claim a case; fails if no case is waiting."""
        lease = await self.claim(reviewer, **how)
        assert lease is not None
        return lease

    async def decide(self, lease: Lease, action: str = "approve", *reasons: str) -> bool:
        """Decide a case; True if the decision is new."""
        command = DecideCommand(lease.case.lease_token, action, list(reasons))
        outcome = await self.decisions.decide(lease.case.case_id, command)
        assert outcome is not None
        return outcome.is_new

    async def let_expire(self, lease: Lease) -> None:
        """Make the lease expire now."""
        await self.outside.execute(
            "UPDATE cases SET lease_until = clock_timestamp() WHERE case_id = $1", lease.case.case_id
        )

    async def states(self) -> list[str]:
        """The states of all cases, by subject and version."""
        rows = await self.outside.fetch(
            "SELECT state FROM cases ORDER BY subject, (convert_from(opened, 'UTF8')::json ->> 'version')::int"
        )
        return [row[0] for row in rows]

    async def published(self) -> list[tuple[str, str]]:
        """Type and event id of each event in the outbox, in order."""
        rows = await self.outside.fetch("SELECT headers FROM outbox ORDER BY id")
        headers = [dict(msgspec.msgpack.decode(row[0], type=list[tuple[str, bytes]])) for row in rows]
        return [(named["ce_type"].decode(), named["ce_id"].decode()) for named in headers]

    async def event_types(self) -> list[str]:
        """The short types of the events in the outbox, in order."""
        return [kind.removeprefix("piepowder.").removesuffix(".v1") for kind, _ in await self.published()]


@asynccontextmanager
async def running(url: str, **pool_settings: Any) -> AsyncIterator[Service]:
    """The use cases on the database at `url`, with its schema."""
    await migrations.upgrade(url, "decision")
    pool = await asyncpg.create_pool(url, server_settings=SESSION, **pool_settings)
    database = Database(url, pool, create_async_engine(sqlalchemy_url(url)))
    outside = await asyncpg.connect(url)
    store = Store(database)
    reasons = reasons_in_force()
    common: dict[str, Any] = {"region": REGION, "wake": lambda: None}
    try:
        yield Service(
            database,
            store,
            IngestCases(store.ingest, **common),
            LeaseCases(store.leases, **common),
            DecideCases(store.decisions, **common, codes=lambda: reasons.codes),
            reasons,
            outside,
        )
    finally:
        await outside.close()
        await database.close()
