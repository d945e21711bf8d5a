"""A service's database: an asyncpg pool for the hot paths (unnest, COPY), an SQLAlchemy engine for ordinary queries.

Temporary errors (a lost connection, a server that is starting, a deadlock) are raised as Transient, so that consumers
retry and REST returns 503. A hanging server closes no connection. It is therefore pinged once a second, and while it
does not respond, every call fails at once instead of waiting.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoneIsFree
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.runtime import metrics
from shared.runtime.errors import Fatal, Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any]"

# A process that hangs, or a host that has disappeared, must not keep its locks.
_SESSION: Final = {
    "jit": "off",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

# For every session that writes: a commit returns after it is on disk, even if the server's default is `off`.
DURABLE: Final = {"synchronous_commit": "on"}

_ACQUIRE_SECONDS: Final = 5.0  # to wait for a free connection
_COMMAND_SECONDS: Final = 15.0  # for a statement
_PING_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 5.0  # without a response; then the server counts as down

_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server closed the connection while it was idle
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.OperatorInterventionError,  # shutting down, starting up, cancelled
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.PostgresSystemError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidCatalogNameError,  # the database is being restored
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)
# The schema has another version; the record is not the cause.
_OF_ANOTHER_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidColumnReferenceError)


def sqlalchemy_url(url: str) -> str:
    """A `postgresql://` URL with the name of SQLAlchemy's driver."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1).replace("postgres://", "postgresql+asyncpg://", 1)


class Database:
    """Connections of a service; `url` is `postgresql://user:password@host:port/name`."""

    def __init__(self, url: str, pool: "asyncpg.Pool[Any]", engine: AsyncEngine) -> None:
        self._url = url
        self._pool = pool
        self._engine = engine
        self._trouble: str | None = None

    @classmethod
    async def connect(
        cls, url: str, *, connections: int = 10, settings: Mapping[str, str] = MappingProxyType({})
    ) -> "Database":
        """Open the pools; `settings` apply to the asyncpg pool. Raises Transient when the server does not respond."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                timeout=10,
                command_timeout=_COMMAND_SECONDS,
                server_settings={**_SESSION, **settings, **DURABLE},
            )
        except _PASSING as error:
            raise Transient(f"PostgreSQL does not respond: {error}") from error
        engine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=connections,  # opened on demand and kept: PostgreSQL starts a process for each
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=_ACQUIRE_SECONDS,
            connect_args={"timeout": _SILENT_SECONDS, "command_timeout": _COMMAND_SECONDS, "server_settings": DURABLE},
        )
        return cls(url, pool, engine)

    async def close(self) -> None:
        """Close the pools; after five seconds, also the connections in use."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
        await self._engine.dispose()

    async def watch(self, readiness: Readiness, stop: asyncio.Event) -> None:
        """Ping the server until `stop` is set. While it does not respond, the service is not ready, and every call
        raises Transient at once."""
        connection: asyncpg.Connection[Any] | None = None
        responds = metrics.DATABASE_RESPONDS.labels(urlsplit(self._url).netloc.rpartition("@")[2])
        try:
            while not stop.is_set():
                try:
                    async with asyncio.timeout(_SILENT_SECONDS):
                        if connection is None:
                            connection = await asyncpg.connect(self._url, timeout=_SILENT_SECONDS)
                        await connection.fetchval("SELECT 1 AS alive")
                    trouble = None
                except Exception as error:  # noqa: BLE001 - any error is reported, and the server is pinged again
                    trouble = _why(error)
                    if connection is not None:
                        connection.terminate()
                        connection = None
                if trouble != self._trouble:
                    log.warning("database: %s", trouble or "responds again")
                    self._trouble = trouble
                readiness.set("database", trouble)
                responds.set(trouble is None)
                await wait(stop, _PING_SECONDS)
        finally:
            if connection is not None:
                connection.terminate()

    def _require(self) -> None:
        if self._trouble is not None:
            raise Transient(self._trouble)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """An asyncpg connection in one transaction: committed at the end, rolled back after an error.

        Raises Transient while the server is down, Fatal if its schema has another version.
        """
        async with self.held() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def query(self) -> AsyncIterator[AsyncConnection]:
        """An SQLAlchemy connection for ordinary reads; raises the same errors as `transaction`."""
        self._require()
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (OperationalError, InterfaceError, NoneIsFree, *_PASSING) as error:
            raise Transient(_why(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise Transient(_why(error)) from error
            if getattr(error.orig, "sqlstate", None) in {kind.sqlstate for kind in _OF_ANOTHER_SCHEMA}:
                raise _another_schema(error) from error
            raise

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Connection]:
        """An asyncpg connection without a transaction, for session state (advisory locks) and for fast look-ups.

        Raises the same errors as `transaction`.
        """
        self._require()
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                yield connection
        except _OF_ANOTHER_SCHEMA as error:
            raise _another_schema(error) from error
        except _PASSING as error:
            if isinstance(error, ValueError):  # an invalid argument is an InterfaceError too
                raise
            raise Transient(_why(error)) from error


def _another_schema(error: BaseException) -> Fatal:
    return Fatal(
        f"the database's schema has another version ({_message(error)}): start the service again, which upgrades it,"
        " or stop the service if a newer version has replaced it"
    )


def _why(error: BaseException) -> str:
    """The error as a sentence for clients, without SQL statements, addresses and help links."""
    if isinstance(error, NoneIsFree):
        return "No connection to PostgreSQL was free in time."
    if isinstance(error, TimeoutError):
        return "PostgreSQL did not answer in time."
    return f"PostgreSQL: {_message(error)}."


def _message(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__
