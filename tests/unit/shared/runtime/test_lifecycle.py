"""A service runs until a signal or a failed loop, and stops within a deadline; its server limits connections."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from shared.http import server
from shared.http.app import FastPath, create_app
from shared.http.problems import Problem
from shared.http.server import JoiningTransport, serve
from shared.runtime import logs
from shared.runtime.errors import Fatal, Transient
from shared.runtime.lifecycle import main
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, until_done, wait
from shared.runtime.settings import CommonSettings


async def run_service(*loops: Callable[[asyncio.Event], Awaitable[None]], drain_seconds: float = 2) -> bool:
    readiness = Readiness("test")
    settings = CommonSettings(drain_seconds=drain_seconds)
    async with asyncio.timeout(20):
        return await serve(create_app("test", "", readiness), settings, loops, readiness)


async def send_sigterm(stop: asyncio.Event) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()


async def test_after_a_signal_the_loops_finish_their_current_work() -> None:
    finished = []

    async def loop(stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(0.1)
        finished.append(True)

    assert await run_service(loop, send_sigterm)
    assert finished == [True]


async def test_a_loop_that_fails_stops_the_service() -> None:
    ended = []

    async def failing(stop: asyncio.Event) -> None:
        raise Fatal("a promise would break")

    async def other(stop: asyncio.Event) -> None:
        await stop.wait()
        ended.append(True)

    assert not await run_service(failing, other)
    assert ended == [True]


async def test_each_failed_task_of_a_loop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(reason: str) -> None:
        raise Fatal(reason)

    async def loop(stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for reason in ("one reason", "another"):
                tasks.create_task(failing(reason))

    assert not await run_service(loop)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [text.partition(": ")[2] for text in messages] == ["one reason", "another"]


async def test_a_loop_that_does_not_stop_is_cancelled_at_the_deadline() -> None:
    async def endless(stop: asyncio.Event) -> None:
        await asyncio.Event().wait()

    assert await run_service(endless, send_sigterm, drain_seconds=0.1)


async def test_a_connection_is_retried_until_it_succeeds_and_readiness_reports_the_error() -> None:
    readiness, seen, attempts = Readiness("test"), [], 0

    async def connect() -> str:
        nonlocal attempts
        attempts += 1
        seen.append(readiness.conditions["kafka"])
        if attempts < 3:
            raise Transient("no broker responds")
        return "connected"

    assert await until_done("kafka", connect, stop=asyncio.Event(), readiness=readiness) == "connected"
    assert seen == ["not connected yet", "no broker responds", "no broker responds"]
    assert readiness.ready


async def test_a_wait_ends_when_the_service_stops() -> None:
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(1):
        await wait(stop, 60)


@pytest.mark.parametrize("attempt", [1, 2, 5, 10_000])
def test_the_delays_of_retries_grow_up_to_a_limit(attempt: int) -> None:
    backoff = Backoff(first=0.1, longest=5)
    ceiling = min(5, 0.1 * 2 ** min(attempt - 1, 16))
    assert ceiling / 2 <= backoff.delay(attempt) <= ceiling


def test_a_service_that_cannot_start_logs_the_reason_and_exits_with_status_2(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(_: CommonSettings) -> bool:
        raise Fatal("clients.json cannot be read.")

    monkeypatch.setattr(logs, "configure", lambda *_: None)
    with ThreadPoolExecutor(1) as thread, pytest.raises(SystemExit) as ended:  # `main` creates its own event loop
        thread.submit(main, "test", CommonSettings, run).result()
    assert ended.value.code == 2
    [error] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (error.getMessage(), error.exc_info) == ("the service cannot start: clients.json cannot be read.", None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def exchange(port: int, *pieces: bytes, every: float = 0.15, limit: float = 5) -> tuple[bytes, float]:
    """Send pieces at intervals of `every` seconds; returns the received bytes, and the seconds until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = asyncio.get_running_loop().time()

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(every)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(limit):
            response = await reader.read()
    finally:
        sending.cancel()
        writer.close()
    return response, asyncio.get_running_loop().time() - begun


