"""Opens a service's database: waits for the server, upgrades the schema, and closes the connections at the end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.readiness import Readiness
from shared.runtime.retry import until_done


@asynccontextmanager
async def open_database(
    url: str,
    service: str,
    *,
    stop: asyncio.Event,
    readiness: Readiness,
    settings: Mapping[str, str],
) -> AsyncIterator[Database | None]:
    """The database of `service`, open inside the block; None when `stop` is set before the server responds.

    The state of the server is reported as readiness. `settings` apply to the asyncpg connections.
    """

    async def connect() -> Database:
        await migrations.upgrade(url, service)
        return await Database.connect(url, settings=settings)

    database = await until_done("database", connect, stop=stop, readiness=readiness)
    if database is None:
        yield None
        return
    watching = asyncio.create_task(database.watch(readiness, stop))
    try:
        yield database
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await database.close()
