"""SIGTERM while PostgreSQL is stuck: every call in flight gets 503 with Retry-After, never a 500 (promise 9)."""

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from shared.contracts import ids
from tests.support.servers import Servers
from tests.support.service_process import is_unavailable, running

CASE = ids.case_id("x", "eu", "item")
CALLS: dict[str, list[tuple[str, str, object]]] = {
    "decision": [
        ("POST", "/v1/claims", {"reviewer": "r-1", "team": "in_house"}),
        ("POST", f"/v1/cases/{CASE}/heartbeat", {"lease_token": 1}),
        ("POST", f"/v1/cases/{CASE}/release", {"lease_token": 1}),
        ("POST", f"/v1/cases/{CASE}/decisions", {"lease_token": 1, "action": "approve"}),
        ("GET", f"/v1/cases/{CASE}", None),
        ("GET", "/v1/queues", None),
        ("GET", "/v1/totals", None),
    ],
    "audit": [
        ("GET", "/v1/totals", None),
        ("GET", "/v1/events", None),
        ("GET", "/v1/subjects/shop/product/x/timeline", None),
        ("GET", f"/v1/events/{CASE}", None),
    ],
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("drain_seconds", ["1", "8"])
@pytest.mark.parametrize("name", list(CALLS))
async def test_calls_that_wait_for_a_locked_table_at_sigterm_get_503(
    name: str, drain_seconds: str, servers: Servers, region: str, tmp_path: Path
) -> None:
    """With a long drain time the service closes the database's connections first."""
    admin = await asyncpg.connect(servers.database_url)
    try:
        async with running(name, admin, servers, region, tmp_path, PIEPOWDER_DRAIN_SECONDS=drain_seconds) as service:
            blocking = await asyncpg.connect(service.url)
            async with blocking.transaction():
                tables = await blocking.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
                names = ", ".join(row[0] for row in tables)
                await blocking.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
                calls = [
                    asyncio.create_task(service.http.request(method, path, json=body))
                    for method, path, body in CALLS[name]
                ]
                await asyncio.sleep(1)
                assert not any(call.done() for call in calls)
                service.process.send_signal(signal.SIGTERM)
                responses = await asyncio.gather(*calls)
                ended = await asyncio.wait_for(service.process.wait(), 30)
            await blocking.close()
        assert [r.text for r in responses if not is_unavailable(r)] == []
        assert ended == 0
    finally:
        await admin.close()
