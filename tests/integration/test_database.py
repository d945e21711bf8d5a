"""A database that has no connection to spare is told as one that is away, so that a call is answered 503 and no 500
(promise 9)."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest

from shared.errors import Transient
from shared.postgres import database
from shared.postgres.database import Database


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
