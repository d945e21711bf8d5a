"""The web server of every service: uvicorn with the limits that its HTTP/1.1 protocol does not have.

This file overrides methods of uvicorn's `HttpToolsProtocol`, so uvicorn is pinned to one minor version. Each addition:

- A request's head is limited to 64 KiB and 30 seconds, because uvicorn buffers and waits without limit (431, 408).
- A request needs exactly one valid `Host` field (RFC 9112, section 3.2), else 400.
- An encoded slash (`%2F`) in a path is never a separator: it stays encoded, except in the id of a subject, which can
  contain slashes. A path that is not UTF-8 stays encoded too.
- At most 64 pipelined requests wait for a response, because uvicorn queues them without limit (429).
- A client that stops reading its response is disconnected, because `close` otherwise waits for it forever.
- A request that is not HTTP gets a problem+json response instead of plain text, after all earlier responses.
- The `Upgrade` header is ignored (RFC 9110, section 7.8), because Java's client sends `Upgrade: h2c` with every request
  and the parser treats the rest of the connection, with the body, as the other protocol.
- Trailer fields are ignored (RFC 9110, section 6.5.1), because uvicorn would add them to the request's headers.
- A request whose response is not complete when the drain time ends gets a 503 problem instead of a 500 in plain text,
  and its connection is closed after the response.
- Writes of one turn of the event loop are joined, so that head and body of a response are one packet.

The time limits add no cost to a request: a timer checks each connection every 30 seconds and compares its state with
the previous check.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Sequence
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from shared.http.problems import UNAVAILABLE, Problem
from shared.runtime import lifecycle
from shared.runtime.lifecycle import Loop
from shared.runtime.readiness import Readiness
from shared.runtime.settings import CommonSettings

DISCONNECT: Final = "piepowder.disconnect"
"""ASGI extension: `abort` drops the connection with all unsent data."""

HEAD_SECONDS: Final = 30.0  # limit for the arrival of a request's head
MAX_HEAD_BYTES: Final = 64 * 1024  # limit for a request's head
_is_host = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?").fullmatch
_encoded_slash = re.compile("%2[fF]").split
_with_subject_id = re.compile(r"(/v1/subjects/[^/]+/[^/]+/)(.*)", re.DOTALL).fullmatch
_MAX_PIPELINED: Final = 64  # requests that wait for a response on one connection
_NO_REQUEST: Final = object()
_LAST_SECONDS: Final = 1.0  # for the responses of requests that are cancelled after the drain time


def stopping() -> Problem:
    """503 for a request whose response is not complete when the service stops."""
    detail = "The service is stopping. Send the same request again: another process, or the next one, answers it."
    return UNAVAILABLE(detail, retry_after=2, headers={"Connection": "close"})


async def serve(app: ASGIApp, settings: CommonSettings, loops: Sequence[Loop], readiness: Readiness) -> bool:
    """Run `app` and `loops` until SIGTERM, SIGINT or the end of one of them; True for a normal stop."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
        timeout_keep_alive=30,
    )
    return await lifecycle.supervise(_Server(config), loops, settings.drain_seconds, readiness)


