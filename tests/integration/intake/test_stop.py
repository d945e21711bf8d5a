"""SIGTERM while Kafka is frozen or PostgreSQL is stuck: every call in flight gets 503 with Retry-After, and a batch
ends with a problem as its last line (promises 1 and 9)."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.kafka import LocalKafka
from tests.support.intake_process import NDJSON, Intake, running_intake
from tests.support.servers import Servers
from tests.support.service_process import is_unavailable

_numbers = itertools.count(1)
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def intake(own_kafka: LocalKafka, servers: Servers, tmp_path: Path) -> AsyncIterator[Intake]:
    own = Servers(own_kafka.bootstrap, servers.database_url)
    name = f"stop{os.getpid()}{next(_numbers)}"
    async with running_intake(
        own, name, tmp_path, PIEPOWDER_DRAIN_SECONDS="2", PIEPOWDER_ACKNOWLEDGE_SECONDS="25"
    ) as running:
        yield running


async def test_calls_that_wait_for_a_frozen_kafka_at_sigterm_get_503(intake: Intake, own_kafka: LocalKafka) -> None:
    accepted = await intake.send(intake.post(id="before"))
    assert accepted.status_code == 202, accepted.text
    item = accepted.json()["item_id"]
    await intake.wait_for_status(item, intake.north, "submitted")
    [node] = own_kafka.nodes
    lines = b"".join(json.dumps(intake.post(id=f"line-{n}")).encode() + b"\n" for n in range(20))
    reader, writer = await asyncio.open_connection("127.0.0.1", intake.port)
    head = f"POST /v1/items/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {intake.keys['all']}\r\n"
    writer.write(head.encode() + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"%x\r\n%b\r\n" % (len(lines), lines))
    async with asyncio.timeout(20):
        begun = await reader.readuntil(b'"line":20,')  # verdicts arrive while the body is open
    node.pause()
    try:
        later = lines.replace(b"line-", b"later-")
        writer.write(b"%x\r\n%b\r\n" % (len(later), later))
        headers = {"Authorization": f"Bearer {intake.keys['all']}", "Content-Type": "application/json"}
        calls = [
            asyncio.create_task(intake.send(intake.post(id="stuck"))),
            asyncio.create_task(intake.send(lines.replace(b"line-", b"single-"), kind=NDJSON)),
            asyncio.create_task(intake.http.get(f"/v1/items/{item}", headers={**headers, "Prefer": "wait=30"})),
        ]
        await asyncio.sleep(1)  # none of the calls may end in this time
        assert not any(call.done() for call in calls)
        assert intake.process is not None
        intake.process.send_signal(signal.SIGTERM)
        responses = await asyncio.gather(*calls)
        async with asyncio.timeout(20):
            streamed = begun + await reader.read()
        assert await asyncio.wait_for(intake.process.wait(), 30) == 0
    finally:
        node.resume()
        writer.close()
    assert [r.text for r in responses if not is_unavailable(r)] == []
    assert streamed.startswith(b"HTTP/1.1 200 OK")
    assert streamed.endswith(b"\r\n0\r\n\r\n")  # complete
    *before, last = [json.loads(line) for line in streamed.splitlines() if line.startswith(b"{")]
    assert [verdict["status"] for verdict in before] == [202] * 20
    assert (last["status"], last["type"]) == (503, "urn:piepowder:problem:unavailable")
    assert "line" not in last


async def test_calls_that_wait_for_a_locked_table_at_sigterm_get_503(intake: Intake) -> None:
    headers = {"Authorization": f"Bearer {intake.keys['all']}"}
    item = (await intake.send(intake.post(id="locked"))).json()["item_id"]
    await intake.wait_for_status(item, intake.north, "submitted")
    blocking = await asyncpg.connect(intake.database_url)
    async with blocking.transaction():
        tables = await blocking.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        await blocking.execute(f"LOCK TABLE {', '.join(row[0] for row in tables)} IN ACCESS EXCLUSIVE MODE")
        calls = [
            asyncio.create_task(intake.http.get(path, headers=headers))
            for path in (f"/v1/items/{item}", "/v1/items", "/v1/subjects/shop/product/locked", f"/v1/notices/{item}")
        ]
        calls.append(asyncio.create_task(intake.withdraw(item)))
        await asyncio.sleep(1)  # none of the calls may end in this time
        assert not any(call.done() for call in calls), [call.result().text for call in calls if call.done()]
        assert intake.process is not None
        intake.process.send_signal(signal.SIGTERM)
        responses = await asyncio.gather(*calls)
        assert await asyncio.wait_for(intake.process.wait(), 30) == 0
    await blocking.close()
    assert [r.text for r in responses if not is_unavailable(r)] == []
