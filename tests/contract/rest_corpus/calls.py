"""An HTTP/1.1 client that sends requests unchanged, also with raw targets, wrong lengths and non-ASCII bytes."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from tests.contract.rest_corpus.cases import Case, fill

_SECONDS = 60.0


class Response(NamedTuple):
    """`headers` in the order of the response, their names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)


class Connection:
    """One connection to a service, opened again when the service has closed it."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def send(self, case: Case, values: Mapping[str, str]) -> Response:
        """Send a request with `values` filled in, and read the response; raises OSError without a response."""
        request = self.request(case, values)
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2**20)
        reader, writer = self._streams
        async with asyncio.timeout(_SECONDS):
            sending = asyncio.ensure_future(self._write(writer, request))
            response = await _read(reader, head=case.method == "HEAD")
            unfinished = not sending.done() or case.length is not None
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
        if unfinished or "close" in (response.header("connection") or ""):
            await self._close()
        return response

    def request(self, case: Case, values: Mapping[str, str]) -> bytes:
        """The bytes of a request."""
        body = None if case.body is None else fill(case.body, values)
        lines = [case.method.encode() + b" " + fill(case.target, values) + b" HTTP/1.1"]
        lines.append(b"Host: " + f"{self._host}:{self._port}".encode())
        if case.key:
            lines.append(b"Authorization: Bearer " + values[f"key:{case.key}"].encode())
        lines += [name + b": " + fill(value, values) for name, value in case.headers]
        if case.chunked:
            lines.append(b"Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif body is not None:
            lines.append(b"Content-Length: %d" % (len(body) if case.length is None else case.length))
        return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")

    @staticmethod
    async def _write(writer: asyncio.StreamWriter, request: bytes) -> None:
        with suppress(ConnectionError):  # the service may respond and disconnect before it has read everything
            writer.write(request)
            await writer.drain()

    async def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _read(reader: asyncio.StreamReader, *, head: bool) -> Response:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the service disconnected without a response") from error
    status = int(first.split(" ")[1])
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    response = Response(status, headers, b"")
    if head or status in (204, 304):
        return response
    if response.header("transfer-encoding") == "chunked":
        return response._replace(body=await _read_chunks(reader))
    if (length := response.header("content-length")) is not None:
        return response._replace(body=await reader.readexactly(int(length)))
    return response._replace(body=await reader.read())


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int(await reader.readline(), 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(chunks)
