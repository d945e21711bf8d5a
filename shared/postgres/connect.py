"""How a service comes by its database: it waits for the server, updates the schema, and closes after itself."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.readiness import Readiness
from shared.runtime.retry import until_done


@asynccontextmanager
async def opened(
    url: str,
    service: str,
    *,
    stop: asyncio.Event,
    readiness: Readiness,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Database | None]:
    """The database of `service`, for as long as the block takes; None when told to stop before the server answered.

    Readiness says what is lacking, meanwhile and as long as it is open. `settings` are in force on the hot connections.
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
