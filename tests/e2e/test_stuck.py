"""A stuck service can be seen: its lag grows with the clock, or, if its process is frozen, scrapes time out."""

import asyncio
from typing import Final

import asyncpg
import httpx
import pytest

from shared.runtime.clock import SystemClock
from tests.e2e.conftest import Cell
from tests.e2e.steps import lag_seconds
from tests.support.flood import item
from tests.support.servers import Servers

CAUGHT_UP_SECONDS: Final = 60.0
_clock = SystemClock()


async def post(cell: Cell, name: str) -> None:
    url, headers = f"{cell.url('intake')}/v1/items", {"Content-Type": "application/json"}
    response = await asyncio.to_thread(cell.client.post, url, content=item(name, 1, "DE"), headers=headers)
    assert response.status_code == 202, response.text


async def lag(cell: Cell, name: str) -> float:
    return await asyncio.to_thread(lag_seconds, cell, name)


async def until_caught_up(cell: Cell, name: str) -> None:
    deadline = _clock.monotonic() + CAUGHT_UP_SECONDS
    while (seconds := await lag(cell, name)) > 0:
        assert _clock.monotonic() < deadline, seconds
        await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_the_lag_of_a_service_that_waits_for_postgresql_grows_with_the_clock(
    cell: Cell, servers: Servers
) -> None:
    name = f"decision-{cell.eu}"
    [database] = [one for one in cell.system.databases() if one.endswith(name.replace("-", "_"))]
    blocking = await asyncpg.connect(f"{servers.database_url.rpartition('/')[0]}/{database}")
    await until_caught_up(cell, name)
    try:
        async with blocking.transaction():
            await blocking.execute("LOCK TABLE cases IN ACCESS EXCLUSIVE MODE")
            await post(cell, "waits-for-postgresql")
            deadline = _clock.monotonic() + CAUGHT_UP_SECONDS
            while (first := await lag(cell, name)) < 1.0:
                assert _clock.monotonic() < deadline, "the service is stuck but reports no lag"
                await asyncio.sleep(0.1)
            began = _clock.monotonic()
            await asyncio.sleep(2.0)
            grown = await lag(cell, name) - first
            assert abs(grown - (_clock.monotonic() - began)) < 1.0
    finally:
        await blocking.close()
    await until_caught_up(cell, name)


@pytest.mark.timeout(180)
async def test_a_frozen_service_does_not_respond_and_catches_up_when_it_continues(cell: Cell) -> None:
    router = cell.system.services["router"]
    router.pause()
    try:
        await post(cell, "waits-for-the-router")
        with pytest.raises(httpx.TimeoutException):
            await asyncio.to_thread(cell.client.get, f"{router.url}/metrics", timeout=1.0)
    finally:
        router.resume()
    await until_caught_up(cell, "router")
