"""A cheap load client: keep-alive connections that send prepared bytes and parse only the responses.

The client shares the machine with the measured service, so its own cost would count against the service.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools

from shared.runtime.clock import SystemClock

_clock = SystemClock()


class Answer(NamedTuple):
    """An HTTP response: its status and its body."""

    status: int
    body: bytes


class Timed(NamedTuple):
    """The response to a call, and the times when the call was due and done (monotonic seconds)."""

    due: float
    done: float
    answer: Answer

    @property
    def took(self) -> float:
        return self.done - self.due


class Connection(asyncio.Protocol):
    """One keep-alive connection, one call at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to `http://host:port`."""
        host, _, port = urlsplit(url).netloc.partition(":")
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return connection

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def call(self, request: bytes) -> Answer:
        """Send a request and wait for its response; raises ConnectionError if the service disconnects."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the service disconnected: {exc!r}"))

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        body, self._parts = b"".join(self._parts), []
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, body))


def post(path: str, key: str, body: bytes, kind: str = "application/json") -> bytes:
    """The bytes of a POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str, key: str) -> bytes:
    """The bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def send_all(url: str, requests: Sequence[bytes], *, connections: int, wanted: int) -> list[bytes]:
    """Send the requests, with `connections` calls in flight; the bodies of the responses in order.

    Raises an ExceptionGroup of AssertionError, with the response, if a status is not `wanted`.
    """
    opened = [await Connection.open(url) for _ in range(min(connections, len(requests)))]
    bodies: list[bytes] = [b""] * len(requests)
    waiting = iter(range(len(requests)))

    async def work(connection: Connection) -> None:
        for number in waiting:
            answer = await connection.call(requests[number])
            if answer.status != wanted:
                raise AssertionError(f"{answer.status}, expected {wanted}: {answer.body[:500]!r}")
            bodies[number] = answer.body

    try:
        async with asyncio.TaskGroup() as tasks:
            for connection in opened:
                tasks.create_task(work(connection))
    finally:
        for connection in opened:
            connection.close()
    return bodies


async def send_at(url: str, requests: Sequence[bytes], *, rate: float, connections: int) -> list[Timed]:
    """Send `rate` requests per second, each at its time, whatever the responses to earlier ones are (open loop).

    A request that is due while all connections are busy is sent by the next free connection, and is late.
    """
    opened = [await Connection.open(url) for _ in range(connections)]
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    timed: list[Timed] = []

    async def work(connection: Connection) -> None:
        while True:
            due, request = await waiting.get()
            answer = await connection.call(request)
            timed.append(Timed(due, _clock.monotonic(), answer))
            waiting.task_done()

    workers = [asyncio.create_task(work(connection)) for connection in opened]
    try:
        begin = _clock.monotonic()
        for number, request in enumerate(requests):
            due = begin + number / rate
            if (early := due - _clock.monotonic()) > 0:
                await asyncio.sleep(early)
            waiting.put_nowait((due, request))
        answered = asyncio.create_task(waiting.join())
        await asyncio.wait([answered, *workers], return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
    finally:
        for worker in workers:
            worker.cancel()
        ended = await asyncio.gather(*workers, return_exceptions=True)
        for connection in opened:
            connection.close()
    if failed := [one for one in ended if isinstance(one, Exception)]:
        raise failed[0]
    return timed
