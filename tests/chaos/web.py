"""A minimal HTTP/1.1 client for an open-loop load: cheap with a thousand calls in flight; it never repeats a call.

A client that retries by itself, or gets slower with each waiting call, would measure itself.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_LONGEST: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response; header names in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.content)


class PartialResponseError(ConnectionError):
    """The connection was closed in the middle of a response."""


class Web:
    """Connections to services on the loopback, which are reused."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers
        self._idle: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def call(
        self, method: str, port: int, path: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a call once; raises OSError if no complete response arrives."""
        reader, writer = await self._connection(port)
        whole = False
        try:
            fields = {
                "Host": f"127.0.0.1:{port}",
                "Content-Length": str(len(content)),
                **self._headers,
                **(headers or {}),
            }
            head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(head.encode() + b"\r\n" + content)
            await writer.drain()
            answer = await _read(reader)
            whole = answer.headers.get("connection") != "close"
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise PartialResponseError("the connection ended in the middle of the response") from error
            raise ConnectionResetError("the connection ended before the response") from error
        else:
            return answer
        finally:
            if whole:
                self._idle.setdefault(port, []).append((reader, writer))
            else:
                writer.transport.abort()

    def close(self) -> None:
        for idle in self._idle.values():
            for _, writer in idle:
                writer.transport.abort()
        self._idle.clear()

    async def _connection(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        idle = self._idle.get(port, [])
        while idle:
            reader, writer = idle.pop()
            if not reader.at_eof() and reader.exception() is None and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST)


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    try:
        return await _read_rest(reader, head)
    except asyncio.IncompleteReadError as error:
        raise PartialResponseError("the connection ended in the middle of the response") from error


async def _read_rest(reader: asyncio.StreamReader, head: list[str]) -> Answer:
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        content = await _read_chunked(reader)
    else:
        content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split(" ", 2)[1]), headers, content)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    """RFC 9112, section 7.1; intake sends no trailers."""
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return content
