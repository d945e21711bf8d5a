"""A database without a free connection, or one that hangs, is a transient error at once: a request gets 503, not 500
(promise 9)."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from shared.postgres import database
from shared.postgres.database import Database
from shared.runtime.errors import Fatal, Transient
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


@pytest.mark.parametrize("asked", ["SELECT FROM nowhere", "SELECT missing FROM pg_database"])
async def test_a_schema_of_another_version_is_fatal_and_not_poison(database_url: str, asked: str) -> None:
    opened = await Database.connect(database_url, connections=1)
    try:
        with pytest.raises(Fatal, match=r"schema has another version.* does not exist"):
            async with opened.transaction() as connection:
                await connection.execute(asked)
        with pytest.raises(Fatal, match=r"schema has another version.* does not exist"):
            async with opened.query() as connection:
                await connection.execute(text(asked))
        async with opened.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        await opened.close()


async def wait_until(readiness: Readiness, state: str) -> None:
    async with asyncio.timeout(20):
        while readiness.conditions.get("database") != state:  # noqa: ASYNC110 - readiness has no event
            await asyncio.sleep(0.02)