class JoiningTransport(asyncio.Transport):
    """A transport that joins all writes of one turn of the event loop into one system call."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes | bytearray | memoryview] = []
        self._written = 0

    @property
    def sent(self) -> int:
        """Bytes that the operating system has accepted."""
        return self._written - self._transport.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            joined = b"".join(held)
            self._written += len(joined)
            self._transport.write(joined)

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with the additions that the module's docstring lists."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares it in this way
        super().connection_made(JoiningTransport(transport, self.loop))
        # At the previous check: the last request if the connection was idle, else `_NO_REQUEST`
        self._idle_after: object = None
        self._stuck_at = -1  # bytes sent at the previous check, if data was waiting to be sent; else -1
        self._in_progress = 0  # requests without a complete response
        self._next_check = self.loop.call_later(HEAD_SECONDS, self._check_connection)
        self._unfinished_bytes = 0  # received since the last complete head, body part or request
        self._head_bytes = 0  # of the head that is being read
        self._is_in_body = False  # a head is complete and its request is not
        self._has_upgrade = False  # the last complete head has an Upgrade header
        self._final_problem: Problem | None = None  # the last response of this connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over():
            return
        self._unfinished_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._unfinished_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def _feed(self, data: bytes) -> bytes:
        """Parse data; returns the data to parse next if a head had an Upgrade header."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._is_over():
                return self._ignore_upgrade() + data[upgrade.args[0] :]
        return b""

    def _ignore_upgrade(self) -> bytes:
        """The last head without its Upgrade header, for a new parser that reads the rest of the connection."""
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word for word in value.split(b",") if word.strip().lower() != b"upgrade"]
                head.append(b"connection:" + b",".join(kept))
            elif name != b"upgrade":
                head.append(b"%s:%s" % (name, value))
        self._has_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # like uvicorn's own parser
        return b"\r\n".join([*head, b"", b""])

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {DISCONNECT: {"abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:
            return  # a trailer field
        self._head_bytes += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unfinished_bytes = 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif self.parser.get_method() == b"CONNECT":
            detail = "CONNECT is not supported. The connection is closed."
            self._refuse(Problem(405, "method-not-allowed", "Method Not Allowed", detail))
        elif len(self.pipeline) >= _MAX_PIPELINED:
            detail = f"More than {_MAX_PIPELINED} requests wait for a response. The connection is closed."
            self._refuse(Problem(429, "too-far-ahead", "Too many pipelined requests", detail, retry_after=1))
        elif (fault := self._host_fault()) is not None:
            self._refuse(Problem(400, "malformed-http", "Malformed HTTP", f"{fault} The connection is closed."))
        if self._is_over():
            return
        self._has_upgrade = self.parser.should_upgrade()
        if not self._has_upgrade:
            super().on_headers_complete()
            if b"%" in self.url:
                self.scope["path"] = decoded_path(self.scope["raw_path"].decode("ascii"))
            self._in_progress += 1
            self._is_in_body = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def run(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:  # the drain time is over
                if not cycle.response_started:
                    await stopping().response()(scope, receive, send)

        super()._start_asgi_task(cycle, run)

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        if not self._is_over():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished_bytes = 0
        self._is_in_body = False
        if not self._has_upgrade and not self._is_over():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._in_progress -= 1
        super().on_response_complete()
        if self._final_problem is not None and not self._in_progress and not self.transport.is_closing():
            self._send_and_close(self._final_problem)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn passes the same text for every fault
        detail = "The data is not HTTP/1.1 (RFC 9112). The connection is closed."
        if self._is_in_body:
            detail += " The part of the body before the fault may have been accepted; the body can be sent again."
        self._refuse(Problem(400, "malformed-http", "Malformed HTTP", detail))

    def _host_fault(self) -> str | None:
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts and self.parser.get_http_version() != "1.0":
            return "The request has no Host field."
        if len(hosts) > 1:
            return "The request has more than one Host field."
        if hosts and _is_host(hosts[0].strip()) is None:
            return "The Host field is not a host, with a port or without."
        return None

    def _check_connection(self) -> None:
        """Abort a client that does not read its response; refuse one that has sent no complete request head since the
        previous check."""
        transport = cast("JoiningTransport", self.transport)
        must_read = transport.is_closing() or self.flow.write_paused
        if must_read and transport.sent == self._stuck_at:
            transport.abort()
            return
        self._stuck_at = transport.sent if must_read else -1
        self._next_check = self.loop.call_later(HEAD_SECONDS, self._check_connection)
        if transport.is_closing():
            return
        last = cast("RequestResponseCycle | None", self.cycle)
        # uvicorn itself closes a connection that is idle after a response
        is_idle = (last is None or last.response_complete) and self.timeout_keep_alive_task is None
        if is_idle and self._idle_after is last:
            detail = f"No complete request head arrived within {HEAD_SECONDS:g} seconds. The connection is closed."
            self._refuse(Problem(408, "too-slow", "Request too slow", detail))
        self._idle_after = last if is_idle else _NO_REQUEST

    def _refuse(self, problem: Problem) -> None:
        """Send `problem` as the last response of this connection, and read no more from it.

        Responses to earlier requests are sent first. A request whose body is malformed gets `problem` as its response,
        unless its own response has begun.
        """
        if self._is_over():
            return
        if self._is_in_body and self.pipeline:  # the malformed request is the last of the pipeline
            self.pipeline.popleft()
            self._in_progress -= 1
            self._final_problem = problem
        elif self._is_in_body and self.cycle.response_started:
            self.transport.close()
        elif self._in_progress and not self._is_in_body:
            self._final_problem = problem
        else:
            self._send_and_close(problem)

    def _is_over(self) -> bool:
        """True if further data is ignored."""
        return self._final_problem is not None or self.transport.is_closing()

    def _send_and_close(self, problem: Problem) -> None:
        response = problem.response()
        fields = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[response.status_code] + head + b"\r\n" + bytes(response.body))
        self.transport.close()


def decoded_path(raw: str) -> str:
    """The path of a request target, percent-decoded, in which `/` is always a separator or part of a subject's id."""
    subject = _with_subject_id(raw)
    route, subject_id = (raw, "") if subject is None else subject.groups()
    return "%2F".join(map(_decoded, _encoded_slash(route))) + _decoded(subject_id)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _head_too_large() -> Problem:
    detail = f"The request's head exceeds {MAX_HEAD_BYTES >> 10} KiB. The connection is closed."
    return Problem(431, "head-too-large", "Request head too large", detail)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # the lifecycle handles signals, not the web server
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain as uvicorn does, then let the cancelled requests send their responses, for a bounded time."""
        await super().shutdown(sockets)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                while self.server_state.tasks or self.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event
                    await asyncio.sleep(0.02)
