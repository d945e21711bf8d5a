"""Streaming requests and responses on real connections.

Verdicts are sent while the body arrives, compressed or not. Slow senders, clients that do not read and disconnected
clients cost no memory, and every verdict is correct.
"""

import asyncio
import contextlib
import gzip
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from shared.contracts import topics
from tests.support.intake_process import NDJSON, Intake, running_intake
from tests.support.servers import Servers

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.timeout(90)

_CALLS = 6


@pytest.fixture(scope="module")
async def intake(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Intake]:
    folder = tmp_path_factory.mktemp("streams")
    environment = {"PIEPOWDER_IDLE_SECONDS": "2", "PIEPOWDER_BATCH_CALLS": str(_CALLS)}
    async with running_intake(servers, f"streams{os.getpid()}", folder, **environment) as running:
        yield running


class Call:
    """A call to the batch route on its own connection; body and verdicts are sent in chunks."""

    def __init__(self, intake: Intake, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        writer.write(
            b"POST /v1/items/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + f"Authorization: Bearer {intake.keys['all']}\r\nContent-Type: {NDJSON}\r\n\r\n".encode()
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, intake: Intake) -> AsyncIterator["Call"]:
        with socket.socket() as small:
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
            small.setblocking(False)
            await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", intake.port))
            reader, writer = await asyncio.open_connection(sock=small.dup(), limit=2**14)
        try:
            yield cls(intake, reader, writer)
        finally:
            writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def send_repeatedly(self, data: bytes, times: int) -> None:
        for _ in range(times):
            await self.send(data)

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    async def head(self) -> int:
        head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])

    async def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts of the next chunk; empty at the end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        piece = (await self._reader.readexactly(size + 2))[:-2]
        return [json.loads(line) for line in piece.splitlines()]


def lines(intake: Intake, tag: str, numbers: range) -> bytes:
    return b"".join(json.dumps(intake.post(id=f"{tag}-{n}", markets=["FR"])).encode() + b"\n" for n in numbers)


async def _batch_has_status(intake: Intake, status: int) -> bool:
    return (await intake.send(lines(intake, "beside", range(1)), kind=NDJSON)).status_code == status


async def keys(intake: Intake, tag: str) -> list[str]:
    found = [(record.key or b"").decode() for record in await intake.records(topics.submissions(intake.north))]
    return [key.removeprefix("shop:product:") for key in found if key.startswith(f"shop:product:{tag}-")]


async def test_a_verdict_is_sent_as_soon_as_its_line_is_in_kafka(intake: Intake) -> None:
    async with Call.to(intake) as call, asyncio.timeout(30):
        for n in range(3):
            await call.send(lines(intake, "talk", range(n, n + 1)))
            if n == 0:
                assert await call.head() == 200
            [verdict] = await call.verdicts()
            assert (verdict["line"], verdict["status"], verdict["subject"]) == (n + 1, 202, f"shop:product:talk-{n}")
            assert len(await keys(intake, "talk")) == n + 1
        call.end()
        assert await call.verdicts() == []


