"""A connection pooler in transaction mode is refused with the reason: it would share the relay's session locks."""

import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.ports import free_ports
from shared.postgres.database import DURABLE, SESSION, Database
from shared.postgres.poolers import refuse_pooler, sessions_are_shared
from shared.runtime.errors import Fatal, Transient
from tests.support.processes import start_process

needs_pgbouncer = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="the pooler is not installed")

PARAMETERS = ", ".join((*SESSION, *DURABLE))


class PooledClient:
    """A client of a pooler in transaction mode: it has a session of PostgreSQL only during a transaction."""

    def __init__(self, free: list[Any], choose: Callable[[list[Any]], Any]) -> None:
        self._free = free
        self._choose = choose
        self._session: Any = None

    async def execute(self, query: str) -> None:
        if query == "BEGIN":
            self._session = self._choose(self._free)
        await self._session.execute(query)
        if query == "COMMIT":
            self._free.append(self._session)
            self._session = None

    async def fetchrow(self, query: str) -> Any:
        return await self._session.fetchrow(query)


@asynccontextmanager
async def sessions(url: str, count: int) -> AsyncIterator[list[Any]]:
    opened = [await asyncpg.connect(url) for _ in range(count)]
    try:
        yield opened
    finally:
        for session in opened:
            await session.close()


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("position", [0, -1])
async def test_a_pooler_that_gives_each_transaction_a_free_session_is_recognized(
    database_url: str, count: int, position: int
) -> None:
    """PgBouncer takes the session that was used last (-1), or, with `server_round_robin`, first (0)."""
    async with sessions(database_url, count) as opened:
        free = list(opened)
        clients = [PooledClient(free, lambda sessions: sessions.pop(position)) for _ in range(2)]
        assert await sessions_are_shared(*clients)


async def test_sessions_of_postgresql_itself_are_not_shared(database_url: str) -> None:
    async with sessions(database_url, 2) as [one, other]:
        assert not await sessions_are_shared(one, other)
    await refuse_pooler(database_url, {"enable_seqscan": "off"})


async def test_a_server_that_does_not_respond_is_asked_again() -> None:
    [port] = free_ports(1)
    with pytest.raises(Transient, match=r"PostgreSQL: .*Connect call failed"):
        await refuse_pooler(f"postgresql://someone@127.0.0.1:{port}/nothing")


async def test_a_setting_that_is_not_in_force_is_fatal(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler can ignore the settings of a connection."""
    connect = asyncpg.connect

    async def ignore_settings(*args: Any, server_settings: object = None, **options: Any) -> Any:
        return await connect(*args, **options)

    monkeypatch.setattr(asyncpg, "connect", ignore_settings)
    with pytest.raises(Fatal, match=r"ignores these settings of a connection: .*idle_in_transaction_session_timeout"):
        await refuse_pooler(database_url)


@asynccontextmanager
async def pgbouncer(database_url: str, folder: Path, **options: str) -> AsyncIterator[str]:
    """The URL of the database through PgBouncer."""
    [port] = free_ports(1)
    url = urlsplit(database_url)
    server = f"host={url.hostname} port={url.port} dbname={url.path[1:]}"
    lines = [
        "[databases]",
        f"pooled = {server} user={url.username} password={url.password}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        *(f"{name} = {value}" for name, value in options.items()),
    ]
    (folder / "pgbouncer.ini").write_text("\n".join([*lines, ""]))
    user = ["-u", "nobody"] if sys.platform == "linux" else []
    process = await start_process(shutil.which("pgbouncer") or "", "-q", *user, str(folder / "pgbouncer.ini"))
    try:
        yield f"postgresql://anyone:x@127.0.0.1:{port}/pooled"
    finally:
        process.kill()
        await process.wait()


async def refused(url: str) -> None:
    """Check again until the pooler has started."""
    while True:
        try:
            return await refuse_pooler(url)
        except Transient as error:
            if "refused" not in str(error) and "Connect call failed" not in str(error):
                raise


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_pgbouncer_is_refused_unless_it_keeps_sessions(database_url: str, tmp_path: Path, mode: str) -> None:
    async with pgbouncer(database_url, tmp_path, pool_mode=mode, ignore_startup_parameters=PARAMETERS) as url:
        with pytest.raises(Fatal, match=r"pooler cannot be used.*(another session|statement pooling).*session mode"):
            await refused(url)


@needs_pgbouncer
async def test_pgbouncer_in_session_mode_works_if_the_role_has_the_settings(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, pool_mode="session") as url:
        with pytest.raises(Fatal, match="unsupported startup parameter"):
            await refused(url)
    async with pgbouncer(database_url, tmp_path, pool_mode="session", ignore_startup_parameters=PARAMETERS) as url:
        with pytest.raises(Fatal, match="ignores these settings"):
            await refused(url)
        admin = await asyncpg.connect(database_url)
        name = await admin.fetchval("SELECT current_database()")
        for setting, value in {**SESSION, **DURABLE}.items():
            await admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting} = '{value}'")
        await admin.close()
    async with pgbouncer(database_url, tmp_path, pool_mode="session", ignore_startup_parameters=PARAMETERS) as url:
        await refused(url)
        database = await Database.connect(url)
        try:
            async with database.transaction() as connection:
                assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "30s"
        finally:
            await database.close()