async def served(call: Callable[[int], Awaitable[None]], app: ASGIApp | None = None) -> bool:
    """Run a service while `call` uses its port; returns True for a normal stop."""
    readiness, port = Readiness("test"), free_port()

    async def caller(_: asyncio.Event) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    await exchange(port, GET_AND_CLOSE)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    break
        await call(port)

    settings = CommonSettings(port=port, host="127.0.0.1", drain_seconds=1)
    async with asyncio.timeout(20):
        return await serve(app or create_app("test", "", readiness), settings, [caller], readiness)


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
GET_AND_CLOSE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([], []),
        ([b"GET /healthz HT"], []),
        ([b"G", b"E", b"T", b" ", *[b"/"] * 20], []),
        ([GET, b"GET /"], [b"200"]),
        ([GET, *[b"\r\n"] * 20], [b"200"]),
    ],
)
async def test_a_connection_without_a_complete_head_gets_408_at_the_time_limit(
    monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], statuses: list[bytes]
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.6)

    async def call(port: int) -> None:
        exchanging, steps = asyncio.create_task(exchange(port, *pieces, limit=15)), 0
        while not exchanging.done():  # a busy machine delays these steps as it delays the server, in the same loop
            await asyncio.sleep(0.1)
            steps += 1
        response, seconds = exchanging.result()
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [*statuses, b"408"]
        assert b"application/problem+json" in response
        assert b"urn:piepowder:problem:too-slow" in response
        assert seconds >= 0.55
        assert steps < 20, "the pieces take longer"

    assert await served(call)


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"GET /", b"a"), (b"GET / HTTP/1.1\r\nA: ", b"a"), (GET + b"GET / HTTP/1.1\r\n", b"Name: value\r\n")],
    ids=["path", "one field", "many fields"],
)
async def test_a_head_without_end_gets_431_at_the_size_limit(begin: bytes, more: bytes) -> None:
    piece = more * (10_240 // len(more))

    async def call(port: int) -> None:
        response, _ = await exchange(port, begin, *[piece] * 7, every=0.03)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * begin.count(GET) + [b"431"]
        assert b"urn:piepowder:problem:head-too-large" in response

    assert await served(call)


async def test_a_head_that_is_too_large_gets_431_even_if_it_arrives_at_once() -> None:
    async def call(port: int) -> None:
        for fields in (b"A: " + b"a" * 66_000 + b"\r\n", b"Name: value\r\n" * 8_000):
            response, _ = await exchange(port, GET + GET[:-2] + fields + b"\r\n" + GET)
            assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200", b"431"]
        response, _ = await exchange(port, GET[:-2] + b"A: " + b"a" * 64_000 + b"\r\n\r\n" + GET_AND_CLOSE)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200", b"200"]

    assert await served(call)


@pytest.mark.parametrize("size", [1, 7, 10_000], ids="{} bytes at a time".format)
async def test_the_upgrade_header_is_ignored_and_the_rest_of_the_connection_is_read(size: int) -> None:
    app = create_app("test", "", Readiness("test"))

    async def echo(request: Request) -> Response:
        names = ",".join(f"{name}={request.headers.get(name)}" for name in ("x-y", "upgrade", "connection"))
        return Response(f"<{names} {(await request.body()).decode()}>")

    app.add_route("/echo/{what}", echo, methods=["POST"])
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    head = b"POST /echo/%69t?a=b HTTP/1.1\r\nHost: x\r\nX-Y: z\r\n"
    bodies = (b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n")
    sent = b"".join(head + upgrade + body for body in bodies) + GET[:-2] + upgrade + b"\r\n" + GET_AND_CLOSE

    async def call(port: int) -> None:
        response, _ = await exchange(port, *(sent[at : at + size] for at in range(0, len(sent), size)), every=0.0)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 4
        assert re.findall(rb"<(.*?)>", response) == [
            b"x-y=z,upgrade=None,connection=HTTP2-Settings %s" % word for word in (b"hello", b"world")
        ]

    assert await served(call, app)


@pytest.mark.parametrize(
    "body",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\nhello",
    ],
    ids=["no size", "no second size", "no end of a chunk", "unknown coding"],
)
@pytest.mark.parametrize("split", [False, True])
async def test_a_malformed_body_gets_400(body: bytes, *, split: bool) -> None:
    app = create_app("test", "", Readiness("test"))
    seen = []

    async def read(request: Request) -> Response:
        seen.append(await request.body())
        return Response("read")

    app.add_route("/read", read, methods=["POST"])
    head, _, rest = body.partition(b"\r\n\r\n")
    whole = b"POST /read HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n"

    async def call(port: int) -> None:
        response, _ = await exchange(port, *((whole, rest) if split else (whole + rest,)))
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"400"]
        assert b"urn:piepowder:problem:malformed-http" in response

    assert await served(call, app)
    assert seen == []


