"""How a service lives: its REST and its loops run side by side until a signal, then drain under one deadline.

A loop that fails stops the whole service with status 1: a service that only looks alive is worse than one that its
supervisor starts again.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias, cast

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from shared.http.http import HANG_UP, Problem
from shared.runtime import logs
from shared.runtime.errors import PiepowderError
from shared.runtime.readiness import Readiness
from shared.runtime.settings import CommonSettings

log = logging.getLogger(__name__)

HEAD_SECONDS: Final = 30.0  # that a connection may take for a request's head
MAX_HEAD_BYTES: Final = 64 * 1024  # of a request's head that has not come to its end
_MOST_AHEAD: Final = 64  # requests that a connection may send before the answer to the first of them
_NOTHING: Final = object()

Loop: TypeAlias = Callable[[asyncio.Event], Awaitable[None]]


class Joining(asyncio.Transport):
    """A transport that sends what is written within one turn of the loop in one piece: an answer's head and its body
    are then one packet, one system call here and one wake-up there."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes | bytearray | memoryview] = []
        self._written = 0

    @property
    def sent(self) -> int:
        """How many bytes have been handed to the system."""
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
    """uvicorn's own, which besides drops a connection at once when it is told to (its `close` waits for a client that
    reads nothing), answers what is no HTTP with a problem too, does not hear a wish for another protocol, and waits for
    no request's head without end, in time or in size. Nor does it hold what a client does not take, or requests that
    come far ahead of their answers.

    Some clients offer HTTP/2 with every request that is not encrypted (`Upgrade: h2c`, Java's among them), and a server
    may ignore it (RFC 9110, section 7.8). The parser does not: it takes what follows that head for the other
    protocol's, the body too. So such a head is given to another parser once more, without the wish, and what follows
    goes there.

    The time costs a request nothing: a connection is looked at from time to time. One that has nothing under way at two
    looks, and has made no request between them, is closed; but for those which idle after an answer: these are
    uvicorn's to close. One that was to take more at two looks, and took nothing between them, is dropped.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(Joining(transport, self.loop))
        self._waited_behind: object = None  # the last request, at a look that found no other under way
        self._stuck_at = -1  # bytes sent, at a look that found more to be sent
        self._under_way = 0  # requests that are answered, or wait for it
        self._next_look = self.loop.call_later(HEAD_SECONDS, self._look)
        self._without_end = 0  # bytes since the last head, piece of a body or end of a request
        self._head_bytes = 0  # of the head that is read
        self._is_in_body = False  # a head was read, and the end of its request was not
        self._wishes = False  # the head that was read last asks for another protocol
        self._last_word: Problem | None = None  # what is to be said after all answers

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over():
            return
        self._without_end += len(data)
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._without_end > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def _feed(self, data: bytes) -> bytes:
        """Have data read; what is to be read next, in place of a head that asks for another protocol."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._is_over():
                return self._without_the_wish() + data[upgrade.args[0] :]
        return b""

    def _without_the_wish(self) -> bytes:
        """The head that was read last, for another parser, which follows from here on."""
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word for word in value.split(b",") if word.strip().lower() != b"upgrade"]
                head.append(b"connection:" + b",".join(kept))
            elif name != b"upgrade":
                head.append(b"%s:%s" % (name, value))
        self._wishes = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        return b"\r\n".join([*head, b"", b""])

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {HANG_UP: {"abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:
            return  # behind a chunked body: RFC 9110, section 6.5.1, has nobody take them for the head's
        self._head_bytes += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._without_end = 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif self.parser.get_method() == b"CONNECT":
            detail = "No tunnel is offered. The connection is closed."
            self._refuse(Problem(405, "method-not-allowed", "The method is not allowed", detail))
        elif len(self.pipeline) >= _MOST_AHEAD:
            detail = f"More than {_MOST_AHEAD} requests came before the first was answered. The connection is closed."
            self._refuse(Problem(429, "too-far-ahead", "Too many requests at once", detail, retry_after=1))
        if self._is_over():
            return
        self._wishes = self.parser.should_upgrade()
        if not self._wishes:
            super().on_headers_complete()
            self._under_way += 1
            self._is_in_body = True

    def on_body(self, body: bytes) -> None:
        self._without_end = 0
        if not self._is_over():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._without_end = 0
        self._is_in_body = False
        if not self._wishes and not self._is_over():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._under_way -= 1
        super().on_response_complete()
        if self._last_word is not None and not self._under_way and not self.transport.is_closing():
            self._say(self._last_word)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn says the same of everything
        detail = "What was sent is not HTTP/1.1 as RFC 9112 has it. The connection is closed."
        if self._is_in_body:
            detail += " What was read of the body before may have been taken; to send it again is right."
        self._refuse(Problem(400, "malformed-http", "The request is not HTTP", detail))

    def _look(self) -> None:
        transport = cast("Joining", self.transport)
        is_to_take = transport.is_closing() or self.flow.write_paused
        if is_to_take and transport.sent == self._stuck_at:
            transport.abort()
            return
        self._stuck_at = transport.sent if is_to_take else -1
        self._next_look = self.loop.call_later(HEAD_SECONDS, self._look)
        if transport.is_closing():
            return
        last = cast("RequestResponseCycle | None", self.cycle)
        waits = (last is None or last.response_complete) and self.timeout_keep_alive_task is None
        if waits and self._waited_behind is last:
            detail = f"No whole head of a request came within {HEAD_SECONDS:g} seconds. The connection is closed."
            self._refuse(Problem(408, "too-slow", "The request comes too slowly", detail))
        self._waited_behind = last if waits else _NOTHING

    def _refuse(self, problem: Problem) -> None:
        """Answer instead of the application, for the last time on this connection, and read no more from it.

        What is to be answered before is answered first: this would be taken for that. A request whose body cannot be
        read has no other answer than this one, unless its own has begun.
        """
        if self._is_over():
            return
        if self._is_in_body and self.pipeline:  # it is the last of those that wait for their turn
            self.pipeline.popleft()
            self._under_way -= 1
            self._last_word = problem
        elif self._is_in_body and self.cycle.response_started:
            self.transport.close()
        elif self._under_way and not self._is_in_body:
            self._last_word = problem
        else:
            self._say(problem)

    def _is_over(self) -> bool:
        """Whether nothing that comes is read any more."""
        return self._last_word is not None or self.transport.is_closing()

    def _say(self, problem: Problem) -> None:
        answer = problem.response()
        fields = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()


def _head_too_large() -> Problem:
    detail = f"The head of the request has more than {MAX_HEAD_BYTES >> 10} KiB. The connection is closed."
    return Problem(431, "head-too-large", "The request's head is too large", detail)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # the service handles signals, not its web server
        yield


async def serve(app: ASGIApp, settings: CommonSettings, loops: Sequence[Loop], readiness: Readiness) -> bool:
    """Run `app` and `loops` until SIGTERM, SIGINT, or one of them ends; True when that was as it should be."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = _Server(
        uvicorn.Config(
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
    )
    failures: list[BaseException] = []

    async def watched(name: str, run: Awaitable[None]) -> None:
        try:
            await run
        except (Exception, SystemExit) as failure:
            for error in _single(failure):
                failures.append(error)
                known = isinstance(error, PiepowderError)
                log.error("%s failed: %s", name, error if known else repr(error), exc_info=None if known else error)
        finally:
            stop.set()

    async def listen() -> None:
        await server.serve()
        if not stop.is_set() and not server.should_exit:
            raise SystemExit(1)

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    tasks = [asyncio.create_task(watched(getattr(loop, "__qualname__", "loop"), loop(stop))) for loop in loops]
    tasks.append(asyncio.create_task(watched("web server", listen())))
    await stop.wait()
    readiness.set("lifecycle", "stopping")
    log.info("stopping", extra={"drain_seconds": settings.drain_seconds})
    server.should_exit = True
    _, late = await asyncio.wait(tasks, timeout=settings.drain_seconds + 2)
    for task in late:
        task.cancel()
    if late:
        log.warning("%d task(s) did not finish in time and were ended; nothing uncommitted is lost", len(late))
        await asyncio.wait(late, timeout=2)
    return not failures


def _single(failure: BaseException) -> list[BaseException]:
    """The failures of a task group, each for itself."""
    if not isinstance(failure, BaseExceptionGroup):
        return [failure]
    return [one for inner in failure.exceptions for one in _single(inner)]


def main(service: str, settings: CommonSettings, run: Callable[[], Coroutine[object, object, bool]]) -> None:
    """The entry point of `python -m services.<name>`: logs, the fastest event loop there is, an exit status."""
    logs.configure(service, settings.log_level)
    log.info("starting", extra={"python": sys.version.split()[0]})
    try:
        import uvloop  # noqa: PLC0415 - where there is one
    except ImportError:  # not made for this platform; asyncio's own loop does the same, slower
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        with runner:
            ended_well = runner.run(run())
    except PiepowderError as error:  # before anything was served: trying again does not mend it
        log.error("it cannot be started: %s", error)
        sys.exit(2)
    log.info("stopped", extra={"ended_well": ended_well})
    sys.exit(0 if ended_well else 1)