async def test_a_sender_that_stops_batch_has_status_408_with_the_number_of_accepted_lines(intake: Intake) -> None:
    async with Call.to(intake) as call, asyncio.timeout(30):
        await call.send(lines(intake, "slow", range(2)) + b'{"platform":')
        assert await call.head() == 200
        assert [verdict["status"] for verdict in await call.verdicts()] == [202, 202]
        [last] = await call.verdicts()
        assert (last["status"], last["type"], "line" in last) == (408, "urn:piepowder:problem:too-slow", False)
        assert "2 were accepted" in last["detail"]
        assert await call.verdicts() == []
    for path in ("/v1/items", "/v1/items/batch"):
        kind = NDJSON if path.endswith("batch") else "application/json"
        reader, writer = await asyncio.open_connection("127.0.0.1", intake.port)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {intake.keys['all']}\r\nContent-Type: {kind}"
        writer.write(f"{head}\r\nContent-Length: 10\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 30)  # returns when the service closes the connection
        assert b" 408 " in answer.splitlines()[0]
        writer.close()


async def test_only_submitted_lines_of_a_disconnected_client_are_accepted(intake: Intake) -> None:
    async with Call.to(intake) as call, asyncio.timeout(30):
        await call.send(lines(intake, "gone", range(1_000)))
        assert await call.head() == 200
        verdicts = 0
        while verdicts < 1_000:
            verdicts += len(await call.verdicts())
        await call.send(lines(intake, "gone", range(1_000, 1_001))[:-20])
    assert sorted(await keys(intake, "gone")) == sorted(f"gone-{n}" for n in range(1_000))
    assert "a defect" not in intake.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
async def test_clients_that_read_no_verdicts_are_not_read_from_and_are_disconnected_in_the_end(intake: Intake) -> None:
    fields = [f'"unknown{n}": 1' for n in range(20)] + [f'"{"x" * 5_000}": 1']
    bad = f"{{{', '.join(fields)}}}\n".encode()  # each gets a verdict of about five kilobytes
    before = intake.resident_mib()
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(90):
        calls = [await stack.enter_async_context(Call.to(intake)) for _ in range(_CALLS)]
        sending = asyncio.gather(*(call.send_repeatedly(bad * 99, 100) for call in calls), return_exceptions=True)
        assert [await call.head() for call in calls] == [200] * _CALLS
        assert await _batch_has_status(intake, 429)  # all slots are in use
        await intake.wait_until(partial(_batch_has_status, intake, 200))  # they are free again
        assert {type(error) for error in await sending} == {ConnectionResetError}  # the bodies were not read
    assert intake.resident_mib() - before < 100
    assert "did not read its verdicts" in intake.log.read_text()
    assert "a defect" not in intake.log.read_text()


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_compressed_call_is_accepted_like_a_plain_one(intake: Intake, coding: str) -> None:
    compress = gzip.compress if coding == "gzip" else zstd.compress
    headers = {"Authorization": f"Bearer {intake.keys['all']}", "Content-Encoding": coding}
    body = compress(lines(intake, coding, range(3_000)))
    answer = await intake.http.post("/v1/items/batch", content=body, headers={**headers, "Content-Type": NDJSON})
    verdicts = [json.loads(line) for line in answer.text.splitlines()]
    assert [verdict["status"] for verdict in verdicts] == [202] * 3_000
    assert len(await keys(intake, coding)) == 3_000
    item = compress(json.dumps(intake.post(id=f"one-{coding}")).encode())
    one = await intake.http.post("/v1/items", content=item, headers={**headers, "Content-Type": "application/json"})
    assert one.status_code == 202, one.text
    cut = await intake.http.post(
        "/v1/items", content=item[:-5], headers={**headers, "Content-Type": "application/json"}
    )
    assert (cut.status_code, cut.json()["type"]) == (400, "urn:piepowder:problem:malformed-coding")
    other = await intake.http.post(
        "/v1/items", content=item, headers={**headers, "Content-Encoding": "br", "Content-Type": "application/json"}
    )
    assert (other.status_code, other.headers["Accept-Encoding"]) == (415, "gzip, zstd")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
async def test_a_decompression_bomb_is_rejected_within_the_memory_limit(intake: Intake) -> None:
    headers = {"Authorization": f"Bearer {intake.keys['all']}"}
    before = intake.resident_mib()
    for coding, compress in (("gzip", gzip.compress), ("zstd", zstd.compress)):
        bomb = compress(b"\n" * 2**28)
        for path, kind in (("/v1/items", "application/json"), ("/v1/items/batch", NDJSON)):
            answer = await intake.http.post(
                path, content=bomb, headers={**headers, "Content-Encoding": coding, "Content-Type": kind}
            )
            assert answer.status_code == 413, answer.text
    assert intake.resident_mib() - before < 24