async def stopped_during(app: ASGIApp, *requests: bytes) -> list[bytes]:
    """Stop the service one second after the requests have arrived, each on its connection; returns the responses."""
    readiness, port = Readiness("test"), free_port()

    async def stop(_: asyncio.Event) -> None:
        await asyncio.sleep(0.3)
        sent.extend(asyncio.create_task(exchange(port, request)) for request in requests)
        await asyncio.sleep(0.3)

    sent: list[asyncio.Task[tuple[bytes, float]]] = []
    settings = CommonSettings(port=port, host="127.0.0.1", drain_seconds=1)
    async with asyncio.timeout(20):
        assert await serve(app, settings, [stop], readiness)
        return [(await each)[0] for each in sent]


def stuck_app() -> FastAPI:
    app = create_app("test", "", Readiness("test"))
    never = asyncio.Event()

    @app.api_route("/v1/stuck", methods=["GET", "POST"])
    async def stuck() -> None:
        await never.wait()

    @app.get("/v1/cut")
    async def cut() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            await never.wait()

        return StreamingResponse(pieces())

    @app.get("/v1/slow")
    async def slow() -> str:
        await asyncio.sleep(0.8)
        return "done"

    return app


def is_stopping(response: bytes) -> bool:
    head, _, body = response.partition(b"\r\n\r\n")
    fields = head.lower()
    return (
        head.startswith(b"HTTP/1.1 503 ")
        and b"content-type: application/problem+json" in fields
        and b"retry-after: 2" in fields
        and b"connection: close" in fields
        and b'"urn:piepowder:problem:unavailable"' in body
    )


async def test_a_request_that_is_stuck_when_the_service_stops_gets_503_and_the_connection_is_closed() -> None:
    path = b"/v1/stuck HTTP/1.1\r\nHost: x\r\n"
    fast = FastPath(
        stuck_app(),
        {("GET", "/v1/stuck"): lambda _: asyncio.Event().wait()},  # type: ignore[dict-item, return-value]  # never ends
    )
    for app in (stuck_app(), fast):
        responses = await stopped_during(
            app,
            b"GET " + path + b"\r\n",
            b"POST " + path + b"Content-Length: 9\r\n\r\nhalf",  # the body does not arrive
            b"GET " + path + b"\r\n" + GET,  # the second request is not answered
        )
        assert [response.count(b"HTTP/1.1") for response in responses] == [1, 1, 1]
        assert all(map(is_stopping, responses)), responses


async def test_a_request_that_ends_within_the_drain_time_is_answered_and_a_stream_is_cut() -> None:
    slow, cut = await stopped_during(
        stuck_app(), GET.replace(b"/healthz", b"/v1/slow"), GET.replace(b"/healthz", b"/v1/cut")
    )
    assert slow.startswith(b"HTTP/1.1 200 OK")
    assert b'"done"' in slow
    assert cut.startswith(b"HTTP/1.1 200 OK")
    assert b"begun" in cut
    assert not cut.endswith(b"0\r\n\r\n")  # the client notices that the end is missing


