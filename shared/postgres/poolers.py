"""Refuses a connection pooler that gives each transaction another session of PostgreSQL, such as PgBouncer in
transaction mode.

The relay of the outbox holds its shards by advisory locks of its session, and every session has settings of its own,
such as durable commits. Both are lost when the transactions of a client run in several sessions, or several
clients share a session. A pooler in session mode keeps them. See docs/architecture/deployment.md.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import asyncpg

from shared.postgres.database import DURABLE, SESSION
from shared.postgres.errors import describe, transient
from shared.runtime.errors import Fatal

_ROUNDS: Final = 3
_SECONDS: Final = 10.0

# The process of the session and the start of its server: two servers may have processes with the same number.
_BACKEND: Final = "SELECT pg_backend_pid(), pg_postmaster_start_time()"

_IGNORED: Final = """
SELECT name FROM unnest($1::text[], $2::text[]) AS setting (name, wanted) WHERE current_setting(name) <> wanted"""


class Session(Protocol):
    """A connection of asyncpg, as a client sees it."""

    async def execute(self, query: str) -> object: ...
    async def fetchrow(self, query: str) -> Any: ...


async def refuse_pooler(url: str, settings: Mapping[str, str] = MappingProxyType({})) -> None:
    """Check that each connection to `url` has a session of its own, in which the service's settings are in force.

    Raises Fatal with the reason, or Transient when the server does not respond.
    """
    connections: list[asyncpg.Connection[Any]] = []
    try:
        async with asyncio.timeout(_SECONDS):
            connections += [await asyncpg.connect(url, statement_cache_size=0)]
            connections += [await asyncpg.connect(url, statement_cache_size=0)]
            if await sessions_are_shared(*connections):
                raise _fatal("it gives each transaction another session, but the relay needs locks of one session")
            wanted = {**SESSION, **settings, **DURABLE}
            connections.append(await asyncpg.connect(url, statement_cache_size=0, server_settings=wanted))
            if ignored := await connections[-1].fetch(_IGNORED, list(wanted), list(wanted.values())):
                names = ", ".join(row[0] for row in ignored)
                raise _fatal(f"it ignores these settings of a connection: {names}; set them for the role (ALTER ROLE)")
    except Fatal:
        raise
    except Exception as error:
        refusal = error.__cause__ if isinstance(error, asyncpg.ConnectionDoesNotExistError) else error
        if isinstance(refusal, asyncpg.ProtocolViolationError):
            raise _fatal(describe(refusal)) from error
        if (unavailable := transient(error)) is None:
            raise
        raise unavailable from error
    finally:
        for connection in connections:
            connection.terminate()


async def sessions_are_shared(one: Session, other: Session) -> bool:
    """True if transactions of the two connections ran in one session of PostgreSQL, or those of `one` in several."""
    own, others = {await _backend(one)}, set()
    for _ in range(_ROUNDS):
        await other.execute("BEGIN")  # `other` keeps its session until the end of the transaction
        others.add(tuple(await other.fetchrow(_BACKEND)))
        if own & others:
            return True
        own.add(await _backend(one))
        await other.execute("COMMIT")
        own |= {await _backend(one), await _backend(one)}
        if own & others or len(own) > 1 or len(others) > 1:
            return True
    return False


async def _backend(session: Session) -> tuple[Any, ...]:
    """The session of PostgreSQL, in a transaction, because a statement alone may be two transactions for a pooler."""
    await session.execute("BEGIN")
    row = await session.fetchrow(_BACKEND)
    await session.execute("COMMIT")
    return tuple(row)


def _fatal(reason: str) -> Fatal:
    return Fatal(
        f"the database's connection pooler cannot be used: {reason.rstrip('.')}. Use a pooler in session mode"
        " (PgBouncer: pool_mode = session, and the settings under ignore_startup_parameters), or connect to PostgreSQL"
        " directly."
    )
