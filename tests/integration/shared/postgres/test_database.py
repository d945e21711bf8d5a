"""A database without a free connection, or one that hangs, is a transient error at once: a request gets 503, not 500
(promise 9)."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from shared.postgres import database, migrations
from shared.postgres.database import Connection, Database
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from tests.chaos.proxy import NetworkFault, Proxies


async def take_all_connections(take: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    """Take more connections than the pool has, and hold them."""
    async with AsyncExitStack() as held:
        for _ in range(10):
            await held.enter_async_context(take())


async def test_without_a_free_connection_a_call_raises_transient(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_ACQUIRE_SECONDS", 0.2)
    opened = await Database.connect(database_url, connections=1)
    try:
        for take in (opened.query, opened.transaction, opened.held):
            with pytest.raises(Transient, match="PostgreSQL"):
                await take_all_connections(take)
        async with opened.query(), opened.transaction():
            pass
    finally:
        await opened.close()


async def test_the_connections_of_a_server_that_hangs_are_given_up_at_the_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_CLOSE_SECONDS", 0.5)
    monkeypatch.setattr(database, "_FAREWELL_SECONDS", 0.5)
    proxies, url = Proxies(), urlsplit(database_url)
    proxies.start()
    port = proxies.open("postgres", lambda: url.port or 0, lambda _: "test")
    opened = await Database.connect(url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}").geturl())
    try:
        async with opened.query() as connection, opened.transaction() as other:
            await connection.execute(text("SELECT 1"))
            await other.execute("SELECT 1")
        proxies.begin(NetworkFault("half-open", "", "postgres"))
        async with asyncio.timeout(10):
            await opened.close()
    finally:
        proxies.stop()


async def test_a_server_that_hangs_is_noticed_and_calls_fail_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(database, "_PING_SECONDS", 0.1)
    proxies, readiness, stop = Proxies(), Readiness("test"), asyncio.Event()
    proxies.start()
    url = urlsplit(database_url)
    port = proxies.open("postgres", lambda: url.port or 0, lambda _: "test")
    proxied = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}").geturl()
    opened = await Database.connect(proxied)
    watching = asyncio.create_task(opened.watch(readiness, stop))
    silent = NetworkFault("half-open", "", "postgres")
    try:
        await wait_until(readiness, "ok")
        proxies.begin(silent)
        await wait_until(readiness, "PostgreSQL did not answer in time.")
        for take in (opened.query, opened.transaction, opened.held):
            async with asyncio.timeout(0.2):
                with pytest.raises(Transient, match="did not answer in time"):
                    await take_all_connections(take)
        proxies.end(silent)
        await wait_until(readiness, "ok")
        async with opened.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        stop.set()
        await watching
        await opened.close()
        await asyncio.to_thread(proxies.stop)


async def test_the_watch_survives_any_error_and_the_database_becomes_ready_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PING_SECONDS", 0.02)
    troubles: list[Exception] = [asyncpg.InvalidPasswordError("no such password"), LookupError("unknown host")]
    connect, readiness, stop = asyncpg.connect, Readiness("test"), asyncio.Event()

    async def troubled(*args: Any, **options: Any) -> Any:
        if troubles:
            raise troubles[0]
        return await connect(*args, **options)

    opened = await Database.connect(database_url, connections=1)
    monkeypatch.setattr(asyncpg, "connect", troubled)
    watching = asyncio.create_task(opened.watch(readiness, stop))
    try:
        while troubles:
            await wait_until(readiness, f"PostgreSQL: {troubles[0]}.")
            with pytest.raises(Transient, match=str(troubles[0])):
                await take_all_connections(opened.held)
            troubles.pop(0)
        await wait_until(readiness, "ok")
        async with opened.held() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        stop.set()
        await watching
        await opened.close()


@pytest.mark.parametrize("asked", ["SELECT FROM nowhere", "SELECT missing FROM pg_database", "SELECT nothing()"])
async def test_a_schema_of_another_version_is_transient_and_not_poison(database_url: str, asked: str) -> None:
    opened = await Database.connect(database_url, connections=1)
    try:
        with pytest.raises(Transient, match=r"schema does not fit .* does not exist"):
            async with opened.transaction() as connection:
                await connection.execute(asked)
        with pytest.raises(Transient, match=r"schema does not fit .* does not exist"):
            async with opened.query() as connection:
                await connection.execute(text(asked))
        async with opened.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        await opened.close()


STATE = (
    "SELECT current_setting('statement_timeout'),"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
    " (SELECT count(*) FROM pg_listening_channels()), pg_current_xact_id_if_assigned() IS NOT NULL"
)
CHANGE = (
    "SET statement_timeout = '7s'; SELECT pg_advisory_lock(1); LISTEN news; SELECT pg_current_xact_id();"
    " CREATE TEMP TABLE mine (n int)"
)


async def state_of(connection: Connection) -> tuple[object, ...]:
    [row] = await connection.fetch(STATE)
    return tuple(row)


async def change_and_fail(opened: Database) -> None:
    async with opened.session() as connection:
        await connection.execute(CHANGE)
        raise LookupError


async def test_session_state_ends_with_its_session(database_url: str) -> None:
    opened = await Database.connect(database_url, connections=1)
    try:
        async with opened.session() as connection:
            await connection.execute(CHANGE)
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            assert await state_of(connection) == ("7s", 1, 1, False)
        with pytest.raises(LookupError):
            await change_and_fail(opened)
        for take in (opened.held, opened.transaction):
            async with take() as connection:
                assert await state_of(connection) == ("0", 0, 0, False)
                assert await connection.fetchval("SELECT to_regclass('mine')") is None
                assert await connection.fetchval("SELECT pg_backend_pid()") != backend
    finally:
        await opened.close()


async def test_the_end_of_a_transaction_leaves_no_state_however_it_ends(database_url: str) -> None:
    """Connections are not reset when they are released."""
    opened = await Database.connect(database_url, connections=1)
    local = "SET LOCAL statement_timeout = '7s'; SELECT pg_advisory_xact_lock(1); SELECT pg_current_xact_id()"

    async def end(last: str, error: Exception | None = None) -> None:
        async with opened.transaction() as connection:
            await connection.execute(local)
            assert await state_of(connection) == ("7s", 1, 0, True)
            await connection.execute(last)
            if error is not None:
                raise error

    try:
        async with opened.held() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
        await end("SELECT 1")
        with pytest.raises(LookupError):
            await end("SELECT 1", LookupError())
        with pytest.raises(asyncpg.NumericValueOutOfRangeError):
            await end("SELECT 2147483647 + 1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await end("SELECT pg_sleep(60)")
        async with opened.held() as connection:
            assert await state_of(connection) == ("0", 0, 0, False)
            assert await connection.fetchval("SELECT pg_backend_pid()") == backend
        async with opened.held() as connection:
            await connection.execute("BEGIN; SELECT pg_advisory_xact_lock(1), pg_current_xact_id()")
        async with opened.held() as connection:
            assert await state_of(connection) == ("0", 0, 0, False)
    finally:
        await opened.close()


async def test_a_session_that_began_read_only_ends_with_its_first_error(database_url: str) -> None:
    """The setting of a database applies to new sessions: one that is kept would stay read-only."""
    admin = await asyncpg.connect(database_url)
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute("CREATE TABLE numbers (n int)")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    opened = await Database.connect(database_url, connections=2)
    try:
        async with opened.held() as one, opened.held() as other:  # both sessions of the pool
            assert [await each.fetchval("SELECT count(*) FROM numbers") for each in (one, other)] == [0, 0]
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        for n in range(4):
            with suppress(Transient):
                async with opened.transaction() as connection:
                    await connection.execute("INSERT INTO numbers VALUES ($1)", n)
        assert await admin.fetchval("SELECT count(*) FROM numbers") in (2, 3)  # each session fails at most once
    finally:
        await opened.close()
        await admin.close()


async def test_readiness_follows_the_state_of_the_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PING_SECONDS", 0.02)
    await migrations.upgrade(database_url, "audit")
    admin = await asyncpg.connect(database_url)
    name = await admin.fetchval("SELECT current_database()")
    readiness, stop = Readiness("test"), asyncio.Event()
    opened = await Database.connect(database_url, connections=1)
    watching = asyncio.create_task(opened.watch(readiness, stop))
    try:
        await wait_until(readiness, "ok")
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await wait_until(readiness, "PostgreSQL is read-only, so nothing can be stored.")
        async with opened.query() as connection:  # it can still be read
            assert await connection.scalar(text("SELECT 1")) == 1
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await wait_until(readiness, "ok")
        await admin.execute("ALTER TABLE alembic_version RENAME TO elsewhere")
        lost = "The database has lost its schema: restore it, or start the service again, which creates the schema."
        await wait_until(readiness, lost)
        with pytest.raises(Transient, match="lost its schema"):
            await take_all_connections(opened.held)
        await admin.execute("ALTER TABLE elsewhere RENAME TO alembic_version")
        await wait_until(readiness, "ok")
    finally:
        stop.set()
        await watching
        await opened.close()
        await admin.close()


async def test_a_database_with_another_encoding_than_utf8_is_not_used(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each text that the encoding cannot store would be the fault of its record."""
    monkeypatch.setattr(database, "_PING_SECONDS", 0.02)
    admin = await asyncpg.connect(database_url)
    name = f"{await admin.fetchval('SELECT current_database()')}_latin"
    await admin.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    readiness, stop = Readiness("test"), asyncio.Event()
    opened = await Database.connect(f"{database_url.rpartition('/')[0]}/{name}", connections=1)
    watching = asyncio.create_task(opened.watch(readiness, stop))
    try:
        await wait_until(readiness, "The database's encoding is LATIN1: create the database with the encoding UTF8.")
        with pytest.raises(Transient, match="UTF8"):
            await take_all_connections(opened.transaction)
    finally:
        stop.set()
        await watching
        await opened.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def wait_until(readiness: Readiness, state: str) -> None:
    async with asyncio.timeout(20):
        while readiness.conditions.get("database") != state:  # noqa: ASYNC110 - readiness has no event
            await asyncio.sleep(0.02)