async def test_a_call_that_is_stuck_when_the_service_stops_is_counted_as_503() -> None:
    await stopped_during(stuck_app(), GET.replace(b"/healthz", b"/v1/stuck"))
    counted = generate_latest().decode()
    assert 'piepowder_http_requests_total{method="GET",route="/v1/stuck",status="503"}' in counted
    assert 'piepowder_http_requests_total{method="GET",route="/v1/stuck",status="500"}' not in counted


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n", b"400"),
        (b"GET http://x/healthz HTTP/1.1\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n", b"400"),
        (b"GET /healthz HTTP/1.0\r\nHost: x\r\nhost: y\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x, y\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x/y\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x:port\r\n", b"400"),
        (b"GET /healthz HTTP/1.0\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nHost:\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nHost: intake.shop.example:8101 \r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nHost: [::1]:8101\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", b"200"),
    ],
)
async def test_a_request_needs_exactly_one_valid_host(head: bytes, status: bytes) -> None:
    """RFC 9112, section 3.2."""

    async def call(port: int) -> None:
        response, _ = await exchange(port, head + b"Connection: close\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [status]
        assert (b"urn:piepowder:problem:malformed-http" in response) == (status == b"400")

    assert await served(call)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (b"/v1/subjects/shop/product/B07%2FXL%2fred", "shop|product|B07/XL/red"),
        (b"/v1/subjects/shop/product/B07/XL%20red", "shop|product|B07/XL red"),
        (b"/v1/subjects/shop/product/%252F", "shop|product|%2F"),
        (b"/v1/subjects/shop%2Fproduct/x/y", "shop%2Fproduct|x|y"),
        (b"/v1/subjects%2Fshop/product/x/y", None),
        (b"/v1%2fsubjects/shop/product/x", None),
        (b"/v1/named/general%2Fcases", "general%2Fcases"),
        (b"/v1/named/gen%65ral", "general"),
        (b"/v1/named/g%FFl", "g%FFl"),
        (b"/v1/named%2Fgeneral", None),
    ],
)
async def test_an_encoded_slash_is_never_a_separator_and_belongs_to_the_id_of_a_subject(
    path: bytes, seen: str | None
) -> None:
    app = create_app("test", "", Readiness("test"))

    async def subject(request: Request) -> Response:
        return Response("<" + "|".join(request.path_params.values()) + ">")

    app.add_route("/v1/subjects/{platform}/{kind}/{id:path}", subject)
    app.add_route("/v1/named/{name}", subject)

    async def call(port: int) -> None:
        response, _ = await exchange(port, GET_AND_CLOSE.replace(b"/healthz", path))
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"404" if seen is None else b"200"]
        assert seen is None or f"<{seen}>".encode() in response

    assert await served(call, app)


SLOW = GET.replace(b"/healthz", b"/slow")


def slow_app(monkeypatch: pytest.MonkeyPatch) -> tuple[FastAPI, list[bytes]]:
    """An application and the bodies sent to its `/slow`, which responds after the server has rejected a request."""
    app, seen, refused = create_app("test", "", Readiness("test")), [], asyncio.Event()
    refuse = server._Protocol._refuse

    def noted(protocol: server._Protocol, problem: Problem) -> None:
        refuse(protocol, problem)
        refused.set()

    monkeypatch.setattr(server._Protocol, "_refuse", noted)

    async def slow(request: Request) -> Response:
        seen.append(await request.body())
        await refused.wait()
        return Response("slow")

    async def early(_: Request) -> Response:
        return Response("early", 401)

    app.add_route("/slow", slow, methods=["GET", "POST"])
    app.add_route("/early", early, methods=["POST"])
    return app, seen


