"""A service's database: an asyncpg pool for the hot paths (unnest, COPY), an SQLAlchemy engine for ordinary queries.

Errors about the database's state (a lost connection, a read-only or missing database, a deadlock) are raised as
Transient, so that consumers retry and REST returns 503: `shared.postgres.errors`. A hanging server closes no
connection. It is therefore pinged once a second, and while it does not respond, every call fails at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.postgres.errors import describe, ends_session, transient
from shared.runtime import metrics
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any]"

# A process that hangs, or a host that has disappeared, must not keep its locks.
SESSION: Final = {
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
_CLOSE_SECONDS: Final = 5.0  # for the connections in use at the end
_FAREWELL_SECONDS: Final = 2.0  # for the server's answers to the closing of idle connections
_PING_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 5.0  # without a response; then the server counts as down
_PINGS: Final = 10  # in one session; a session keeps the settings with which it began

_PING: Final = """
SELECT current_setting('server_encoding') AS encoding, current_setting('transaction_read_only') = 'on' AS is_read_only,
    to_regclass('alembic_version') IS NOT NULL AS has_schema"""


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
        self._had_schema = False

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
                server_settings={**SESSION, **settings, **DURABLE},
                reset=_keep_session,
            )
        except Exception as error:
            if (unavailable := transient(error)) is None:
                raise
            raise unavailable from error
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
        """Close the pools; after five seconds, also the connections in use.

        A server that does not answer, such as a frozen one, does not keep the process alive: its connections are then
        given up after two more seconds.
        """
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._engine.dispose()
        except TimeoutError:
            await self._engine.dispose(close=False)

    async def watch(self, readiness: Readiness, stop: asyncio.Event) -> None:
        """Ping the server until `stop` is set, and report the database's state as readiness.

        While the server does not respond, or the database has no schema, every call raises Transient at once. A
        database that is read-only can still be read.
        """
        connection: asyncpg.Connection[Any] | None = None
        responds = metrics.DATABASE_RESPONDS.labels(urlsplit(self._url).netloc.rpartition("@")[2])
        pings, reported = 0, None
        try:
            while not stop.is_set():
                read_only = None
                try:
                    async with asyncio.timeout(_SILENT_SECONDS):
                        if connection is not None and pings >= _PINGS:
                            await connection.close()
                            connection = None
                        if connection is None:
                            connection, pings = await asyncpg.connect(self._url, timeout=_SILENT_SECONDS), 0
                        [[encoding, is_read_only, has_schema]] = await connection.fetch(_PING)
                        pings += 1
                    self._trouble = self._trouble_in(encoding, has_schema)
                    if is_read_only:
                        read_only = "PostgreSQL is read-only, so nothing can be stored."
                except Exception as error:  # noqa: BLE001 - any error is reported, and the server is pinged again
                    self._trouble = describe(error)
                    if connection is not None:
                        connection.terminate()
                        connection = None
                if (missing := self._trouble or read_only) != reported:
                    log.warning("database: %s", missing or "works again")
                    reported = missing
                readiness.set("database", missing)
                responds.set(missing is None)
                await wait(stop, _PING_SECONDS)
        finally:
            if connection is not None:
                connection.terminate()

    def _trouble_in(self, encoding: str, has_schema: bool) -> str | None:
        """The reason why no call can succeed; None if calls can succeed."""
        if encoding != "UTF8":
            return f"The database's encoding is {encoding}: create the database with the encoding UTF8."
        if self._had_schema and not has_schema:
            return "The database has lost its schema: restore it, or start the service again, which creates the schema."
        self._had_schema = has_schema
        return None

    def _require(self) -> None:
        if self._trouble is not None:
            raise Transient(self._trouble)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """An asyncpg connection in one transaction: committed at the end, rolled back after an error.

        Raises Transient for an error about the state of the database or of its schema.
        """
        async with self.held() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def query(self) -> AsyncIterator[AsyncConnection]:
        """An SQLAlchemy connection for ordinary reads; raises the same errors as `transaction`."""
        self._require()
        try:
            async with self._engine.connect() as connection:
                try:
                    yield connection
                except Exception as error:
                    if ends_session(error):
                        await connection.invalidate()
                    raise
        except Exception as error:
            if (unavailable := transient(error)) is None:
                raise
            raise unavailable from error

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Connection]:
        """An asyncpg connection without a transaction, for fast look-ups; raises the same errors as `transaction`.

        It must not get session state (settings, advisory locks, subscriptions): the next user would inherit it.
        """
        self._require()
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                try:
                    yield connection
                except Exception as error:
                    if ends_session(error):
                        connection.terminate()
                    raise
        except Exception as error:
            if (unavailable := transient(error)) is None:
                raise
            raise unavailable from error

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """An asyncpg connection for session state. It is closed at the end, so its state ends too.

        Raises the same errors as `transaction`.
        """
        async with self.held() as connection:
            try:
                yield connection
            finally:
                with suppress(asyncpg.InterfaceError):  # the pool has already closed a broken connection
                    connection.terminate()


async def _keep_session(_: object) -> None:
    """Release a connection without a statement that resets its session; asyncpg rolls an open transaction back."""
