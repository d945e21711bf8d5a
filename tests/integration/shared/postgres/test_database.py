"""A database that has no connection to spare, or stands still, is told as one that is away, so that a call is answered
503 and no 500, and soon (promise 9)."""

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


async def all_of_them(take: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    """Take more connections than there are, and keep each."""
    async with AsyncExitStack() as held:
        for _ in range(10):
            await held.enter_async_context(take())


async def test_who_finds_no_free_connection_is_told_to_come_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_ACQUIRE_SECONDS", 0.2)
    kept = await Database.connect(database_url, connections=1)
    try:
        for take in (kept.query, kept.transaction, kept.held):
            with pytest.raises(Transient, match="PostgreSQL"):
                await all_of_them(take)
        async with kept.query(), kept.transaction():
            pass
    finally:
        await kept.close()


async def test_a_server_that_stands_still_is_noticed_and_nobody_waits_for_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(database, "_PING_SECONDS", 0.1)
    proxies, readiness, stop = Proxies(), Readiness("test"), asyncio.Event()
    proxies.start()
    url = urlsplit(database_url)
    port = proxies.open("postgres", lambda: url.port or 0, lambda _: "test")
    proxied = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}").geturl()
    kept = await Database.connect(proxied)
    watching = asyncio.create_task(kept.watch(readiness, stop))
    silent = NetworkFault("half-open", "", "postgres")
    try:
        await said(readiness, "ok")
        proxies.begin(silent)
        await said(readiness, "PostgreSQL did not answer in time.")
        for take in (kept.query, kept.transaction, kept.held):
            async with asyncio.timeout(0.2):
                with pytest.raises(Transient, match="did not answer in time"):
                    await all_of_them(take)
        proxies.end(silent)
        await said(readiness, "ok")
        async with kept.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        stop.set()
        await watching
        await kept.close()
        await asyncio.to_thread(proxies.stop)


async def test_whatever_the_watch_meets_it_goes_on_and_the_database_comes_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PING_SECONDS", 0.02)
    troubles: list[Exception] = [asyncpg.InvalidPasswordError("no such password"), LookupError("never heard of")]
    connect, readiness, stop = asyncpg.connect, Readiness("test"), asyncio.Event()

    async def troubled(*args: Any, **options: Any) -> Any:
        if troubles:
            raise troubles[0]
        return await connect(*args, **options)

    kept = await Database.connect(database_url, connections=1)
    monkeypatch.setattr(asyncpg, "connect", troubled)
    watching = asyncio.create_task(kept.watch(readiness, stop))
    try:
        while troubles:
            await said(readiness, f"PostgreSQL: {troubles[0]}.")
            with pytest.raises(Transient, match=str(troubles[0])):
                await all_of_them(kept.held)
            troubles.pop(0)
        await said(readiness, "ok")
        async with kept.held() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        stop.set()
        await watching
        await kept.close()


@pytest.mark.parametrize("asked", ["SELECT FROM nowhere", "SELECT missing FROM pg_database"])
async def test_a_schema_of_another_version_is_nobodys_poison(database_url: str, asked: str) -> None:
    kept = await Database.connect(database_url, connections=1)
    try:
        with pytest.raises(Fatal, match=r"schema is not this version's.* does not exist"):
            async with kept.transaction() as connection:
                await connection.execute(asked)
        with pytest.raises(Fatal, match=r"schema is not this version's.* does not exist"):
            async with kept.query() as connection:
                await connection.execute(text(asked))
        async with kept.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        await kept.close()


async def said(readiness: Readiness, state: str) -> None:
    async with asyncio.timeout(20):
        while readiness.conditions.get("database") != state:  # noqa: ASYNC110 - readiness tells nobody
            await asyncio.sleep(0.02)