@pytest.mark.parametrize(
    ("later", "status"),
    [
        (b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"nonsense\r\n\r\n" + GET, b"400"),
        (GET[:-2] + b"A: " + b"a" * 1_000 + b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b"431"),
        (
            GET[:-2] + b"A: " + b"a" * 1_000 + b"\r\n\r\n" + GET[:-2] + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n",
            b"431",
        ),
        (b"CONNECT /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET, b"405"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + GET, b"405"),
    ],
    ids=["body", "nonsense", "head with upgrade", "head, then an upgrade", "CONNECT to a path", "CONNECT to a host"],
)
async def test_an_invalid_request_gets_its_response_after_those_of_earlier_requests(
    later: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_HEAD_BYTES", 1_000)
    app, seen = slow_app(monkeypatch)

    async def call(port: int) -> None:
        response, _ = await exchange(port, SLOW + SLOW + later)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200", b"200", status]
        assert response.count(b"\r\n\r\nslow") == 2

    assert await served(call, app)
    assert seen == [b"", b""]


async def test_a_response_before_the_end_of_the_body_is_the_only_response(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = slow_app(monkeypatch)
    head = b"POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"

    async def call(port: int) -> None:
        response, _ = await exchange(port, head, b"zz\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"401"]

    assert await served(call, app)


async def test_pipelined_requests_above_the_limit_get_429(monkeypatch: pytest.MonkeyPatch) -> None:
    app, seen = slow_app(monkeypatch)

    async def call(port: int) -> None:
        response, _ = await exchange(port, SLOW + GET * 20_000, b"GET / HTTP/1.1\r\n\r\n" * 10_000)
        statuses = re.findall(rb"HTTP/1.1 (\d+)", response)
        assert statuses == [b"200"] * 65 + [b"429"]
        assert b"urn:piepowder:problem:too-far-ahead" in response

    assert await served(call, app)
    assert seen == [b""]


@pytest.mark.parametrize("later", [b"", b"nonsense\r\n\r\n"])
async def test_a_client_that_stops_reading_is_disconnected(later: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    app, lost = create_app("test", "", Readiness("test")), asyncio.Event()
    app.add_route("/large", lambda _: Response(b"a" * 30_000_000))
    lose = server._Protocol.connection_lost

    def noted(protocol: server._Protocol, exc: Exception | None) -> None:
        lose(protocol, exc)
        lost.set()

    async def call(port: int) -> None:
        monkeypatch.setattr(server._Protocol, "connection_lost", noted)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + later)
            await lost.wait()  # this client reads nothing

    assert await served(call, app)


@pytest.mark.parametrize("split", [False, True])
async def test_trailer_fields_are_ignored(*, split: bool) -> None:
    app = create_app("test", "", Readiness("test"))

    async def echo(request: Request) -> Response:
        await request.body()
        return Response(f"<{request.headers.get('authorization')}>")

    app.add_route("/echo", echo, methods=["POST"])
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = b"2\r\nhi\r\n0\r\nAuthorization: Bearer key\r\nContent-Encoding: br\r\n\r\n" + GET_AND_CLOSE

    async def call(port: int) -> None:
        response, _ = await exchange(port, *((head, rest) if split else (head + rest,)))
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 2
        assert b"<None>" in response

    assert await served(call, app)


async def test_the_size_limit_of_a_head_does_not_apply_to_a_body() -> None:
    app = create_app("test", "", Readiness("test"))

    async def size(request: Request) -> Response:
        return Response(str(len(await request.body())))

    app.add_route("/size", size, methods=["POST"])
    chunk = b"%x\r\n%s\r\n" % (10_240, b"a" * 10_240)

    async def call(port: int) -> None:
        head = b"POST /size HTTP/1.1\r\nHost: x\r\n"
        whole = (head + b"Content-Length: 102400\r\n\r\n", *[b"a" * 10_240] * 10)
        parts = (head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 10, b"0\r\n\r\n")
        response, _ = await exchange(port, *whole, *parts, GET_AND_CLOSE, every=0.01)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 3
        assert response.count(b"102400") == 2

    assert await served(call, app)


async def test_the_time_limit_of_a_head_ends_neither_an_active_connection_nor_a_slow_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.4)
    app = create_app("test", "", Readiness("test"))

    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response("slow")

    app.add_route("/slow", slow)

    async def call(port: int) -> None:
        halves = [half for _ in range(10) for half in (GET[:10], GET[10:])]
        response, _ = await exchange(port, *halves, GET_AND_CLOSE, every=0.15)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 11
        response, _ = await exchange(port, GET, b"", b"", GET_AND_CLOSE, every=0.2)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 2
        response, _ = await exchange(port, GET.replace(b"/healthz", b"/slow"), GET_AND_CLOSE, every=0.05)
        assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 2

    assert await served(call, app)


@pytest.mark.parametrize(
    "nonsense", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n", b"\x16\x03\x01\x02\x00"]
)
async def test_data_that_is_not_http_gets_a_problem(nonsense: bytes) -> None:
    async def call(port: int) -> None:
        response, _ = await exchange(port, nonsense)
        head, _, body = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"content-type: application/problem+json" in head
        assert b"connection: close" in head
        assert f"content-length: {len(body)}".encode() in head
        assert json.loads(body)["type"] == "urn:piepowder:problem:malformed-http"

    assert await served(call)


class RecordingTransport(asyncio.Transport):
    """A transport that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.ended = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


async def test_writes_of_one_turn_of_the_event_loop_are_joined_and_sent_before_a_close() -> None:
    wire = RecordingTransport()
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.write(b"head ")
    joining.write(b"body")
    assert wire.sent == []
    await asyncio.sleep(0)
    joining.write(b"last")
    joining.close()
    await asyncio.sleep(0)
    assert (wire.sent, wire.ended) == ([b"head body", b"last"], "closed")


async def test_nothing_is_sent_after_an_abort_or_on_a_lost_connection() -> None:
    aborted, lost = RecordingTransport(), RecordingTransport()
    for wire in (aborted, lost):
        joining = JoiningTransport(wire, asyncio.get_running_loop())
        joining.write(b"never")
        if wire is aborted:
            joining.abort()
        else:
            wire.close()
    await asyncio.sleep(0)
    assert (aborted.sent, lost.sent) == ([], [])
